"""Tables of docs/parallel.md: what calls and steps over several GPUs took. scripts/write_docs.py writes them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from attnbench.cost.ranks import extrapolate
from attnbench.kernels.errors import BadInput
from attnbench.report.word_table import WordTable
from attnbench.results.records.cells import Row
from attnbench.results.records.steps import StepRecord, by_run

CALLS = (
    "method", "one GPU, ms", "GPUs", "ms", "over one GPU", "over dense on as many", "exchanges, ms", "imbalance",
)  # fmt: skip
STEPS = ("self-attention", "one GPU, ms", "GPUs", "ms", "over one GPU", "over dense on as many", "differs from one GPU")


def calls(rows: Sequence[Row], ranks: int) -> str:
    """Return a table for each shape, direction and way. Methods whose layers differ have the mean over their layers.

    Args:
        rows: of several ranks, with a latency.
        ranks: how many GPUs the last column is modelled for.
    """
    cases: dict[tuple[object, ...], dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        case = (row.device, row.tokens, row.heads, row.direction, row.parallel)
        cases.setdefault(case, {}).setdefault((row.method, row.settings), []).append(row)
    parts = []
    for (device, tokens, heads, direction, way), methods in cases.items():
        words = "forward" if direction == "fwd" else "forward and backward"
        parts += [f"{device}, {tokens:,} tokens, {heads} heads, {words}, `{way}`:", ""]
        header = (*CALLS, f"{ranks} GPUs, modelled, ms")
        parts += _table(header, [_call(layers, ranks) for layers in methods.values()])
        if capped := [layers[0].method for layers in methods.values() if any(_is_capped(row) for row in layers)]:
            parts += [f"The power limit lowered the clock of {', '.join(capped)} (flag `power-capped`).", ""]
    return "\n".join(parts).rstrip()


def _is_capped(row: Row) -> bool:
    return "power-capped" in (row.flags or "").split(",")


def _call(layers: Sequence[Row], ranks: int) -> tuple[str, ...]:
    """Return the line of a method: means over its layers, and ratios of these means."""
    latency, one, dense, exchange = (
        statistics.fmean(getattr(row, name) or 0.0 for row in layers)
        for name in ("latency_ms", "one_ms", "baseline_ms", "exchange_ms")
    )
    try:
        guesses = [extrapolate(row, ranks) for row in layers]
    except BadInput:  # more ranks than heads
        guesses = [None]
    known = [guess for guess in guesses if guess is not None]
    modelled = "–"
    if len(known) == len(guesses):
        least, most = (f"{statistics.fmean(ends):.2f}" for ends in zip(*known, strict=True))
        modelled = least if least == most else f"{least} to {most}"
    imbalance = max(row.imbalance or 1.0 for row in layers)
    return (
        layers[0].method, f"{one:.2f}", str(layers[0].gpus), f"{latency:.2f}", f"{one / latency:.2f}×",
        f"{dense / latency:.2f}×" if dense else "–", f"{exchange:.2f}", f"{imbalance:.2f}×",
        modelled,
    )  # fmt: skip


def steps(records: Sequence[StepRecord]) -> str:
    """Return a table for each step over several ranks; empty without any."""
    parts = []
    for own in by_run(record for record in records if record.gpus is not None):
        first = own[0]
        what = "A training step" if first.direction == "fwdbwd" else "A step"
        parts += [f"{what} of Wan 2.1 {first.size.upper()}, {first.grid} tokens, {first.device}:", ""]
        parts += _table(STEPS, list(map(_step, own)))
    return "\n".join(parts).rstrip()


def _step(record: StepRecord) -> tuple[str, ...]:
    one, error = record.one_ms or 0.0, record.parallel_error
    return (
        record.name, f"{one:.0f}", str(record.gpus),
        f"{record.step_ms:.0f} [{record.step_lo_ms:.0f}, {record.step_hi_ms:.0f}]", f"{one / record.step_ms:.2f}×",
        f"{record.step_speedup:.2f}×", "–" if error is None else f"{error:.1g}",
    )  # fmt: skip


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [*WordTable(header, tuple(rows), frozenset(range(1, len(header)))).markdown(), ""]
