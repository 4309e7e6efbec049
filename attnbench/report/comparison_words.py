"""The judge of a comparison: names of cells, their verdicts, and what these rest on, for every form of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attnbench.report.words import differing_settings
from attnbench.results.compare import REGRESSIONS, CellChange, Comparison

VERDICTS = {"slower": "SLOW", "faster": "FAST", "same": "SAME", "unclear": "AMBIGUOUS"}
BY_SPEED = ("slower", "faster", "same")
"""Changes that the speed alone decides."""

_FACTS = ("layers", "step", "grid", "text_tokens", "batch", "heads", "kv_heads", "head_dim", "dtype", "direction")
_MORE = ("inputs", "seed", "density_asked", "engine_asked")


def names_of(cells: Sequence[CellChange]) -> list[str]:
    """Return a short name of each cell, by what tells it from the others."""
    varying = [name for name in (*_FACTS, *_MORE) if name != "layers" and _count(cells, name) > 1]
    names = []
    for cell in cells:
        same = [other.cell["settings_given"] or "{}" for other in cells if other.cell["method"] == cell.cell["method"]]
        settings = differing_settings(cell.cell["settings_given"] or "{}", same)
        facts = [_text(cell.cell[name]) for name in varying]
        names.append(" ".join(filter(None, [str(cell.cell["method"]), settings, *facts])))
    return names


def verdict_of(cell: CellChange) -> str:
    """Return the verdict as it is shown."""
    return VERDICTS.get(cell.change, cell.change)


def allowed_words(cell: CellChange) -> str:
    """Return what was said of a cell that does not fail for what became of it."""
    if cell.change in ("only in A", "not comparable"):
        return "allowed to be missing"
    return "accepted" if cell.change in REGRESSIONS else "allowed to run on another engine"


def grounds(cells: Sequence[CellChange], names: Sequence[str]) -> list[str]:
    """Say what the verdicts by speed rest on: a sentence for all cells of a verdict that have the same reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell, name in zip(cells, names, strict=True):
        if cell.change in BY_SPEED:
            found.setdefault((cell.change, cell.reason), []).append(name)
    several = Counter(change for change, _ in found)
    lines = []
    for (change, reason), mine in found.items():
        who = f" ({', '.join(mine)})" if several[change] > 1 else ""
        lines.append(f"{VERDICTS[change]}{who}: {reason}")
    return lines


def sentences(result: Comparison) -> list[str]:
    """Return how many cells have each verdict, what is judged, and what differs between the environments."""
    counts = ", ".join(f"{count} {VERDICTS.get(change, change)}" for change, count in result.counts.items())
    found = [f"{counts or 'no cells'}; threshold {result.threshold:.1%}, margin {result.margin:.0%}"]
    if result.geometric_mean is not None:
        found.append(f"geometric mean of B / A: {result.geometric_mean:.3f} (above 1 is slower)")
        latency = [name for name, cell in zip(names_of(result.cells), result.cells, strict=True) if _by_latency(cell)]
        by = f"; by latency alone: {', '.join(latency)}" if latency else ""
        found.append(f"judged by the speed-up over the dense baseline of the same rounds{by}")
        found.append(f"noise: {result.noise}")
    if result.exit_code == 4:
        found.append("Not compared: the two tables have no comparable cell.")
    return [*found, *(f"differs  {change}" for change in result.environment_changes)]


def _by_latency(cell: CellChange) -> bool:
    return cell.judged_by == "latency"


def _count(cells: Sequence[CellChange], name: str) -> int:
    return len({_text(cell.cell[name]) for cell in cells})


def _text(value: object) -> str:
    return "" if value is None else str(value)
