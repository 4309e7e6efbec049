"""The rows that clips leave in a journal: each clip that was made, and each metric that was taken of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from attnbench.results.records.cells import Record

Role = Literal["method", "kernel-floor", "seed-floor", "exact"]
Kind = Literal["distance", "score"]
Better = Literal["higher", "lower"]
Status = Literal["ok", "skipped"]
Made = Literal["ok", "failed"]


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
    metric_kind: Kind = Field(description="distance from the reference, or score of the clip alone")
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
    clip_hash: str = Field(description="digest of the clip's frames; empty if the clip could not be made")
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

    @property
    def key(self) -> tuple[object, ...]:
        """What two rows share that say the same thing: the later one counts."""
        return (
            self.run_id, self.model, self.method, self.settings, self.engine, self.prompt, self.seed, self.metric,
            self.role, self.reference, self.reference_seed,
        )  # fmt: skip


def still_true(rows: Iterable[QualityRow]) -> list[QualityRow]:
    """Return the rows without those that say a clip could not be made, where it was made in the end."""
    found = list(rows)
    names = [(row.run_id, row.model, row.method, row.prompt, row.seed, row.role) for row in found]
    made = {name for name, row in zip(names, found, strict=True) if row.clip_hash}
    return [row for name, row in zip(names, found, strict=True) if row.clip_hash or name not in made]


class ClipRow(Record):
    """One clip that was made, or could not be made. Files are named from the folder of the journal."""

    run_id: str = Field(description="the run that made the clip")
    clip_id: str = Field(description="digest of everything that decides what the clip shows")
    role: Role = Field(description="exact: full attention; kernel-floor: by another exact kernel; method")
    model: str = Field(description="the model that made the clip")
    weights: str = Field(default="", description="where the model's weights came from, and their digest if it is known")
    method: str = Field(description="name of the method")
    settings: str = Field(default="{}", description="canonical JSON of the method's settings")
    engine: str = Field(default="", description="who ran the plans")
    prompt: str = Field(description="what was asked for")
    seed: int = Field(description="seed of the clip's noise")
    status: Made = Field(description="ok, or failed")
    reason: str = Field(default="", description="why there is no clip, in one sentence")

    steps: int = Field(ge=1, description="denoising steps")
    dense_steps: int = Field(ge=0, description="the first of them, which ran the model's own full attention")
    dense_layers: list[int] = Field(default_factory=list, description="layers that always ran full attention")
    densities: list[float | None] = Field(
        default_factory=list, description="mean density of each layer's plans; null where the method never ran"
    )
    dtype: str = Field(default="", description="type of the products and of attention")
    seconds: float | None = Field(default=None, ge=0, description="time it took to make; no benchmark")
    frames: int | None = Field(default=None, ge=1, description="frames of the clip")
    size: str | None = Field(default=None, description="height x width of a frame, as 480x832")
    fps: float | None = Field(default=None, gt=0, description="frames a second")
    clip_hash: str = Field(default="", description="digest of the clip's frames")
    raw: str = Field(default="", description="file of the raw frames, which metrics read")
    video: str = Field(default="", description="file of the H.264 clip; empty if none could be written")
    player: str = Field(
        default="", description="file of the H.264 clip with full attention, this clip and their difference abreast"
    )

    @model_validator(mode="after")
    def _frames_only_where_ok(self) -> ClipRow:
        if (self.status == "ok") != bool(self.clip_hash):
            raise ValueError(f"status {self.status!r} with clip_hash {self.clip_hash!r}")
        if self.status == "failed" and not self.reason:
            raise ValueError("status 'failed' without a reason")
        return self
