"""What a program printed last, for a sentence that says why it failed."""

from __future__ import annotations

_MOST = 300


def last_words(printed: str) -> str:
    """Return the end of the last line that is not empty, without what cannot be shown; "" if there is none."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return "".join(each for each in lines[-1] if each.isprintable())[-_MOST:] if lines else ""
