"""One mask picture for each method of a report, on a small grid and with the method's own defaults."""

from __future__ import annotations

from collections.abc import Iterable

from attnbench.methods.examples import Example, examples
from attnbench.report.charts.latency import png_uri
from attnbench.report.charts.picture import Picture
from attnbench.report.words import grid_words, number, short_settings
from attnbench.results.records.cells import canonical_json


def mask_pictures(methods: Iterable[str]) -> list[Picture]:
    """Draw every method, once for each distinct layer. If one cannot be drawn here, its caption says why."""
    pictures = []
    for method in methods:
        try:
            pictures += [_picture(example) for example in examples(method)]
        except Exception as error:  # a method from elsewhere may fail in any way; the figures are still worth reading
            pictures.append(Picture("", "", f"{method}: no picture on this machine: {error or type(error).__name__}."))
    return pictures


def _picture(example: Example) -> Picture:
    from attnbench.methods.draw import draw_plan

    plan, settings = example.plan(), short_settings(canonical_json(example.resolved), 200)
    density = number(plan.density)
    how = "scaled down, because the defaults keep all of such a small grid" if example.scaled else "default settings"
    return Picture(
        png_uri(draw_plan(plan, example.name)),
        f"Mask of {example.name}: density {density}; beside it the keys that one query keeps in each frame.",
        f"{example.name}: density {density} on {grid_words(str(example.grid))} tokens, {how}"
        + (f": {settings}." if settings else "."),
    )
