"""Inside a fused attention kernel: its parts by builds that leave some out, and by a model."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attnbench.bench.rounds import interleave
from attnbench.cost.roofline import AttendSplit, Peak, split_attend
from attnbench.kernels.ablation import UP_TO, Launch, Part, recorded
from attnbench.machine.stopwatch import Stopwatch
from attnbench.results.intervals import Interval, median_interval

ABLATED_ROUNDS = 9

ABLATED_NOTES = {
    "qk": "time of a build with nothing but the scores, its tiles and lists included",
    "softmax": "what softmax adds to a build with the scores alone; what it hides behind products is not in it",
    "av": "what values and outputs add to a build with scores and softmax; what they hide behind softmax is not in it",
}

MODELLED_NOTE = "a model of operations and exponentials; from and to are what one time cannot tell apart"


@dataclass(frozen=True, slots=True)
class PartTime:
    """Milliseconds of a part of attend, and how they are known."""

    phase: str
    time: Interval
    note: str


@dataclass(frozen=True, slots=True)
class Ablation:
    """The parts of attend by differences of builds, and the median of the whole build."""

    parts: tuple[PartTime, ...]
    whole_ms: float


def record_launches(call: Callable[[], object]) -> list[Launch]:
    """Run a call and return the forward launches of our attention kernel in it; none if other kernels ran."""
    with recorded() as launches:
        call()
    return launches


def measure_ablation(
    launches: Sequence[Launch],
    stopwatch: Stopwatch,
    rounds: int = ABLATED_ROUNDS,
    check: Callable[[], None] = lambda: None,
) -> Ablation:
    """Time the builds of a call's launches in interleaved rounds with a cold cache, and take differences.

    Args:
        launches: those of one call, at least 1.
        stopwatch: of the device.
        rounds: samples of each build, at least 1.
        check: called between samples; may raise to end it.

    Raises:
        Unsupported: if a kernel has no such builds.
    """
    samples: dict[Part, list[float]] = {part: [] for part in UP_TO}

    def run(part: Part) -> None:
        for launch in launches:
            launch(part)

    for part in UP_TO:  # compiles
        run(part)
    for turn in interleave(list(UP_TO), rounds):
        check()
        samples[turn.item].append(stopwatch.time(functools.partial(run, turn.item), warm=False).cold_ms)
    return ablation_of(samples)


def ablation_of(samples: dict[Part, list[float]]) -> Ablation:
    """Take differences of medians; the interval is that of the differences round by round. None is below 0."""
    nothing = [0.0] * len(samples["whole"])
    steps = {"qk": (nothing, samples["qk"]), "softmax": (samples["qk"], samples["softmax"]),
             "av": (samples["softmax"], samples["whole"])}  # fmt: skip
    parts = []
    for phase, (before, after) in steps.items():
        ms = statistics.median(after) - statistics.median(before)
        noise = median_interval([b - a for a, b in zip(before, after, strict=True)])
        note = ABLATED_NOTES[phase] if ms >= 0 else f"{ABLATED_NOTES[phase]}; the difference was {ms:.3g} ms"
        lo, hi = max(0.0, min(ms, noise.lo)), max(0.0, ms, noise.hi)
        parts.append(PartTime(phase, Interval(max(0.0, ms), lo, hi, noise.kind), note))
    return Ablation(tuple(parts), statistics.median(samples["whole"]))


def model_parts(
    time_ms: float, gpu: Peak, *, pairs: int, head_dim: int, clock_mhz: float | None = None
) -> tuple[PartTime, ...]:
    """Split a fused forward attend of ``time_ms`` by ``split_attend``; the ends are the range of the model.

    Arguments and errors as there.
    """
    split: AttendSplit = split_attend(time_ms, gpu, pairs=pairs, head_dim=head_dim, clock_mhz=clock_mhz)
    shares = {"qk": split.qk, "softmax": split.softmax, "av": split.av}
    return tuple(
        PartTime(phase, Interval(share.ms, share.lo_ms, share.hi_ms, "min-max"), MODELLED_NOTE)
        for phase, share in shares.items()
    )
