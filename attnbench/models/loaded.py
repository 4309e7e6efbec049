"""A loaded model, which makes frames from a prompt."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnbench.inputs.seeds import SEEDS
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import whole_number
from attnbench.mini.flow import MOST_STEPS
from attnbench.models.families.find import find_transformers
from attnbench.models.families.recipes import RECIPES
from attnbench.models.prompt_text import check_text


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline that is ready to make clips; ``attnbench.patch(loaded.pipeline, ...)`` changes its self-attention.

    Attributes:
        name: of its family.
        weights: the folder it was read from.
        pipeline: diffusers' pipeline.
    """

    name: str
    weights: Path
    pipeline: Any

    @property
    def layers(self) -> int:
        """Number of self-attention layers."""
        family, transformers = find_transformers(self.pipeline)
        return max(len(family.attentions(part)) for part in transformers)

    @property
    def fps(self) -> float:
        """Frames a second at which clips play, of this version of the model."""
        return RECIPES[self.name].rate(self.pipeline)

    @property
    def steps(self) -> int:
        """Denoising steps by default."""
        default: int = inspect.signature(type(self.pipeline).__call__).parameters["num_inference_steps"].default
        return default

    def generate(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        fps: float | None = None,
        after_step: Callable[[int], object] = lambda step: None,
    ) -> Tensor:
        """Return a clip, float32 [T, H, W, 3] in [0, 1] on the CPU, as the decoder gives it.

        The noise is drawn on the CPU, so that it is the same on every device. None stands for the pipeline's default.

        Args:
            prompt: what the clip should show.
            seed: seed of the noise.
            steps: number of denoising steps.
            frames, height, width: size of the clip in frames and pixels.
            guidance: scale of the guidance.
            negative: what the clip should not show.
            fps: frames a second, for pipelines that are told of it, such as LTX; others ignore it.
            after_step: called with the number of each finished step, from 0.

        Raises:
            BadInput: for sizes that the pipeline cannot make (they are not rounded), a prompt that is not text, and a
                seed or guidance that is not a number.
        """
        check_text(prompt)
        self.check(steps=steps, frames=frames, height=height, width=width)
        check_numbers(seed, guidance)
        given = {
            "num_inference_steps": steps, "num_frames": frames, "height": height, "width": width,
            "guidance_scale": guidance, "negative_prompt": negative,
        }  # fmt: skip
        if "frame_rate" in inspect.signature(type(self.pipeline).__call__).parameters:
            given["frame_rate"] = fps

        def stepped(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            after_step(step)
            return {}

        made = self.pipeline(
            prompt=prompt,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            callback_on_step_end=stepped,
            **{name: value for name, value in given.items() if value is not None},
        )
        return torch.from_numpy(made.frames[0]).float()

    def check(
        self,
        *,
        steps: int | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        """Refuse what ``generate`` would refuse, before anything is computed.

        Raises:
            BadInput: for sizes that the pipeline cannot make, or for no steps.
        """
        for name, value in (("frames", frames), ("height", height), ("width", width)):
            if value is not None and whole_number(value) is None:
                raise BadInput(f"{name} {value!r} must be a whole number")
        least = RECIPES[self.name].least_steps
        if steps is not None and not least <= (whole_number(steps) or 0) <= MOST_STEPS:
            raise BadInput(f"steps {steps!r} must be a whole number from {least} to {MOST_STEPS}")
        if problem := RECIPES[self.name].problem(self.pipeline, frames, height, width):
            raise BadInput(f"{problem}: a {type(self.pipeline).__name__} makes no other sizes")


def check_numbers(seed: object, guidance: object) -> None:
    """Refuse a seed that generators do not accept, and a guidance that is not a number.

    Raises:
        BadInput: quoting the value.
    """
    if not 0 <= (-1 if (number := whole_number(seed)) is None else number) < SEEDS:
        raise BadInput(f"seed {seed!r} must be a whole number from 0 to {SEEDS - 1}")
    if guidance is not None and not (isinstance(guidance, Real) and math.isfinite(guidance)):
        raise BadInput(f"guidance {guidance!r} must be a finite number")
