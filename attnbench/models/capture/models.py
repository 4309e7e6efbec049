"""Make a clip and collect its q, k and v, with a diffusers pipeline or the mini model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnbench.api import attention
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.machine.device import resolve_device, resolve_dtype
from attnbench.models import load
from attnbench.models.capture.collect import Complete, Taker
from attnbench.models.capture.driven import collected_from
from attnbench.models.capture.request import CaptureRequest

if TYPE_CHECKING:
    from attnbench.mini.model import Attend

AfterStep = Callable[[int], object]
"""A function that is called with the number of each finished step."""


class PipelineSource:
    """A diffusers pipeline with weights from a local folder.

    Attributes:
        layers, steps: number of layers of the model and of steps of the clip.
    """

    def __init__(self, request: CaptureRequest) -> None:
        """Load the model and check the request against it.

        Raises:
            BadInput: for weights or sizes that cannot be used.
            Unsupported: without diffusers.
        """
        if request.weights is None:
            raise BadInput(
                f"model {request.model!r} needs its weights: give --weights FOLDER, in the layout that diffusers' "
                "save_pretrained writes"
            )
        self._request = request
        self._loaded = load(request.model, request.weights, request.device, request.dtype)
        self._loaded.check(
            steps=request.sampler_steps, frames=request.frames, height=request.height, width=request.width
        )
        self.layers = self._loaded.layers
        self.steps = self._loaded.steps if request.sampler_steps is None else request.sampler_steps

    def run(self, collector: Taker, after_step: AfterStep) -> None:
        """Make the clip with the model's own attention until everything is collected."""
        request = self._request
        with collected_from(self._loaded.pipeline, collector):
            self._loaded.generate(
                request.prompt, seed=request.seed, steps=self.steps, frames=request.frames,
                height=request.height, width=request.width, guidance=request.guidance, after_step=after_step,
            )  # fmt: skip


class MiniSource:
    """The mini model, whose prompts are a class and a direction.

    Attributes:
        layers, steps: number of layers of the model and of steps of the clip.
    """

    def __init__(self, request: CaptureRequest) -> None:
        """Load the model and check the request against it.

        Raises:
            BadInput: for weights, a prompt or an option that cannot be used.
        """
        from attnbench.mini.flow import usual_sampler
        from attnbench.mini.prompts import mini_prompt
        from attnbench.mini.stored import load_mini

        for name, value in (("frames", request.frames), ("height", request.height), ("width", request.width)):
            if value is not None:
                raise BadInput(f"{name} {value} does not apply to the mini model: all of its clips have one size")
        place = resolve_device(request.device)
        self._dtype = resolve_dtype(request.dtype, place)
        if self._dtype not in (torch.float32, torch.bfloat16):
            raise BadInput(f"dtype {request.dtype!r} must be bfloat16 or float32 for the mini model")
        _, self._label, self._direction = mini_prompt(request.prompt)
        self._seed = request.seed
        self._sampler = usual_sampler(request.sampler_steps, request.guidance)
        self._network = load_mini(None if request.weights is None else Path(request.weights), place)
        self.layers, self.steps = self._network.config.layers, self._sampler.steps

    def run(self, collector: Taker, after_step: AfterStep) -> None:
        """Make the clip with full attention until everything is collected."""

        def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
            if step is not None and collector.begin(layer, step):
                collector.take(q, k, v, grid=grid, layer=layer, step=step)
            output: Tensor = attention(q, k, v, method="full", grid=grid)
            return output

        with suppress(Complete):
            self.make(attend, after_step)

    def make(self, attend: Attend, after_step: AfterStep = lambda step: None, *, clips: int = 1) -> Tensor:
        """Return what a self-attention makes of the noise, float32 [clips, 3, F, H, W] from -1 to 1.

        All clips have the same noise, class and direction: they differ where the attention treats items of a batch
        differently.
        """
        from attnbench.mini.flow import generate

        return generate(
            self._network, [self._label] * clips, [self._direction] * clips, [self._seed] * clips,
            sampler=self._sampler, attend=attend, dtype=self._dtype, after_step=after_step,
        )  # fmt: skip
