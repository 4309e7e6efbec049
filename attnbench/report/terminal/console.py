"""Consoles of rich for tables and texts."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from attnbench.report.terminal.shown import shown


def console(width: int | None = None, *, stderr: bool = False) -> Console:
    """Return a console that shows text as it is: no markup, and nothing in it steers the terminal.

    Args:
        width: columns where the output is no terminal, and COLUMNS does not say; None for rich's own choice.
        stderr: print to standard error.
    """
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if width is not None and not made.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        made = Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)
    made.push_render_hook(_Shown())
    return made


class _Shown(RenderHook):
    """Writes out what could steer the terminal in all that a console prints."""

    def process_renderables(self, renderables: Sequence[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Stand in for each renderable."""
        return [_ShownPart(each) for each in renderables]


class _ShownPart:
    def __init__(self, inner: ConsoleRenderable) -> None:
        self.inner = inner

    def __rich_console__(self, on: Console, options: ConsoleOptions) -> RenderResult:
        for part in on.render(self.inner, options):
            yield part if part.control else Segment(shown(part.text), part.style)

    def __rich_measure__(self, on: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(on, options, self.inner)
