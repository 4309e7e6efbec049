"""Commands that are imported when they are asked for, so that a light one does not wait for the others."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer


class LazyCommands(Mapping[str, Any]):
    """The commands of a group by name. ``NAME`` is the function, or the typer application, in ``attnbench.cli.NAME``.

    A command is Any here: its class is typer's own or click's, as typer's version has it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = _command(getattr(importlib.import_module(f"attnbench.cli.{name}"), name))
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _command(home: Any) -> Any:
    if isinstance(home, typer.Typer):
        return typer.main.get_command(home)
    alone = typer.Typer(add_completion=False)
    alone.command()(home)
    return typer.main.get_command(alone)
