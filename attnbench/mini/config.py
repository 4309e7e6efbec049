"""The configuration of a mini model: its sizes, its training, and the presets."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.grid import Grid, whole_number

_SIZES = 3
_AXES = ("patch frames", "patch rows", "patch columns")
FPS = 8
"""Frames a second at which clips are shown."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of a mini model.

    Attributes:
        frames, size: a clip is ``frames`` frames of ``size`` × ``size`` pixels.
        patch: frames, rows and columns of a token.
        layers, heads, head_dim: of the transformer; its width is heads × head_dim.
        ffn: inner width of the feed-forward layers.

    Raises:
        BadInput: if a number is not a positive whole one, or patches do not tile the clip.
    """

    frames: int = 16
    size: int = 64
    patch: tuple[int, int, int] = (2, 2, 2)
    layers: int = 6
    heads: int = 4
    head_dim: int = 64
    ffn: int = 576

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch", tuple(self.patch))
        if len(self.patch) != len(_AXES):
            raise BadInput(f"patch is {self.patch!r}; it must be {len(_AXES)} positive whole numbers")
        numbers = {name: getattr(self, name) for name in ("frames", "size", "layers", "heads", "head_dim", "ffn")}
        numbers |= dict(zip(_AXES, self.patch, strict=True))
        for name, value in numbers.items():
            number = whole_number(value)
            if number is None or number < 1:
                raise BadInput(f"{name} is {value!r}; it must be a positive whole number")
        if self.head_dim % 2 or self.head_dim < 6:
            raise BadInput(
                f"head_dim is {self.head_dim}; it must be even and at least 6, for a rotary share of each axis"
            )
        if any(side % patch for side, patch in zip((self.frames, self.size, self.size), self.patch, strict=True)):
            raise BadInput(
                f"a clip of {self.frames} frames of {self.size} pixels cannot be cut into patches of {self.patch}"
            )

    @property
    def dim(self) -> int:
        """The width of the transformer."""
        return self.heads * self.head_dim

    @property
    def sizes(self) -> tuple[ModelConfig, ...]:
        """This model, then the same on clips with half as many frames, rows and columns, and so on; at most three."""
        found = [self]
        while len(found) < _SIZES and not any(
            side % (2 * patch)
            for side, patch in zip((found[-1].frames, *(found[-1].size,) * 2), self.patch, strict=True)
        ):
            found.append(replace(self, frames=found[-1].frames // 2, size=found[-1].size // 2))
        return tuple(found)

    @property
    def grid(self) -> Grid:
        """The token grid of a clip."""
        t, h, w = self.patch
        return Grid(self.frames // t, self.size // h, self.size // w)


PRESETS = {
    "mini": ModelConfig(),
    "tiny": ModelConfig(frames=4, size=16, layers=3, heads=2, head_dim=16, ffn=64),
}
"""The presets.

``mini`` is the model that ships; ``tiny`` has 128 tokens and shows within seconds that everything runs.
"""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides what a training run computes, so that it can continue where it stopped.

    Attributes:
        model: name of a preset.
        method, settings, engine: the self-attention, as for ``attnbench.attention``.
        as_layer: the layer number that the method is given in every layer, for methods that differ by layer; None for
            the actual number.
        steps, batch, seed: number of optimiser steps, clips in a step, and the seed of data and weights.
        coarse: (steps, clips in a step) of the stages that come first and count among the steps. The clips of a stage
            have half the frames and side of the next one's, and so an eighth of the tokens. Full clips follow the last
            stage. In this way the model learns at little cost what to draw and how it moves.
        dense_coarse: whether attention is full on coarse clips, whatever the method. On a few hundred tokens, a sparse
            method costs more than it saves.
        muon_lr, lr: peak learning rates of Muon, for the matrices in the blocks, and of AdamW, for the rest.
        warmup, weight_decay, clip: steps until the peaks, decay of the matrices, and largest norm of the gradient.
        ema: decay of the averaged weights.
        drop: fraction of clips whose class and direction are hidden, for guidance.
        held_out: number of clips for the held-out loss.
        checkpoint_every: steps between checkpoints.
        dtype: of matrix products and attention, "bfloat16" or "float32"; weights are float32.
        full_seconds: the run ends after this many seconds of training on full clips, with held-out losses, even if
            steps are left; None takes all steps. Steps of another run compile everything before, so that
            compiling does not count.
        judge: number of clips to make with the run's own attention, and to judge, once the run is done. Training itself
            makes none.
        compile: whether torch.compile fuses the code between the attention calls, and a GPU replays CUDA graphs.

    Raises:
        BadInput: for a number out of range, or an unknown preset or dtype.
    """

    model: str = "mini"
    method: str = "full"
    settings: dict[str, Any] = field(default_factory=dict)
    engine: str = "auto"
    as_layer: int | None = None
    steps: int = 8000
    batch: int = 16
    seed: int = 0
    coarse: tuple[tuple[int, int], ...] = ()
    dense_coarse: bool = False
    muon_lr: float = 0.02
    lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    drop: float = 0.1
    held_out: int = 120
    checkpoint_every: int = 500
    dtype: str = "bfloat16"
    full_seconds: float | None = None
    judge: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise unknown_name("preset", self.model, PRESETS)
        if self.dtype not in ("bfloat16", "float32"):
            raise unknown_name("dtype of training", self.dtype, ("bfloat16", "float32"))
        object.__setattr__(self, "coarse", _pairs(self.coarse))
        for name in ("dense_coarse", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise BadInput(f"{name} is {getattr(self, name)!r}; it must be true or false")
        least_of = {"steps": 1, "batch": 1, "held_out": 2, "checkpoint_every": 1, "warmup": 0, "judge": 0}
        for name, least in least_of.items():
            value = getattr(self, name)
            number = whole_number(value)
            if number is None or number < least:
                raise BadInput(f"{name} is {value!r}; it must be a whole number of at least {least}")
        if self.as_layer is not None and (whole_number(self.as_layer) is None or self.as_layer < 0):
            raise BadInput(f"as_layer is {self.as_layer!r}; it must be a whole number of at least 0, or None")
        if self.coarse_steps > self.steps:
            raise BadInput(
                f"coarse stages take {self.coarse_steps} steps, more than the {self.steps} steps of the whole run"
            )
        if len(self.coarse) >= len(PRESETS[self.model].sizes):
            raise BadInput(
                f"{len(self.coarse)} coarse stages; clips of model {self.model!r} can be halved only "
                f"{len(PRESETS[self.model].sizes) - 1} times"
            )
        for name in ("lr", "muon_lr", "ema"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)!r}; it must lie between 0 and 1")
        if self.full_seconds is not None and not 0 < self.full_seconds < math.inf:
            raise BadInput(f"full_seconds is {self.full_seconds!r}; it must be a number of seconds above 0")

    @property
    def coarse_steps(self) -> int:
        """Number of steps before the first step on full clips."""
        return sum(steps for steps, _ in self.coarse)

    def stage(self, step: int) -> tuple[int, int]:
        """Return how often the clips of a step are halved, and their number."""
        for place, (steps, batch) in enumerate(self.coarse):
            if step < steps:
                return len(self.coarse) - place, batch
            step -= steps
        return 0, self.batch

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        read: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return read

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> TrainConfig:
        """Read what ``as_json`` wrote.

        Raises:
            BadInput: if a field is unknown or out of range.
        """
        known = {item.name for item in fields(cls)}
        for name in given:
            if name not in known:
                raise unknown_name("field of a training run", name, known)
        return cls(**given)


def _pairs(given: object) -> tuple[tuple[int, int], ...]:
    if isinstance(given, (tuple, list)):
        pairs = [tuple(map(whole_number, pair)) if isinstance(pair, (tuple, list)) else () for pair in given]
        if all(len(pair) == 2 and all(number is not None and number > 0 for number in pair) for pair in pairs):
            return tuple((int(pair[0] or 0), int(pair[1] or 0)) for pair in pairs)
    raise BadInput(f"coarse is {given!r}; it must be pairs of steps and clips per step: [[3000, 128], [2000, 64]]")
