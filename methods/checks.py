"""Checks of the values that users give for settings: each returns the value in its own type, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import whole_number
from attnbench.kernels.told import quoted

LARGEST = 2**31 - 1
"""The largest number of tokens, blocks, layers or steps. Sums and products of two still fit 64 bits."""


def as_flag(name: str, value: object) -> bool:
    """Return ``value`` if it is a truth value.

    Raises:
        BadInput: quoting the value.
    """
    if not isinstance(value, bool):
        raise BadInput(f"{name} is {quoted(value)}; it must be true or false")
    return value


def as_ints(name: str, value: object, *, length: int | None = None, low: int = 1) -> Any:
    """Return ``value`` as an int or, with ``length``, as a tuple of that many ints, each from ``low`` to ``LARGEST``.

    Raises:
        BadInput: quoting the value.
    """
    wanted = f"a whole number of at least {low}" if length is None else f"{length} whole numbers of at least {low}"
    items = value if length is not None and isinstance(value, (tuple, list)) else (value,)
    numbers = [whole_number(item) for item in items]
    if len(items) != (length or 1) or any(number is None or number < low for number in numbers):
        raise BadInput(f"{name} is {quoted(value)}; it must be {wanted}")
    if any(number is not None and number > LARGEST for number in numbers):
        raise BadInput(f"{name} is {quoted(value)}; it must be at most {LARGEST:,}")
    return numbers[0] if length is None else tuple(numbers)


def as_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        BadInput: quoting the value.
    """
    if not isinstance(value, str) or value not in choices:
        raise BadInput(f"{name} is {quoted(value)}; it must be one of {', '.join(choices)}")
    return value


def as_finite(value: object) -> float | None:
    """Return ``value`` as a float if it is a number that a float can hold; None for anything else, truth values too."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if -math.inf < number < math.inf else None  # torch.compile cannot trace math.isfinite


def as_number(
    name: str, value: object, *, low: float = -math.inf, high: float = math.inf, above: bool = False
) -> float:
    """Return ``value`` as a float if it is a finite number from ``low`` to ``high``; ``above`` excludes ``low``.

    Raises:
        BadInput: quoting the value.
    """
    number = as_finite(value)
    if number is not None and low <= number <= high and not (above and number == low):
        return number
    lower = "" if low == -math.inf else f" above {low:g}" if above else f" of at least {low:g}"
    upper = "" if high == math.inf else f" and at most {high:g}" if lower else f" of at most {high:g}"
    raise BadInput(f"{name} is {quoted(value)}; it must be a number{lower}{upper}")


def as_numbers(
    name: str, value: object, *, low: float = -math.inf, high: float = math.inf, above: bool = False
) -> float | tuple[float, ...]:
    """Return one number, or a tuple of one number for each head; every one is checked as ``as_number`` does.

    Raises:
        BadInput: quoting the number, or saying that there is none.
    """
    if not isinstance(value, (tuple, list)):
        return as_number(name, value, low=low, high=high, above=above)
    if not value:
        raise BadInput(f"{name} is {quoted(value)}; it must be one number, or one for each head")
    return tuple(as_number(name, each, low=low, high=high, above=above) for each in value)


def as_density(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a number above 0 and at most 1.

    Raises:
        BadInput: quoting the value.
    """
    return as_number(name, value, low=0.0, high=1.0, above=True)


def fit(name: str, given: Any, default: Any, sides: Sequence[int]) -> Any:
    """Return the sides of a block, none longer than those of what it is cut from.

    A default is cut off there, because it must do for any grid. A block that was chosen must fit.

    Args:
        name: of the setting.
        given: its value, one number or a tuple of numbers.
        default: its default.
        sides: the lengths of what is cut into blocks, as many as the value has numbers.

    Raises:
        BadInput: for a chosen block that is larger.
    """
    lengths = (given,) if isinstance(given, int) else tuple(given)
    cut = tuple(min(length, side) for length, side in zip(lengths, sides, strict=True))
    if cut != lengths and given != default:
        most = " × ".join(str(side) for side in sides)
        raise BadInput(f"{name} is {given!r}; it must fit into the {most} tokens of the grid")
    return cut[0] if isinstance(given, int) else cut
