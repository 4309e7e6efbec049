"""The difference of neighbouring frames that the motion of one object does not explain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measured import Measured, Skipped, mean_of
from attnbench.kernels.errors import BadInput
from attnbench.mini.tracker import track

MIN_FRAMES = 3
"""A frame is predicted from the one before and the one after it."""


def motion_compensated_difference(clip: Clip) -> Measured:
    """Return how far frames differ from what their neighbours predict, in levels of 255: 0 for a clip that is still.

    There are four predictions of a pixel: the same place in the frame before and in the frame after, and in each of the
    two the place that the tracked object has taken it from or takes it to. Each pixel takes the best of them, so a
    background that the object covers or uncovers is predicted too. The value of a frame is the mean over its pixels of
    the difference, which is averaged over the channels; the first and the last frame have none.

    Raises:
        Skipped: if the clip has fewer than 3 frames, or is too small to be tracked.
    """
    if clip.length < MIN_FRAMES:
        raise Skipped(f"a difference after compensated motion needs at least {MIN_FRAMES} frames, not {clip.length}")
    video = clip.frames.permute(0, 3, 1, 2)
    try:
        centre = track(video.permute(1, 0, 2, 3)[None].float() / 127.5 - 1).centre[0]
    except BadInput as error:
        raise Skipped(str(error)) from error
    values = [_difference(video[number - 1 : number + 2].float(), centre[number - 1 : number + 2])
              for number in range(1, clip.length - 1)]  # fmt: skip
    return mean_of(values, "attnbench.mini.tracker")


def _difference(frames: Tensor, centre: Tensor) -> float:
    """Return the difference of the middle one of three frames [3, 3, H, W], whose object is at ``centre`` [3, 2]."""
    before, frame, after = frames
    predictions = (
        before, after, _moved(before, centre[1] - centre[0]), _moved(after, centre[1] - centre[2])
    )  # fmt: skip
    differences = torch.stack([(frame - each).abs().mean(dim=0) for each in predictions])
    return float(differences.amin(dim=0).mean(dtype=torch.float64))


def _moved(frame: Tensor, by: Tensor) -> Tensor:
    """Return a frame [3, H, W] moved by (x, y) pixels, between pixels linearly; its edges are repeated."""
    height, width = frame.shape[1:]
    x = torch.arange(width, dtype=torch.float32) - by[0]
    y = torch.arange(height, dtype=torch.float32) - by[1]
    rows, columns = torch.meshgrid((2 * y + 1) / height - 1, (2 * x + 1) / width - 1, indexing="ij")
    places = torch.stack([columns, rows], dim=-1)[None]
    moved: Tensor = grid_sample(frame[None], places, padding_mode="border", align_corners=False)[0]
    return moved
