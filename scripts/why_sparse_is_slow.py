"""Write the tables and pictures of docs/why-sparse-is-slow.md from the profiles in results/h100.

python scripts/why_sparse_is_slow.py        # docs/why-sparse-is-slow-<engine>.svg, and the tables to standard output

VMoBA is the mean of its three kinds of layers, which a model has equally many of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path

import matplotlib.pyplot as plt

from attnbench import load_phases, load_results
from attnbench.cost.waterfall import ZERO, Bar, Span, Waterfall
from attnbench.report.charts.waterfall import waterfall_figure
from attnbench.report.html.phases import waterfall_of
from attnbench.results.load import load_steps, read_phases, read_rows
from attnbench.results.records.cells import Row

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ROOT / "results" / "h100" / "profiles"
ENGINES = {"two-call": "-two-call", "triton": ""}
STEPS = ("480p-step-fwd", "480p-step-fwdbwd")
LENGTHS = {"480p": 32_760, "576p": 55_296, "720p": 75_600}
LOSSES = ("selection", "permute", "index", "merge", "padding", "kernel inefficiency", "launch gaps")


def waterfalls(name: str, method: str) -> list[tuple[Row, Waterfall]]:
    """Return the rows of a method in a profiled table, by layer, and where the time of each goes."""
    path = PROFILES / f"{name}.jsonl"
    phases = read_phases(load_phases(path))
    found = []
    for row in sorted(read_rows(load_results(path)), key=lambda row: row.layer):
        waterfall = waterfall_of(row, phases[row.row_id]) if row.method == method else None
        if waterfall is not None:
            found.append((row, waterfall))
    return found


def mean(waterfalls: Sequence[Waterfall]) -> Waterfall:
    """Return the mean of waterfalls, bar by bar; a bar is modelled if one of its parts is."""

    def over(spans: Sequence[Span]) -> Span:
        total = ZERO
        for span in spans:
            total = total + span
        return total.times(1 / len(spans))

    bars = []
    for name in dict.fromkeys(bar.name for waterfall in waterfalls for bar in waterfall.bars):
        own = [next((bar for bar in w.bars if bar.name == name), Bar(name, ZERO, "measured")) for w in waterfalls]
        kind = "modelled" if any(bar.kind == "modelled" for bar in own) else "measured"
        bars.append(Bar(name, over([bar.span for bar in own]), kind))
    order = [*LOSSES[:-1], "other kernels", LOSSES[-1]]
    return Waterfall(
        over([w.dense for w in waterfalls]),
        over([w.ideal for w in waterfalls]),
        tuple(sorted(bars, key=lambda bar: order.index(bar.name) if bar.name in order else len(order))),
        over([w.unexplained for w in waterfalls]),
        over([w.latency for w in waterfalls]),
    )


def vmoba(res: str, engine: str) -> Waterfall:
    """Return the mean waterfall of VMoBA's three kinds of layers."""
    return mean([waterfall for _, waterfall in waterfalls(f"{res}-fwd{ENGINES[engine]}", "vmoba")])


def loss_table() -> list[str]:
    """Return the lines of a table: what each loss takes, by length and engine."""
    columns = [(res, engine, vmoba(res, engine)) for res in LENGTHS for engine in ENGINES]
    lines = [
        "| ms | " + " | ".join(f"{res} {engine}" for res, engine, _ in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
        "| dense | " + " | ".join(f"{w.dense.ms:.1f}" for *_, w in columns) + " |",
        "| dense × density | " + " | ".join(f"{w.ideal.ms:.2f}" for *_, w in columns) + " |",
    ]
    for loss in LOSSES:
        spans = [next((bar.span.ms for bar in w.bars if bar.name == loss), 0.0) for *_, w in columns]
        lines.append(f"| {loss} | " + " | ".join(f"{ms:.2f}" for ms in spans) + " |")
    lines.append("| unexplained | " + " | ".join(f"{w.unexplained.ms:.2f}" for *_, w in columns) + " |")
    lines.append("| **measured** | " + " | ".join(f"**{w.latency.ms:.2f}**" for *_, w in columns) + " |")
    lines.append("| speed-up | " + " | ".join(f"{w.dense.ms / w.latency.ms:.2f}×" for *_, w in columns) + " |")
    lines.append("| translation | " + " | ".join(f"{w.ideal.ms / w.latency.ms:.2f}" for *_, w in columns) + " |")
    return lines


def blocks_of(row: Row) -> int:
    """Return how many blocks of keys a layer of VMoBA or MoBA has."""
    settings = json.loads(row.settings)
    if row.method == "moba":
        return ceil(row.tokens / settings["block_size"])
    size = settings["partition"][row.layer % 3]
    sizes = [size] if isinstance(size, int) else size
    grid = (
        [int(side) for side in row.grid.split("x")][-len(sizes) :] if row.layer % 3 else [int(row.grid.split("x")[0])]
    )
    return prod(ceil(side / size) for side, size in zip(grid, sizes, strict=True))


def layer_table(res: str) -> list[str]:
    """Return the lines of a table: the layers of VMoBA one by one, and MoBA."""
    lines = [
        "| | blocks | density | promised | two-call | triton |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method in ("vmoba", "moba"):
        pairs = zip(*(waterfalls(f"{res}-fwd{suffix}", method) for suffix in ENGINES.values()), strict=True)
        for (slow, published), (_, ours) in pairs:
            assert slow.density
            times = [f"{w.latency.ms:.1f} ms, {w.dense.ms / w.latency.ms:.2f}×" for w in (published, ours)]
            lines.append(
                f"| {method}{f' layer {slow.layer}' if method == 'vmoba' else ''} | {blocks_of(slow)} | "
                f"{slow.density:.3f} | {1 / slow.density:.1f}× | " + " | ".join(times) + " |"
            )
    return lines


def step_table(name: str) -> list[str]:
    """Return the lines of a table: a step of a whole model with each kind of self-attention."""
    lines = [
        "| self-attention | step | attention alone | its speed-up | predicted for the step | speed-up of the step |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    steps = load_steps(PROFILES / f"{name}.jsonl")
    for step in steps:
        figures = (step.attention_speedup, step.predicted_speedup, step.step_speedup)
        times = f"{step.step_ms:.0f} ms | {step.attention_ms:.0f} ms"
        lines.append(f"| {step.name} | {times} | " + " | ".join(f"{figure:.2f}×" for figure in figures) + " |")
    return [*lines, f"| none | {steps[0].without_ms:.0f} ms | | | | |"]


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "attnbench"  # the same names in the same picture each time
    both = {engine: vmoba("576p", engine) for engine in ENGINES}
    for engine, waterfall in both.items():
        figure = waterfall_figure(waterfall)
        figure.axes[0].set_xlim(0, 1.2 * max(w.latency.ms for w in both.values()))
        figure.savefig(ROOT / "docs" / f"why-sparse-is-slow-{engine}.svg", metadata={"Date": None})
        plt.close(figure)
    tables = [loss_table(), layer_table("576p"), *map(step_table, STEPS)]
    print("\n\n".join("\n".join(table) for table in tables))


if __name__ == "__main__":
    main()
