"""Write numbers, settings and intervals, for the report and the terminal."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence

from attnbench.results.layers import MeanRow
from attnbench.results.records.cells import Row, settings_of
from attnbench.results.speedups import ranked_ends, ranked_ms

NONE = "–"
DIRECTIONS = {"fwd": "forward", "fwdbwd": "forward and backward"}
INTERVALS = {"bootstrap95": "95 %", "min-max": "min–max"}


def places(value: float, digits: int = 3) -> int:
    """Return how many decimals show ``value`` with ``digits`` significant digits."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def number(value: float | None, digits: int = 3) -> str:
    """Write ``value`` with ``digits`` significant digits, or "–" if there is none: 0.0123, 1.23, 123, 12,345."""
    return NONE if value is None else f"{value:,.{places(value, digits)}f}"


def tiny(value: float | None) -> str:
    """Write an error: 0.312 from a thousandth on, 3.1e-06 below."""
    if value is None:
        return NONE
    return number(value) if value >= 0.001 or value == 0 else f"{value:.1e}"


def decimals_of(value: float, low: float | None, high: float | None, digits: int = 3) -> int:
    """Return how many decimals show a value and its interval.

    They show so many significant digits of the value, or of the interval's width if that is larger, and more where the
    ends would look alike without differing only by rounding.
    """
    if low is None or high is None or not 1e-7 * max(abs(low), abs(high)) < high - low < math.inf:
        return places(value, digits)
    return max(places(max(abs(value), high - low), digits), places(high - low, 1))


def with_interval(value: float, low: float | None, high: float | None) -> tuple[str, str]:
    """Write a value and its interval with the same decimals: "11.34", "[11.31, 11.38]"; "" if there is no interval."""
    decimals = decimals_of(value, low, high)
    ends = "" if low is None or high is None else f"[{low:,.{decimals}f}, {high:,.{decimals}f}]"
    return f"{value:,.{decimals}f}", ends


def latency(row: Row) -> tuple[str, str]:
    """Write the latency that a row is ranked by, and its interval; "–" and "" if there is none."""
    value = ranked_ms(row)
    return (NONE, "") if value is None else with_interval(value, *ranked_ends(row))


def steady_words(latency_ms: float | None, refresh_ms: float | None) -> str:
    """Write what a step without a refresh takes, where that is not what is ranked: "8.01 between refreshes"."""
    return "" if refresh_ms is None or latency_ms is None else f"{number(latency_ms)} between refreshes"


def runs_words(speedups: object) -> str:
    """Write the speed-ups in several runs: "2 runs: 2.82, 2.84"; nothing for a single run."""
    return f"{str(speedups).count(',') + 1} runs: {speedups}" if speedups else ""


def layer_words(row: Row) -> str:
    """Write the layer of a row: "1", "1, step 3", or "mean" for a mean over several kinds."""
    layer = "mean" if isinstance(row, MeanRow) and "," in row.layers else str(row.layer)
    return layer if row.step is None else f"{layer}, step {row.step}"


def kinds_words(layers: str) -> str:
    """Write the layers that a mean is over, "0×10, 1×10": "20 layers, 10 each like layers 0 and 1"."""
    kinds = [kind.partition("×")[::2] for kind in layers.split(", ")]
    names, counts = [name for name, _ in kinds], [int(count) for _, count in kinds]
    if len(names) == 1:
        return f"layer {names[0]}"
    if set(counts) == {1}:
        return f"layers {listed(names)}"
    if len(set(counts)) == 1:
        return f"{sum(counts)} layers, {counts[0]} each like layers {listed(names)}"
    told = [f"{count} like layer {name}" for name, count in zip(names, counts, strict=True)]
    return f"{sum(counts)} layers, {listed(told)}"


def times(value: float | None) -> str:
    """Write a ratio: "2.94×"."""
    return NONE if value is None else f"{number(value)}×"


def grid_words(grid: str) -> str:
    """Write a grid with multiplication signs: 21×45×80."""
    return grid.replace("x", "×")


def short_settings(settings: str, most: int = 80) -> str:
    """Write canonical JSON settings in a few words, "tile 6×8×8, window 3×3×3", cut with "…" after ``most`` characters.

    Settings that are null are left out. Text that is not a JSON object is returned unchanged.
    """
    values = settings_of(settings)
    if values is None:
        words = settings
    else:
        words = ", ".join(f"{name} {_setting(value)}" for name, value in values.items() if value is not None)
    return words if len(words) <= most else words[: most - 1].rstrip(" ,") + "…"


def differing_settings(settings: str, others: Sequence[str], most: int = 80) -> str:
    """Write those settings that are not the same in all ``others``, like ``short_settings``."""
    return chosen_settings(settings, differing_names([settings, *others]), most)


def differing_names(settings: Iterable[str]) -> frozenset[str] | None:
    """Return the names of settings that are not the same in all of these; None if one is not a JSON object.

    If such texts are all the same, no name differs.
    """
    texts = list(dict.fromkeys(settings))
    values = [settings_of(each) for each in texts]
    known = [each for each in values if each is not None]
    if len(known) < len(values):
        return None if len(texts) > 1 else frozenset()
    names = {name for each in known for name in each}
    first = known[0] if known else {}
    return frozenset(name for name in names if any(each.get(name) != first.get(name) for each in known))


def chosen_settings(settings: str, names: frozenset[str] | None, most: int = 80) -> str:
    """Write the settings of these names, like ``short_settings``; all of them for None."""
    values = settings_of(settings)
    if values is None or names is None:
        return "" if names == frozenset() else short_settings(settings, most)
    return short_settings(json.dumps({name: value for name, value in values.items() if name in names}), most)


_LONGEST_NAME = 120


def file_name(*parts: str) -> str:
    """Return words as the stem of a file, without its ending: "waterfall-720p-fwd-video-vmoba-layer-0"."""
    words = [re.sub(r"-{2,}", "-", file_stem(part.replace("×", "x"))) for part in parts if part]
    return "-".join(words)[:_LONGEST_NAME].rstrip("-.")


def shortened(text: str, most: int) -> str:
    """Cut a text in the middle, for what tells long names apart is often at their end: "vmoba · scope…topk 14"."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def two_lines(text: str, most: int) -> list[str]:
    """Break a text into one or two lines of so many characters; what is longer is cut in the middle of the second."""
    if len(text) <= most:
        return [text]
    at = text.rfind(" ", 0, most + 1)
    at = at if at > most // 3 else most
    return [text[:at].rstrip(), shortened(text[at:].strip(), most)]


def file_stem(run_id: str) -> str:
    """Return a run id as a safe file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).strip(".-") or "report"


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        nested = any(isinstance(part, Sequence) and not isinstance(part, str) for part in value)
        return (" | " if nested else "×").join(_setting(part) for part in value)
    return str(value)


def listed(names: Iterable[str]) -> str:
    """Write names as "a, b and c"."""
    *most, last = list(names) or [""]
    return f"{', '.join(most)} and {last}" if most else last
