"""What methods did to clips, as a table for the terminal and as records for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attnbench.report.gap_words import LEGEND, estimate_words, floor_of, metric_words, names_of
from attnbench.results.gaps import gaps
from attnbench.results.records.clips import QualityRow

if TYPE_CHECKING:
    from rich.table import Table


def gap_table(rows: Sequence[QualityRow]) -> Table:
    """Return a line for every method and metric that has values: the judgement, the gap, both floors.

    A distance is from full attention's clip of the same prompt and seed; a score is shown as its difference from it.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", pad_edge=False, box=None, caption=Text(LEGEND), caption_justify="left")
    for name in ("method", "metric"):
        table.add_column(name, overflow="fold")
    table.add_column("judgement")
    for name in ("gap", "another kernel", "another seed"):
        table.add_column(name, justify="right", overflow="fold")
    found = gaps(rows)
    names = names_of(found)
    before = ""
    for gap in found:
        name = names[gap.method, gap.settings, gap.engine]
        parts = (gap.gap, floor_of(gap.kernel_floor, gap.kind), floor_of(gap.seed_floor, gap.kind))
        cells = [estimate_words(part, signed=gap.kind == "score") for part in parts]
        words = ("" if name == before else name, metric_words(gap), gap.judgement, *cells)
        table.add_row(*map(Text, words))  # as Text: rich takes brackets for markup
        before = name
    return table


def gap_records(rows: Sequence[QualityRow]) -> list[dict[str, Any]]:
    """Return the gaps as plain records, each with its sentence."""
    return [{**dataclasses.asdict(gap), "sentence": gap.sentence} for gap in gaps(rows)]
