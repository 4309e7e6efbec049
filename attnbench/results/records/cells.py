"""The rows of a results journal: validated, versioned records of cells and phases, and where they were measured."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import statistics
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from attnbench.kernels.flop_formulas import flops_per_pair

SCHEMA_VERSION = 4

Verdict = Literal["ok", "incorrect", "unsupported", "oom", "timeout", "crashed", "throttled", "error"]
Timer = Literal["wall", "events", "cupti", "graph"]
TIMERS: tuple[Timer, ...] = get_args(Timer)
_OLD_TIMERS = {"perf_counter": "wall", "cuda_events": "events"}
ReadTimer = Annotated[Timer, BeforeValidator(lambda name: _OLD_TIMERS.get(str(name), name))]
"""A timer as rows hold it; schemas 1 and 2 had other names for the same two."""

Flag = Literal[
    "power-capped",
    "cpu-bound",
    "slow-enqueue",
    "busy-machine",
    "unstable",
    "plain-torch",
    "unmatched",
    "replayed-video",
]
FLAGS: tuple[Flag, ...] = get_args(Flag)
Stability = Literal["deterministic", "stable", "unstable"]
STABILITIES: tuple[Stability, ...] = get_args(Stability)
"""What the same call on the same inputs gave, the best first."""

Interval = Literal["bootstrap95", "min-max"]
Pass = Literal["fwd", "bwd"]
Provenance = Literal["measured", "instrumented", "ablated", "modelled"]


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def settings_of(text: str) -> dict[str, Any] | None:
    """Return the settings in a text of JSON; None if it holds no JSON object."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def names_of(text: str) -> list[str] | None:
    """Return the names in a text of JSON; None if it holds no list of names."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(values, list) and all(isinstance(each, str) and each for each in values)
    return values if is_list else None


def frame_map_of(text: str) -> list[list[int]] | None:
    """Return the lines of a text of JSON; None if it holds no T lists of T whole numbers from 0 to 1000."""
    try:
        lines = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(lines, list) or not all(isinstance(line, list) and len(line) == len(lines) for line in lines):
        return None
    values = [value for line in lines for value in line]
    return lines if all(type(value) is int and 0 <= value <= 1000 for value in values) else None


def digest(value: object) -> str:
    """Return 16 hex digits that identify ``value`` by its canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def inputs_content(content: str | None, part: str | None) -> str:
    """Return what a cell says of the file of its inputs: a digest and the part that was taken, empty without a file.

    Args:
        content: SHA-256 of the file.
        part: of a capture that holds several.
    """
    return "" if content is None else content[:16] + (f"@{part}" if part else "")


MOST = 1e30
"""The largest figure of a record: a thousand years are 3e13 ms."""

MOST_SETTINGS = 10_000
"""Characters of a method's settings."""

MOST_KERNELS = 100_000
"""Characters of the names of the kernels that a cell ran."""

MOST_FRAME_MAP = 25_000
"""Characters of a map over frames: those of 64 frames, all of whose pairs are kept, are 20,609."""

LARGEST_TILE = 256
"""Tokens of the largest tile, so that a kept pair costs an engine no more pairs than a tile of these has."""


class Record(BaseModel):
    """Base of everything in the journal: unknown fields are an error, values are frozen, NaN and Inf are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _figures_are_possible(self) -> Record:
        """Refuse what no machine measures, and what sums and squares of it could not hold."""
        for name, value in self.__dict__.items():
            kind = type(value)
            if kind is str or value is None:  # most fields, of very many records
                continue
            for each in value if kind is list else (value,):
                if type(each) in (int, float) and not -MOST <= each <= MOST:
                    said = f"{each:g}" if type(each) is float else "a number of more than 30 digits"
                    raise ValueError(f"{name} is {said}, which is no figure that can be measured")
        return self


class Cell(Record):
    """What was asked, and what that came to: the engine that ran, settings with their defaults, inputs as typed.

    Cells of which the same was asked have equal ``identity``, stored as cell_id. What it came to is no part of that: a
    change of engine or default is a change of one cell, not another cell.
    """

    method: str = Field(description="name of the method")
    settings_given: str | None = Field(
        default=None, description="canonical JSON of the settings that were asked for; null if that is not known"
    )
    settings: str = Field(description="canonical JSON of the method's settings, defaults filled in for the grid")
    density_asked: float | None = Field(
        default=None, gt=0, le=1, description="what the density setting was moved to keep; null if it was left alone"
    )
    layer: int = Field(ge=0, description="transformer layer; some methods differ by layer")
    step: int | None = Field(default=None, description="denoising step, for methods that differ by it")
    grid: str = Field(description="T x H x W, as 21x45x80")
    text_tokens: tuple[int, int] = Field(description="text tokens before and after the video tokens")
    batch: int = Field(ge=1, description="sequences")
    heads: int = Field(ge=1, description="query heads of the shape; heads_timed says how many were run")
    kv_heads: int = Field(ge=1, description="key and value heads of the shape")
    head_dim: int = Field(ge=1, description="channels of a head")
    dtype: str = Field(description="type of q, k, v: bfloat16, float16, float32 or float64")
    direction: Literal["fwd", "fwdbwd"] = Field(description="forward, or forward and backward")
    inputs: str = Field(description="where q, k, v come from, as typed after --inputs")
    inputs_content: str | None = Field(
        default=None,
        description="digest of the file that inputs come from, and the part of a capture; empty if they need no file",
    )
    seed: int = Field(description="seed of the inputs and of the sampled rows")
    gpus: int | None = Field(
        default=None, ge=2, description="ranks that held the tokens together; null: one process had them all"
    )
    parallel: str | None = Field(
        default=None,
        description="how ranks shared the work: ulysses, allgather or both; balanced: ulysses by what heads keep",
    )
    engine_asked: str | None = Field(default=None, description="the engine asked for by name; null: auto")
    engine: str = Field(description="who ran the plan")
    device: str = Field(description="name of the GPU or CPU")

    @model_validator(mode="after")
    def _settings_are_objects(self) -> Cell:
        """Refuse settings that are no JSON object, or that no table could show."""
        for name, text in (("settings", self.settings), ("settings_given", self.settings_given)):
            if text is not None and (len(text) > MOST_SETTINGS or settings_of(text) is None):
                raise ValueError(
                    f"{name} must be a JSON object of up to {MOST_SETTINGS:,} characters, not {text[:60]!r}"
                )
        return self

    @property
    def identity(self) -> str:
        """Digest of what was asked: the ``cell_id``. Where that is not known, what ran stands in for it."""
        return digest(self.asked())

    @property
    def mean_identity(self) -> str:
        """Digest of what was asked, whatever the layer: the ``cell_id`` of a mean over layers."""
        return digest({**self.asked(), "layer": None})

    @property
    def settings_asked(self) -> str:
        """Canonical JSON of the settings that were given; those in effect where that is not known."""
        return self.settings if self.settings_given is None else self.settings_given

    def asked(self) -> dict[str, Any]:
        """Return what was asked, as plain values for JSON."""
        known = self.settings_given is not None
        spelled = self.inputs_content is None
        unasked = {name for name in _ASKED_SELDOM if getattr(self, name) is None}
        return self.model_dump(mode="json", include=set(Cell.model_fields) - _NOT_ASKED - unasked) | {
            "settings_given": self.settings_asked,
            "engine_asked": self.engine_asked if known else self.engine,
            "inputs": [self.inputs if spelled else self.inputs.partition(":")[0], self.inputs_content],
        }

    @property
    def legacy_identity(self) -> str:
        """The ``cell_id`` that journals before schema 3 have: a digest of what ran."""
        return digest(self.model_dump(mode="json", include=set(Cell.model_fields) - _SINCE_3))


_NOT_ASKED = {"settings", "engine", "inputs", "inputs_content"}
_ASKED_SELDOM = {"density_asked", "gpus", "parallel"}
_SINCE_3 = {"settings_given", "engine_asked", "inputs_content", *_ASKED_SELDOM}


ROUNDING = 1e-3
"""Relative difference that is left between figures that were worked out from one another."""


class Row(Cell):
    """One cell of one run. A latency exists only where the verdict is ok."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of these columns")
    row_id: str = Field(description="digest of run_id and cell_id")
    run_id: str = Field(description="start of the run, UTC, and four random digits")
    cell_id: str = Field(description="digest of what was asked: equal in two runs of the same cell")
    verdict: Verdict = Field(description="ok, or why there is no latency")
    reason: str = Field(default="", description="why the verdict is not ok, in one sentence")

    model: str | None = Field(default=None, description="the model preset the shape came from")
    layers_alike: int | None = Field(
        default=None, ge=0, description="layers of the model that this cell stands for; empty without a model"
    )
    tokens: int = Field(description="length of the sequence, text included")
    heads_timed: int = Field(ge=0, description="heads that were timed; no figure is extrapolated from them")
    engine_version: str = Field(description="version of the engine that ran; empty if none could")
    inputs_hash: str | None = Field(default=None, description="digest of q, k, v of all input sets")
    threads: int | None = Field(default=None, description="CPU threads used by torch")

    density: float | None = Field(default=None, ge=0, le=1, description="fraction of (query, key) pairs kept")
    plan_bytes: int | None = Field(default=None, description="bytes of the plan: order, offsets and kept blocks")

    latency_ms: float | None = Field(default=None, gt=0, description="median, cold cache")
    latency_lo_ms: float | None = Field(default=None, description="lower end of the interval of the median")
    latency_hi_ms: float | None = Field(default=None, description="upper end of the interval of the median")
    interval: Interval | None = Field(default=None, description="what lo and hi are; min-max below six samples")
    latency_warm_ms: float | None = Field(default=None, gt=0, description="median, cache left as the last call left it")
    host_ms: float | None = Field(
        default=None, ge=0, description="median time the CPU takes to enqueue the call, not in the latency"
    )
    latency_eager_ms: float | None = Field(
        default=None, gt=0, description="wall clock of a call among back-to-back ones, waited for once at the end"
    )
    eager_calls: int | None = Field(default=None, ge=1, description="how many calls latency_eager_ms rests on")
    selection_ms: float | None = Field(
        default=None, ge=0, description="median of what the method takes to plan, by itself, cold cache"
    )
    refresh_ms: float | None = Field(
        default=None, gt=0, description="median of a call that makes the method's state anew; empty without a state"
    )
    refresh_every: float | None = Field(
        default=None, ge=1, description="after how many steps the state is made anew, in the mean"
    )
    other_ms: float | None = Field(
        default=None,
        gt=0,
        description="median of a step of a third kind, neither a refresh nor like the one of latency_ms; empty without",
    )
    other_every: float | None = Field(
        default=None, ge=1, description="after how many steps there is one of the third kind, in the mean"
    )
    latency_amortised_ms: float | None = Field(
        default=None,
        gt=0,
        description="mean of a step, with one of refresh_every a refresh and one of other_every of the third kind",
    )
    compile_s: float | None = Field(
        default=None, ge=0, description="what the first call took beyond a later one: compiling, tuning, loading"
    )
    stop_reason: str = Field(default="", description="why no more rounds were taken; empty if not known")
    flags: str | None = Field(
        default=None,
        description="what spoils the latency: power-capped, cpu-bound, busy-machine, unstable, plain-torch; "
        "slow-enqueue: enqueuing takes longer than the latency, but does not hold up calls back to back; unmatched: "
        "the density asked for was not reached; replayed-video: the bundled video is too short for the grid; null if "
        "not known",
    )
    samples_ms: list[float] = Field(default_factory=list, description="every cold sample, in the order taken")
    timer: ReadTimer | None = Field(default=None, description="clock that took the samples")
    baseline: str | None = Field(default=None, description="method/engine of the fastest dense kernel of this run")
    baseline_version: str | None = Field(default=None, description="version of the baseline's engine")
    baseline_ms: float | None = Field(default=None, gt=0, description="median of the baseline in the same rounds")
    baseline_eager_ms: float | None = Field(
        default=None, gt=0, description="latency_eager_ms of the baseline, measured after the same rounds"
    )
    speedup: float | None = Field(default=None, gt=0, description="baseline_ms / latency_ms")
    translation: float | None = Field(default=None, gt=0, description="speedup x density; empty where nothing is kept")

    one_ms: float | None = Field(
        default=None, gt=0, description="median of one process with all tokens, in the same rounds; only with gpus"
    )
    ideal_ms: float | None = Field(default=None, gt=0, description="one_ms / gpus")
    imbalance: float | None = Field(
        default=None, ge=1, description="time of the busiest rank over the mean of all ranks, exchanges left out"
    )
    balance_gain: float | None = Field(
        default=None, gt=0, description="pairs of the busiest rank with heads in order, over those as they were dealt"
    )
    exchange_ms: float | None = Field(
        default=None, ge=0, description="least time that a rank spent in exchanges, waiting for others included; median"
    )
    sent_mib: float | None = Field(default=None, ge=0, description="most that a rank sent to others in a call")
    parallel_error: float | None = Field(
        default=None, ge=0, description="largest relative L2 of a rank's output or gradients against one process"
    )

    flops_dense: int | None = Field(default=None, description="full attention, heads_timed heads, 2 per multiply-add")
    flops_algorithmic: int | None = Field(default=None, description="kept pairs only")
    flops_selection: int | None = Field(default=None, ge=0, description="operations of choosing pairs, in the executed")
    flops_branch: int | None = Field(
        default=None, ge=0, description="operations of what the method adds to attention, in the executed"
    )
    flops_executed: int | None = Field(
        default=None, description="as run: whole tiles, selection and what the method adds included"
    )
    executed_pairs: int | None = Field(
        default=None, ge=0, description="(query, key) pairs that the engine computes, heads_timed heads, whole tiles"
    )

    empty_rows: int | None = Field(
        default=None,
        ge=0,
        description="queries that keep no key, heads_timed heads; their output is 0 unless the method puts another one "
        "there, as a copy from another query",
    )

    kept_by_frame: str | None = Field(
        default=None,
        description="JSON list of a list for each query frame: thousandths of its pairs with each key frame that are "
        "kept, mean over batch and heads, without text; null if not known, or above 64 frames",
    )

    numerical_error: float | None = Field(
        default=None,
        ge=0,
        description="relative L2 against the plan in float64; empty where the sampled queries keep no key",
    )
    numerical_tolerance: float | None = Field(
        default=None, gt=0, description="what rounding in this dtype explains; a larger numerical_error is incorrect"
    )
    selection_differs: int | None = Field(
        default=None,
        ge=0,
        description="(query token, key block) pairs unlike the plan in float64; empty where queries pick no blocks",
    )
    gradients_checked: Literal["float64", "engine"] | None = Field(
        default=None, description="where log-sum-exp and row sums of the check of dk and dv came from"
    )
    kernels: str | None = Field(
        default=None, description="JSON list of the kernels and functions that ran, verified and timed alike"
    )
    stability: Stability | None = Field(
        default=None, description="what the same call on the same inputs gave: the same bits, the same but for rounding"
    )
    stability_calls: int | None = Field(default=None, ge=1, description="how often that call was made")
    twin_error: float | None = Field(default=None, ge=0, description="worst error of the small twin over its tolerance")
    approximation_error: float | None = Field(default=None, ge=0, description="relative L2 against full attention")
    approximation_cosine: float | None = Field(
        default=None, ge=-1.001, le=1.001, description="mean cosine of a row and the same row of full attention"
    )
    mass_recall: float | None = Field(default=None, ge=0, le=1.001, description="share of full attention's mass kept")
    mass_recall_worst: float | None = Field(
        default=None, ge=0, le=1.001, description="mean of mass_recall over the lowest 1 % of its sampled queries"
    )
    peak_extra_mib: float | None = Field(default=None, description="peak memory beyond inputs and output")
    sm_clock_mhz: float | None = Field(default=None, description="median SM clock while this cell was sampled")
    power_w: float | None = Field(default=None, description="median power of the GPU while this cell was sampled")
    temperature_c: float | None = Field(default=None, description="median temperature of the GPU")
    power_capped: bool | None = Field(default=None, description="normal under load; recorded only")

    @model_validator(mode="after")
    def _latency_only_where_ok(self) -> Row:
        timed = (
            self.latency_ms,
            self.latency_warm_ms,
            self.latency_eager_ms,
            self.baseline_eager_ms,
            self.selection_ms,
            self.refresh_ms,
            self.other_ms,
            self.latency_amortised_ms,
            self.one_ms,
            self.ideal_ms,
            self.exchange_ms,
            self.speedup,
            self.translation,
            self.samples_ms or None,
        )
        if self.verdict != "ok" and any(value is not None for value in timed):
            raise ValueError(f"a latency with verdict {self.verdict!r}")
        if self.verdict == "ok" and (self.latency_ms is None or not self.samples_ms):
            raise ValueError("verdict 'ok' without a latency")
        if self.cell_id != self.identity and not (self.schema_version < 3 and self.cell_id == self.legacy_identity):
            raise ValueError(f"cell_id {self.cell_id!r} is not the digest of the cell's fields")
        return self

    @model_validator(mode="after")
    def _figures_agree(self) -> Row:
        """Refuse figures that are not what the others make them: what was worked out is not believed."""
        if self.latency_ms is not None:
            self._latency_agrees(self.latency_ms)
            self._refresh_agrees(self.latency_ms)
        if None not in (self.density, self.flops_dense, self.flops_algorithmic):
            share = (self.density or 0) * (self.flops_dense or 0)
            pair = flops_per_pair(self.head_dim, self.direction)
            if not math.isclose(self.flops_algorithmic or 0, share, rel_tol=ROUNDING, abs_tol=pair):
                raise ValueError(f"flops_algorithmic is {self.flops_algorithmic}, and density x flops_dense {share:g}")
        error, limit = self.numerical_error, self.numerical_tolerance
        if self.verdict == "ok" and error is not None and limit is not None and error > limit:
            raise ValueError(f"verdict 'ok' with a numerical_error of {error:g}, above the tolerance of {limit:g}")
        return self

    def _latency_agrees(self, latency: float) -> None:
        middle = statistics.median(self.samples_ms)
        if not math.isclose(latency, middle, rel_tol=ROUNDING):
            raise ValueError(f"latency_ms is {latency:g}, and the median of samples_ms is {middle:g}")
        ends = (min(self.samples_ms), self.latency_lo_ms, latency, self.latency_hi_ms, max(self.samples_ms))
        known = [end for end in ends if end is not None]
        if any(low > high * (1 + ROUNDING) for low, high in itertools.pairwise(known)):
            raise ValueError(
                f"the interval is {self.latency_lo_ms} to {self.latency_hi_ms}, the median {latency:g}, and samples_ms "
                f"are from {known[0]:g} to {known[-1]:g}"
            )
        if self.speedup is not None:
            if self.baseline_ms is None:
                raise ValueError("a speedup without baseline_ms")
            ratio = self.baseline_ms / latency
            if not math.isclose(self.speedup, ratio, rel_tol=ROUNDING):
                raise ValueError(f"speedup is {self.speedup:g}, and baseline_ms / latency_ms is {ratio:g}")
        share = (self.speedup or 0) * (self.density or 0)
        if self.translation is not None and not math.isclose(self.translation, share, rel_tol=ROUNDING):
            raise ValueError(f"translation is {self.translation:g}, and speedup x density is {share:g}")

    def _refresh_agrees(self, latency: float) -> None:
        refresh, every, mean = self.refresh_ms, self.refresh_every, self.latency_amortised_ms
        other, other_every = self.other_ms, self.other_every
        if (other is None) != (other_every is None) or (other is not None and refresh is None):
            raise ValueError("other_ms and other_every go together, and with refresh_ms, and one is missing")
        if refresh is None and mean is None:
            return
        if refresh is None or every is None or mean is None:
            raise ValueError("refresh_ms, refresh_every and latency_amortised_ms go together, and one is missing")
        share = 1 / every, 0.0 if other_every is None else 1 / other_every
        if sum(share) > 1 + ROUNDING:
            raise ValueError(f"refresh_every is {every:g} and other_every {other_every:g}: more than all steps")
        expected = latency * (1 - sum(share)) + refresh * share[0] + (other or 0.0) * share[1]
        if not math.isclose(mean, expected, rel_tol=ROUNDING):
            raise ValueError(f"latency_amortised_ms is {mean:g}, and what its steps take makes it {expected:g}")

    @model_validator(mode="after")
    def _flags_are_known(self) -> Row:
        raised = [] if not self.flags else self.flags.split(",")
        unknown = [flag for flag in raised if flag not in FLAGS]
        if unknown or len(set(raised)) < len(raised):
            raise ValueError(f"flags must be some of {', '.join(FLAGS)}, each once, not {(self.flags or '')[:60]!r}")
        return self

    @model_validator(mode="after")
    def _kernels_are_names(self) -> Row:
        names = None if self.kernels is None else names_of(self.kernels)
        if self.kernels is not None and (len(self.kernels) > MOST_KERNELS or names is None):
            raise ValueError(
                f"kernels must be a JSON list of names of up to {MOST_KERNELS:,} characters, not {self.kernels[:60]!r}"
            )
        return self

    @model_validator(mode="after")
    def _frame_map_fits_the_grid(self) -> Row:
        if self.kept_by_frame is None:
            return self
        lines = frame_map_of(self.kept_by_frame) if len(self.kept_by_frame) <= MOST_FRAME_MAP else None
        if lines is None or str(len(lines)) != self.grid.partition("x")[0]:
            raise ValueError(
                f"kept_by_frame must be a JSON list of T lists of T whole numbers from 0 to 1000, of the grid "
                f"{self.grid[:40]!r}, not {self.kept_by_frame[:60]!r}"
            )
        return self

    @model_validator(mode="after")
    def _executed_pairs_are_possible(self) -> Row:
        """Refuse more pairs than tiles around every pair of tokens would have, and more than the operations allow."""
        if self.executed_pairs is None:
            return self
        most = self.batch * self.heads_timed * (LARGEST_TILE * self.tokens) ** 2
        if self.flops_executed is not None:
            most = min(most, self.flops_executed // flops_per_pair(self.head_dim, self.direction))
        if self.executed_pairs > most:
            raise ValueError(f"executed_pairs is {self.executed_pairs}, and at most {most} are possible")
        return self

    @model_validator(mode="after")
    def _fill_executed_pairs(self) -> Row:
        """Work out the pairs of a row of schema 1, which stores none. They stay unknown if that is not exact."""
        if self.schema_version > 1 or None in (self.flops_executed, self.flops_selection):
            return self
        in_attention = (self.flops_executed or 0) - (self.flops_selection or 0)
        pairs, rest = divmod(in_attention, flops_per_pair(self.head_dim, self.direction))
        if self.executed_pairs is None and rest == 0 and pairs >= 0:
            object.__setattr__(self, "executed_pairs", pairs)  # the row is frozen, and nobody has seen it yet
        return self

    def cell(self) -> Cell:
        """Return the cell this row measured."""
        return Cell(**self.model_dump(include=set(Cell.model_fields)))


class Environment(Record):
    """Where a run was measured."""

    device: str = Field(description="name of the GPU or CPU")
    device_kind: Literal["cpu", "cuda"] = Field(description="what the run measures on")
    cores: int = Field(description="CPU cores this process may use")
    threads: int | None = Field(default=None, description="CPU threads used by torch")
    memory_gib: float = Field(description="memory of the GPU, or of the machine")
    driver: str | None = Field(default=None, description="version of the NVIDIA driver")
    python: str = Field(description="version of Python")
    platform: str = Field(description="operating system")
    packages: dict[str, str] = Field(description="versions of the packages that matter")
    git_commit: str | None = Field(
        default=None, description="commit of the checkout that ran, or of an installed package as ATTNBENCH_COMMIT says"
    )
    git_dirty: bool | None = Field(default=None, description="whether the checkout had uncommitted changes")
    git_changes: str | None = Field(default=None, description="digest of the uncommitted changes, new files included")
    command: list[str] = Field(default_factory=list, description="the command line as typed")
    started_at: str = Field(description="UTC, ISO 8601")


class RunHeader(Record):
    """First line of a journal: what the run set out to do."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of the lines of this journal")
    run_id: str = Field(description="start of the run, UTC, and four random digits")
    environment: Environment = Field(description="where the run was measured")
    request: dict[str, Any] = Field(description="the arguments that `attnbench run --resume` repeats")
    contents: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of the files and folders that the run reads, as inputs and weights"
    )
    in_turns: str = Field(
        default="", description="shared by runs that were measured in turns, call by call; empty for a run alone"
    )
    unknown_methods: list[str] = Field(
        default_factory=list,
        description="methods that were asked for and left out: a gate compares with a version that has them",
    )


class Choices(Record):
    """What a run decides once for cells that have processes of their own, so that all are measured alike."""

    heads: int = Field(ge=1, description="heads that are timed")
    rounds: int = Field(ge=1, description="rounds of timing")
    baseline: str | None = Field(default=None, description="engine of the dense baseline; null if there is none")
    cells: dict[str, str] = Field(
        default_factory=dict,
        description="cell_id of every cell that the run comes to, and that of its mean over layers; empty if not known",
    )


class RanksSample(Record):
    """What was taken beside a sample of a call over several ranks, whose own time is that of the slowest one."""

    one_ms: float = Field(gt=0, description="time of one process with all tokens, in the same round")
    exchange_ms: float = Field(
        ge=0, description="least time that a rank spent in exchanges, waiting for others included"
    )
    imbalance: float = Field(ge=1, description="time of the busiest rank over the mean of all, exchanges left out")
    sent_mib: float = Field(ge=0, description="most that a rank sent to others")


class Sample(Record):
    """One timed call. Samples are journaled as they are taken, so that an interrupted run can go on."""

    cell_id: str = Field(description="what was timed")
    round: int = Field(ge=0, description="number of the round, from 0")
    group: str = Field(
        default="", description="whose rounds: empty for cells that share a process, cell_id of one with its own"
    )
    input_set: int = Field(default=0, ge=0, description="which of the rotating input sets the round used")
    cold_ms: float = Field(gt=0, description="time of the call with a cold cache")
    warm_ms: float | None = Field(default=None, gt=0, description="time of the same call right after; CUDA only")
    host_ms: float | None = Field(
        default=None, ge=0, description="time the CPU took to enqueue the call; null on a CPU, or if the call waited"
    )
    heads_timed: int = Field(ge=1, description="heads that were run")
    inputs_hash: str = Field(description="digest of q, k, v of all input sets")
    threads: int | None = Field(default=None, description="CPU threads used by torch")
    ranks: RanksSample | None = Field(default=None, description="the rest of a call over several ranks; null: of one")
    sm_clock_mhz: float | None = Field(default=None, description="SM clock right after the call")
    power_w: float | None = Field(default=None, description="power of the GPU right after the call")
    temperature_c: float | None = Field(default=None, description="temperature of the GPU right after the call")
    clock_reasons: int | None = Field(default=None, description="NVML's clock event reasons, as bits")
    power_limit_w: float | None = Field(default=None, description="power that the GPU may draw at most")
    foreign_processes: int | None = Field(default=None, ge=0, description="other processes that compute on the GPU")
    load: float | None = Field(default=None, ge=0, description="load of the machine, mean over the last minute")
    others_busy: float | None = Field(
        default=None, ge=0, le=1, description="share of the cores' time that other processes used since the last sample"
    )
    steal: float | None = Field(default=None, ge=0, le=1, description="the same of the hypervisor")
    waited: float | None = Field(
        default=None, ge=0, le=1, description="share of that time in which this thread waited for a core"
    )
    switches: int | None = Field(default=None, ge=0, description="how often a core was taken from this process in it")
    cpu_mhz: float | None = Field(default=None, description="mean frequency of the cores")


class PhaseRow(Record):
    """What one phase takes of a cell. Built with ``PhaseRow.model_validate``: "pass" is a keyword of Python.

    The measured rows of a pass without a parent add up to what the GPU, or on a CPU the call, took under the profiler.
    """

    row_id: str = Field(description="row_id of the cell's row in this run")
    run_id: str = Field(description="start of the run, UTC, and four random digits")
    cell_id: str = Field(description="digest of what was measured")
    pass_: Pass = Field(alias="pass", description="forward or backward")
    phase: str = Field(description="name of the phase; other is work outside any, gap is time in which the GPU waits")
    parent: str | None = Field(default=None, description="the phase whose time includes this one's")
    time_ms: float = Field(ge=0, description="median of a call with a cold cache, under the profiler if measured")
    time_lo_ms: float = Field(ge=0, description="lower end of the interval of the median")
    time_hi_ms: float = Field(ge=0, description="upper end of the interval of the median")
    provenance: Provenance = Field(description="how the time is known")
    engine: str = Field(description="who ran the plan; of times that are not measured, what they rest on")
    kernels: int = Field(ge=0, description="kernels, copies and fills of a call; 0 on a CPU")
    complaint: str = Field(default="", description="why the time is not to be trusted; empty if it is")
    peak_extra_mib: float | None = Field(
        default=None, ge=0, description="most memory in tensors during the phase, beyond what was there before the call"
    )
    peak_dense_mib: float | None = Field(
        default=None, ge=0, description="peak_extra_mib of the whole call of the dense baseline, as in its row"
    )
    flops: float | None = Field(
        default=None, ge=0, description="floating-point operations of kept pairs, or of selection; 2 per multiply-add"
    )
    bytes: float | None = Field(default=None, ge=0, description="least bytes: inputs read once, outputs written once")
    bytes_modelled: float | None = Field(default=None, ge=0, description="bytes that the kernels ask the cache for")
    tflops: float | None = Field(default=None, ge=0, description="TFLOP/s: flops / time_ms")
    tbs: float | None = Field(default=None, ge=0, description="TB/s (10^12 bytes): bytes / time_ms")
    mfu: float | None = Field(default=None, ge=0, description="tflops over the datasheet's dense tensor peak")
    mfu_probe: float | None = Field(default=None, ge=0, description="tflops over a matrix product of the same run")
    bandwidth: float | None = Field(default=None, ge=0, description="tbs over the datasheet's memory bandwidth")
    bandwidth_probe: float | None = Field(default=None, ge=0, description="tbs over a copy of the same run")
    note: str = Field(default="", description="how a time that is not measured came about, and what it leaves open")

    @property
    def key(self) -> tuple[str | None, ...]:
        """What two rows share that say the same thing: the later one counts."""
        return self.row_id, self.pass_, self.phase, self.parent, self.provenance, self.engine
