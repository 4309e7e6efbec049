"""Progress of a run in the terminal: one live line with time left, on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from attnbench.cli.terminal import say
from attnbench.machine.clock import CLOCK, Clock

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


EVERY = 10.0
"""Seconds between two steps that are printed where there is no terminal: a log needs no line for each call."""


class TerminalProgress:
    """Shows steps as a live bar on a terminal, and as a plain line every ten seconds elsewhere; none if ``quiet``.

    A terminal that cannot go back to a line (TERM=dumb) is none for that.
    """

    def __init__(self, clock: Clock = CLOCK, *, quiet: bool = False, patient: bool = False) -> None:
        """Make the progress of a command.

        Args:
            clock: tells when ten seconds are over.
            quiet: show no steps.
            patient: where there is no terminal, wait ten seconds for the first line too: most are done by then.
        """
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        from attnbench.report.terminal.console import console

        self.console = console(stderr=True)
        self.bar: Progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[left]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.folder: str | None = None
        self.clock = clock
        self.quiet = quiet
        self.said_at: float | None = clock.seconds() if patient else None

    @property
    def live(self) -> bool:
        """Whether a line can be written again."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        """Show what is worked on."""
        if self.quiet:
            return
        from attnbench.report.terminal.shown import shown

        left = "" if seconds_left is None else f"about {duration(seconds_left)} left"
        if not self.live:
            now = self.clock.seconds()
            if self.said_at is None or now - self.said_at >= EVERY:
                say(f"attnbench: {label}{', ' + left if left else ''}", error=True)
                self.said_at = now
            return
        if self.task is None:
            self.task = self.bar.add_task(label, total=total, left=left)
        self.bar.update(self.task, description=shown(label), completed=done, total=total, left=left)

    def note(self, text: str) -> None:
        """Print a remark that stays."""
        self.console.print(f"attnbench: {text}", soft_wrap=True)

    def started(self, folder: str) -> None:
        """Remember where the run is written."""
        self.folder = folder

    def interrupted(self, command: str = "run") -> None:
        """Say what an interrupt leaves, and which command continues it."""
        if self.folder is None:
            self.note("interrupted before anything was measured")
        else:
            self.note(
                f"interrupted; every sample so far is kept. Go on with: attnbench {command} --resume {self.folder}"
            )

    def __enter__(self) -> TerminalProgress:
        if self.live and not self.quiet:  # elsewhere it would end with an empty line
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live and not self.quiet:
            self.bar.stop()


def duration(seconds: float) -> str:
    """Return a time as "40 s" or "3 min 20 s"."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
