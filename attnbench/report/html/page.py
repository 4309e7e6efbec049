"""Make the report page from its data: one HTML file that loads nothing, with a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.report.cases import labels_of
from attnbench.report.data.attention_maps import AnalysisStory, analysis_stories
from attnbench.report.data.calibrations import CalibrationRead, CalibrationStory, calibration_stories
from attnbench.report.data.figure import Figure
from attnbench.report.data.page import MethodMark, PageData, page_data, places_on, to_json
from attnbench.report.data.table import Value
from attnbench.report.data.trained import TrainingStory, training_stories
from attnbench.report.html.masks import MaskPicture, mask_pictures
from attnbench.report.html.static import FIRST_ROWS, HEADINGS, facets_of, first_rows, runs_of_page
from attnbench.report.html.steps import StepSection, step_sections
from attnbench.report.html.stories import ClipsStory, clips_stories, unplayed_words
from attnbench.report.html.svg import svg_of
from attnbench.report.html.templates import resource, script, template
from attnbench.report.marks import PART_COLOURS
from attnbench.report.words import NONE, number
from attnbench.results.gaps import gaps
from attnbench.results.load import Results
from attnbench.results.training import TrainingGroup

SECTIONS = {
    "break-even": "Break-even",
    "memory": "Memory",
    "phases": "Where the time goes",
    "waterfall": "From ideal to measured",
    "roofline": "Roofline",
    "density": "Density by layer and step",
    "history": "From run to run",
    "quality": "What clips lost",
    "clips": "Clips",
    "training": "Training",
    "steps": "Whole steps",
    "analysis": "What attention looks like",
    "calibration": "Calibration",
    "masks": "What each method keeps",
    "cells": "All cells",
    "environments": "Environments",
    "terms": "Words",
}
"""The sections below the first screen, in order; those without anything to show are absent."""

_HALF = ("break-even", "waterfall", "phases", "roofline", "memory", "density", "history")
"""Sections that take half of a wide screen."""

_SHOWN = ("means", "cells", "phases", "quality", "shares", "training", "steps", "premises", "calibration", "runs")
"""Tables that have a place on the page."""

_TABLES = {name: name for name in ("phases", "quality", "training", "steps", "calibration")} | {
    "clips": "shares",
    "environments": "runs",
    "analysis": "premises",
}
"""The table that can be saved beside the heading of a section."""


@dataclass(frozen=True)
class Part:
    """The words of a part of the page: a "case" of latencies, "clips", a whole "step", or "training" runs.

    Attributes:
        kind: one of these four.
        anchor: the id of its section on the page.
        title: its heading.
        finding: what was found, in sentences.
        facts: what was measured, by name.
        row_ids: the rows of ``load_results`` that are shown.
    """

    kind: str
    anchor: str
    title: str
    finding: list[str]
    facts: dict[str, str]
    row_ids: list[str]


@dataclass(frozen=True)
class Report:
    """A page as HTML, its parts in order, and its data."""

    html: str
    parts: list[Part]
    data: PageData


def make_report(
    results: Results,
    traces: Mapping[str, str] | None = None,
    training: Sequence[TrainingGroup] = (),
    source: Sequence[str] = (),
    calibrations: Sequence[CalibrationRead] = (),
) -> Report:
    """Make a report: one HTML page that loads nothing from outside, and the words of its parts.

    Args:
        results: what ``attnbench.results.load.read`` returns.
        traces: links to the Chrome traces of cells, by cell_id.
        training: what ``attnbench.results.training.training_groups`` returns.
        source: files and folders that were read, as typed.
        calibrations: what ``attnbench.report.data.calibrations.read_calibrations`` returns.

    Raises:
        BadInput: if there are neither rows nor metrics of clips nor steps nor training runs, nor measures of attention.
    """
    found = gaps(results.quality)
    data = page_data(results, training, source, found, calibrations)
    told = Told(
        masks=mask_pictures(mark.name for mark in data.methods),
        clips=clips_stories(results.quality, found, results.clips, results.environments),
        training=training_stories(training),
        steps=step_sections(results.steps),
        traces=_traces(results, traces or {}),
        calibrations=calibration_stories(calibrations),
        analysis=analysis_stories(results.analysis, results.premises),
    )
    return Report(page_html(data, told), _parts(data, told), data)


@dataclass(frozen=True)
class Told:
    """What a page shows beside its data: pictures of masks, clips, training runs and steps in words, and traces.

    Attributes:
        masks: a picture for each method and kind of layer.
        clips: a story for each run and model that made clips.
        training: a story for each folder of training runs.
        steps: a section for each run that timed whole steps.
        traces: label and link of each Chrome trace.
        calibrations: a story for each calibration.
        analysis: a story for each run that measured attention.
    """

    masks: Sequence[MaskPicture] = ()
    clips: Sequence[ClipsStory] = ()
    training: Sequence[TrainingStory] = ()
    steps: Sequence[StepSection] = ()
    traces: Sequence[tuple[str, str]] = ()
    calibrations: Sequence[CalibrationStory] = ()
    analysis: Sequence[AnalysisStory] = ()


def page_html(data: PageData, told: Told | None = None) -> str:
    """Return the page of these data. A table or a section of figures that it does not know is shown as it is.

    Args:
        data: of a report.
        told: what else is shown.
    """
    told = told or Told()
    static = _static_figures(data)
    there = {
        *static, *(["masks"] if told.masks else []), *(["clips"] if told.clips else []),
        *(["training"] if told.training else []), *(["steps"] if told.steps else []),
        *(["calibration"] if told.calibrations else []), *(["analysis"] if told.analysis else []),
        *(["cells", "terms"] if data.selections else []), *(["environments"] if data.table("runs") else []),
    }  # fmt: skip
    css, code = resource("report.css") + method_colours(data.methods), script()
    html: str = template("report.html").render(
        data=data, json=to_json(data), css=css, code=code, policy=security_policy(css, code), facets=facets_of(data),
        extras=_extras(data, static), sections=[(name, title) for name, title in SECTIONS.items() if name in there],
        static=static, headings=HEADINGS, rows=first_rows(data), most=FIRST_ROWS, told=told, runs=runs_of_page(data),
        tables=_TABLES, half=_HALF, unplayed=unplayed_words(told.clips),
        places_on=lambda device: places_on(data.selections, device),
    )  # fmt: skip
    return html


def _extras(data: PageData, static: Mapping[str, tuple[Figure, str]]) -> list[tuple[str, str, list[list[str]]]]:
    """Return name, title and the rows in words, names of the columns first, of sections that the page does not know."""
    tables = {table.name: table for table in data.tables if table.name not in _SHOWN}
    names = dict.fromkeys([*(name for name in static if name not in {*SECTIONS, "trade-off"}), *tables])
    found = []
    for name in names:
        table = tables.get(name)
        rows = [] if table is None else [[column.name for column in table.columns], *map(_words_of, table.rows)]
        found.append((name, static[name][0].title if table is None else table.title, rows))
    return found


def _words_of(row: Sequence[Value]) -> list[str]:
    return [number(value) if isinstance(value, float) else NONE if value is None else str(value) for value in row]


def security_policy(css: str, code: str) -> str:
    """Return a content-security policy that lets this style sheet and this script through, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src '{_hash(css)}'; script-src '{_hash(code)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def method_colours(methods: Sequence[MethodMark]) -> str:
    """Return the rules that give methods and parts their colours; classes of methods are numbers, not their names."""
    light = "".join(f".c{place}{{--c:{mark.light}}}" for place, mark in enumerate(methods))
    dark = "".join(f".c{place}{{--c:{mark.dark}}}" for place, mark in enumerate(methods))
    parts = "".join(f".p-{name}{{fill:{colour}}}" for name, colour in PART_COLOURS.items() if name != "total")
    return f"\n{light}\n{parts}\n@media screen and (prefers-color-scheme: dark){{{dark}}}\n"


def _static_figures(data: PageData) -> dict[str, tuple[Figure, str]]:
    """Return of each section the figure that is shown first, with its picture."""
    first: dict[str, Figure] = {}
    for figure in data.figures:
        known = first.get(figure.section)
        shown = not figure.selections or 0 in figure.selections
        if known is None or (shown and known.selections and 0 not in known.selections):
            first[figure.section] = figure
    return {section: (figure, svg_of(figure, data.methods)) for section, figure in first.items()}


def _traces(results: Results, traces: Mapping[str, str]) -> list[tuple[str, str]]:
    rows = [row for row in results.rows if row.cell_id in traces]
    labels = labels_of(rows)
    return [(labels[row.row_id], traces[row.cell_id]) for row in rows]


def _parts(data: PageData, told: Told) -> list[Part]:
    cells = data.table("cells")
    rows: dict[object, list[str]] = {}
    for record in cells.records() if cells else ():
        rows.setdefault(record["selection"], []).append(str(record["row_id"]))
    cases = [
        Part(
            "case", "answer", f"{each.shape}, {each.direction}, {each.inputs} inputs",
            [sentence for sentence in each.sentences if sentence],
            {"Device": each.device, "Shape": each.shape, "Direction": each.direction, "Number format": each.dtype,
             "Inputs": each.inputs, "Model": each.model, "Dense baseline": each.baselines},
            rows.get(each.place, []),
        )
        for each in data.selections
    ]  # fmt: skip
    return [
        *cases,
        *(Part("clips", "clips", each.title, each.finding, dict(each.facts), []) for each in told.clips),
        *(Part("training", "training", each.title, each.finding, dict(each.facts), []) for each in told.training),
        *(Part("step", "steps", each.title, [each.finding], {"Step": each.facts}, []) for each in told.steps),
    ]
