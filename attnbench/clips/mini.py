"""Clips of the mini model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnbench.api import select
from attnbench.clips.maker import AfterStep, Take, dense_of, floor_of, layers_of
from attnbench.clips.metrics.frames import as_clip
from attnbench.clips.recording import Recording
from attnbench.clips.request import ClipsRequest, Shot, metrics_of
from attnbench.kernels.engines import Task, choose_engine, get_engine
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.machine.device import dtype_name, resolve_device, resolve_dtype
from attnbench.methods import make_settings
from attnbench.methods.per_head import check_per_head
from attnbench.methods.registry import find_method
from attnbench.mini.config import FPS
from attnbench.mini.flow import generate, usual_sampler
from attnbench.mini.model import Attend, MiniTransformer, attend_by
from attnbench.mini.prompts import mini_prompt
from attnbench.mini.stored import load_mini, shipped
from attnbench.results.conditions import content_digest

_HOW = "train it with: attnbench train, and give its file with --weights"


class MiniMaker:
    """The mini model as a ``Maker``. The dense steps of methods are computed once for each prompt and seed."""

    def __init__(self, request: ClipsRequest) -> None:
        """Load the weights and check the request against them.

        Raises:
            BadInput: for weights, settings, steps, layers or a dtype that cannot be used.
            Unsupported: for an engine that is not available.
        """
        place = resolve_device(request.device)
        path = Path(request.weights) if request.weights is not None else shipped("mini.safetensors", _HOW)
        self.network = load_mini(path, place)
        self.model, self.device, self.weights_path = "mini", place.type, path
        self.weights = f"{path if request.weights is not None else path.name} {_digest(path)}"
        self.sampler = usual_sampler(request.steps)
        self.steps, self.dense_steps = self.sampler.steps, dense_of(request, self.sampler.steps)
        self.fps = request.fps or FPS
        self.dense_layers = layers_of(request, self.network.config.layers)
        self.torch_dtype = _default_dtype(place) if request.dtype is None else resolve_dtype(request.dtype, place)
        if self.torch_dtype not in (torch.float32, torch.bfloat16):
            raise BadInput(f"dtype {request.dtype!r} must be bfloat16 or float32 for the mini model")
        self.dtype = dtype_name(self.torch_dtype)
        if request.engine != "auto":
            get_engine(request.engine)
        config = self.network.config
        shape = (1, config.heads, config.grid.tokens, config.head_dim)
        q = torch.zeros(shape, device=self.device, dtype=self.torch_dtype)
        self.exact_engine = choose_engine("auto", select(q, q, method="full", grid=config.grid), Task.of(q, q, q)).name
        self.floor_engine = floor_of(request, self.exact_engine, self.exact_engine, q, config.grid)
        for entry in request.methods:
            method = find_method(entry.method)
            check_per_head(
                method, method.resolve(make_settings(method, entry.settings), Layout(config.grid)), config.heads
            )
        self.metrics = metrics_of(request)
        self._memory = _Remembering(self.network, self.dense_steps)
        self._of: tuple[str, int] | None = None

    def passes(self, shot: Shot) -> int:
        """Return how many steps are computed: all for an exact clip, otherwise those that are not dense."""
        return self.steps if shot.role == "exact" else self.steps - self.dense_steps

    def make(self, shot: Shot, after_step: AfterStep) -> Take:
        """Make a clip; see ``Maker``."""
        _, label, direction = mini_prompt(shot.prompt)
        if self._of != (shot.prompt, shot.seed):
            self._memory.forget()
            self._of = shot.prompt, shot.seed
        recording = Recording(find_method(shot.method), shot.engine)
        video = generate(
            cast(MiniTransformer, self._memory), [label], [direction], [shot.seed], sampler=self.sampler,
            attend=self._attend(shot, recording), dtype=self.torch_dtype, after_step=after_step,
        )  # fmt: skip
        clip = as_clip(video[0].permute(1, 2, 3, 0), fps=self.fps, low=-1.0, high=1.0)
        return Take(
            clip, recording.engines or shot.engine, recording.settings or "{}",
            tuple(recording.densities(self.network.config.layers)) if shot.role == "method" else (),
        )  # fmt: skip

    def _attend(self, shot: Shot, recording: Recording) -> Attend:
        exact = attend_by("full", self.exact_engine)
        if shot.role == "exact":
            return exact
        own = attend_by(recording.method, shot.engine, **shot.settings)

        def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
            if layer in self.dense_layers or (step is not None and step < self.dense_steps):
                return exact(q, k, v, grid=grid, layer=layer, step=step)
            return own(q, k, v, grid=grid, layer=layer, step=step)

        return attend


class _Remembering(nn.Module):
    """A mini model that remembers the dense steps, which are the same for every clip of a prompt and seed."""

    def __init__(self, network: MiniTransformer, dense_steps: int) -> None:
        super().__init__()
        self.network, self.config, self.dense_steps = network, network.config, dense_steps
        self._said: dict[tuple[Any, ...], Tensor] = {}

    def forget(self) -> None:
        """Forget the steps, before another prompt or seed."""
        self._said.clear()

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor, direction: Tensor, *, attend: Attend, step: int | None = None
    ) -> Tensor:
        """Return the velocity at x; see ``MiniTransformer``."""

        def now() -> Tensor:
            velocity: Tensor = self.network(x, t, label, direction, attend=attend, step=step)
            return velocity

        if step is None or step >= self.dense_steps:
            return now()
        key = (step, *(tuple(each.tolist()) for each in (t, label, direction)))
        if key not in self._said:
            self._said[key] = now()
        return self._said[key]


def _digest(path: Path) -> str:
    return f"sha256:{content_digest(path)[:16]}"


def _default_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on a GPU, and on a CPU that multiplies it in hardware."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = device.type == "cuda" or able.get("amx_bf16") or able.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32
