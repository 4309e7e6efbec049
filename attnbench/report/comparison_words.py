"""The judge of a comparison: names of cells, their verdicts, and what these rest on, for every form of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attnbench.report.words import NONE, differing_settings, grid_words
from attnbench.results.compare import REGRESSIONS, CellChange, Comparison

VERDICTS = {"slower": "SLOW", "faster": "FAST", "same": "SAME", "unclear": "AMBIGUOUS"}
BY_SPEED = ("slower", "faster", "same")
"""Changes that the speed alone decides."""

_FACTS = ("grid", "text_tokens", "batch", "heads", "kv_heads", "head_dim", "dtype", "direction", "step")
_MORE = ("inputs", "seed", "density_asked", "engine_asked")
_NAMED = {
    "batch": "batch {}", "heads": "{} heads", "kv_heads": "{} kv heads", "head_dim": "head_dim {}",
    "text_tokens": "{} text tokens", "step": "step {}", "seed": "seed {}", "density_asked": "density {}",
    "engine_asked": "on {}",
}  # fmt: skip
_MOST_NAMED = 4
"""Cells that a sentence names; it counts the others."""
_MOST_PERCENT = 900.0
"""The largest percentage that is written out."""


def names_of(cells: Sequence[CellChange]) -> list[str]:
    """Return a short name of each cell, by what tells it from the others."""
    parts = zip(cells, settings_words(cells), facts_words(cells), strict=True)
    return [" ".join(filter(None, [str(cell.cell["method"]), settings, facts])) for cell, settings, facts in parts]


def settings_words(cells: Sequence[CellChange]) -> list[str]:
    """Return the settings of each cell that tell it from others of its method."""
    given = [cell.cell["settings_given"] or "{}" for cell in cells]
    by_method: dict[str, list[str]] = {}
    for cell, settings in zip(cells, given, strict=True):
        by_method.setdefault(cell.cell["method"], []).append(settings)
    return [
        differing_settings(settings, by_method[cell.cell["method"]])
        for cell, settings in zip(cells, given, strict=True)
    ]


def facts_words(cells: Sequence[CellChange]) -> list[str]:
    """Return what tells the shape and the inputs of each cell from those of the others."""
    varying = [name for name in (*_FACTS, *_MORE) if len({_text(cell.cell[name]) for cell in cells}) > 1]
    if all(cell.cell["heads"] == cell.cell["kv_heads"] for cell in cells):
        varying = [name for name in varying if name != "kv_heads"]
    return [" ".join(filter(None, (_fact(name, cell.cell[name]) for name in varying))) for cell in cells]


def verdict_of(cell: CellChange) -> str:
    """Return the verdict as it is shown."""
    return VERDICTS.get(cell.change, cell.change) if cell.asked else "not asked for in B"


def slower_words(cell: CellChange) -> tuple[str, str]:
    """Write by how many percent B is slower, and the interval: "+2.1 %", "[-0.9, +5.2]"."""
    if cell.ratio is None:
        return NONE, ""
    ends = "" if cell.lo is None or cell.hi is None else f"[{_percent(cell.lo)}, {_percent(cell.hi)}]"
    return f"{_percent(cell.ratio)} %", ends


def allowed_words(cell: CellChange) -> str:
    """Return what was said of a cell that does not fail for what became of it."""
    if cell.change in ("only in A", "not comparable"):
        return "allowed to be missing"
    return "accepted" if cell.change in REGRESSIONS else "allowed to run on another engine"


def reason_words(cell: CellChange) -> str:
    """Return why a cell has its verdict, and what of it differs besides."""
    missing = "A does not have it" if cell.change == "only in B" else ""
    return "; ".join(filter(None, [cell.reason or missing, *cell.attributes, allowed_words(cell) * cell.allowed]))


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


def verdict_sentence(result: Comparison) -> str:
    """Say what a comparison comes to: which cells became slower or were lost, and what became of the others."""
    names = names_of(result.cells)
    compared = [(cell, name) for cell, name in zip(result.cells, names, strict=True) if cell.ratio is not None]
    if not compared:
        return f"Nothing can be compared: {why_nothing(result)}."
    counts = Counter(cell.change for cell, _ in compared)
    if set(counts) == {"same"}:
        every = f"all {len(compared)} cells" if len(compared) > 1 else "the one cell"
        said = [f"B is as fast as A within {result.margin:.0%} in {every} that both have"]
    elif len(compared) == 1:
        ((cell, name),) = compared
        by = f" by {slower_words(cell)[0].lstrip('+-')}" if cell.change in _MEASURED else ""
        said = [f"The one cell that both have, {name}, is {_TOLD[cell.change]}{by}"]
    else:
        told = [_told(change, compared) for change in counts]
        said = [f"Of {len(compared)} cells that both have, {'; '.join(told)}"]
    lost = [each for each in zip(result.cells, names, strict=True) if each[0].is_regression and each[0].ratio is None]
    for words, asked in (("Lost or not comparable in B", True), ("Not asked for in B", False)):
        mine = [name for cell, name in lost if cell.asked == asked]
        if mine:
            said.append(f"{words}: {f'{len(mine)} cells of A' if len(mine) > _MOST_NAMED else _listed(mine)}")
    return "".join(f"{each}. " for each in said).rstrip()


def why_nothing(result: Comparison) -> str:
    """Say why no cell of A can be compared with one of B."""
    if result.refusal is not None:
        return result.refusal
    a, b = ([cell for cell in result.cells if cell.change == f"only in {side}"] for side in "AB")
    met = [cell for cell in result.cells if cell.change not in ("only in A", "only in B")]
    if met:
        reasons = dict.fromkeys(cell.reason or cell.change for cell in met)
        return "; ".join([*list(reasons)[:_MOST_NAMED], *(["and more"] if len(reasons) > _MOST_NAMED else [])])
    apart = [found for name in ("method", *_FACTS, *_MORE) if (found := _apart(name, a, b))]
    told = "; ".join(apart) or "none has the same method, settings, shape and inputs"
    return f"A and B have no cell in common: {told}"


def sentences(result: Comparison) -> list[str]:
    """Return how many cells have each verdict, what is judged, and what differs between the environments."""
    counts = ", ".join(f"{count} {VERDICTS.get(change, change)}" for change, count in result.counts.items())
    found = [f"{counts or 'no cells'}; threshold {result.threshold:.1%}, margin {result.margin:.0%}"]
    if result.geometric_mean is not None:
        found += [f"geometric mean of B / A: {result.geometric_mean:.3f} (above 1 is slower)", *judged_words(result)]
    if result.exit_code == 4:
        found.append(f"Not compared: {why_nothing(result)}")
    return [*found, *(f"differs: {change}" for change in result.environment_changes)]


def judged_words(result: Comparison) -> list[str]:
    """Say what verdicts are judged by, and how much noise between runs they reckon with."""
    names = names_of(result.cells)
    latency = [name for name, cell in zip(names, result.cells, strict=True) if cell.judged_by == "latency"]
    by = f"; by latency alone: {', '.join(latency)}" if latency else ""
    in_turns = any(cell.judged_by == "latency in turns" for cell in result.cells)
    what = "latency beside that of the other run" if in_turns else "speed-up over the dense baseline"
    return [f"judged by the {what} in the same rounds{by}", f"noise: {result.noise}"]


_TOLD = {"slower": "slower in B", "worse": "worse in B", "other engine": "run by another engine in B",
         "unclear": "ambiguous", "faster": "faster in B", "same": "the same"}  # fmt: skip

_MEASURED = ("slower", "faster")
"""Changes of which a sentence says by how much."""


def _told(change: str, compared: Sequence[tuple[CellChange, str]]) -> str:
    mine = [(cell, name) for cell, name in compared if cell.change == change]
    told = f"{len(mine)} {'is' if len(mine) == 1 else 'are'} {_TOLD[change]}"
    if change not in _MEASURED:
        return told
    named = [f"{name} by {slower_words(cell)[0].lstrip('+-')}" for cell, name in mine]
    return f"{told} ({_listed(named)})"


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else []
    return ", ".join([*names[:_MOST_NAMED], *more])


def _apart(name: str, a: Sequence[CellChange], b: Sequence[CellChange]) -> str:
    """Say what a fact is on each side, if no value of it is on both."""
    write = grid_words if name == "grid" else str
    before, after = ([write(_text(cell.cell[name])) for cell in side] for side in (a, b))
    if not before or not after or set(before) & set(after):
        return ""
    told = [_listed([each or "not asked" for each in dict.fromkeys(side)]) for side in (before, after)]
    return f"{name.replace('_', ' ')} is {told[0]} in A, {told[1]} in B"


def _percent(ratio: float) -> str:
    percent = 100 * (ratio - 1)
    return f"{percent:+.1f}" if percent <= _MOST_PERCENT else f"+{_MOST_PERCENT:.0f} and more"


def _fact(name: str, value: object) -> str:
    text = _text(value)
    if not text:
        return ""
    if name == "heads" and value == 1:
        return "1 head"
    return grid_words(text) if name == "grid" else _NAMED.get(name, "{}").format(text)


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))
    return "" if value is None else str(value)
