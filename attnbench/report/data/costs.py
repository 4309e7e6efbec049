"""Where the time of profiled cells goes: phases, parts of attend, waterfalls, rooflines; and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnbench.cost.roofline import exponential_ceiling_tflops, peak_of
from attnbench.cost.waterfall import Waterfall
from attnbench.report.cases import labels_of, parts_below
from attnbench.report.charts.waterfall import waterfall_words
from attnbench.report.data.figure import Axis, Bar, Figure, Point, Series, level
from attnbench.report.data.selections import Selection
from attnbench.report.waterfalls import waterfall_of
from attnbench.report.words import file_name, number
from attnbench.results.records.cells import PhaseRow, Row

Phases = Mapping[str, Sequence[PhaseRow]]
PASSES = {"fwd": "forward", "bwd": "backward"}
_MS = Axis("milliseconds", least=0.0)


def phase_figures(selection: Selection, phases: Phases) -> list[Figure]:
    """Return the phases of a selection's profiled cells, and the parts of attend with their provenance."""
    rows = _profiled(selection, phases)
    labels = labels_of(rows)
    whole, inside = [], []
    for row in rows:
        mine = parts_below(phases[row.row_id])
        top = [phase for phase in mine if phase.parent is None and phase.provenance == "measured"]
        whole += _stacked(row, labels[row.row_id], top)
        inside += _stacked(row, labels[row.row_id], [phase for phase in mine if phase.parent == "attend"], apart=True)
    found = []
    for name, bars, title, caption in (
        ("whole", whole, "Phases", "One call under the profiler. Gap is time in which the device waits."),
        (
            "attend", inside, "Inside attend",
            "Parts of the attention kernel. Hatched parts rest on a model or on a kernel with the rest taken out, and "
            "need not add up.",
        ),
    ):  # fmt: skip
        if bars:
            found.append(
                Figure(
                    f"phases-{name}-{selection.name}", "phases", "bars", title, caption, _bar_words(bars, "ms"), _MS,
                    bars=tuple(bars), selections=(selection.place,), option=title,
                )
            )  # fmt: skip
    return found


def waterfall_figures(selection: Selection, phases: Phases) -> list[Figure]:
    """Return a waterfall for each profiled sparse cell of a selection."""
    rows = _profiled(selection, phases)
    labels = labels_of(rows)
    found = []
    for row in rows:
        fall = waterfall_of(row, phases[row.row_id])
        if fall is not None:
            name = labels[row.row_id]
            found.append(
                Figure(
                    file_name("waterfall", selection.name, name), "waterfall", "bars",
                    f"From the ideal to the measured time: {name}",
                    "From dense × density, through each loss, to the measured latency. Hatched losses are modelled; "
                    "a loss below zero is time that the kernel saves.",
                    waterfall_words(fall), _MS, bars=tuple(_falls(fall, row.row_id)), selections=(selection.place,),
                    option=name,
                )
            )  # fmt: skip
    return found


def roofline_figure(selection: Selection, phases: Phases) -> Figure | None:
    """Return the rates of phases over their arithmetic intensity, below the limits of the GPU; None without both."""
    rows, gpu = _profiled(selection, phases), peak_of(selection.first.device)
    series = _rates(selection, {row.row_id: phases[row.row_id] for row in rows})
    if not series or gpu is None:
        return None
    every = [point for each in series for point in each.points]
    low, high = min(point.x for point in every), max(point.x for point in every)
    ridge = gpu.tensor_tflops / gpu.memory_tbs
    ends = min(low, ridge / 4) / 1.5, max(high, ridge * 4) * 1.5
    roof = Series(
        f"{gpu.name}: {gpu.memory_tbs:g} TB/s, {gpu.tensor_tflops:g} TFLOP/s",
        tuple(Point(x, min(gpu.tensor_tflops, gpu.memory_tbs * x)) for x in (ends[0], ridge, ends[1])),
        look="guide",
    )
    guides = [roof]
    exponentials = exponential_ceiling_tflops(gpu, selection.first.head_dim)
    guides.append(level("exponentials alone", ends, exponentials))
    probe = next((p.tflops / p.mfu_probe for row in rows for p in phases[row.row_id] if p.tflops and p.mfu_probe), None)
    guides += [level("a matrix product of the same run", ends, probe)] if probe else []
    return Figure(
        f"roofline-{selection.name}", "roofline", "xy", "Roofline",
        "Operations of kept pairs a second, over operations per byte of inputs and outputs. No phase can be above the "
        "solid line.",
        "; ".join(f"{point.label} {number(point.y)} TFLOP/s" for point in every[:24]) + ".",
        Axis("FLOP per byte", log=True), Axis("TFLOP/s", log=True, better="higher"),
        series=(*series, *guides), selections=(selection.place,),
    )  # fmt: skip


def _rates(selection: Selection, phases: Phases) -> list[Series]:
    """Return a series a method, engine and settings, whose points are the phases of all its layers."""
    found = []
    for choice in selection.choices:
        rows = [row for row in choice.members if row.row_id in phases]
        points = []
        for row in rows:
            mine = phases[row.row_id]
            name = choice.label if len(rows) < 2 else f"{choice.label}, layer {row.layer}"
            points += [
                Point(p.flops / p.bytes, p.tflops, label=f"{name}: {_phase_words(p, mine)}", row=row.row_id)
                for p in mine
                if p.parent is None and p.provenance == "measured" and p.flops and p.bytes and p.tflops
            ]
        found += [Series(choice.label, tuple(points), choice.row.method)] if points else []
    return found


def _phase_words(phase: PhaseRow, among: Sequence[PhaseRow]) -> str:
    """Write a phase, with its pass where there are several: "attend", "backward attend"."""
    several = len({each.pass_ for each in among}) > 1
    return f"{PASSES[phase.pass_]} {phase.phase}" if several else phase.phase


def memory_figure(selection: Selection) -> Figure | None:
    """Return the peak memory of each method beyond inputs and output; None if it is not known of two or more."""
    bars = [
        Bar(each.label, each.row.method, 0.0, each.row.peak_extra_mib, label=f"{number(each.row.peak_extra_mib)} MiB",
            row=each.row.row_id)
        for each in selection.choices
        if each.row.peak_extra_mib is not None
    ]  # fmt: skip
    if len(bars) < 2:
        return None
    bars.sort(key=lambda bar: bar.size)
    return Figure(
        f"memory-{selection.name}", "memory", "bars", "Peak memory of a call, beyond inputs and output",
        "Of the worst layer. Shorter is better.", _bar_words(bars, "MiB"), Axis("MiB", better="lower", least=0.0),
        bars=tuple(bars), selections=(selection.place,),
    )  # fmt: skip


def _profiled(selection: Selection, phases: Phases) -> list[Row]:
    return [row for row in selection.case.rows if row.latency_ms is not None and phases.get(row.row_id)]


def _stacked(row: Row, label: str, phases: Sequence[PhaseRow], *, apart: bool = False) -> list[Bar]:
    """Return phases one after the other, a bar a pass; ``apart``: a bar a provenance too."""
    ends: dict[str, float] = {}
    several = len({phase.pass_ for phase in phases}) > 1
    found = []
    for phase in phases:
        line = f"{label}, {PASSES[phase.pass_]}" if several else label
        if apart:
            line += f" ({phase.provenance})"
        at = ends.get(line, 0.0)
        ends[line] = at + phase.time_ms
        told = f"{phase.phase} {number(phase.time_ms)} ms, {phase.provenance}"
        if phase.provenance == "measured" and phase.tflops:
            told += f", {number(phase.tflops)} TFLOP/s"
            told += f", {phase.mfu:.0%} of the peak" if phase.mfu else ""
        told += f", {phase.bandwidth:.0%} of the bandwidth" if phase.bandwidth else ""
        told += f", not to be trusted: {phase.complaint}" if phase.complaint else ""
        found.append(
            Bar(
                line,
                phase.phase,
                at,
                phase.time_ms,
                phase.time_lo_ms,
                phase.time_hi_ms,
                phase.provenance,
                told,
                row.row_id,
            )
        )
    return found


def _falls(fall: Waterfall, row: str) -> list[Bar]:
    def bar(name: str, part: str, start: float, size: float, provenance: str = "measured", *ends: float) -> Bar:
        lo, hi = ends or (None, None)
        sign = "+" if part == "loss" else ""
        return Bar(name, part, start, size, lo, hi, provenance, f"{name} {sign}{number(size)} ms, {provenance}", row)

    found, at = [bar("dense × density", "ideal", 0.0, fall.ideal.ms)], fall.ideal.ms
    for each in fall.bars:
        found.append(bar(each.name, "loss" if each.span.ms >= 0 else "gain", at, each.span.ms, each.kind))
        at += each.span.ms
    rest = fall.unexplained
    found.append(bar("unexplained", "unexplained", at, rest.ms, "measured", at + rest.lo, at + rest.hi))
    found.append(bar("measured", "total", 0.0, fall.latency.ms, "measured", fall.latency.lo, fall.latency.hi))
    return found


def _bar_words(bars: Sequence[Bar], unit: str) -> str:
    lines: dict[str, list[str]] = {}
    for bar in bars:
        lines.setdefault(bar.line, []).append(f"{bar.part} {number(bar.size)}")
    return f"{'; '.join(f'{line}: {chr(44).join(parts)} {unit}' for line, parts in list(lines.items())[:24])}."
