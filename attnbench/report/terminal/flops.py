"""Tables of FLOPs: plain records, rich tables for the terminal, and Markdown for docs/flops.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from attnbench.cost.flops.counts import CellFlops, PassFlops
from attnbench.cost.flops.paper import Recomputed, recompute_all
from attnbench.cost.flops.vmoba_tables import VMOBA_TABLES
from attnbench.cost.flops.wan import TEXT_TOKENS, WAN_MODELS, ForwardFlops, forward_flops
from attnbench.inputs.presets import RESOLUTIONS
from attnbench.inputs.shapes import DEFAULT_MODEL
from attnbench.kernels.errors import unknown_name
from attnbench.report.words import NONE, number, short_settings

if TYPE_CHECKING:
    from attnbench.report.terminal.fitted import Fitted

PAPERS = {"vmoba": VMOBA_TABLES}
"""Papers whose FLOPs are recomputed, by the name of their method."""

_PAPER_COLUMNS = (
    "table", "size", "method", "density", "printed", "ours", "difference", "verdict", "factor printed", "factor ours",
)  # fmt: skip


def paper_rows(paper: str) -> list[Recomputed]:
    """Return every printed row of a paper with our value.

    Raises:
        BadInput: for a paper that is not known.
    """
    if paper not in PAPERS:
        raise unknown_name("paper", paper, PAPERS)
    return recompute_all(PAPERS[paper])


def paper_records(rows: Sequence[Recomputed]) -> list[dict[str, Any]]:
    """Return rows as plain records, FLOPs in TFLOP. ``difference_tflop`` is the printed value minus ours."""
    return [
        {
            "table": row.printed.table,
            "size": row.printed.size,
            "tokens": row.printed.tokens,
            "method": row.printed.method,
            "density": row.printed.density,
            "settings": row.printed.reading.words,
            "printed_tflop": row.printed.tflop,
            "ours_tflop": row.tflop,
            "difference_tflop": row.difference,
            "verdict": row.verdict,
            "printed_factor": row.printed.factor,
            "ours_factor": row.factor,
            "factor_verdict": row.factor_verdict,
            "other_readings": [asdict(other) for other in row.others],
            "note": row.printed.note,
        }
        for row in rows
    ]


def paper_table(rows: Sequence[Recomputed]) -> Fitted:
    """Return rows as a table of rich, FLOPs in TFLOP."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.fitted import Fitted

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in _PAPER_COLUMNS:
        words = name in ("size", "method", "verdict")
        table.add_column(name.replace(" ", "\n"), justify="left" if words else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(Text(cell, style="yellow" if cell == "differs" else "") for cell in _paper_cells(row)),
        )
    return Fitted(table, ("factor printed", "factor ours", "density", "table", "difference", "size"))


def paper_remarks(rows: Sequence[Recomputed]) -> list[str]:
    """Return a line for every row with remarks: other readings, and what is known about a difference."""
    return [
        f"table {row.printed.table}, {row.printed.size}, {row.printed.method}: {remark}"
        for row in rows
        if (remark := _remark(row))
    ]


def paper_markdown(paper: str = "vmoba") -> str:
    """Return the rows of a paper as a Markdown table, remarks included.

    Raises:
        BadInput: for a paper that is not known.
    """
    return _markdown([*_PAPER_COLUMNS, "remarks"], [[*_paper_cells(row), _remark(row)] for row in paper_rows(paper)])


def cell_records(cells: Sequence[CellFlops]) -> list[dict[str, Any]]:
    """Return cells as plain records; FLOPs are single operations."""
    return [
        {
            "method": cell.method,
            "settings": cell.settings,
            "layer": cell.layer,
            "engine": cell.engine,
            "density": cell.density,
            "pairs": cell.pairs,
            "flops_dense": cell.counts.dense,
            "flops_algorithmic": cell.counts.algorithmic,
            "flops_selection": cell.counts.selection,
            "flops_branch": cell.counts.branch,
            "flops_executed": cell.counts.executed,
        }
        for cell in cells
    ]


def cell_table(cells: Sequence[CellFlops]) -> Fitted:
    """Return cells as a table of rich, FLOPs in TFLOP. Settings are in the first row of a method."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.fitted import Fitted

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("method", max_width=30, overflow="fold")
    branch = any(cell.counts.branch for cell in cells)
    for name in ("layer", "density", "dense", "algorithmic", "selection", *(["branch"] if branch else []), "executed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    above = ""
    for cell in cells:
        settings, counts = short_settings(cell.settings), cell.counts
        numbers = (
            counts.dense,
            counts.algorithmic,
            counts.selection,
            *([counts.branch] if branch else []),
            counts.executed,
        )
        table.add_row(
            Text.assemble(cell.method, (f" {settings}" if settings and cell.method != above else "", "dim")),
            str(cell.layer),
            number(cell.density),
            *(tera(count) for count in numbers),
            cell.engine,
        )
        above = cell.method
    return Fitted(table, ("engine", "selection", "dense", "density", "layer"))


def pass_records(dense: ForwardFlops, passes: Sequence[PassFlops]) -> dict[str, Any]:
    """Return the forward pass of a model as plain records: dense by part, and the total with each method."""
    return {
        "text_tokens": TEXT_TOKENS,
        "parts": dense.parts,
        "flops": dense.total,
        "methods": [
            {"method": one.method, "layers": list(one.layers), "density": one.density, "flops": one.flops.total}
            for one in passes
        ],
    }


def pass_lines(model: str, dense: ForwardFlops, passes: Sequence[PassFlops]) -> list[str]:
    """Return the forward pass of a model as lines of text, in TFLOP."""
    lines = [
        f"one forward pass of {model}, {TEXT_TOKENS} text tokens: {dense.total / 1e12:,.2f} TFLOP, of which pairs of "
        f"self-attention {dense.self_pairs / 1e12:,.2f}"
    ]
    for one in passes:
        layers = ", ".join(str(layer) for layer in one.layers)
        lines.append(
            f"  with {one.method}: {one.flops.total / 1e12:,.2f} TFLOP, reduced {dense.total / one.flops.total:.2f}×, "
            f"density {number(one.density)}: {'the mean of layers' if len(one.layers) > 1 else 'as in layer'} {layers}"
        )
    return lines


def model_markdown() -> str:
    """Return the parts of a dense forward pass at 480p, of every Wan model, as a Markdown table in TFLOP."""
    grid = RESOLUTIONS["480p"].grid()
    counted = {name: forward_flops(config, grid) for name, config in WAN_MODELS.items()}
    lines = [
        [part.replace("_", " "), *(tera(flops.parts[part]) for flops in counted.values())]
        for part in counted[DEFAULT_MODEL].parts
    ]
    lines.append(["total", *(f"{flops.total / 1e12:,.2f}" for flops in counted.values())])
    return _markdown(["part", *counted], lines)


def tera(flops: int) -> str:
    """Write FLOPs in units of 10^12 with four digits; 0 as 0."""
    return number(flops / 1e12, 4) if flops else "0"


def _paper_cells(row: Recomputed) -> list[str]:
    printed = row.printed
    factor = NONE if row.factor is None else f"{row.factor:.2f}×"
    return [
        str(printed.table),
        printed.size,
        printed.method,
        NONE if printed.density is None else f"{printed.density:.2f}",
        f"{printed.tflop:,.2f}",
        f"{row.tflop:,.2f}",
        _difference(row),
        row.verdict,
        NONE if printed.factor is None else f"{printed.factor:.2f}×",
        f"{factor}, differs" if row.factor_verdict == "differs" else factor,
    ]


def _difference(row: Recomputed) -> str:
    """Write the printed value minus ours, with the percentage if two decimals show it."""
    if abs(row.difference) < 0.005:
        return "0.00"
    percent = f" ({row.relative:+.2%})" if abs(row.relative) >= 5e-5 else ""
    return f"{row.difference:+,.2f}{percent}"


def _remark(row: Recomputed) -> str:
    others = [f"{other.words}: {other.tflop:,.2f}, {other.verdict}" for other in row.others]
    return "; ".join([*others, *([row.printed.note] if row.printed.note else [])])


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
