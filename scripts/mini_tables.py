"""Compare methods in native training of the mini model, from the logs that ``train_mini.py native`` wrote.

python scripts/mini_tables.py OUT   # folders <method>-<seed>: config.json, mini.json and train.jsonl, or train.jsonl.gz

After equal steps: the last number at which every run has a checkpoint. After equal seconds: as many as every run has;
between two checkpoints of a run its losses are taken to change evenly. Of runs whose attention is full on coarse clips,
both are counted from the first full clip on: they share what was before. Seconds are those of optimiser steps; one that
takes more than five times its stage's median compiles, and counts as the median.
Losses are those of held-out clips, the same for every method and seed, and so are compared clip by clip. Brackets hold
95 % intervals over the clips, each with all its seeds, as ``attnbench.quality`` makes them; a range over the seeds
follows.
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
from attnbench.mini.score import Share
from attnbench.mini.train import CONFIG
from attnbench.quality.bootstrap import Values, mean_estimate, paired_difference

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


def cell(runs: Sequence[Run], baseline: Sequence[Run], of: Callable[[Run], Sequence[float]]) -> str:
    """Return a held-out loss with its interval, and its difference to the baseline's with interval and range."""
    mine, theirs = losses(runs, of), losses(baseline, of)
    found = mean_estimate(mine)
    said = f"{found.mean:.4f} [{found.lo:.4f}, {found.hi:.4f}]"
    if runs == baseline or not baseline:
        return said
    gap = paired_difference(mine, theirs)
    seeds = sorted({seed for _, seed in mine} & {seed for _, seed in theirs})
    by_seed = [paired_difference({k: v for k, v in mine.items() if k[1] == seed}, theirs).mean for seed in seeds]
    return f"{said}; {gap.mean:+.4f} [{gap.lo:+.4f}, {gap.hi:+.4f}], {min(by_seed):+.4f} to {max(by_seed):+.4f}"


def judged(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the scores of the runs whose clips were judged."""
    return [run.card["score"] for run in runs if "score" in run.card]


def shares(runs: Sequence[Run], what: str) -> str:
    """Return how many of the judged clips of all seeds are right, with the Wilson interval."""
    found = judged(runs)
    clips = sum(score["clips"] for score in found)
    return str(Share(sum(score[what][0] for score in found), clips)) if clips else "–"


def density(runs: Sequence[Run]) -> str:
    """Return the share of the pairs that is kept while clips are made, mean over the layers, steps and seeds."""
    found = [score["density"] for score in judged(runs)]
    return f"{statistics.fmean(found):.3f}" if found else "–"


def read_runs(folder: Path) -> list[Run]:
    """Read all runs in a folder.

    Raises:
        BadInput: if there is none, or one cannot be read.
    """
    runs = [read_run(path.parent) for path in sorted(folder.glob(f"*/{CONFIG}"))]
    if not runs:
        raise BadInput(f"{str(folder)!r} holds no training runs: give the folder that train_mini.py native wrote")
    return runs


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each method, the baseline's first."""
    methods = sorted({run.method for run in runs}, key=lambda method: (method != BASELINE, method))
    return {method: [run for run in runs if run.method == method] for method in methods}


def table(folder: Path) -> list[str]:
    """Return the lines of the table of all runs in a folder.

    Raises:
        BadInput: if there is none, or one cannot be read.
    """
    runs = read_runs(folder)
    steps, seconds = common_limits(runs)
    grouped = by_method(runs)
    baseline = grouped.get(BASELINE, [])
    lines = [
        f"| method | engine | density | seeds | ms a step | peak GiB | steps in {seconds:.0f} s | held-out loss after "
        f"{steps} steps; less full's | held-out loss after {seconds:.0f} s; less full's | class right | motion right |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- | --- | --- |",
    ]
    for method, own in grouped.items():
        reached = [run.after_seconds(seconds)[0] for run in own]
        row = (
            method,
            "+".join(sorted({run.card["engine"] for run in own})),
            density(own),
            str(len(own)),
            f"{statistics.mean(run.step_ms for run in own):.1f}",
            f"{max(run.peak_mib for run in own) / 1024:.1f}",
            str(round(statistics.mean(reached))),
            cell(own, baseline, lambda run: run.after_steps(steps)),
            cell(own, baseline, lambda run: run.after_seconds(seconds)[1]),
            shares(own, "class"),
            shares(own, "motion"),
        )
        lines.append(f"| {' | '.join(row)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    try:
        print("\n".join(table(parser.parse_args().folder)))
    except AttnbenchError as error:
        print(f"mini_tables.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
