"""Table of docs/torch-compile.md: what steps took with and without CUDA graphs. scripts/write_docs.py writes it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from attnbench.report.word_table import WordTable
from attnbench.results.records.steps import StepRecord

NONE_YET = "No such step is committed yet, so there are no figures here."
GRAPHS = ", graphs"
"""What the name of a record of replays ends with."""

HEADER = (
    "tokens", "heads", "self-attention", "GPU, ms", "over dense", "graphs, ms", "over dense", "wall, ms", "over dense",
    "graphs, ms", "over dense",
)  # fmt: skip


def table(records: Sequence[StepRecord]) -> str:
    """Return a line for the dense step and for each method of each run, as it is and as CUDA graphs.

    Args:
        records: of runs that measured methods with and without graphs.
    """
    if not records:
        return NONE_YET
    runs: dict[str, list[StepRecord]] = {}
    for record in records:
        runs.setdefault(record.run_id, []).append(record)
    rows: list[tuple[str, ...]] = []
    for own in sorted(runs.values(), key=lambda own: (_tokens(own[0]), own[0].heads or 0)):
        dense = next(record for record in own if record.name == record.baseline)
        replays = {record.name.removesuffix(GRAPHS): record for record in own if record.graphs}
        for record in [dense, *(each for each in own if each.name in replays)]:
            plain, graphs = (_ratios(each, dense) for each in (record, replays.get(record.name)))
            line = (f"{_tokens(record):,}", str(record.heads), _name(record))
            rows.append((*line, *plain[:2], *graphs[:2], *plain[2:], *graphs[2:]))
    return "\n".join(WordTable(HEADER, tuple(rows), frozenset({0, 1, *range(3, len(HEADER))})).markdown())


def _tokens(record: StepRecord) -> int:
    return prod(map(int, record.grid.split("x")))


def _ratios(record: StepRecord | None, dense: StepRecord) -> tuple[str, str, str, str]:
    """Return what a step takes by the GPU's clock and by the wall clock, each with its speed-up over the dense one."""
    if record is None:
        return "–", "–", "–", "–"
    gpu, wall = (f"{record.step_ms:.1f}", f"{record.step_speedup:.2f}×"), ("–", "–")
    if record.step_eager_ms is not None and dense.step_eager_ms is not None:
        wall = (f"{record.step_eager_ms:.1f}", f"{dense.step_eager_ms / record.step_eager_ms:.2f}×")
    return *gpu, *wall


def _name(record: StepRecord) -> str:
    """Return the method of a record, without its engine, and the settings that its name tells."""
    method, _, rest = record.name.partition("/")
    settings = rest.partition(" ")[2]
    return f"`{method}`" + (f" `{settings}`" if settings else "")
