"""``python -m attnbench.methods.NAME``: draw which pairs a method keeps, as a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.methods.base import Method
from attnbench.methods.registry import check_method
from attnbench.methods.values import parse_value


def main(method: Method, arguments: Sequence[str] | None = None) -> None:
    """Draw the masks of a method on a small grid, one picture for each kind of layer, and print their paths.

    Args:
        method: the method to draw. It need not be registered.
        arguments: the arguments of the command line; by default those of this process.

    Raises:
        SystemExit: with code 2, after a sentence on standard error, if an argument cannot be used.
    """
    try:
        _draw(check_method(method.name, method), _parser(method).parse_args(arguments))
    except BadInput as error:
        print(f"{method.name}: {error}", file=sys.stderr)
        sys.exit(2)


def _parser(method: Method) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=method.name, description=f"Draw the mask of {method.name}: {method.summary}.")
    parser.add_argument(
        "--grid", metavar="TxHxW", help="token grid, at most 4,096 tokens; default 6x8x12, or a smaller case"
    )
    parser.add_argument("--layer", type=int, help="layer; default: one of each kind")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="setting; repeat for several")
    parser.add_argument("--head", type=int, default=0, help="head to draw, from 0")
    parser.add_argument("--seed", type=int, default=0, help="seed of the made-up q and k")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="picture, .png or .svg; default NAME.png in this folder"
    )
    return parser


def _draw(method: Method, options: argparse.Namespace) -> None:
    from attnbench.methods.draw import draw_plan, png_bytes, svg_bytes
    from attnbench.methods.examples import examples

    out: Path = options.out or Path(f"{method.name}.png")
    kinds = {".png": png_bytes, ".svg": svg_bytes}
    if out.suffix.lower() not in kinds:
        raise BadInput(f"--out {str(out)!r} must end in .png or .svg")
    for name in ("layer", "head"):
        number = getattr(options, name)
        if number is not None and number < 0:
            raise BadInput(f"--{name} {number} must be at least 0")
    grid = None if options.grid is None else Grid.of(options.grid)
    drawn = examples(method, grid, options.layer, dict(map(_setting, options.set)))
    for example in drawn:
        plan = example.plan(options.head + 1, options.seed)
        place = out if len(drawn) == 1 else out.with_stem(f"{out.stem}-layer{example.layer}")
        picture = kinds[out.suffix.lower()](draw_plan(plan, example.name, options.head))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture)
        except OSError as error:
            raise BadInput(f"--out {str(out)!r} cannot be written: {error.strerror}") from error
        print(f"{place}: {plan}")


def _setting(pair: str) -> tuple[str, Any]:
    name, equals, text = pair.partition("=")
    if not equals or not name.strip():
        raise BadInput(f"--set {pair!r} must be name=value")
    return name.strip(), parse_value(text)
