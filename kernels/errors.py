"""The errors that a user can cause. Each message quotes what was given and says what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial

from attnbench.kernels.told import quoted


class AttnbenchError(Exception):
    """Base of every error that attnbench raises on purpose."""


class BadInput(AttnbenchError, ValueError):
    """An argument, option or file that cannot be used. Commands exit with code 2."""


class Unsupported(AttnbenchError, RuntimeError):
    """An engine or device that cannot serve what was asked; the message says why."""


class RankLost(AttnbenchError, RuntimeError):
    """Another rank of the group cannot be reached: it ended, or it stopped before an exchange."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> BadInput:
    """Return the error for a ``name`` that is not one of ``known``, with the closest known name if there is one."""
    names = sorted(known)
    matches = partial(difflib.get_close_matches, str(name), names, n=1)
    # "res" is closer to "resolution" than names of the same length that are merely like it, such as "direction".
    beginnings = [each for each in reversed(names) if len(each) > 2 and str(name).startswith(each)]
    close = matches(cutoff=0.8) or beginnings or matches(cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return BadInput(f"unknown {kind} {quoted(str(name))}: {hint}known: {', '.join(names)}")
