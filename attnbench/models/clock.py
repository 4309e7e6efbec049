"""Count denoising steps from outside a sampler, by the timesteps that a model is called with."""

from __future__ import annotations

from torch import Tensor


class StepClock:
    """Counts the denoising steps of a model's forward calls.

    A call with the timestep of the last one belongs to its step, as both halves of classifier-free guidance do. A lower
    timestep is the next step. A higher one begins another clip: step 0 again. Where timesteps differ within a call, the
    highest counts.

    The first call, and calls with the very tensor of the last one, read nothing from the device. Samplers pass views of
    one tensor of timesteps, so one step reads once.

    Attributes:
        step: index of the present step; None before the first call.
        steps: steps seen, of all clips.
    """

    def __init__(self, rising: bool = False) -> None:
        """Start before the first call; with ``rising``, timesteps rise, and all of the above is the other way round."""
        self.step: int | None = None
        self.steps = 0
        self._sign = -1 if rising else 1
        self._highest: Tensor | float = 0.0
        self._tensor: Tensor | None = None
        self._version = 0

    def see(self, timestep: Tensor) -> int:
        """Note a forward call with ``timestep``, of any shape, and return the index of its step."""
        if self.step is not None and self._is_last(timestep):
            return self.step
        highest: Tensor | float = (self._sign * timestep.detach()).amax()
        if self.step is None:
            self.step, self.steps = 0, 1
        else:
            before, highest = float(self._highest), float(highest)
            if highest != before:
                self.step = self.step + 1 if highest < before else 0
                self.steps += 1
        # Holding on to the tensor keeps its memory from being given to another, which would look the same.
        self._highest, self._tensor = highest, timestep
        self._version = 0 if timestep.is_inference() else timestep._version
        return self.step

    def _is_last(self, timestep: Tensor) -> bool:
        last = self._tensor
        if last is None or timestep.is_inference() or last.is_inference():  # these do not tell whether they changed
            return False
        same = last.data_ptr() == timestep.data_ptr() and last.shape == timestep.shape and last.dtype == timestep.dtype
        return same and last.stride() == timestep.stride() and timestep._version == self._version
