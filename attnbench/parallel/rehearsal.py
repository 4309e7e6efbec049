"""Ranks that are threads of this process: what a group of processes would compute and exchange, without any.

One rank runs at a time, until it waits for the others, so nothing that it uses need be safe for threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from attnbench.kernels.errors import RankLost
from attnbench.parallel.collectives import Ranks

Result = TypeVar("Result")


def rehearse(size: int, play: Callable[[Ranks], Result]) -> list[Result]:
    """Return what each of so many ranks returns.

    Args:
        size: how many ranks.
        play: what each does. Gradients are recorded, as in any new thread, unless it says otherwise.

    Raises:
        Exception: the first that a rank raised by itself, and not because it waited for another in vain.
    """
    stage = _Stage(size)
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}

    def enter(rank: int) -> None:
        with stage.turn:
            try:
                results[rank] = play(_Player(stage, rank, size))
            except BaseException as error:
                errors[rank] = error
            finally:
                stage.gone.add(rank)
                stage.turn.notify_all()

    threads = [threading.Thread(target=enter, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise min(errors.items(), key=lambda each: (isinstance(each[1], RankLost), each[0]))[1]
    return [results[rank] for rank in range(size)]


@dataclass(eq=False)
class _Stage:
    """Where ranks meet.

    Attributes:
        size: how many ranks there are.
        turn: held by the rank that runs.
        given: what each rank has given in each exchange, by its number.
        gone: ranks that have ended.
    """

    size: int
    turn: threading.Condition = field(default_factory=threading.Condition)
    given: dict[int, dict[int, Sequence[Tensor]]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def swap(self, number: int, rank: int, parts: Sequence[Tensor]) -> list[Tensor]:
        """Give one tensor to each rank, and return what each gave to this one.

        Raises:
            RankLost: if a rank ended before.
        """
        given = self.given.setdefault(number, {})
        given[rank] = parts
        self.turn.notify_all()
        self.turn.wait_for(lambda: len(given) == self.size or self.gone - given.keys())
        if len(given) < self.size:
            raise RankLost(f"rank {rank} of {self.size} waits for others in vain: a rank ended")
        return [given[other][rank] for other in range(self.size)]


class _Player(Ranks):
    """The ranks, as one thread sees them."""

    def __init__(self, stage: _Stage, rank: int, size: int) -> None:
        for name, value in {"group": stage, "rank": rank, "size": size, "count": [0]}.items():
            object.__setattr__(self, name, value)

    def _swap(self, flat: Tensor, sends: Sequence[int], receives: Sequence[int]) -> tuple[Tensor, None]:
        stage: Any = self.group
        count: list[int] = self.__dict__["count"]
        count[0] += 1
        received = stage.swap(count[0], self.rank, flat.split(list(sends)))
        if [each.numel() for each in received] != list(receives):
            raise RankLost(f"rank {self.rank} of {self.size} waits for others in vain: a rank made another call")
        return torch.cat(received), None
