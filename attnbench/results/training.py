"""Training runs on disk: their logs, cards and held-out losses, and what runs have in common."""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from attnbench.inputs.files import read_file, visible
from attnbench.kernels.errors import BadInput
from attnbench.results.find import find_training_logs
from attnbench.results.journal import NOT_READ, TRAINING_LOG, unpacked
from attnbench.results.records.cells import Record
from attnbench.results.records.faults import first_fault
from attnbench.results.records.training import CardRead, ConfigRead, LogLine

Part = TypeVar("Part", bound=Record)

CONFIG, CARD = "config.json", "mini.json"
"""What a training run was asked for, and what came of it; both stand beside its log."""
SLOW = 5
"""A step that takes more than so many medians of its stage compiles, and counts as the median."""


@dataclass(frozen=True)
class Checkpoint:
    """The held-out losses of a run, clip by clip, after so many steps and seconds of training."""

    step: int
    seconds: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class TrainingRun:
    """One training run.

    Attributes:
        method: the name it is compared under.
        seed: seed of weights, clips and noise.
        checkpoints: in order of steps, at least one.
        step_ms: median time of a step of full clips.
        peak_mib: most memory of a step.
        card: what ``mini.json`` says.
    """

    method: str
    seed: int
    checkpoints: tuple[Checkpoint, ...]
    step_ms: float
    peak_mib: float
    card: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Method and seed, as in "vmoba-0"."""
        return f"{self.method}-{self.seed}"

    def after_steps(self, step: int) -> tuple[float, ...]:
        """Return the losses at the checkpoint of this step."""
        return next(checkpoint.losses for checkpoint in self.checkpoints if checkpoint.step == step)

    def after_seconds(self, seconds: float) -> tuple[float, tuple[float, ...]]:
        """Return steps and losses after so many seconds, interpolated linearly between two checkpoints."""
        for before, behind in itertools.pairwise(self.checkpoints):
            if before.seconds <= seconds <= behind.seconds:
                share = (seconds - before.seconds) / (behind.seconds - before.seconds)
                pairs = zip((before.step, *before.losses), (behind.step, *behind.losses), strict=True)
                step, *losses = (one + share * (other - one) for one, other in pairs)
                return step, tuple(losses)
        return self.checkpoints[0].step, self.checkpoints[0].losses


def find_training(path: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of training runs at or below a folder, in order; none for any other path.

    A run is a folder with ``config.json`` and ``train.jsonl`` or ``train.jsonl.gz``.

    Raises:
        BadInput: if a folder cannot be read.
    """
    return sorted({log.parent for log in find_training_logs(path) if (log.parent / CONFIG).is_file()})


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of training runs directly in a folder, in order."""
    return sorted(
        path.parent
        for path in visible(folder.glob(f"*/{CONFIG}"))
        if any((path.parent / name).is_file() for name in (TRAINING_LOG, f"{TRAINING_LOG}.gz"))
    )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last line that a kill left unfinished is left out.

    A finished log may be gzipped: NAME.gz.

    Raises:
        BadInput: if the file is not a training log, or cannot be read.
    """
    path, packed = folder / TRAINING_LOG, folder / f"{TRAINING_LOG}.gz"
    if not path.exists() and packed.exists():
        path = packed
    try:
        texts = unpacked(path).decode().splitlines()
    except FileNotFoundError:
        return []
    except (*NOT_READ, ValueError) as error:
        raise BadInput(f"training log {str(path)!r} cannot be read") from error
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and "step" in line:
            try:
                LogLine.model_validate(line)
            except ValidationError as error:
                raise BadInput(f"training log {str(path)!r} line {number}: {first_fault(error, 'it')}") from error
            lines.append(line)
        elif number < len(texts):
            raise BadInput(f"training log {str(path)!r} has no step in line {number}")
    return lines


def read_training(folder: Path) -> TrainingRun:
    """Read a run.

    In a folder METHOD-SEED it is compared under that name, so that variants of one method can be told apart. In any
    other folder it goes by the method and seed of its configuration. If full attention ran on the coarse clips of its
    first steps, steps and seconds count from the first full clip.

    Raises:
        BadInput: if the folder holds no run with a card and a checkpoint, or nothing names the method and seed.
    """
    try:
        read_config, card = (json.loads(read_file(folder / name)) for name in (CONFIG, CARD))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{str(folder)!r} holds no finished run: {CONFIG} or {CARD} cannot be read") from error
    if isinstance(card, dict) and "engine" not in card:
        raise BadInput(f"{str(folder)!r} holds no run that can be compared: its {CARD} names no engine")
    config = _part(ConfigRead, read_config, folder / CONFIG)
    _part(CardRead, card, folder / CARD)
    method, seed = _named(folder, config)
    lines = sorted(read_log(folder), key=lambda line: int(line["step"]))
    ends = [0, *itertools.accumulate(count for count, _ in config.coarse)]
    first = ends[-1] if config.dense_coarse else 0
    steps = {line["step"]: line for line in lines if line.get("loss") is not None}
    checkpoints = {line["step"]: line for line in lines if line.get("held_out") is not None}
    held_out = [line for step, line in checkpoints.items() if step in steps and step > first]
    if not held_out:
        raise BadInput(f"{str(folder)!r} holds no training run with a checkpoint")
    if len({len(line["held_out_losses"]) for line in held_out}) > 1:
        raise BadInput(f"{str(folder)!r}: its checkpoints differ in the number of held-out clips")
    seconds, last_ms = seconds_until({step: line["seconds"] for step, line in steps.items()}, ends)
    before = seconds.get(first, 0.0)
    return TrainingRun(
        method=method,
        seed=seed,
        checkpoints=tuple(
            Checkpoint(line["step"] - first, seconds[line["step"]] - before, tuple(line["held_out_losses"]))
            for line in held_out
        ),
        step_ms=last_ms,
        peak_mib=max(line["peak_mib"] for line in steps.values()),
        card=card,
    )


def _part(kind: type[Part], read: object, path: Path) -> Part:
    try:
        return kind.model_validate(read)
    except ValidationError as error:
        raise BadInput(f"{str(path)!r} is not that of a training run: {first_fault(error, 'it')}") from error


def _named(folder: Path, config: ConfigRead) -> tuple[str, int]:
    method, dash, seed = folder.name.rpartition("-")
    if dash and seed.isdecimal() and config.seed in (None, int(seed)):
        return method, int(seed)
    if config.method is None or config.seed is None:
        raise BadInput(
            f"{str(folder)!r} is not named METHOD-SEED, and its {CONFIG} does not say which method and seed it trained"
        )
    return config.method, config.seed


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
            counted |= {step: median if took > SLOW * median else took for step, took in stage.items()}
    return dict(zip(counted, itertools.accumulate(counted.values()), strict=True)), 1000 * median


def load_training(
    folder: Path, methods: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[TrainingRun]:
    """Read the runs in the folders of a folder, all or those of some methods and seeds.

    Raises:
        BadInput: if there is none, one cannot be read, two have the same method and seed, or a method or seed that was
            asked for has none.
    """
    runs = [read_training(path) for path in runs_in(folder)]
    if not runs:
        raise BadInput(f"{str(folder)!r} holds no training runs: give a folder with a folder for each run")
    name, count = Counter(run.name for run in runs).most_common(1)[0]
    if count > 1:
        raise BadInput(f"{str(folder)!r} holds {count} runs of {name!r}: name their folders METHOD-SEED")
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


def common_limits(runs: Sequence[TrainingRun]) -> tuple[int, float]:
    """Return the last step at which every run has a checkpoint, and the most seconds that every run has.

    Raises:
        BadInput: if there is no such step, or a run began when another had ended.
    """
    common = set.intersection(*({checkpoint.step for checkpoint in run.checkpoints} for run in runs))
    seconds = min(run.checkpoints[-1].seconds for run in runs)
    late = [run for run in runs if run.checkpoints[0].seconds > seconds]
    if not common or late:
        names = ", ".join(run.name for run in late or runs)
        raise BadInput(f"{names}: no checkpoint where every other run has one: train with more checkpoints")
    return max(common), seconds


@dataclass(frozen=True)
class TrainingGroup:
    """The training runs in one folder, which are compared, and why others there are left out."""

    folder: Path
    runs: tuple[TrainingRun, ...]
    left_out: tuple[str, ...] = ()


def training_groups(path: str | os.PathLike[str]) -> list[TrainingGroup]:
    """Read all training runs at or below a folder, those of each folder together.

    A run that cannot be read or has no checkpoint yet is left out, and so is one whose method and seed a later folder
    has too.

    Raises:
        BadInput: if a folder cannot be read.
    """
    by_folder: dict[Path, list[Path]] = {}
    for folder in find_training(path):
        by_folder.setdefault(folder.parent, []).append(folder)
    return [_group(parent, folders) for parent, folders in by_folder.items()]


def _group(parent: Path, folders: Sequence[Path]) -> TrainingGroup:
    kept: dict[str, tuple[Path, TrainingRun]] = {}
    left_out: list[str] = []
    for folder in folders:
        try:
            run = read_training(folder)
        except BadInput as error:
            left_out.append(str(error))
            continue
        if run.name in kept:
            left_out.append(f"{str(kept[run.name][0])!r} has the method and seed of {str(folder)!r}")
        kept[run.name] = folder, run
    return TrainingGroup(parent, tuple(run for _, run in kept.values()), tuple(left_out))
