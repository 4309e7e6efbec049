"""One cell while it is measured: its plan's facts, its checks, its samples, and how it failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import torch

from attnbench.bench.branch import BranchCheck
from attnbench.bench.gradients import GradientCheck
from attnbench.bench.jobs import Job
from attnbench.bench.recall import Recall
from attnbench.bench.selection import KeptKeys, SelectionCheck
from attnbench.bench.stability import StabilityCheck
from attnbench.bench.verify import RowCheck, Rows, RowSample, TwinCheck
from attnbench.inputs.sets import Disguise
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.machine.clock import ClockFault
from attnbench.machine.exits import LeftProcess, exits_as_errors
from attnbench.machine.memory import lacks_memory
from attnbench.machine.state import State
from attnbench.machine.telemetry import REQUIRED, Reading, Telemetry, summarise
from attnbench.methods import get_method
from attnbench.results.records.cells import Cell, Sample, Verdict


class Incorrect(Exception):
    """A call did what it must not, or gave what it must not: the cell is incorrect, and this is why."""


@dataclass(frozen=True)
class PlanFacts:
    """What rows report of a plan, so that the plan itself need not be kept. All counts are of its heads."""

    density: float
    heads: int
    pairs: int
    nbytes: int
    selection_flops: int
    executed_pairs: int
    branch_flops: int = 0
    empty_rows: int = 0


@dataclass(frozen=True, slots=True)
class Eager:
    """Calls that were made back to back: milliseconds of each, and how many they were."""

    ms: float
    calls: int


@dataclass(frozen=True, slots=True)
class FirstCall:
    """The very first call of a cell: its seconds, and on how many heads."""

    seconds: float
    heads: int


@dataclass(frozen=True, eq=False)
class Proof:
    """What is known of a cell on one input set, once a call on it has been verified.

    Attributes:
        plans: digests of the plans that agree with the selection in float64, and with the first of them.
        sample: exact rows, of the plan with the digest ``sampled``.
        sampled: see there.
        kept: what the first of the plans keeps for these rows.
        finished: these rows of what the verified call of ``sampled`` gave, where the method finishes what engines give.
    """

    plans: frozenset[str]
    sample: RowSample
    sampled: str
    kept: KeptKeys
    finished: Rows | None = None


@dataclass
class Trial:
    """A cell on its way to a row."""

    job: Job
    cell: Cell
    shared: bool = False  # it is the dense baseline itself
    verdict: Verdict | None = None  # set as soon as something is wrong
    reason: str = ""
    facts: PlanFacts | None = None  # of the first input set
    set_facts: dict[int, PlanFacts] = field(default_factory=dict)  # by input set
    frames: tuple[tuple[int, ...], ...] = ()  # thousandths kept of each two frames, first input set; empty: not known
    selection_flops: int = 0  # as counted
    branch_flops: int = 0  # as counted
    disguise: Disguise = "none"  # what of channels leaves its plans as they are
    kernels: tuple[str, ...] = ()  # what the verified call ran
    rows: RowCheck | None = None
    recall: Recall | None = None
    branch: BranchCheck | None = None
    selection: SelectionCheck | None = None
    gradients: GradientCheck | None = None
    twin: TwinCheck | None = None
    stability: StabilityCheck | None = None
    proofs: dict[int, Proof] = field(default_factory=dict)  # by input set
    gradient_rows: dict[int, dict[str, tuple[Rows, Rows, float]]] = field(default_factory=dict)
    """By input set and tensor, of the call that was checked there: places, gradients, and what rounding explains."""
    peak_extra: int | None = None
    seconds: float = 0.0  # of the first call
    first: FirstCall | None = None
    eager: Eager | None = None
    selection_ms: float | None = None  # of the plan by itself
    refresh_ms: float | None = None  # of the call that makes a state anew
    other_ms: float | None = None  # of a step of a third kind
    samples: list[Sample] = field(default_factory=list)

    @property
    def telemetry(self) -> Telemetry:
        """What the GPU did while the samples were taken."""
        return summarise([reading for sample in self.samples if (reading := reading_of(sample)) is not None])

    def fail(self, verdict: Verdict, reason: str) -> None:
        """End the trial without a latency."""
        self.verdict, self.reason = verdict, reason


MOST_REASON = 500
"""Characters of a reason that are kept: what a package raises may be of any length."""


def dense_job() -> Job:
    """Return the job of the dense baseline."""
    full = get_method("full")
    return Job(full, full.settings(), 0)


@dataclass
class Failure:
    """How a guarded piece of work ended; without a verdict it went well."""

    verdict: Verdict | None = None
    reason: str = ""


@contextmanager
def classified() -> Iterator[Failure]:
    """Turn what may go wrong with one cell into a verdict, so that the other cells go on.

    What the cell changed of the state that all cells share is undone, and is an error of the cell.
    """
    failure, before = Failure(), State.now()
    try:
        with exits_as_errors():
            yield failure
    except Incorrect as error:
        failure.verdict, failure.reason = "incorrect", str(error)
    except Unsupported as error:
        failure.verdict, failure.reason = "unsupported", str(error)
    except (torch.OutOfMemoryError, MemoryError) as error:
        failure.verdict, failure.reason = "oom", first_line(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    except ClockFault as error:
        failure.verdict, failure.reason = "error", str(error)
    except (Exception, SystemExit) as error:
        failure.verdict = "oom" if lacks_memory(error) else "error"
        failure.reason = first_line(error)
    if changed := before.restore():
        failure.verdict, failure.reason = "error", "; ".join(filter(None, [f"it {changed}", failure.reason]))
    if len(failure.reason) > MOST_REASON:
        failure.reason = f"{failure.reason[:MOST_REASON]}… (cut)"


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    if isinstance(error, LeftProcess):
        return f"it called os._exit({error.code!r})"
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else repr(error.code)[:80]})"
    if isinstance(error, BadInput):
        return str(error).splitlines()[0]
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def reading_of(sample: Sample) -> Reading | None:
    """Return what the GPU said when a sample was taken, or None where it was not asked."""
    told = {field.name: getattr(sample, field.name) for field in fields(Reading)}
    return None if any(told[name] is None for name in REQUIRED) else Reading(**told)
