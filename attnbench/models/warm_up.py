"""How many steps at the beginning of a clip stay dense."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import whole_number

DENSE_SHARE = 0.25
"""Share of the denoising steps that run full attention first: as in VMoBA (2506.23858, section 4.1)."""

_WANTED = "it must be a whole number of at least 0, or a share of the steps as 0.25"


def dense_steps(steps: int, share: float = DENSE_SHARE) -> int:
    """Return how many of ``steps`` are the first ``share`` of them, rounded down: 12 of 50.

    Args:
        steps: denoising steps of a clip.
        share: 0 to 1.
    """
    return math.floor(round(share * steps, 9))


class WarmUp:
    """The dense steps that were asked for: a number of them, or a share of the steps that a pipeline makes."""

    def __init__(self, asked: object, model: Any) -> None:
        """Read what was asked for.

        Args:
            asked: a whole number; a share, 0 to 1, as a float; or None, which is a quarter with a pipeline and 0 with
                a transformer alone.
            model: a pipeline or a transformer.

        Raises:
            BadInput: for anything else, or a share of a transformer's steps, which only its pipeline knows.
        """
        self._scheduler = getattr(model, "scheduler", None)
        if asked is None:
            asked = 0 if self._scheduler is None else DENSE_SHARE
        number = whole_number(asked)
        self._share = float(asked) if number is None and isinstance(asked, Real) else None
        if isinstance(asked, bool) or not (number or 0) >= 0 or (number is None and self._share is None):
            raise BadInput(f"dense_steps is {asked!r}; {_WANTED}")
        if self._share is not None and not 0 <= self._share <= 1:
            raise BadInput(f"dense_steps is {asked!r}; {_WANTED}")
        if self._share is not None and self._scheduler is None:
            raise BadInput(
                f"dense_steps is {asked!r}, and a transformer alone does not know how many steps there will be: give a "
                "whole number, or patch the pipeline"
            )
        self._steps, self._clip = number or 0, 0

    def covers(self, step: int, steps_seen: int) -> bool:
        """Say whether a step is dense.

        Args:
            step: its index in its clip.
            steps_seen: steps of all clips so far; at the first of a clip the pipeline's timesteps are counted.
        """
        if self._share is not None and step == 0 and steps_seen != self._clip:
            timesteps = getattr(self._scheduler, "timesteps", None)
            distinct = len(set(timesteps.tolist())) if isinstance(timesteps, Tensor) else 0
            self._steps, self._clip = dense_steps(distinct, self._share), steps_seen
        return step < self._steps
