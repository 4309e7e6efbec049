"""``attnbench ls``: what there is to choose from."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from attnbench.cli.options import JsonOption


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
    from attnbench.listing import LISTINGS

    listing = LISTINGS[kind.value]()
    if as_json:
        print(json.dumps(listing))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in listing[0]:
        table.add_column(column, overflow="fold")
    for row in listing:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)
