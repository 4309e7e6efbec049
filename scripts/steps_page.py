"""Table of docs/torch-compile.md: what steps took with and without CUDA graphs. scripts/write_docs.py writes it."""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.kernels.grid import Grid
from attnbench.report.word_table import WordTable
from attnbench.results.records.steps import GRAPHS, StepRecord, by_run

NONE_YET = "No such step is committed yet, so there are no figures here."
HEADER = (
    "tokens", "heads", "self-attention", "GPU, ms", "over dense", "graphs: GPU, ms", "over dense", "wall clock, ms",
    "over dense", "graphs: wall clock, ms", "over dense",
)  # fmt: skip


def table(records: Sequence[StepRecord]) -> str:
    """Return lines for the dense steps of each run, and one for each method that was also run as CUDA graphs.

    Args:
        records: of runs whose dense steps include the baseline.
    """
    if not records:
        return NONE_YET
    rows: list[tuple[str, ...]] = []
    for own in sorted(by_run(records), key=lambda own: (_tokens(own[0]), own[0].heads or 0)):
        dense = [record for record in own if record.name in ("own", record.baseline)]
        replays = {record.name.removesuffix(GRAPHS): record for record in own if record.graphs}
        for record in [*dense, *(each for each in own if each.name in replays)]:
            plain, graphs = (_ratios(each, dense) for each in (record, replays.get(record.name)))
            heads = "–" if record.heads is None else str(record.heads)
            line = (f"{_tokens(record):,}", heads, _name(record))
            rows.append((*line, *plain[:2], *graphs[:2], *plain[2:], *graphs[2:]))
    return "\n".join(WordTable(HEADER, tuple(rows), frozenset({0, 1, *range(3, len(HEADER))})).markdown())


def _tokens(record: StepRecord) -> int:
    return Grid.of(record.grid).tokens


def _ratios(record: StepRecord | None, dense: Sequence[StepRecord]) -> tuple[str, str, str, str]:
    """Return what a step takes by the GPU's clock and by the wall clock, each with its speed-up over dense."""
    if record is None:
        return "–", "–", "–", "–"
    gpu, wall = (f"{record.step_ms:.1f}", f"{record.step_speedup:.2f}×"), ("–", "–")
    walls = [each.step_eager_ms for each in dense if each.step_eager_ms is not None]
    if record.step_eager_ms is not None and walls:
        wall = (f"{record.step_eager_ms:.1f}", f"{min(walls) / record.step_eager_ms:.2f}×")
    return *gpu, *wall


def _name(record: StepRecord) -> str:
    """Return the method of a record, without its engine, and the settings that its name tells."""
    method, _, rest = record.name.partition("/")
    settings = rest.partition(" ")[2]
    return f"`{method}`" + (f" `{settings}`" if settings else "")
