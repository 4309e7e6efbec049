"""Keep a method's states while a model runs: one for each layer and each branch of guidance."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class States:
    """The states of a method, by layer and by the turn of the call.

    Classifier-free guidance may call a model twice in a step, for each of its branches. A layer's first call in a step
    is that of the first branch, its second call that of the second. A step that is not later than the one before begins
    another clip, and with it all states end.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, Hashable], Any] = {}
        self._turns: dict[tuple[int, Hashable], int] = {}
        self._moment: Hashable = None
        self._step: int | None = None
        self._place: tuple[int, int, Hashable] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, layer: int, step: int | None, shape: Hashable = None, moment: Hashable = None) -> Any:
        """Return the state that a call gets; None for the first one.

        Args:
            layer: of the call.
            step: of the call; None, as in training, keeps no state.
            shape: calls of other shapes have other states.
            moment: what tells steps apart, also those of two clips; by default the step.
        """
        if step is None:
            self._place = None
            return None
        now = step if moment is None else moment
        if self._step is None or now != self._moment:
            if self._step is not None and step <= self._step:
                self._kept.clear()
            self._turns.clear()
            self._moment, self._step = now, step
        turn = self._turns.get((layer, shape), 0)
        self._turns[layer, shape] = turn + 1
        self._place = (layer, turn, shape)
        return self._kept.get(self._place)

    def keep(self, state: Any) -> None:
        """Keep what the call gave to which ``of`` gave a state last."""
        if self._place is not None:
            self._kept[self._place] = state
