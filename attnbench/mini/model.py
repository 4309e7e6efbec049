"""The mini video diffusion transformer: Wan's block without text, on patches of pixels.

The output of the last layer is not the velocity itself. For clips with root mean square σ, the best linear guess of the
velocity from x_t = (1 - t)·clip + t·noise is known, and its error has the variance σ² / ((1 - t)²·σ² + t²). The network
predicts only this error, in units of its standard deviation (Karras et al., 2022, table 1, for a straight path). Near t
= 1 that is the negative clip, so noise does not have to pass through the layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnbench.api import attention
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.methods import Method
from attnbench.methods.registry import find_method
from attnbench.methods.states import States
from attnbench.mini.config import ModelConfig
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.mini.rope import rotate, rotations
from attnbench.mini.times import shifted

HIDDEN_CLASS = len(CLASSES)
"""The label that hides the class."""
HIDDEN_DIRECTION = len(DIRECTIONS)
"""The label that hides the direction."""

SIGMA = 0.65
"""Root mean square of the data's pixels (0.656 over 120 of its clips)."""

_TIME_CHANNELS = 256


class Attend(Protocol):
    """Self-attention: q, k, v and the result are [B, heads, N, head_dim] in grid order."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
        """Attend. ``step`` is the denoising step, from 0, or None in training."""
        ...


def attend_by(method: str | Method, engine: str = "auto", *, as_layer: int | None = None, **settings: object) -> Attend:
    """Return the self-attention of a method: ``attnbench.attention`` with all arguments set except the tensors.

    With ``as_layer``, every layer attends as the layer with that number would. A method with a state keeps one for each
    layer and each branch of guidance, as long as steps go on.
    """
    own: Attend = partial(attention, method=method, engine=engine, **settings)
    if find_method(method).cycle is not None:
        own = _with_states(own)
    if as_layer is None:
        return own

    def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
        return own(q, k, v, grid=grid, layer=as_layer, step=step)

    return attend


def _with_states(own: Any) -> Attend:
    states = States()

    def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
        state = states.of(layer, step, (q.shape, grid))
        output, plan = own(q, k, v, grid=grid, layer=layer, step=step, state=state, return_plan=True)
        states.keep(plan.state)
        return cast(Tensor, output)

    return attend


FULL: Attend = attend_by("full")


def attend_on(own: Grid, attend: Attend, elsewhere: Attend = FULL) -> Attend:
    """Return a self-attention that runs ``attend`` on the grid ``own`` and ``elsewhere`` on any other grid."""

    def chosen(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
        return (attend if grid == own else elsewhere)(q, k, v, grid=grid, layer=layer, step=step)

    return chosen


class MiniTransformer(nn.Module):
    """Predicts the velocity of flow matching for clips of a class and a direction.

    Attributes:
        config: its sizes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, channels = config.dim, 3 * math.prod(config.patch)
        self.embed = nn.Linear(channels, dim)
        self.places = nn.Linear(config.head_dim, dim)
        self.time_in = nn.Linear(_TIME_CHANNELS, dim)
        self.time_out = nn.Linear(dim, dim)
        self.classes = nn.Embedding(len(CLASSES) + 1, dim)
        self.directions = nn.Embedding(len(DIRECTIONS) + 1, dim)
        self.project = nn.Linear(dim, 6 * dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.table = nn.Parameter(torch.zeros(2, dim))
        self.head = nn.Linear(dim, channels)
        for layer in (self.project, self.head):  # each block begins as the identity, and the model with output zero
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for embedding in (self.classes, self.directions):
            nn.init.normal_(embedding.weight, std=0.5)

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor, direction: Tensor, *, attend: Attend = FULL, step: int | None = None
    ) -> Tensor:
        """Return the velocity, noise minus clip, float32 [B, 3, F, H, W].

        Args:
            x: noisy clips [B, 3, F, H, W], of the model's size, or of another in ``config.sizes``.
            t: [B], 0 for a clip and 1 for noise.
            label, direction: int64 [B]; HIDDEN_CLASS and HIDDEN_DIRECTION hide them.
            attend: the self-attention.
            step: the denoising step, for methods that differ by it.

        Raises:
            BadInput: if the model does not take clips of this size.
        """
        grid, stretch = self._grid_of(x)
        # A pixel of a smaller clip is the mean of 8 or 64, so the same noise hides less. The model is given the time at
        # which noise hides as much in a full clip.
        told = shifted(t.float(), math.sqrt(stretch**3))
        condition = self.time_out(functional.silu(self.time_in(_waves(told))))
        condition = (condition + self.classes(label) + self.directions(direction)).float()
        modulation = self.project(functional.silu(condition)).float().unflatten(1, (6, -1))
        at = t.float().view(-1, 1, 1, 1, 1)
        variance = ((1 - at) * SIGMA).square() + at.square()
        turns = rotations(grid, self.config.head_dim, x.device, stretch)
        tokens = self.embed(to_patches(x * variance.rsqrt(), self.config.patch)) + self.places(torch.cat(turns, dim=1))
        tokens = tokens.float()
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, modulation, turns, partial(attend, grid=grid, layer=layer, step=step))
        shift, scale = (self.table + condition[:, None]).unsqueeze(2).unbind(1)
        drawn = from_patches(self.head(_modulated(tokens, shift, scale)).float(), grid, self.config.patch)
        return (at - (1 - at) * SIGMA**2) / variance * x + SIGMA * variance.rsqrt() * drawn

    def fuse(self) -> None:
        """Let torch.compile fuse the code before and after the attention. The attention itself is not compiled."""
        for block in self.blocks:
            for name in ("before", "after"):
                setattr(block, name, torch.compile(getattr(block, name), dynamic=False))

    def _grid_of(self, x: Tensor) -> tuple[Grid, int]:
        """Return the token grid of clips, and how many of the model's tokens one of their tokens spans on each axis."""
        given = tuple(x.shape[1:])
        for halved, config in enumerate(self.config.sizes):
            if given == (3, config.frames, config.size, config.size):
                return config.grid, 2**halved
        wanted = (3, self.config.frames, self.config.size, self.config.size)
        raise BadInput(f"clips are {list(x.shape)}; this model takes [batch, {', '.join(map(str, wanted))}]")


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, each shifted, scaled and gated by the condition."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, dim = (config.heads, config.head_dim), config.dim
        self.table = nn.Parameter(torch.zeros(6, dim))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm_q = nn.Parameter(torch.ones(dim))
        self.norm_k = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, dim)
        self.widen = nn.Linear(dim, config.ffn)
        self.narrow = nn.Linear(config.ffn, dim)

    def forward(
        self, x: Tensor, modulation: Tensor, turns: tuple[Tensor, Tensor], attend: Callable[..., Tensor]
    ) -> Tensor:
        """Return x [B, N, dim] after both layers; ``modulation`` is [B, 6, dim]."""
        result: Tensor = self.after(x, attend(*self.before(x, modulation, *turns)), modulation)
        return result

    def before(self, x: Tensor, modulation: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v [B, heads, N, head_dim] of x [B, N, dim]."""
        shift, scale, *_ = (self.table + modulation).unsqueeze(2).unbind(1)
        q, k, v = self.qkv(_modulated(x, shift, scale)).chunk(3, dim=-1)
        q_bhnd, k_bhnd = (
            rotate(_rms_norm(part, weight).unflatten(2, self.heads).transpose(1, 2), cosine, sine).to(v.dtype)
            for part, weight in ((q, self.norm_q), (k, self.norm_k))
        )
        return q_bhnd, k_bhnd, v.unflatten(2, self.heads).transpose(1, 2)

    def after(self, x: Tensor, output_bhnd: Tensor, modulation: Tensor) -> Tensor:
        """Add the output of attention and of the feed-forward layer to x [B, N, dim]."""
        _, _, gate, shift, scale, gate_wide = (self.table + modulation).unsqueeze(2).unbind(1)
        x = torch.addcmul(x, gate, self.out(output_bhnd.transpose(1, 2).flatten(2)).float())
        wide = functional.gelu(self.widen(_modulated(x, shift, scale)), approximate="tanh")
        return torch.addcmul(x, gate_wide, self.narrow(wide).float())


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise every token of x [B, N, dim], then scale and shift by [B, 1, dim]."""
    return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:]), 1 + scale)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Normalise over all heads in float32, as Wan does."""
    return functional.rms_norm(x.float(), x.shape[-1:], weight, eps=1e-6)


def _waves(t: Tensor) -> Tensor:
    """Return sinusoids of t [B], float32 [B, 256]. They resolve t to about a thousandth."""
    half = _TIME_CHANNELS // 2
    rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000.0) / half))
    angles = 1000 * t.float()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def to_patches(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Cut clips [B, C, F, H, W] into tokens [B, N, C · patch], N in grid order."""
    t, h, w = patch
    cut = x.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))  # B C T t H h W w
    tokens: Tensor = cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
    return tokens


def from_patches(tokens: Tensor, grid: Grid, patch: tuple[int, int, int]) -> Tensor:
    """Put tokens [B, N, C · patch] back together as clips [B, C, F, H, W]."""
    cut = tokens.unflatten(2, (-1, *patch)).unflatten(1, grid.shape)  # B T H W C t h w
    clips: Tensor = cut.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6).flatten(4, 5).flatten(2, 3)
    return clips
