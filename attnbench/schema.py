"""The rows of a results journal: one validated, versioned record a cell, and the environment they were measured in."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1

Verdict = Literal["ok", "incorrect", "unsupported", "oom", "timeout", "throttled", "error"]
Timer = Literal["perf_counter", "cuda_events"]
Interval = Literal["bootstrap95", "min-max"]


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """Return 16 hex digits that identify ``value`` by its canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


class Record(BaseModel):
    """Base of everything in the journal: unknown fields are an error, values are frozen, NaN and Inf are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cell(Record):
    """What is measured. Equal cells of two runs have equal ``identity``, stored as cell_id: the fields' digest."""

    method: str
    settings: str = Field(description="canonical JSON of the method's settings, defaults filled in for the grid")
    layer: int = Field(ge=0)
    step: int | None = None
    grid: str = Field(description="T x H x W, as 21x45x80")
    text_tokens: tuple[int, int] = Field(description="text tokens before and after the video tokens")
    batch: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    dtype: str
    direction: Literal["fwd", "fwdbwd"]
    inputs: str
    seed: int
    engine: str
    device: str = Field(description="name of the GPU or CPU")

    @property
    def identity(self) -> str:
        """Digest of all fields: the ``cell_id``."""
        return digest(self.model_dump(mode="json"))


class Row(Cell):
    """One cell of one run. A latency exists only where the verdict is ok."""

    schema_version: int = SCHEMA_VERSION
    row_id: str
    run_id: str
    cell_id: str
    verdict: Verdict
    reason: str = Field(default="", description="why the verdict is not ok, in one sentence")

    model: str | None = Field(default=None, description="the model preset the shape came from")
    tokens: int
    heads_timed: int = Field(ge=0, description="heads that were timed; no figure is extrapolated from them")
    engine_version: str
    inputs_hash: str | None = Field(default=None, description="digest of the very q, k, v that were timed")
    threads: int | None = Field(default=None, description="CPU threads used by torch")

    density: float | None = Field(default=None, ge=0, le=1, description="fraction of (query, key) pairs kept")
    plan_bytes: int | None = Field(default=None, description="bytes of the plan: order, offsets and kept blocks")

    latency_ms: float | None = Field(default=None, gt=0, description="median, cold cache")
    latency_lo_ms: float | None = None
    latency_hi_ms: float | None = None
    interval: Interval | None = Field(default=None, description="what lo and hi are; min-max below six samples")
    latency_warm_ms: float | None = Field(default=None, gt=0, description="median, cache left as the last call left it")
    samples_ms: list[float] = Field(default_factory=list, description="every cold sample, in the order taken")
    timer: Timer | None = None
    baseline: str | None = Field(default=None, description="method/engine of the fastest dense kernel of this run")
    baseline_version: str | None = None
    baseline_ms: float | None = Field(default=None, gt=0)
    speedup: float | None = Field(default=None, gt=0, description="baseline_ms / latency_ms")
    translation: float | None = Field(default=None, gt=0, description="speedup x density")

    flops_dense: int | None = Field(default=None, description="full attention, heads_timed heads, 2 per multiply-add")
    flops_algorithmic: int | None = Field(default=None, description="kept pairs only")
    flops_executed: int | None = Field(default=None, description="as run: whole tiles and selection included")

    numerical_error: float | None = Field(default=None, ge=0, description="relative L2 against the plan in float64")
    numerical_tolerance: float | None = Field(default=None, gt=0)
    twin_error: float | None = Field(default=None, ge=0, description="worst error of the small twin over its tolerance")
    approximation_error: float | None = Field(default=None, ge=0, description="relative L2 against full attention")
    approximation_cosine: float | None = Field(default=None, ge=-1.001, le=1.001)
    mass_recall: float | None = Field(default=None, ge=0, le=1.001, description="share of full attention's mass kept")
    peak_extra_mib: float | None = Field(default=None, description="peak memory beyond inputs and output")
    sm_clock_mhz: float | None = Field(default=None, description="median SM clock while this cell was sampled")
    power_w: float | None = None
    temperature_c: float | None = None
    power_capped: bool | None = Field(default=None, description="normal under load; recorded only")

    @model_validator(mode="after")
    def _latency_only_where_ok(self) -> Row:
        if self.verdict != "ok" and self.latency_ms is not None:
            raise ValueError(f"a latency with verdict {self.verdict!r}")
        if self.verdict == "ok" and (self.latency_ms is None or not self.samples_ms):
            raise ValueError("verdict 'ok' without a latency")
        if self.cell_id != self.cell().identity:
            raise ValueError(f"cell_id {self.cell_id!r} is not the digest of the cell's fields")
        return self

    def cell(self) -> Cell:
        """Return the cell this row measured."""
        return Cell(**self.model_dump(include=set(Cell.model_fields)))


class Environment(Record):
    """Where a run was measured."""

    device: str
    device_kind: Literal["cpu", "cuda"]
    cores: int
    memory_gib: float
    driver: str | None = None
    python: str
    platform: str
    packages: dict[str, str]
    git_commit: str | None = None
    git_dirty: bool | None = None
    command: list[str] = Field(default_factory=list)
    started_at: str = Field(description="UTC, ISO 8601")


class RunHeader(Record):
    """First line of a journal: what the run set out to do."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    environment: Environment
    request: dict[str, Any] = Field(description="the arguments that `attnbench run --resume` repeats")


class Sample(Record):
    """One timed call. Samples are journaled as they are taken, so that an interrupted run can go on."""

    cell_id: str
    round: int = Field(ge=0)
    cold_ms: float = Field(gt=0)
    warm_ms: float | None = Field(default=None, gt=0)
    heads_timed: int = Field(ge=1)
    inputs_hash: str
