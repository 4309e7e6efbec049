"""``attnbench ls``: what there is to choose from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli.options import JsonOption
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from attnbench.methods.cards import Card


class Kind(StrEnum):
    """What can be listed."""

    shapes = "shapes"
    methods = "methods"
    engines = "engines"
    models = "models"
    inputs = "inputs"


def ls(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_choices=True)],
    as_json: JsonOption = False,
) -> None:
    """List shapes, methods, engines, models or inputs."""
    listing = LISTINGS[kind.value]()
    if as_json:
        print(json.dumps(listing))
        return
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.console import console
    from attnbench.report.terminal.fitted import left_out_words

    screen = console(200)
    left_out = [name for name in _LONGEST if name in listing[0] and screen.width < _WIDE]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(listing[0]):
        if column not in left_out:
            table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in listing:
        table.add_row(*(Text(str(value)) for name, value in row.items() if name not in left_out))
    screen.print(table)
    if left_out:
        screen.print(left_out_words(left_out), soft_wrap=True)


_LONGEST, _WIDE = ("source",), 120
"""Columns of long texts, and the width of a terminal below which they are left out."""

Listing = list[dict[str, Any]]


def shapes() -> Listing:
    """Resolutions with their token grids at the usual number of frames."""
    from attnbench.inputs.presets import RESOLUTIONS

    return [
        {
            "name": name,
            "pixels": f"{res.height}x{res.width}",
            "frames": res.frames,
            "grid": str(res.grid()),
            "tokens": res.grid().tokens,
        }
        for name, res in RESOLUTIONS.items()
    ]


def models() -> Listing:
    """Model presets, each with the source of its numbers."""
    from attnbench.inputs.presets import MODELS

    return [
        {
            "name": model.name,
            "heads": model.heads,
            "head_dim": model.head_dim,
            "layers": model.layers,
            "text": f"{model.text[0]}+{model.text[1]}",
            "grid": str(model.grid or "by resolution"),
            "frames": model.rule.form,
            "pixels": model.rule.pixels,
            "source": model.source,
        }
        for model in MODELS.values()
    ]


def methods() -> Listing:
    """Registered methods with their settings' defaults and publication. Those of other packages may be unusable."""
    from attnbench.kernels.errors import BadInput
    from attnbench.methods.cards import card
    from attnbench.methods.registry import BUILT_IN, method_names, name_problems

    listing = []
    for name, problem in name_problems().items():
        if name in BUILT_IN:
            say(f"attnbench: {problem}; attnbench's own is taken", error=True)
    for name in method_names():
        try:
            found = card(name) if name in BUILT_IN else _card_from_elsewhere(name)
        except BadInput as error:  # a plugin that is broken must not hide the others
            say(f"attnbench: {error}", error=True)
            listing.append({"name": name, "keeps": f"unusable: {error}", "settings": "", "source": ""})
            continue
        listing.append(
            {
                "name": name,
                "keeps": found.summary,
                "settings": ", ".join(f"{setting}={default}" for setting, default in found.settings.items()),
                "source": f"{found.source.title} {found.source.url}".strip(),
            }
        )
    return listing


def _card_from_elsewhere(name: str) -> Card:
    """Return the card of another package's method, whose code runs in a process of its own.

    Raises:
        BadInput: saying what is wrong with it.
    """
    from attnbench.bench.apart.cards import read_card
    from attnbench.kernels.errors import BadInput
    from attnbench.methods.registry import name_problems

    if problem := name_problems().get(name):
        raise BadInput(problem)
    return read_card(name)


def engines() -> Listing:
    """Engines, and whether they can be used here."""
    from attnbench.kernels.engines import known_engines, why_not_here

    listing = []
    for engine in known_engines():
        problem = why_not_here(engine)
        version, here = (engine.version(), "yes") if problem is None else ("", f"no: {problem}")
        listing.append({"name": engine.name, "runs": engine.summary, "version": version, "here": here})
    return listing


def inputs() -> Listing:
    """Sources of q, k and v."""
    from attnbench.inputs.spec import INPUT_SOURCES

    return [{"name": name, "gives": text} for name, text in INPUT_SOURCES.items()]


LISTINGS: Mapping[str, Callable[[], Listing]] = MappingProxyType(
    {"shapes": shapes, "methods": methods, "engines": engines, "models": models, "inputs": inputs}
)
