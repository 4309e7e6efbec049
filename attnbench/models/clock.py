"""Count denoising steps from outside a sampler: by a pipeline's own loop, or by the timesteps of the model's calls."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class StepClock:
    """Counts the denoising steps of a model's forward calls.

    Within the loop of a diffusers pipeline, the pipeline says where a call stands: its scheduler gets new timesteps for
    each clip, and the loop takes one after the other. A timestep that comes twice in a row, as with samplers of second
    order, is one step. The timesteps are read once a clip.

    Other calls are counted by their timestep. A call with the timestep of the last one belongs to its step, as both
    halves of classifier-free guidance do. A lower timestep is the next step. A higher one begins another clip: step 0
    again. Where timesteps differ within a call, the highest counts. The first call, and calls with the very tensor of
    the last one, read nothing from the device.

    Attributes:
        step: index of the present step; None before the first call.
        steps: steps seen, of all clips.
        clip_steps: how many steps the present clip has in all; None where no scheduler says it.
    """

    def __init__(self, rising: bool = False, pipeline: Any = None) -> None:
        """Start before the first call.

        Args:
            rising: timesteps rise from noise to clip, and a lower one begins another clip.
            pipeline: whose models are called; None for a model alone.
        """
        self.step: int | None = None
        self.steps = 0
        self.clip_steps: int | None = None
        self._sign = -1 if rising else 1
        self._pipeline = pipeline
        # Tensors are held on to: otherwise their memory and identity could go to others, which would look the same.
        self._schedule: Tensor | None = None
        self._turn: object = None
        self._turns: Sequence[int] = ()
        self._at = 0
        self._highest: Tensor | float = 0.0
        self._tensor: Tensor | None = None
        self._version = 0

    def see(self, timestep: Tensor) -> int:
        """Note a forward call with ``timestep``, of any shape, and return the index of its step."""
        schedule, turn = _timesteps(self._pipeline), getattr(self._pipeline, "current_timestep", None)
        another_clip = self.step is None or schedule is not self._schedule
        if not another_clip and turn is self._turn:
            return self._by_value(timestep)
        self._schedule, self._turn = schedule, turn
        if schedule is None or turn is None:
            return self._by_value(timestep, another_clip)
        self._keep(timestep, self._highest_of(timestep))
        self._at += 1
        if another_clip or self._at >= len(self._turns):
            coming = getattr(self._pipeline, "num_timesteps", None)
            self._turns, self._at = _step_numbers(schedule, coming), 0
            self.clip_steps = self._turns[-1] + 1
            return self._go(0, new=True)
        return self._go(self._turns[self._at])

    def _by_value(self, timestep: Tensor, another_clip: bool = False) -> int:
        if self.step is not None and not another_clip and self._is_last(timestep):
            return self.step
        highest, before = self._highest_of(timestep), self._highest
        self._keep(timestep, highest)
        if self.step is None or another_clip:
            rises, falls = True, False
        else:
            now, last = float(highest), float(before)
            self._highest, rises, falls = now, now > last, now < last
        if rises:
            self.clip_steps = None if self._schedule is None else self._left(self._schedule, float(highest))
            return self._go(0, new=True)
        assert self.step is not None
        return self._go(self.step + falls)

    def _go(self, step: int, new: bool = False) -> int:
        self.steps += new or step != self.step
        self.step = step
        return step

    def _left(self, schedule: Tensor, highest: float) -> int:
        """Return how many steps a schedule has from the timestep on that is nearest to a call's."""
        values = [self._sign * value for value in schedule.tolist()]
        nearest = min(range(len(values)), key=lambda place: abs(values[place] - highest))
        return _step_numbers(schedule, len(values) - nearest)[-1] + 1

    def _highest_of(self, timestep: Tensor) -> Tensor:
        return (self._sign * timestep.detach()).amax()

    def _keep(self, timestep: Tensor, highest: Tensor | float) -> None:
        self._highest, self._tensor = highest, timestep
        self._version = 0 if timestep.is_inference() else timestep._version

    def _is_last(self, timestep: Tensor) -> bool:
        last = self._tensor
        if last is None or timestep.is_inference() or last.is_inference():  # these do not tell whether they changed
            return False
        same = last.data_ptr() == timestep.data_ptr() and last.shape == timestep.shape and last.dtype == timestep.dtype
        return same and last.stride() == timestep.stride() and timestep._version == self._version


def _timesteps(pipeline: Any) -> Tensor | None:
    """Return the timesteps that a pipeline's scheduler is set to, [T]; None without a pipeline or a scheduler."""
    found = getattr(getattr(pipeline, "scheduler", None), "timesteps", None)
    return found if isinstance(found, Tensor) and found.dim() == 1 and found.numel() else None


def _step_numbers(schedule: Tensor, coming: object) -> list[int]:
    """Return the step of each turn of a pipeline's loop, from 0.

    Args:
        schedule: the scheduler's timesteps, [T].
        coming: how many of them the loop takes: video to video leaves out the first ones. Anything but a number is all.
    """
    values = schedule.tolist()
    if isinstance(coming, int) and 0 < coming < len(values):
        values = values[-coming:]
    moves = (before != after for before, after in itertools.pairwise(values))
    return [0, *itertools.accumulate(map(int, moves))]
