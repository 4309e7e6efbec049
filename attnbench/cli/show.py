"""`attnbench show`: what a method keeps on a small grid, in the terminal and as a picture."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli.lists import read_numbers
from attnbench.cli.options import JsonOption
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from attnbench.kernels.plan import Plan
    from attnbench.methods.examples import Example


def show(
    method: Annotated[list[str], typer.Option("--method", "-m", metavar="NAME", help="Method to draw; repeatable.")],
    grid: Annotated[
        str | None,
        typer.Option(metavar="TxHxW", help="Token grid of at most 4,096 tokens; default 6x8x12 or one that suits."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="LIST", help="Layers, as 0,1,5-8; may be repeated. Default: one of each kind."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Setting, or METHOD.NAME=VALUE; repeatable.")
    ] = None,
    head: Annotated[int, typer.Option(min=0, max=15, help="Head to draw.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the made-up q and k.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE_OR_DIR", help="Where to write: FILE.png or a folder; default reports.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw which (query, key) pairs a method keeps, on a small grid with made-up smooth q and k."""
    from attnbench.cli.options import asked_methods
    from attnbench.kernels.errors import BadInput
    from attnbench.kernels.grid import Grid
    from attnbench.methods.draw import draw_plan, png_bytes
    from attnbench.methods.examples import examples
    from attnbench.results.files import write_whole

    drawn = [
        example
        for entry in asked_methods(method, settings)
        for layer in read_numbers("--layers", layers) or (None,)
        for example in examples(entry.method, None if grid is None else Grid.of(grid), layer, entry.settings)
    ]
    if out is not None and out.suffix.lower() == ".png" and len(drawn) > 1:
        raise BadInput(
            f"--out {str(out)!r} names one file, but there are {len(drawn)} pictures: name a folder, or one layer"
        )
    records = []
    for example in drawn:
        plan = example.plan(head + 1, seed)
        if not as_json:
            say(_told(example, plan, head))
        place = _place(out, example, alone=sum(other.method == example.method for other in drawn) == 1)
        picture = write_whole(png_bytes(draw_plan(plan, example.name, head)), place)
        if as_json:
            records.append(_record(example, plan, head, seed, picture))
        else:
            say(f"picture: {picture}\n")
    if as_json:
        print(json.dumps({"pictures": records}, allow_nan=False))


def _record(example: Example, plan: Plan, head: int, seed: int, picture: Path) -> dict[str, Any]:
    """Return what the terminal is told of one head, with the keys of the middle query by their place in grid order."""
    from attnbench.methods.draw import keys_of, middle_query
    from attnbench.results.records.cells import canonical_json

    layout, mask = plan.layout, plan.token_mask()[0, head]
    kept, pairs, query = int(mask.sum()), mask.numel(), middle_query(layout)
    keys = keys_of(mask, layout, query).flatten().nonzero().flatten()
    return {
        "method": example.method.name, "layer": example.layer, "head": head, "seed": seed, "grid": str(layout.grid),
        "settings": json.loads(canonical_json(example.resolved)), "kept": kept, "pairs": pairs, "density": kept / pairs,
        "query": query, "keys": keys.tolist(), "picture": str(picture),
    }  # fmt: skip


def _told(example: Example, plan: Plan, head: int) -> str:
    """Return the terminal's picture of one head."""
    from attnbench.methods.draw import (
        ASCII_CELLS,
        ASCII_SHADES,
        CELLS,
        SHADES,
        keys_of,
        mask_text,
        middle_query,
        panels_text,
    )
    from attnbench.report.words import short_settings
    from attnbench.results.records.cells import canonical_json

    settings = short_settings(canonical_json(example.resolved), 200)
    width = max(20, min(shutil.get_terminal_size((96, 24)).columns, 160))
    fancy = _can_print(SHADES + "".join(CELLS.values()) + "×…")
    layout, mask = plan.layout, plan.token_mask()[0, head]
    kept, pairs = int(mask.sum()), mask.numel()
    query = middle_query(layout)
    at = tuple(side // 2 for side in layout.grid.shape)
    shades = SHADES if fancy else ASCII_SHADES
    frame = "|" if not fancy else "│"
    picture = "\n".join(
        f"{frame}{line}{frame}" for line in mask_text(mask, min(72, width - 2), shades=shades).splitlines()
    )
    panels = panels_text(
        keys_of(mask, layout, query), (at[0], at[1], at[2]), width, cells=CELLS if fancy else ASCII_CELLS
    )
    lines = [
        f"{example.name}, grid {layout.grid}: {kept:,} of {pairs:,} pairs kept, density {kept / pairs:.4g}",
        *([f"settings: {settings}"] if settings else []),
        "",
        f"all pairs (down: queries, across: keys; from none to all kept: {' '.join(repr(shade) for shade in shades)})",
        picture,
        "",
        f"the keys that the middle query (frame {at[0]}, row {at[1]}, column {at[2]}) keeps",
        panels,
        "",
    ]
    text = "\n".join(lines)
    return text if fancy else text.translate(str.maketrans("×·…", "x-."))


def _place(out: Path | None, example: Example, *, alone: bool) -> Path:
    from attnbench.report.words import file_stem

    if out is not None and out.suffix.lower() == ".png" and not out.is_dir():
        return out
    layer = "" if alone else f"-layer{example.layer}"
    return (out or Path("reports")) / f"show-{file_stem(example.method.name)}{layer}.png"


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
