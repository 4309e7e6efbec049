"""Clips as they leave the decoder: checked uint8 RGB frames, and batches of them that fit in memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from numbers import Real

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput

PIXELS_AT_ONCE = 2**20
"""Number of pixels that a metric converts to float at once: 2 frames of 480 × 832, or 256 of 64 × 64."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip before any codec.

    Attributes:
        frames: uint8 RGB [T, H, W, 3] on the CPU, contiguous.
        fps: frames a second. Players and VBench need it; no other metric does.

    Raises:
        BadInput: for another shape or dtype, no frames, empty frames, or an fps that is not above 0.
    """

    frames: Tensor
    fps: float = 16.0

    def __post_init__(self) -> None:
        shape = tuple(self.frames.shape)
        if len(shape) != 4 or shape[-1] != 3:
            raise BadInput(f"a clip has frames of shape {shape}; [frames, height, width, 3] is needed")
        if not all(shape):
            raise BadInput(f"a clip has frames of shape {shape}; at least one frame, of at least one pixel, is needed")
        if self.frames.dtype != torch.uint8:
            raise BadInput(
                f"a clip has frames of {self.frames.dtype}; torch.uint8 is needed: as_clip() converts floats"
            )
        if not (_is_finite(self.fps) and self.fps > 0):
            raise BadInput(f"fps {self.fps!r} must be a number above 0")
        object.__setattr__(self, "frames", self.frames.detach().cpu().contiguous())

    @property
    def length(self) -> int:
        """Number of frames."""
        return int(self.frames.shape[0])

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return int(self.frames.shape[2])

    @property
    def words(self) -> str:
        """Length and size, as "81 frames of 480x832"."""
        return f"{self.length} frame{'s' if self.length != 1 else ''} of {self.height}x{self.width}"

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of shape and pixels. Equal frames have equal digests."""
        made = hashlib.sha256(f"{tuple(self.frames.shape)}\n".encode())
        made.update(self.frames.numpy().data)
        return made.hexdigest()[:16]


def as_clip(
    frames: Tensor | npt.NDArray[np.generic], fps: float = 16.0, *, low: float = 0.0, high: float = 1.0
) -> Clip:
    """Make a clip from the output of a decoder.

    Floats are mapped from [low, high] to 0 … 255 and rounded to the nearest. A decoder may overshoot a little, so
    values outside the range are clamped. Values that lie outside by more than half the range are refused, because the
    range must be wrong.

    Args:
        frames: [T, H, W, 3], uint8 or floating point; a leading axis of 1 (a batch) is removed.
        fps: frames a second.
        low: the value of black in floating-point input.
        high: the value of full brightness in floating-point input.

    Raises:
        BadInput: for the same reasons as ``Clip``, and for NaN, Inf, another dtype, or values that do not fit the
            range.
    """
    if not isinstance(frames, (Tensor, np.ndarray)):
        raise BadInput(f"frames are a {type(frames).__name__}; a tensor or array [frames, height, width, 3] is needed")
    if isinstance(frames, np.ndarray) and frames.dtype.kind not in "biuf":
        raise BadInput(f"frames are an array of {frames.dtype}; uint8 or a floating-point dtype is needed")
    tensor = torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames.detach()
    if tensor.ndim == 5 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if not tensor.is_floating_point() or tensor.ndim != 4 or not tensor.numel():
        return Clip(tensor, fps)
    if not high > low:
        raise BadInput(f"the range of a clip is {low:g} to {high:g}; the second number must be the larger")
    bad = tensor.shape[0] - int(torch.isfinite(tensor).flatten(1).all(dim=1).sum())
    if bad:
        raise BadInput(f"{bad} of {tensor.shape[0]} frames hold NaN or Inf: the model or its decoder overflowed")
    least, most = (float(end) for end in tensor.aminmax())
    slack = (high - low) / 2
    if least < low - slack or most > high + slack:
        raise BadInput(f"frames hold values from {least:g} to {most:g}, which do not fit the range {low:g} to {high:g}")
    scaled = (tensor.float() - low) * (255 / (high - low))
    return Clip(scaled.round().clamp(0, 255).to(torch.uint8), fps)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def require_alike(clip: Clip, reference: Clip) -> None:
    """Raise unless two clips have the same number of frames and frames of the same size.

    Raises:
        BadInput: naming both sizes.
    """
    if clip.frames.shape != reference.frames.shape:
        raise BadInput(f"clips of {clip.words} and of {reference.words} cannot be compared: size and length must agree")


def float_batches(*clips: Clip) -> Iterator[tuple[Tensor, ...]]:
    """Yield the clips a few frames at a time, the same frames of each, as float32 [frames, 3, H, W] of 0 … 255."""
    count = max(1, PIXELS_AT_ONCE // (clips[0].height * clips[0].width))
    for start in range(0, clips[0].length, count):
        yield tuple(clip.frames[start : start + count].permute(0, 3, 1, 2).float() for clip in clips)
