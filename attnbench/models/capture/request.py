"""The request of a capture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.models import MODEL_NAMES
from attnbench.models.loaded import check_numbers
from attnbench.models.prompt_text import check_text

MINI = "mini"


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """A clip to make, and the attention calls to keep.

    Attributes:
        model: "mini" or a name of ``attnbench.models.MODEL_NAMES``.
        prompt: what the clip shows.
        layers, steps: the calls to keep, every layer in every step, counted from 0.
        weights: a file for the mini model, or None for the weights that ship; a folder for other models.
        sampler_steps: denoising steps of the clip; None for the model's default.
        frames, height, width: size of the clip; None for the model's default.
        guidance: scale of the guidance; None for the model's default.
        seed: seed of the noise.
        dtype, device: None for the model's default.
        video_only: leave joint text tokens out.

    Raises:
        BadInput: for an unknown model, an empty prompt, no layer or step, or a seed or guidance that is not a number.
    """

    model: str
    prompt: str
    layers: tuple[int, ...]
    steps: tuple[int, ...]
    weights: Path | None = None
    sampler_steps: int | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    guidance: float | None = None
    seed: int = 0
    dtype: str | None = None
    device: str | None = None
    video_only: bool = False

    def __post_init__(self) -> None:
        if self.model != MINI and self.model not in MODEL_NAMES:
            raise unknown_name("model", self.model, (MINI, *MODEL_NAMES))
        check_text(self.prompt)
        if not self.prompt.strip():
            raise BadInput("the prompt is empty; say what the clip should show")
        check_numbers(self.seed, self.guidance)
        for name, numbers in (("layers", self.layers), ("steps", self.steps)):
            if not numbers or min(numbers) < 0:
                raise BadInput(f"{name} {list(numbers)} must be whole numbers of at least 0, such as 0,10")

    def check(self, layers: int, steps: int) -> None:
        """Refuse layers and steps that the model does not have.

        Raises:
            BadInput: naming the first one, and those that exist.
        """
        for name, asked, count in (("layer", self.layers, layers), ("step", self.steps, steps)):
            if wrong := [number for number in asked if number >= count]:
                raise BadInput(f"{name} {wrong[0]} does not exist: this clip has {name}s 0 to {count - 1}")
