"""Clips of video models in diffusers, with weights from this machine."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.clips.maker import AfterStep, Take, dense_of, floor_of, layers_of
from attnbench.clips.metrics.frames import as_clip
from attnbench.clips.recording import Recording
from attnbench.clips.request import ClipsRequest, Shot, metrics_of
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.methods.registry import find_method
from attnbench.models.patch import patch
from attnbench.models.weights import load

OWN = "own"
"""The engine of exact clips: the model's own attention, which is torch's SDPA in diffusers."""


class PipelineMaker:
    """A pipeline as a ``Maker``. Every clip is computed from the first step."""

    def __init__(self, request: ClipsRequest) -> None:
        """Load the pipeline and check the request against it.

        Raises:
            BadInput: for weights, settings, steps or layers that cannot be used.
            Unsupported: for an engine that is not available, or without diffusers.
        """
        if request.weights is None:
            raise BadInput(
                f"model {request.model!r} needs its weights: give --weights FOLDER, in the layout that diffusers' "
                "save_pretrained writes"
            )
        self.loaded = load(request.model, request.weights, request.device, request.dtype)
        self.model, self.weights = self.loaded.name, str(self.loaded.weights)
        self.weights_path = self.loaded.weights
        self.steps = self.loaded.steps if request.steps is None else request.steps
        self.size = {"frames": request.frames, "height": request.height, "width": request.width}
        self.fps = request.fps or self.loaded.fps
        self.loaded.check(steps=self.steps, **self.size)
        self.dense_steps = dense_of(request, self.steps)
        self.dense_layers = layers_of(request, self.loaded.layers)
        self.metrics = metrics_of(request)
        transformer = self.loaded.pipeline.transformer
        q = torch.zeros(
            1, 1, 8, transformer.config.attention_head_dim, device=transformer.device, dtype=transformer.dtype
        )
        self.exact_engine, self.floor_engine = OWN, floor_of(request, OWN, "sdpa", q, Grid(2, 2, 2))
        self.device, self.dtype = transformer.device.type, str(transformer.dtype).removeprefix("torch.")

    def passes(self, shot: Shot) -> int:
        """Return how many steps are computed for a clip: all."""
        return self.steps

    def make(self, shot: Shot, after_step: AfterStep) -> Take:
        """Make a clip; see ``Maker``."""
        if shot.role == "exact":
            return Take(as_clip(self._frames(shot, after_step), fps=self.fps), OWN)
        recording = Recording(find_method(shot.method), shot.engine)
        with patch(
            self.loaded.pipeline, recording.method, dense_steps=self.dense_steps,
            dense_layers=sorted(self.dense_layers), engine=shot.engine, **shot.settings,
        ):  # fmt: skip
            frames = self._frames(shot, after_step)
        return Take(
            as_clip(frames, fps=self.fps), recording.engines or shot.engine, recording.settings or "{}",
            tuple(recording.densities(self.loaded.layers)) if shot.role == "method" else (),
        )  # fmt: skip

    def _frames(self, shot: Shot, after_step: AfterStep) -> Tensor:
        frames: Tensor = self.loaded.generate(
            shot.prompt, seed=shot.seed, steps=self.steps, frames=self.size["frames"], height=self.size["height"],
            width=self.size["width"], fps=self.fps, after_step=after_step,
        )  # fmt: skip
        return frames
