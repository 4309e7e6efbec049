"""Tables of training runs: the cost of a step, the loss after equal steps and equal seconds, and the clips.

Equal steps: the last number at which every run has a checkpoint. Equal seconds: as many as every run has, or fewer.
Losses are those of held-out clips, the same for every method and seed, and so runs are compared clip by clip. So are
the clips that are made with the final weights of each run. Brackets hold 95 % intervals: Wilson's for a share of clips,
otherwise over the clips, each with all its seeds. If there are several seeds, the range over them follows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from attnbench.kernels.errors import BadInput
from attnbench.report.word_table import WordTable
from attnbench.report.words import NONE, decimals_of
from attnbench.results.intervals import HitShare
from attnbench.results.means import Estimate, Values, mean_estimate, paired_difference
from attnbench.results.training import TrainingRun, common_limits

BASELINE = "full"

Runs = Sequence[TrainingRun]


def by_method(runs: Runs, baseline: str = BASELINE) -> dict[str, list[TrainingRun]]:
    """Return the runs of each method, the baseline's first."""
    methods = sorted({run.method for run in runs}, key=lambda method: (method != baseline, method))
    return {method: [run for run in runs if run.method == method] for method in methods}


def baseline_of(runs: Runs) -> str:
    """Return the method that the others are compared with: full attention, else the first by name."""
    methods = {run.method for run in runs}
    return BASELINE if BASELINE in methods else min(methods)


def losses(runs: Runs, of: Callable[[TrainingRun], Sequence[float]]) -> Values:
    """Return the held-out losses of a method's runs by clip and seed."""
    return {(f"clip {clip}", run.seed): loss for run in runs for clip, loss in enumerate(of(run))}


def rights(runs: Runs, what: str) -> Values:
    """Return 1 for each judged clip whose "class" or "motion" is right and 0 for the others, by clip and seed."""
    found: dict[tuple[str, int], float] = {}
    for run in runs:
        if score := run.card.get("score"):
            wrong = set(score[f"wrong_{what}"])
            found |= {(f"clip {clip}", run.seed): float(clip not in wrong) for clip in range(score["clips"])}
    return found


def difference(mine: Values, theirs: Values) -> Estimate | None:
    """Return the mean of mine - theirs by clip and seed; None if they have no clip and seed in common."""
    return paired_difference(mine, theirs) if mine.keys() & theirs.keys() else None


def loss_table(grouped: Mapping[str, Runs], baseline: str = BASELINE, seconds: float | None = None) -> WordTable:
    """Return the table of costs and losses.

    Args:
        grouped: as ``by_method`` returns it.
        baseline: the method that the others are compared with.
        seconds: where equal seconds end; by default, when the shortest run ends.

    Raises:
        BadInput: if the runs have no step or no seconds in common, or ``seconds`` is not among those.
    """
    steps, seconds = limits(grouped, seconds)
    after_seconds = {run.name: run.after_seconds(seconds) for own in grouped.values() for run in own}
    header = (
        "method", "engine", "density", "seeds", "ms per step", "peak GiB", f"held-out loss after {steps} steps",
        f"difference from {baseline}", f"steps in {seconds:.0f} s", f"held-out loss after {seconds:.0f} s",
        f"difference from {baseline}",
    )  # fmt: skip
    rows = []
    for method, own in grouped.items():
        others = _others(grouped, baseline, method)
        by_steps, by_seconds = (
            (_mean_words(losses(own, end)), _difference_words(losses(own, end), losses(others, end), 4))
            for end in (lambda run: run.after_steps(steps), lambda run: after_seconds[run.name][1])
        )
        rows.append(
            (
                method,
                "+".join(sorted({run.card["engine"] for run in own})),
                _density_words(mean_density(own)),
                str(len(own)),
                f"{statistics.mean(run.step_ms for run in own):.1f}",
                f"{max(run.peak_mib for run in own) / 1024:.1f}",
                *by_steps,
                str(round(statistics.mean(after_seconds[run.name][0] for run in own))),
                *by_seconds,
            )
        )
    return WordTable(header, tuple(rows), frozenset({2, 3, 4, 5, 8}))


def limits(grouped: Mapping[str, Runs], seconds: float | None = None) -> tuple[int, float]:
    """Return the steps and the seconds at which runs are compared.

    Raises:
        BadInput: as ``loss_table``.
    """
    runs = [run for own in grouped.values() for run in own]
    steps, most = common_limits(runs)
    least = max(run.checkpoints[0].seconds for run in runs)
    seconds = most if seconds is None else seconds
    if not least <= seconds <= most:
        raise BadInput(f"--seconds {seconds:g} is not among those that every run has: {least:.1f} to {most:.1f}")
    return steps, seconds


def clips_table(grouped: Mapping[str, Runs], baseline: str = BASELINE) -> WordTable | None:
    """Return the table of the clips made with the final weights of each run; None if none were judged."""
    if not any(rights(own, "class") for own in grouped.values()):
        return None
    rows = []
    for method, own in grouped.items():
        others, ends = _others(grouped, baseline, method), [run.checkpoints[-1].step for run in own]
        row = [method, f"{min(ends)} to {max(ends)}" if min(ends) < max(ends) else str(ends[0])]
        for what in ("class", "motion"):
            mine = rights(own, what)
            row += [_share_words(mine), _difference_words(mine, rights(others, what), 3)]
        rows.append(tuple(row))
    less = f"difference from {baseline}"
    header = ("method", "steps at the end", "class right", less, "motion right", less)
    return WordTable(header, tuple(rows), frozenset({1}))


def _others(grouped: Mapping[str, Runs], baseline: str, method: str) -> Runs:
    """Return the runs of the baseline, if this is another method."""
    return () if method == baseline else grouped.get(baseline, ())


def mean_density(runs: Runs) -> float | None:
    """Return the share of pairs that is kept while clips are made, the mean over layers, steps and seeds, if known."""
    found = [each for run in runs if (each := (run.card.get("score") or {}).get("density")) is not None]
    return statistics.fmean(found) if found else None


def _density_words(density: float | None) -> str:
    return NONE if density is None else f"{density:.3f}"


def _mean_words(values: Values) -> str:
    found = mean_estimate(values)
    digits = max(4, decimals_of(found.mean, found.lo, found.hi, 1))
    ends = "" if found.lo is None else f" [{found.lo:.{digits}f}, {found.hi:.{digits}f}]"
    return f"{found.mean:.{digits}f}{ends}"


def _share_words(values: Values) -> str:
    """Return how many clips are right, with the Wilson interval."""
    return str(HitShare(round(sum(values.values())), len(values))) if values else NONE


def _difference_words(mine: Values, theirs: Values, digits: int) -> str:
    """Return the mean difference with its interval and, if there are several seeds, their range."""
    gap = difference(mine, theirs)
    if gap is None:
        return NONE
    digits = max(digits, decimals_of(gap.mean, gap.lo, gap.hi, 1))
    ends = f" [{gap.lo:+z.{digits}f}, {gap.hi:+z.{digits}f}]" if gap.lo is not None else ""
    said = f"{gap.mean:+z.{digits}f}{ends}"
    seeds = sorted({seed for _, seed in mine.keys() & theirs.keys()})
    if len(seeds) == 1:
        return said
    each = [paired_difference({k: v for k, v in mine.items() if k[1] == seed}, theirs).mean for seed in seeds]
    return f"{said}; {min(each):+z.{digits}f} to {max(each):+z.{digits}f}"
