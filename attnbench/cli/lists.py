"""Lists in options: ``0,1,5-8``, and an option that is given several times adds to its list."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LONGEST = 10_000
_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def read_numbers(option: str, texts: Sequence[str] | None) -> list[int] | None:
    """Read whole numbers, ``0,1,5-8``, each once in the order given.

    Args:
        option: as it is typed, for messages.
        texts: the values of the option; None if it was not given.

    Raises:
        BadInput: quoting the first text that is no such list.
    """
    if texts is None:
        return None
    numbers: dict[int, None] = {}
    for text in texts:
        for part in (each.strip() for each in text.split(",")):
            found = _PART.fullmatch(part)
            if found is None:
                raise _unreadable(option, text, "must be whole numbers, as 0,1,5-8")
            first, last = int(found[1]), int(found[2] or found[1])
            if not first <= last < first + _LONGEST:
                raise _unreadable(option, text, f"has {part!r}, which must go up, by less than {_LONGEST:,}")
            numbers.update(dict.fromkeys(range(first, last + 1)))
    return list(numbers)


def read_names(option: str, texts: Sequence[str] | None) -> list[str] | None:
    """Read names with commas between them, each once in the order given; arguments as for ``read_numbers``.

    Raises:
        BadInput: quoting a text without a name.
    """
    if texts is None:
        return None
    names: dict[str, None] = {}
    for text in texts:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise _unreadable(option, text, "must be names with commas between them")
        names.update(dict.fromkeys(parts))
    return list(names)


def read_values(option: str, texts: Sequence[str] | None, example: str) -> list[float] | None:
    """Read numbers with commas between them, in the order given.

    Args:
        option: as it is typed, for messages.
        texts: the values of the option; None if it was not given.
        example: of such a list, for messages.

    Raises:
        BadInput: quoting a text without a number.
    """
    try:
        return None if texts is None else [float(part) for text in texts for part in text.split(",") if part.strip()]
    except ValueError:
        raise _unreadable(
            option, ",".join(texts or ()), f"must be numbers with commas between them, as {example}"
        ) from None


def _unreadable(option: str, text: str, why: str) -> Exception:
    from attnbench.kernels.errors import BadInput

    return BadInput(f"{option} {text!r} {why}")
