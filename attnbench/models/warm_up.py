"""How many steps at the beginning of a clip stay dense."""

from __future__ import annotations

import math
import warnings
from numbers import Real
from typing import Any

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


class NeverCalled(UserWarning):
    """A clip has so few steps that all of them are dense: the method will not be called in it."""


class WarmUp:
    """The dense steps that were asked for: a number of them, or a share of the steps that a clip has."""

    def __init__(self, asked: object, model: Any) -> None:
        """Read what was asked for.

        Args:
            asked: a whole number; a share, 0 to 1, as a float; or None, which is a quarter with a pipeline and 0 with
                a transformer alone.
            model: a pipeline or a transformer.

        Raises:
            BadInput: for anything else, or a share of a transformer's steps, which only its pipeline knows.
        """
        alone = getattr(model, "scheduler", None) is None
        if asked is None:
            asked = 0 if alone else DENSE_SHARE
        number = whole_number(asked)
        self._share = float(asked) if number is None and isinstance(asked, Real) else None
        if isinstance(asked, bool) or not (number or 0) >= 0 or (number is None and self._share is None):
            raise BadInput(f"dense_steps is {asked!r}; {_WANTED}")
        if self._share is not None and not 0 <= self._share <= 1:
            raise BadInput(f"dense_steps is {asked!r}; {_WANTED}")
        if self._share is not None and alone:
            raise BadInput(
                f"dense_steps is {asked!r}, and a transformer alone does not know how many steps there will be: give a "
                "whole number, or patch the pipeline"
            )
        self._number = number or 0
        self._warned_of: int | None = None

    def covers(self, step: int, clip_steps: int | None) -> bool:
        """Say whether a step is dense.

        Args:
            step: its index in its clip.
            clip_steps: how many steps the clip has; None if that is not known.

        Warns:
            NeverCalled: if every step of the clip is dense; once for each number of steps.

        Raises:
            BadInput: for a share of an unknown number of steps.
        """
        if self._share is None:
            dense = self._number
        elif clip_steps is None:
            raise BadInput(
                f"dense_steps is {self._share!r}, and the pipeline's scheduler does not say its timesteps: give a "
                "whole number"
            )
        else:
            dense = dense_steps(clip_steps, self._share)
        if step == 0 and clip_steps is not None and 0 < clip_steps <= dense and clip_steps != self._warned_of:
            self._warned_of = clip_steps
            warnings.warn(
                f"the method is not called in this clip: it has {clip_steps} denoising step"
                f"{'s' if clip_steps > 1 else ''}, and the first {dense} are dense; give a smaller dense_steps",
                NeverCalled,
                stacklevel=2,
            )
        return step < dense
