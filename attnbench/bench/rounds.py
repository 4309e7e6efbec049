"""Rounds of interleaved samples, and how many heads a time budget allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from attnbench.bench.stability import calls_wanted

EAGER_SECONDS = 0.2
"""Seconds of calls that are made back to back."""

MOST_EAGER = 20
"""How many of them there are at most."""

BETWEEN_CALLS = 0.5
"""What lies between the calls of a cell, in calls."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Turn(Generic[Item]):
    """One item's turn in a round.

    Attributes:
        item: what is sampled now.
        number: of the round, from 0.
        rounds: how many there will be.
        place: of the item in this round, from 0.
        order: all items of this round, in their order.
    """

    item: Item
    number: int
    rounds: int
    place: int
    order: tuple[Item, ...]

    @property
    def done(self) -> int:
        """Turns before this one."""
        return self.number * len(self.order) + self.place

    @property
    def total(self) -> int:
        """Turns of all rounds."""
        return self.rounds * len(self.order)

    @property
    def label(self) -> str:
        """The round in words."""
        return f"round {self.number + 1} of {self.rounds}"


def one_round(items: Sequence[Item], number: int, rounds: int) -> Iterator[Turn[Item]]:
    """Yield the turn of each item in one round.

    Every other round goes backwards, so that a drift of clock or temperature cancels.
    """
    order = tuple(items if number % 2 == 0 else reversed(items))
    for place, item in enumerate(order):
        yield Turn(item, number, rounds, place, order)


def interleave(items: Sequence[Item], rounds: int) -> Iterator[Turn[Item]]:
    """Yield the turns of all rounds."""
    for number in range(rounds):
        yield from one_round(items, number, rounds)


def eager_calls(seconds: float) -> int:
    """Return how many calls are made back to back: a fifth of a second of them, at least 2; none that takes a second.

    Between calls of seconds the time to launch them is lost in the noise, and a cold cache is soon warm.
    """
    if seconds <= 0:
        return MOST_EAGER
    return 0 if seconds >= 1 else max(2, min(MOST_EAGER, int(EAGER_SECONDS / seconds)))


def calls_of_a_cell(seconds: float, rounds: int, stability_calls: int | None) -> int:
    """Return how often a cell is called on a CPU: verified, repeated on the same inputs, timed, and back to back.

    Args:
        seconds: that a call takes.
        rounds: of timing.
        stability_calls: as asked for; None for what fits.
    """
    return calls_wanted(stability_calls, seconds) + rounds + eager_calls(seconds)


def heads_within(
    budget: float, once: Iterable[float], rounds: int, stability_calls: int | None, *, heads: int, kv_heads: int,
    least: int,
) -> int:  # fmt: skip
    """Return how many heads fit into a budget: whole groups of those that share a KV head, where that is possible.

    Args:
        budget: the seconds that are left.
        once: seconds that a call of each cell takes for one head.
        rounds, stability_calls: see ``calls_of_a_cell``.
        heads, kv_heads: of the shape.
        least: never fewer than these.
    """
    cells, group = tuple(once), heads // kv_heads

    def needed(count: int) -> float:
        calls = (calls_of_a_cell(count * each, rounds, stability_calls) + BETWEEN_CALLS for each in cells)
        return sum(number * count * each for number, each in zip(calls, cells, strict=True))

    fair = (count for count in range(heads, 0, -1) if count <= group or count % group == 0)
    return max(least, next((count for count in fair if needed(count) <= budget), 1))
