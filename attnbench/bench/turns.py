"""Which input set each round uses: all three in every three rounds, in an order that nobody can predict."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from attnbench.inputs.seeds import SETS
from attnbench.results.records.cells import Sample


class Turns:
    """The input sets of rounds, settled when they are first asked for."""

    def __init__(self) -> None:
        self._settled: dict[int, int] = {}

    def of(self, number: int) -> int:
        """Return the input set of a round."""
        if number not in self._settled:
            first = number - number % SETS
            places = range(first, first + SETS)
            taken = {self._settled[place] for place in places if place in self._settled}
            left = [each for each in range(SETS) if each not in taken]
            for place in places:
                if place not in self._settled:
                    self._settled[place] = left.pop(secrets.randbelow(len(left)))
        return self._settled[number]

    def settle(self, number: int, input_set: int) -> None:
        """Use this input set in a round: runs that take turns use the same one."""
        self._settled[number] = input_set

    def continue_from(self, samples: Iterable[Sample]) -> None:
        """Take over what an earlier part of the run settled."""
        for sample in samples:
            self._settled.setdefault(sample.round, sample.input_set)
