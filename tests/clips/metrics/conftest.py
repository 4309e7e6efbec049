from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from attnbench.clips.metrics.frames import Clip

MakeClip = Callable[..., Clip]


class Trap:
    """What a pickle that runs code looks like: it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def trap() -> Callable[[Path], object]:
    """Return what makes an object whose pickle would make a file when it is read."""
    return Trap


@pytest.fixture
def make_clip() -> MakeClip:
    """Make a clip of smooth colour and noise; equal arguments, equal clip."""

    def make(seed: int = 0, length: int = 3, height: int = 40, width: int = 48, noise: float = 20.0) -> Clip:
        generator = np.random.default_rng(seed)
        t, y, x = np.ogrid[:length, :height, :width]
        waves = [128 + 80 * np.sin(x / 9 + y / (5 + 3 * channel) + t) for channel in range(3)]
        frames = np.stack(waves, axis=-1) + noise * generator.standard_normal((length, height, width, 3))
        return Clip(torch.from_numpy(frames.round().clip(0, 255).astype(np.uint8)))

    return make
