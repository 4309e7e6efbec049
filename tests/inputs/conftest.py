from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

MakeVideo = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Write frames, uint8 [count, height, width, 3] RGB, as a video without loss; return its path."""

    def write(frames: NDArray[np.uint8], name: str = "clip.mkv") -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=24)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "bgr0"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def noise_video(make_video: MakeVideo) -> MakeVideo:
    """Write a video of ``count`` different frames of 16 × 16 blocks of colour, 64 high and 80 wide."""

    def write(count: int, name: str = "clip.mkv") -> Path:
        colours = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
        return make_video(colours.repeat(16, axis=1).repeat(16, axis=2), name)

    return write
