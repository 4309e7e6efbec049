"""Commands that are imported when they are asked for, so that a light one does not wait for the others."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from attnbench.cli.groups import group_of_command, group_of_option, place_of_option
from attnbench.cli.old_words import in_new_words


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
            home = getattr(importlib.import_module(f"attnbench.cli.{name}"), name)
            self._made[name] = _command(name, home)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Command(TyperCommand):
    """A command that also takes the old names of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, in_new_words(self.name or "", args))


def _command(name: str, home: Any) -> Any:
    if not isinstance(home, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name, cls=_Command)(home)
        home = alone
    made: Any = typer.main.get_command(home)
    made.rich_help_panel = group_of_command(name)
    for parameter in made.params:
        if parameter.param_type_name == "option":
            parameter.rich_help_panel = group_of_option(max(parameter.opts, key=len))
    made.params.sort(key=lambda parameter: place_of_option(max(parameter.opts, key=len)))
    return made
