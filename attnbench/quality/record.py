"""One row of the metrics table."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attnbench.schema import Record

Role = Literal["method", "kernel-floor", "seed-floor", "exact"]
Kind = Literal["distance", "score"]
Better = Literal["higher", "lower"]
Status = Literal["ok", "skipped"]


def clip_words(method: str, engine: str, seed: int) -> str:
    """Name a clip of a prompt, as "full/sdpa, seed 0"."""
    return f"{method}{'/' if engine else ''}{engine}, seed {seed}"


class QualityRow(Record):
    """One metric of one clip. A value exists only where the status is ok: nothing that is missing becomes zero."""

    run_id: str = Field(description="the run that made the clips")
    model: str = Field(description="the model that made the clip")
    method: str = Field(description="name of the method")
    settings: str = Field(default="{}", description="canonical JSON of the method's settings")
    engine: str = Field(default="", description="who ran the plan")
    prompt: str = Field(description="what was asked for")
    seed: int = Field(description="seed of the clip's noise")

    metric: str = Field(description="name of the metric")
    value: float | None = Field(default=None, description="the mean over frames, unless the metric is pooled")
    reference: str | None = Field(
        default=None, description="the clip it is compared or paired with: method/engine, seed"
    )
    status: Status = Field(description="ok, or skipped")
    reason: str = Field(default="", description="why there is no value, in one sentence")

    role: Role = Field(default="method", description="what the clip is for: a method, a noise floor, or full attention")
    reference_seed: int | None = Field(default=None, description="seed of the reference; with prompt, what pairs rows")
    kind: Kind = Field(description="distance from the reference, or score of the clip alone")
    better: Better = Field(description="which way the metric improves")
    unit: str = Field(default="", description="unit of the value; empty for plain numbers")
    pooled: bool = Field(default=False, description="taken over all frames at once, not averaged over them")
    per_frame: list[float] = Field(default_factory=list, description="one value a frame, or a pair of frames, in order")
    identical_frames: int | None = Field(
        default=None, ge=0, description="frames equal to the reference's in every pixel"
    )
    frames: int = Field(ge=1, description="frames of the clip")
    size: str = Field(description="height x width of a frame, as 480x832")
    fps: float = Field(gt=0, description="frames a second")
    clip_hash: str = Field(description="digest of the clip's frames")
    reference_hash: str | None = Field(default=None, description="digest of the reference's frames")
    made_by: str = Field(default="", description="package and version, or model, that took the value")

    @model_validator(mode="after")
    def _value_only_where_ok(self) -> QualityRow:
        if (self.status == "ok") != (self.value is not None):
            raise ValueError(f"status {self.status!r} with value {self.value!r}")
        if self.status == "skipped" and not self.reason:
            raise ValueError("status 'skipped' without a reason")
        if self.status == "skipped" and self.per_frame:
            raise ValueError("status 'skipped' with values of frames")
        return self
