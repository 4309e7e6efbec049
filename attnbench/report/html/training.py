"""Sections of the page about training runs: held-out losses, costs of a step, and clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.kernels.errors import BadInput
from attnbench.report.charts.latency import svg_uri
from attnbench.report.charts.training import training_figure, training_words
from attnbench.report.training_tables import BASELINE, by_method, clips_table, difference, limits, loss_table, losses
from attnbench.report.word_table import WordTable
from attnbench.report.words import listed
from attnbench.results.means import Estimate
from attnbench.results.training import TrainingGroup, TrainingRun


@dataclass(frozen=True)
class TrainingSection:
    """The training runs of one folder on the page.

    Attributes:
        title: heading.
        finding: what was found, in sentences.
        facts: what was trained, where and with what, by name.
        curves: the chart as a data URI; empty where there is none.
        curves_words: the chart in words.
        tables: tables with their headings.
        notes: reasons why something is not shown.
    """

    title: str
    finding: list[str]
    facts: list[tuple[str, str]]
    curves: str
    curves_words: str
    tables: list[tuple[str, WordTable]]
    notes: list[str]


def training_sections(groups: Sequence[TrainingGroup]) -> list[TrainingSection]:
    """Return a section for the runs of each folder, unless none can be shown."""
    return [_section(group) for group in groups if group.runs]


def trained_methods(groups: Sequence[TrainingGroup]) -> list[str]:
    """Return the registered names of the methods that were trained with."""
    found = [run.card.get("training", {}).get("method") for group in groups for run in group.runs]
    return list(dict.fromkeys(name for name in found if name))


def trained_on(groups: Sequence[TrainingGroup]) -> list[str]:
    """Return the devices that training ran on."""
    found = [run.card.get("environment", {}).get("device") for group in groups for run in group.runs]
    return list(dict.fromkeys(name for name in found if name))


def _section(group: TrainingGroup) -> TrainingSection:
    methods = {run.method for run in group.runs}
    baseline = BASELINE if BASELINE in methods else min(methods)
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
    curves = words = ""
    try:
        curves, words = svg_uri(training_figure(grouped)), training_words(grouped)
    except BadInput as error:
        notes.append(str(error))
    return TrainingSection(
        title=f"Training runs in {group.folder.resolve().name}",
        finding=finding or [f"{len(group.runs)} runs cannot be compared at one point."],
        facts=_facts(group.runs),
        curves=curves,
        curves_words=words,
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

    def each(*path: str) -> str:
        found: dict[str, None] = {}
        for run in runs:
            value: object = run.card
            for name in path:
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None:
                found[str(value)] = None
        return listed(found)

    facts = [
        ("device", each("environment", "device")),
        ("runs", f"{len(runs)}, seeds {listed(sorted({str(run.seed) for run in runs}))}"),
        ("model", each("training", "model")),
        ("clips per step", each("training", "batch")),
        ("held-out clips", listed({str(len(run.checkpoints[-1].losses)): None for run in runs})),
        ("dtype", each("training", "dtype")),
        ("torch", each("environment", "packages", "torch")),
        ("commit", each("environment", "git_commit")),
    ]
    return [(name, value) for name, value in facts if value]
