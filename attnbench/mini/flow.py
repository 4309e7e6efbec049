"""Flow matching: a straight path from clip (t = 0) to noise (t = 1), its loss, and fixed-step samplers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.grid import whole_number
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.mini.draws import normal
from attnbench.mini.model import FULL, HIDDEN_CLASS, HIDDEN_DIRECTION, Attend, MiniTransformer
from attnbench.mini.times import shifted

Velocity = Callable[[Tensor, float, int], Tensor]
"""(x, t, denoising step) -> velocity at x, of x's shape."""


MOST_STEPS = 10_000
"""Largest number of denoising steps of a clip. More would be a typing mistake that costs hours."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """How a clip is made from noise.

    Attributes:
        steps: number of steps. Each costs one forward pass with "euler", and two with "heun" except for the last step.
        shift: shift of the times of the steps towards noise; 1 leaves them equally spaced.
        solver: "euler" or "heun".
        guidance: scale of the guidance. 1 means none; any other value doubles the cost of a step.
        guided: how many of the first steps are guided; None for all.

    Raises:
        BadInput: for a number out of range or an unknown solver.
    """

    steps: int = 10
    shift: float = 12.0
    solver: str = "euler"
    guidance: float = 1.0
    guided: int | None = None

    def __post_init__(self) -> None:
        number = whole_number(self.steps)
        if number is None or not 1 <= number <= MOST_STEPS:
            raise BadInput(f"sampler steps {self.steps!r} must be a whole number from 1 to {MOST_STEPS}")
        if self.guided is not None and not 0 <= (whole_number(self.guided) or 0) <= self.steps:
            raise BadInput(f"guided steps {self.guided!r} must be a whole number of at most the {self.steps} steps")
        if not 0 < self.shift < float("inf"):
            raise BadInput(f"sampler shift {self.shift!r} must be above 0")
        if not math.isfinite(self.guidance):
            raise BadInput(f"guidance {self.guidance!r} must be a finite number")
        if self.solver not in ("euler", "heun"):
            raise unknown_name("solver", self.solver, ("euler", "heun"))

    @property
    def times(self) -> list[float]:
        """The times between steps, from 1 down to 0."""
        return [shifted(1 - step / self.steps, self.shift) for step in range(self.steps + 1)]


def usual_sampler(steps: int | None = None, guidance: float | None = None) -> Sampler:
    """Return the sampler that was chosen for the weights that ship, with another number of steps or guidance if given.

    It is the cheapest of those samplers in ``scripts/train_mini.py`` that did well, and was chosen before the clips of
    the card were made. Its first four steps are guided, or all if there are fewer.
    """
    steps = 8 if steps is None else steps
    return Sampler(steps=steps, guidance=3.0 if guidance is None else guidance, guided=min(4, max(steps, 0)))


def losses(
    model: Callable[..., Tensor],
    video: Tensor,
    noise: Tensor,
    t: Tensor,
    label: Tensor,
    direction: Tensor,
    attend: Attend,
) -> Tensor:
    """Return the mean squared error of the velocity of each clip, float32 [B].

    Args:
        model: the transformer, or a compiled one.
        video, noise: [B, 3, F, H, W].
        t: [B].
        label, direction: int64 [B].
        attend: the self-attention.
    """
    at = t.view(-1, 1, 1, 1, 1)
    predicted = model(torch.lerp(video, noise, at), t, label, direction, attend=attend)
    return functional.mse_loss(predicted.float(), noise - video, reduction="none").flatten(1).mean(1)


def integrate(velocity: Velocity, noise: Tensor, sampler: Sampler) -> Tensor:
    """Follow ``velocity`` from noise at t = 1 to t = 0. The result is float32 and has the shape of the noise."""
    x, times = noise.float(), sampler.times
    for step, (now, then) in enumerate(itertools.pairwise(times)):
        slope = velocity(x, now, step)
        if sampler.solver == "heun" and then > 0:
            slope = (slope + velocity(x + (then - now) * slope, then, step)) / 2
        x = x + (then - now) * slope
    return x


@torch.no_grad()
def generate(
    model: MiniTransformer,
    labels: Sequence[int],
    directions: Sequence[int],
    seeds: Sequence[int],
    *,
    sampler: Sampler | None = None,
    attend: Attend = FULL,
    dtype: torch.dtype = torch.float32,
    after_step: Callable[[int], object] = lambda step: None,
) -> Tensor:
    """Return clips, float32 [B, 3, F, H, W] in [-1, 1] on the model's device.

    A clip depends only on its own class, direction and seed, not on other clips of the batch. Noise is drawn on the
    CPU.

    Args:
        labels, directions, seeds: one of each for every clip. Labels and directions are indices into CLASSES and
            DIRECTIONS.
        sampler: ``usual_sampler()`` if None.
        attend: the self-attention. It is given the layer, the grid and the denoising step.
        dtype: of matrix products and attention, float32 or bfloat16.
        after_step: called with the number of each finished step.

    Raises:
        BadInput: if the three lists differ in length or are empty, or a class or direction does not exist.
    """
    chosen = usual_sampler() if sampler is None else sampler
    if not len(labels) == len(directions) == len(seeds) or not seeds:
        raise BadInput(
            f"{len(labels)} classes, {len(directions)} directions and {len(seeds)} seeds do not make clips: "
            "give one of each for every clip"
        )
    for name, given, known in (("class", labels, CLASSES), ("direction", directions, DIRECTIONS)):
        if wrong := [value for value in given if not 0 <= value < len(known)]:
            raise BadInput(f"{name} {wrong[0]!r} does not exist: they are numbered 0 to {len(known) - 1}")
    device = next(model.parameters()).device
    shape = (3, model.config.frames, model.config.size, model.config.size)
    drawn = {seed: normal(shape, "noise", seed) for seed in set(map(int, seeds))}
    noise = torch.stack([drawn[int(seed)] for seed in seeds]).to(device)
    label, direction = torch.tensor(labels, device=device), torch.tensor(directions, device=device)
    hidden = torch.full_like(label, HIDDEN_CLASS), torch.full_like(direction, HIDDEN_DIRECTION)

    def velocity(x: Tensor, t: float, step: int) -> Tensor:
        times = torch.full((len(x),), t, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            slope: Tensor = model(x, times, label, direction, attend=attend, step=step)
            if chosen.guidance != 1 and (chosen.guided is None or step < chosen.guided):
                plain = model(x, times, *hidden, attend=attend, step=step)
                slope = plain + chosen.guidance * (slope - plain)
        after_step(step)
        return slope

    return integrate(velocity, noise, chosen).clamp(-1, 1)
