"""Rounds of interleaved samples, and how many heads a time budget allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

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


def heads_within(seconds: float, once: float, rounds: int, *, heads: int, kv_heads: int, least: int) -> int:
    """Return how many heads fit into ``seconds``: whole groups of those that share a KV head, where that is possible.

    Args:
        seconds: what is left of the budget.
        once: seconds that one head of every cell takes.
        rounds: how often each cell will be timed, besides the one call that verifies it and what lies between calls.
        heads, kv_heads: of the shape.
        least: never fewer than these.
    """
    fitting = int(seconds / (once * (rounds + 1.5))) if once > 0 else heads
    fitting, group = min(heads, fitting), heads // kv_heads
    fitting -= fitting % group if fitting > group else 0
    return max(least, fitting)
