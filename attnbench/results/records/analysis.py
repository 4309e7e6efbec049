"""The rows that ``attnbench analyze`` leaves in a journal: measures of attention, and verdicts on premises."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from attnbench.results.records.cells import Record, settings_of
from attnbench.results.records.clips import Status

PremiseVerdict = Literal["holds", "does not hold", "undecided"]


class AnalysisRow(Record):
    """One measure of the attention of one head, or of all. A value exists only where the status is ok."""

    run_id: str = Field(description="the run that measured it")
    model: str = Field(description="whose attention; video or gaussian for inputs that are only modelled")
    method: str = Field(default="", description="name of the method that is measured; empty for attention itself")
    settings: str = Field(default="{}", description="canonical JSON of the method's settings")
    density: float | None = Field(default=None, ge=0, le=1, description="fraction of pairs that the method kept")
    layer: int | None = Field(default=None, ge=0, description="of the model; null for all together")
    head: int | None = Field(default=None, ge=0, description="of the layer; null for all together")
    step: int | None = Field(default=None, ge=0, description="denoising step; null for all together, or without steps")

    measure: str = Field(description="name of the measure")
    value: float | None = Field(default=None, description="the mean over prompts, and over queries where each has one")
    lo: float | None = Field(default=None, description="lower end of the 95 % interval; the value where it is exact")
    hi: float | None = Field(default=None, description="upper end of the 95 % interval; the value where it is exact")
    label: str = Field(default="", description="the value in a word, as the class of a head")
    points: list[float] = Field(default_factory=list, description="a curve or a map, in the order of its shape")
    shape: str = Field(default="", description="axes of the points, as dt=21 or t=3,h=8,w=8; empty without points")

    queries: int = Field(default=0, ge=0, description="queries of each head that were looked at")
    tokens: int = Field(ge=1, description="tokens of the sequence, text included; as many queries are all of them")
    grid: str = Field(description="token grid T x H x W, as 21x30x52")
    prompts: int = Field(default=1, ge=1, description="prompts averaged over; from two on the interval is over prompts")
    status: Status = Field(default="ok", description="ok, or skipped")
    reason: str = Field(default="", description="why there is no value, or no interval, in one sentence")

    @model_validator(mode="after")
    def _value_only_where_ok(self) -> AnalysisRow:
        if (self.status == "ok") != (self.value is not None):
            raise ValueError(f"status {self.status!r} with value {self.value!r}")
        if self.status == "skipped" and not self.reason:
            raise ValueError("status 'skipped' without a reason")
        if self.status == "skipped" and (self.points or self.lo is not None or self.hi is not None):
            raise ValueError("status 'skipped' with an interval or points")
        return self

    @property
    def budget(self) -> float | None:
        """The density at which budgets were compared; None for what was measured without one."""
        density = None if self.method else (settings_of(self.settings) or {}).get("density")
        return float(density) if isinstance(density, (int, float)) and 0 <= density <= 1 else None

    @property
    def key(self) -> tuple[object, ...]:
        """What two rows share that say the same thing: the later one counts."""
        return (
            self.run_id, self.model, self.grid, self.method, self.settings, self.layer, self.head, self.step,
            self.measure,
        )  # fmt: skip


class PremiseRow(Record):
    """What a run says of a premise of published methods, by bounds that were set before it."""

    run_id: str = Field(description="the run that tested it")
    premise: str = Field(description="name of the premise")
    claim: str = Field(description="what is assumed, in one sentence")
    sources: str = Field(description="the methods or papers that assume it")
    statistic: str = Field(description="what was computed, in one sentence")
    holds: str = Field(description="from where on it holds, as >= 2")
    fails: str = Field(description="from where on it does not hold, as <= 1.2")
    verdict: PremiseVerdict = Field(description="holds, does not hold, or undecided")
    value: float | None = Field(default=None, description="the statistic; null where it could not be computed")
    lo: float | None = Field(default=None, description="lower end of its 95 % interval")
    hi: float | None = Field(default=None, description="upper end of its 95 % interval")
    tested_on: str = Field(description="model, layers, heads, steps, prompts and queries")
    reason: str = Field(default="", description="why it is undecided, in one sentence")

    @model_validator(mode="after")
    def _decided_by_a_value(self) -> PremiseRow:
        if self.verdict != "undecided" and self.value is None:
            raise ValueError(f"verdict {self.verdict!r} without a value")
        return self

    @property
    def key(self) -> tuple[object, ...]:
        """What two rows share that say the same thing: the later one counts."""
        return (self.run_id, self.premise)
