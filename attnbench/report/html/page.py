"""Make the report page from rows and environments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.kernels.errors import BadInput
from attnbench.report.cases import NO_ROWS, Case, cases_of
from attnbench.report.charts.latency import (
    latency_figure,
    latency_words,
    svg_uri,
    tradeoff_figure,
    tradeoff_words,
)
from attnbench.report.charts.masks import mask_pictures
from attnbench.report.charts.picture import Picture
from attnbench.report.charts.waterfall import waterfall_figure, waterfall_words
from attnbench.report.html.clips import ClipsSection, clips_sections
from attnbench.report.html.columns import Column, columns_of
from attnbench.report.html.phases import PhaseTable, phase_table
from attnbench.report.html.steps import StepSection, step_sections
from attnbench.report.html.templates import resource, template
from attnbench.report.html.training import TrainingSection, trained_methods, trained_on, training_sections
from attnbench.report.judge import QualityKey, clip_quality, judge
from attnbench.report.waterfalls import waterfall_of
from attnbench.report.words import DIRECTIONS, NONE, grid_words, layer_words, listed, number, short_settings
from attnbench.results.gaps import Gap
from attnbench.results.layers import MeanRow
from attnbench.results.load import Results
from attnbench.results.records.cells import Environment, PhaseRow, Row
from attnbench.results.training import TrainingGroup


@dataclass(frozen=True)
class Line:
    """A line of the summary table: the row, and the text and the small note of every column."""

    row: Row
    settings: str
    layer: str
    cells: list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A case on the page: facts, findings, table and charts and, if it was profiled, where the time goes."""

    title: str
    about: str
    facts: list[tuple[str, str]]
    finding: list[str]
    lines: list[Line]
    figures: list[Picture]
    phases: PhaseTable | None
    waterfalls: list[Picture]


@dataclass(frozen=True)
class Part:
    """The words of a section of the page: a "case" of latencies, "clips", a whole "step", or "training" runs.

    Attributes:
        kind: one of these four.
        anchor: the section's id on the page.
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
    """A page as HTML, and its sections in order."""

    html: str
    parts: list[Part]


def make_report(
    results: Results, traces: Mapping[str, str] | None = None, training: Sequence[TrainingGroup] = ()
) -> Report:
    """Make a report: one HTML page that loads nothing from outside, and the words of its sections.

    Args:
        results: what ``attnbench.results.load.read`` returns.
        traces: links to the Chrome traces of cells, by cell_id.
        training: what ``attnbench.results.training.training_groups`` returns.

    Raises:
        BadInput: if there are neither rows nor metrics of clips nor steps nor training runs.
    """
    rows, taken, steps, environments = results.rows, results.quality, results.steps, results.environments
    trained = training_sections(training)
    if not rows and not taken and not steps and not trained:
        raise BadInput(NO_ROWS)
    cases = cases_of(rows, results.samples)
    runs = results.runs
    several = len(cases) > 1
    columns = columns_of(rows)
    by_row = results.phases_by_row
    methods = list(
        dict.fromkeys(
            [
                *(method for case in cases for method in case.methods),
                *(row.method for row in taken),
                *(step.name.split("/")[0] for step in steps if "/" in step.name),
                *trained_methods(training),
            ]
        )
    )
    found, whole = clips_sections(taken, results.clips, environments), step_sections(steps)
    quality = clip_quality(results)
    sections = [
        _section(case, several, columns, environments.get(case.first.run_id), by_row, traces or {}, quality)
        for case in cases
    ]
    devices = _devices(rows, [environments[run] for run in runs if run in environments]) or trained_on(training)
    html = template("page.html").render(
        css=resource("page.css"),
        title=" – ".join(["attnbench report", *devices]),
        devices=listed(devices),
        dates=listed(dict.fromkeys(filter(None, (_date(environments.get(run)) for run in runs)))),
        runs=listed(runs or [section.title for section in trained]),
        methods=listed(method for method in methods if method != "full"),
        sections=sections,
        clips=found,
        steps=whole,
        training=trained,
        columns=columns,
        groups=[
            (name, len(list(group))) for name, group in itertools.groupby(columns, key=lambda column: column.group)
        ],
        pictures=mask_pictures(methods),
        environments=[(run, _facts_of(environments.get(run))) for run in runs],
    )
    return Report(html, _parts(found, trained, whole, sections))


def _parts(
    clips: Sequence[ClipsSection],
    training: Sequence[TrainingSection],
    steps: Sequence[StepSection],
    cases: Sequence[Section],
) -> list[Part]:
    """Return the sections in words, in the order of the page."""
    return [
        *(
            Part("clips", f"clips-{place}", each.title, each.finding, dict(each.facts), [])
            for place, each in enumerate(clips, 1)
        ),
        *(
            Part("training", f"training-{place}", each.title, each.finding, dict(each.facts), [])
            for place, each in enumerate(training, 1)
        ),
        *(
            Part("step", f"step-{place}", each.title, [each.finding], {"Step": each.facts}, [])
            for place, each in enumerate(steps, 1)
        ),
        *(
            Part(
                "case", f"case-{place}", each.title, each.finding, dict(each.facts),
                [line.row.row_id for line in each.lines if not isinstance(line.row, MeanRow)],
            )
            for place, each in enumerate(cases, 1)
        ),
    ]  # fmt: skip


def _section(
    case: Case,
    several: bool,
    columns: Sequence[Column],
    environment: Environment | None,
    phases: Mapping[str, list[PhaseRow]],
    traces: Mapping[str, str],
    quality: Mapping[QualityKey, Gap],
) -> Section:
    first = case.first
    title = f"{grid_words(first.grid)} tokens, {first.dtype}, {DIRECTIONS[first.direction]}, {first.inputs} inputs"
    rows = case.rows_and_means
    lines = [
        Line(
            row,
            "" if place and _same_settings(row, rows[place - 1]) else short_settings(row.settings),
            layer_words(row),
            [(column.value(row), column.note(row)) for column in columns],
        )
        for place, row in enumerate(rows)
    ]
    several_runs = f" – run {first.run_id}" if several else ""
    return Section(
        title + several_runs,
        _about(case) if several else "",
        _case_facts(case, environment),
        judge(case, quality).sentences,
        lines,
        _figures(case),
        phase_table(case, phases, traces),
        _waterfalls(case, phases),
    )


def _waterfalls(case: Case, phases: Mapping[str, list[PhaseRow]]) -> list[Picture]:
    figures = []
    for row in case.timed:
        waterfall = waterfall_of(row, phases.get(row.row_id, ()))
        if waterfall is None:
            continue
        caption = (
            f"{case.label(row, case.timed)} on {row.engine}: from the time that its density promises to the measured "
            "time. Hatched bars rest on a model. Unexplained is what all bars leave over: "
            f"{waterfall.unexplained_share:.1%} of the latency."
        )
        figures.append(Picture(svg_uri(waterfall_figure(waterfall)), waterfall_words(waterfall), caption))
    return figures


def _about(case: Case) -> str:
    """Name methods and their engines, which distinguishes runs of one shape.

    Dense methods are named only if there are no others.
    """
    rows = [row for row in case.rows if row.method != "full"] or case.rows
    engines: dict[str, list[str]] = {}
    for row in rows:
        engines.setdefault(row.engine, []).append(row.method)
    return ", ".join(f"{listed(dict.fromkeys(names))} on {engine}" for engine, names in engines.items())


def _same_settings(row: Row, other: Row) -> bool:
    return (row.method, row.settings) == (other.method, other.settings)


def _case_facts(case: Case, environment: Environment | None) -> list[tuple[str, str]]:
    first = case.first
    text = sum(first.text_tokens)
    shape = f"{grid_words(first.grid)} = {first.tokens - text:,} video tokens" + (
        f" + {text:,} text tokens" if text else ""
    )
    heads = f"{first.heads}" + (f" ({case.heads_timed} timed)" if case.heads_timed else "")
    kv = f", {first.kv_heads} for keys and values" if first.kv_heads != first.heads else ""
    facts = [
        ("Device", first.device + (f", {first.threads} threads" if first.threads else "")),
        ("Date", _date(environment)),
        ("Model", first.model),
        ("Shape (frames × height × width)", shape),
        ("Batch, heads, head size", f"{first.batch} × {heads}{kv} × {first.head_dim}"),
        ("Number format", first.dtype),
        ("Direction", DIRECTIONS[first.direction]),
        ("Inputs", f"{first.inputs}, seed {first.seed}"),
        ("Dense baseline", _baseline(case)),
        ("Run", first.run_id),
    ]
    return [(name, value) for name, value in facts if value]


def _baseline(case: Case) -> str:
    if case.baseline is None:
        return "none measured"
    version = next((row.baseline_version for row in case.rows if row.baseline_version), None)
    return f"{case.baseline}" + (f" ({version})" if version else "") + f", {number(case.baseline_ms)} ms"


def _figures(case: Case) -> list[Picture]:
    if not case.timed:
        return []
    kinds = {row.interval for row in case.timed if row.interval}
    whiskers = " or ".join(
        sorted(
            {"bootstrap95": "95 % bootstrap intervals of the median", "min-max": "minimum and maximum"}[kind]
            for kind in kinds
        )
    )
    figures = [
        Picture(
            svg_uri(latency_figure(case)),
            latency_words(case),
            "Latency: dots are medians with a cold cache"
            + (f", whiskers are {whiskers}" if whiskers else "")
            + ". Further left is faster.",
        )
    ]
    tradeoff = tradeoff_figure(case)
    if tradeoff is not None:
        caption = (
            "Density against speed-up, both axes logarithmic. On the ideal line every skipped pair saves its share of "
            "the time; below break-even the method is slower than dense attention. Whiskers come from the latency "
            "intervals of the method and of the baseline."
        )
        figures.append(Picture(svg_uri(tradeoff), tradeoff_words(case), caption))
    return figures


def _devices(rows: Sequence[Row], environments: Sequence[Environment]) -> list[str]:
    return list(dict.fromkeys([row.device for row in rows] or [each.device for each in environments]))


def _date(environment: Environment | None) -> str:
    started = environment.started_at if environment else ""
    return started[:16].replace("T", " ") + " UTC" if started else ""


def _facts_of(environment: Environment | None) -> list[tuple[str, str]]:
    """Return an environment as names and texts, in the order of the schema."""
    if environment is None:
        return [("environment", "not recorded")]
    texts = {
        **{name: value for name, value in environment if name not in ("git_commit", "git_dirty")},
        "memory_gib": number(environment.memory_gib),
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(environment.packages.items())),
        "git_commit": (environment.git_commit or "") + (" with local changes" if environment.git_dirty else ""),
        "command": " ".join(environment.command),
    }
    return [
        (name.replace("_gib", ", GiB").replace("_", " "), str(value))
        for name, value in texts.items()
        if value not in (None, "", NONE)
    ]
