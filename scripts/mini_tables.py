"""Compare methods in native training of the mini model, from the logs that ``train_mini.py native`` wrote.

python scripts/mini_tables.py OUT   # folders <method>-<seed>: config.json, mini.json and train.jsonl, or train.jsonl.gz
python scripts/mini_tables.py OUT --methods vmoba vmoba-1d vmoba-2d --baseline vmoba --seeds 0   # some of them

After equal steps: the last number at which every run has a checkpoint. After equal seconds: as many as every run has;
between two checkpoints of a run its losses are taken to change evenly. Of runs whose attention is full on coarse clips,
both are counted from the first full clip on: they share what was before. Seconds are those of optimiser steps; one that
takes more than five times its stage's median compiles, and counts as the median.
Losses are those of held-out clips, the same for every method and seed, and so are compared clip by clip, as are the
clips that the weights at the end of each run make. Brackets hold 95 % intervals: of a share of clips Wilson's, of all
else over the clips, each with all its seeds, as ``attnbench.clips.metrics`` makes them; a range over the seeds follows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.mini.card import CARD
from attnbench.mini.log import read_log
from attnbench.mini.score import HitShare
from attnbench.mini.train import CONFIG
from attnbench.results.means import Values, mean_estimate, paired_difference

BASELINE = "full"


@dataclass(frozen=True)
class Checkpoint:
    """The held-out losses of a run after so many steps and seconds of training."""

    step: int
    seconds: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """One run: of which method and seed, its checkpoints, what a step of full clips takes, and its card."""

    method: str
    seed: int
    checkpoints: tuple[Checkpoint, ...]
    step_ms: float
    peak_mib: float
    card: dict[str, Any]

    def after_steps(self, step: int) -> tuple[float, ...]:
        """Return the losses at a checkpoint."""
        return next(checkpoint.losses for checkpoint in self.checkpoints if checkpoint.step == step)

    def after_seconds(self, seconds: float) -> tuple[float, tuple[float, ...]]:
        """Return steps and losses after so many seconds, in a straight line between the checkpoints beside them."""
        for before, behind in itertools.pairwise(self.checkpoints):
            if before.seconds <= seconds <= behind.seconds:
                share = (seconds - before.seconds) / (behind.seconds - before.seconds)
                pairs = zip((before.step, *before.losses), (behind.step, *behind.losses), strict=True)
                step, *losses = (one + share * (other - one) for one, other in pairs)
                return step, tuple(losses)
        return self.checkpoints[0].step, self.checkpoints[0].losses


def read_run(folder: Path) -> Run:
    """Read a run's folder, called <method>-<seed>.

    Raises:
        BadInput: if it holds no run with a checkpoint, or one without its card or under another name.
    """
    method, dash, seed = folder.name.rpartition("-")
    try:
        config, card = (json.loads((folder / name).read_text()) for name in (CONFIG, CARD))
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(folder)!r} holds no finished run: {CONFIG} or {CARD} cannot be read") from error
    if not dash or not seed.isdecimal() or "engine" not in card:
        raise BadInput(f"{str(folder)!r} is not a run of train_mini.py native: its name must be METHOD-SEED")
    lines = read_log(folder)
    ends = [0, *itertools.accumulate(count for count, _ in config["coarse"])]
    first = ends[-1] if config.get("dense_coarse") else 0
    steps = {line["step"]: line for line in lines if "loss" in line}
    held_out = [line for line in lines if "held_out" in line and line["step"] in steps and line["step"] > first]
    if not held_out:
        raise BadInput(f"{str(folder)!r} holds no training run with a checkpoint")
    seconds, last_ms = seconds_until({step: line["seconds"] for step, line in steps.items()}, ends)
    before = seconds.get(first, 0.0)
    return Run(
        method=method,
        seed=int(seed),
        checkpoints=tuple(
            Checkpoint(line["step"] - first, seconds[line["step"]] - before, tuple(line["held_out_losses"]))
            for line in held_out
        ),
        step_ms=last_ms,
        peak_mib=max(line["peak_mib"] for line in steps.values()),
        card=card,
    )


def seconds_until(each: Mapping[int, float], begins: Sequence[int]) -> tuple[dict[int, float], float]:
    """Return the seconds of training until the end of each step, and the median step of the last stage in ms.

    Args:
        each: seconds of each step that was logged, by its number from 1.
        begins: steps before each stage.
    """
    counted: dict[int, float] = {}
    median = 0.0
    for begin, end in itertools.pairwise([*begins, math.inf]):
        stage = {step: took for step, took in each.items() if begin < step <= end}
        if stage:
            median = statistics.median(stage.values())
            counted |= {step: median if took > 5 * median else took for step, took in stage.items()}
    return dict(zip(counted, itertools.accumulate(counted.values()), strict=True)), 1000 * median


def common_limits(runs: Sequence[Run]) -> tuple[int, float]:
    """Return the last step at which every run has a checkpoint, and the most seconds that every run has.

    Raises:
        BadInput: if there is no such step, or a run began when another had ended.
    """
    common = set.intersection(*({checkpoint.step for checkpoint in run.checkpoints} for run in runs))
    seconds = min(run.checkpoints[-1].seconds for run in runs)
    late = [run for run in runs if run.checkpoints[0].seconds > seconds]
    if not common or late:
        names = ", ".join(f"{run.method}-{run.seed}" for run in late or runs)
        raise BadInput(f"{names}: no checkpoint where every other run has one: train with a smaller --every")
    return max(common), seconds


def losses(runs: Sequence[Run], of: Callable[[Run], Sequence[float]]) -> Values:
    """Return the held-out losses of a method's runs by clip and seed."""
    return {(f"clip {clip}", run.seed): loss for run in runs for clip, loss in enumerate(of(run))}


def rights(runs: Sequence[Run], what: str) -> Values:
    """Return 1 for each judged clip whose "class" or "motion" is right and 0 for the others, by clip and seed."""
    return {
        (f"clip {clip}", run.seed): float(clip not in run.card["score"][f"wrong_{what}"])
        for run in runs
        if "score" in run.card
        for clip in range(run.card["score"]["clips"])
    }


def mean_words(values: Values) -> str:
    """Return a mean with its interval."""
    found = mean_estimate(values)
    return f"{found.mean:.4f} [{found.lo:.4f}, {found.hi:.4f}]"


def share_words(values: Values) -> str:
    """Return how many are right, with the Wilson interval."""
    return str(HitShare(round(sum(values.values())), len(values))) if values else "–"


def gap_words(mine: Values, theirs: Values, digits: int) -> str:
    """Return the mean difference with its interval, and the least and most of single seeds where there are several."""
    if not mine.keys() & theirs.keys():
        return "–"
    gap = paired_difference(mine, theirs)
    said = f"{gap.mean:+z.{digits}f} [{gap.lo:+z.{digits}f}, {gap.hi:+z.{digits}f}]"
    seeds = sorted({seed for _, seed in mine.keys() & theirs.keys()})
    if len(seeds) == 1:
        return said
    each = [paired_difference({k: v for k, v in mine.items() if k[1] == seed}, theirs).mean for seed in seeds]
    return f"{said}; {min(each):+z.{digits}f} to {max(each):+z.{digits}f}"


def density(runs: Sequence[Run]) -> str:
    """Return the share of the pairs that is kept while clips are made, mean over the layers, steps and seeds."""
    found = [run.card["score"]["density"] for run in runs if "score" in run.card]
    return f"{statistics.fmean(found):.3f}" if found else "–"


def read_runs(folder: Path, methods: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[Run]:
    """Read the runs in a folder, all or those of some methods and seeds.

    Raises:
        BadInput: if there is none, or one cannot be read, or a method or seed has none.
    """
    runs = [read_run(path.parent) for path in sorted(folder.glob(f"*/{CONFIG}"))]
    if not runs:
        raise BadInput(f"{str(folder)!r} holds no training runs: give the folder that train_mini.py native wrote")
    for what, asked, there in (
        ("method", methods, {run.method for run in runs}),
        ("seed", seeds, {run.seed for run in runs}),
    ):
        if missing := [each for each in asked or () if each not in there]:
            raise BadInput(f"{str(folder)!r} holds no run of {what} {missing[0]!r}, but of {sorted(there)}")
    kept = [run for run in runs if run.method in (methods or [run.method]) and run.seed in (seeds or [run.seed])]
    if not kept:
        raise BadInput(f"{str(folder)!r} holds no run of these methods with these seeds")
    return kept


def by_method(runs: Sequence[Run], baseline: str = BASELINE) -> dict[str, list[Run]]:
    """Return the runs of each method, the baseline's first."""
    methods = sorted({run.method for run in runs}, key=lambda method: (method != baseline, method))
    return {method: [run for run in runs if run.method == method] for method in methods}


def compared_with(grouped: Mapping[str, Sequence[Run]], baseline: str, method: str) -> Sequence[Run]:
    """Return the runs of the baseline, for any other method."""
    return () if method == baseline else grouped.get(baseline, ())


def loss_table(grouped: Mapping[str, Sequence[Run]], baseline: str, seconds: float | None = None) -> list[str]:
    """Return the lines of the table of costs and losses, after equal steps and after equal seconds, the most or fewer.

    Raises:
        BadInput: if the runs have no step or no seconds in common, or not so many or so few.
    """
    runs = [run for own in grouped.values() for run in own]
    steps, most = common_limits(runs)
    least = max(run.checkpoints[0].seconds for run in runs)
    seconds = most if seconds is None else seconds
    if not least <= seconds <= most:
        raise BadInput(f"--seconds {seconds:g} is not among those that every run has: {least:.1f} to {most:.1f}")
    ends: tuple[Callable[[Run], Sequence[float]], ...] = (
        lambda run: run.after_steps(steps),
        lambda run: run.after_seconds(seconds)[1],
    )
    lines = [
        f"| method | engine | density | seeds | ms a step | peak GiB | held-out loss after {steps} steps | less "
        f"{baseline}'s | steps in {seconds:.0f} s | held-out loss after {seconds:.0f} s | less {baseline}'s |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | ---: | --- | --- |",
    ]
    for method, own in grouped.items():
        others = compared_with(grouped, baseline, method)
        by_steps, by_seconds = (
            (mean_words(losses(own, end)), gap_words(losses(own, end), losses(others, end), 4)) for end in ends
        )
        row = (
            method,
            "+".join(sorted({run.card["engine"] for run in own})),
            density(own),
            str(len(own)),
            f"{statistics.mean(run.step_ms for run in own):.1f}",
            f"{max(run.peak_mib for run in own) / 1024:.1f}",
            *by_steps,
            str(round(statistics.mean(run.after_seconds(seconds)[0] for run in own))),
            *by_seconds,
        )
        lines.append(f"| {' | '.join(row)} |")
    return lines


def clips_table(grouped: Mapping[str, Sequence[Run]], baseline: str) -> list[str]:
    """Return the lines of the table of clips made with the weights at the end of each run; none if none were judged."""
    if not any(rights(own, "class") for own in grouped.values()):
        return []
    lines = [
        f"| method | steps at the end | class right | less {baseline}'s | motion right | less {baseline}'s |",
        "| --- | ---: | --- | --- | --- | --- |",
    ]
    for method, own in grouped.items():
        others, ends = compared_with(grouped, baseline, method), [run.checkpoints[-1].step for run in own]
        row = [method, f"{min(ends)} to {max(ends)}" if min(ends) < max(ends) else str(ends[0])]
        for what in ("class", "motion"):
            mine = rights(own, what)
            row += [share_words(mine), gap_words(mine, rights(others, what), 3)]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def table(
    folder: Path,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    baseline: str = BASELINE,
    seconds: float | None = None,
) -> list[str]:
    """Return the lines of both tables, of all runs in a folder or of some.

    Raises:
        BadInput: as ``read_runs`` and ``loss_table``.
    """
    grouped = by_method(read_runs(folder, methods, seeds), baseline)
    clips = clips_table(grouped, baseline)
    return loss_table(grouped, baseline, seconds) + (["", *clips] if clips else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", help="default: all that have runs")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: all that have runs")
    parser.add_argument("--baseline", default=BASELINE, help="what the others are compared with")
    parser.add_argument("--seconds", type=float, help="for equal seconds; default: as many as all have")
    asked = parser.parse_args()
    try:
        print("\n".join(table(asked.folder, asked.methods, asked.seeds, asked.baseline, asked.seconds)))
    except AttnbenchError as error:
        print(f"mini_tables.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
