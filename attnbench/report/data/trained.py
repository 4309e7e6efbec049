"""Training runs: held-out losses by steps and by seconds, and what they say in words."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from attnbench.kernels.errors import BadInput
from attnbench.report.data.figure import Axis, Figure, Point, Series
from attnbench.report.training_curves import loss_curve
from attnbench.report.training_tables import baseline_of, by_method, clips_table, difference, limits, loss_table, losses
from attnbench.report.word_table import WordTable
from attnbench.report.words import file_name, listed
from attnbench.results.means import Estimate
from attnbench.results.training import Checkpoint, TrainingGroup, TrainingRun


@dataclass(frozen=True)
class TrainingStory:
    """The training runs of one folder in words.

    Attributes:
        title: heading.
        device: that they were trained on, several as a list.
        finding: what was found, in sentences.
        facts: what was trained, where and with what, by name.
        tables: tables with their headings.
        notes: reasons why something is not shown.
    """

    title: str
    device: str
    finding: list[str]
    facts: list[tuple[str, str]]
    tables: list[tuple[str, WordTable]]
    notes: list[str]


def training_figures(groups: Sequence[TrainingGroup]) -> list[Figure]:
    """Return the held-out loss of methods: a line is the mean over a method's seeds, its band their range."""
    found = []
    for group in (group for group in groups if group.runs):
        methods = by_method(group.runs)
        for name, label, at in (
            ("steps", "steps on full clips", lambda checkpoint: float(checkpoint.step)),
            ("seconds", "seconds of steps on full clips", lambda checkpoint: checkpoint.seconds),
        ):
            series = tuple(_losses(method, own, at) for method, own in methods.items())
            found.append(
                Figure(
                    file_name("training", group.folder.resolve().name, f"by-{name}"), "training", "xy", "Held-out loss",
                    "Lines are means over seeds, bands "
                    "their range. The first tenth of training is left out.",
                    "; ".join(
                        f"{each.name} from {each.points[0].y:.4f} to {each.points[-1].y:.4f}" for each in series
                    ) + ".",
                    Axis(label), Axis("held-out loss", log=True, better="lower"), series=series,
                    option=f"{group.folder.name}, by {name}" if len(groups) > 1 else f"by {name}",
                )
            )  # fmt: skip
    return found


def training_stories(groups: Sequence[TrainingGroup]) -> list[TrainingStory]:
    """Return the runs of each folder in words, unless none can be shown."""
    return [_story(group) for group in groups if group.runs]


def training_device(group: TrainingGroup) -> str:
    """Return the device of training runs, "A and B" of several; empty if it was not recorded."""
    return _each(group.runs, "environment", "device")


def _losses(method: str, own: Sequence[TrainingRun], at: Callable[[Checkpoint], float]) -> Series:
    points = [
        Point(x, statistics.fmean(means), *((min(means), max(means)) if len(means) > 1 else (None, None)))
        for x, means in loss_curve(own, at)
    ]
    registered = str(own[0].card.get("training", {}).get("method") or method)
    return Series(method, tuple(points), registered, "band")


def _story(group: TrainingGroup) -> TrainingStory:
    baseline = baseline_of(group.runs)
    grouped = by_method(group.runs, baseline)
    notes, tables, finding = list(group.left_out), [], []
    try:
        finding = _finding(grouped, baseline)
        tables.append(("Cost of a step, and held-out loss", loss_table(grouped, baseline)))
    except BadInput as error:
        notes.append(str(error))
    clips = clips_table(grouped, baseline)
    if clips is not None:
        tables.append(("Clips made with the final weights", clips))
    return TrainingStory(
        title=f"Training runs in {group.folder.resolve().name}",
        device=training_device(group),
        finding=finding or [f"{len(group.runs)} runs cannot be compared at one point."],
        facts=_facts(group.runs),
        tables=tables,
        notes=notes,
    )


def _finding(grouped: Mapping[str, Sequence[TrainingRun]], baseline: str) -> list[str]:
    """Say how the losses compare with the baseline's after equal steps and after equal seconds."""
    steps, seconds = limits(grouped)
    others = {method: own for method, own in grouped.items() if method != baseline}
    if not others:
        runs = grouped[baseline]
        last = [sum(run.checkpoints[-1].losses) / len(run.checkpoints[-1].losses) for run in runs]
        return [f"{baseline} ends at a held-out loss of {sum(last) / len(last):.4f}."]
    sentences = []
    for when, end in (
        (f"{steps} steps", lambda run: run.after_steps(steps)),
        (f"{seconds:.0f} s", lambda run: run.after_seconds(seconds)[1]),
    ):
        theirs = losses(grouped[baseline], end)
        gaps = {method: difference(losses(own, end), theirs) for method, own in others.items()}
        sentences.append(_sentence(when, gaps, baseline))
    return sentences


def _sentence(when: str, gaps: Mapping[str, Estimate | None], baseline: str) -> str:
    sides: dict[str, list[str]] = {"above": [], "below": [], "not distinguishable from": []}
    for method, gap in gaps.items():
        if gap is None or gap.lo is None or gap.hi is None:
            continue
        side = "above" if gap.lo > 0 else "below" if gap.hi < 0 else "not distinguishable from"
        sides[side].append(method)
    parts = [f"that of {listed(names)} is {side} {baseline}'s" for side, names in sides.items() if names] or [
        "no method has a seed in common with the baseline"
    ]
    return f"Held-out loss after {when}: {'; '.join(parts)}."


def _facts(runs: Sequence[TrainingRun]) -> list[tuple[str, str]]:
    """Return the contents of the cards, without repetitions."""
    facts = [
        ("device", _each(runs, "environment", "device")),
        ("runs", f"{len(runs)}, seeds {listed(sorted({str(run.seed) for run in runs}))}"),
        ("model", _each(runs, "training", "model")),
        ("clips per step", _each(runs, "training", "batch")),
        ("held-out clips", listed({str(len(run.checkpoints[-1].losses)): None for run in runs})),
        ("dtype", _each(runs, "training", "dtype")),
        ("torch", _each(runs, "environment", "packages", "torch")),
        ("commit", _each(runs, "environment", "git_commit")),
    ]
    return [(name, value) for name, value in facts if value]


def _each(runs: Sequence[TrainingRun], *path: str) -> str:
    found: dict[str, None] = {}
    for run in runs:
        value: object = run.card
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            found[str(value)] = None
    return listed(found)
