"""Find the motion of a clip's object without a learned model: centroids of what differs from the background."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.mini.data import DIRECTIONS

NOTHING = -1
"""The direction that stands for a clip in which nothing moves."""

_RIM = 2
_SLOWEST = 0.25
"""Velocity, in pixels per frame at 64 pixels a side, below which a clip counts as still.

Objects of the data move by 1 to 2.
"""


@dataclass(frozen=True, slots=True)
class Motion:
    """The motion that was found in clips.

    Attributes:
        direction: int64 [B], index into DIRECTIONS; -1 where nothing moves.
        velocity: float32 [B, 2], pixels a frame, x to the right and y downwards.
        centre: float32 [B, F, 2], the centroid of each frame.
        residual: float32 [B], root mean square distance of the centroids from a straight path, in pixels.
    """

    direction: Tensor
    velocity: Tensor
    centre: Tensor
    residual: Tensor


def track(video: Tensor) -> Motion:
    """Fit a constant velocity to the object's centroids.

    The colour of the background is the median of the clip's rim, two pixels wide, over all frames. The weight of a
    pixel is the square of its difference from that colour, beyond a quarter of the largest difference. The centroids
    are fitted by least squares over time, and the result is the nearest of the 8 directions.

    Args:
        video: [B, 3, F, H, W] from -1 to 1, two frames or more.

    Raises:
        BadInput: if the clips have another shape, one frame, or values that are not finite.
    """
    if video.dim() != 5 or video.shape[1] != 3 or video.shape[2] < 2 or min(video.shape[3:]) <= 2 * _RIM:
        raise BadInput(f"clips are {list(video.shape)}; they must be [batch, 3, two frames or more, height, width]")
    if not torch.isfinite(video).all():
        raise BadInput("a clip holds NaN or Inf, so its object cannot be tracked")
    x = video.float()
    frames, height, width = x.shape[2:]
    rim = torch.ones(height, width, dtype=torch.bool, device=x.device)
    rim[_RIM:-_RIM, _RIM:-_RIM] = False
    ground = x[..., rim].flatten(2).median(dim=2).values
    differs = (x - ground[:, :, None, None, None]).norm(dim=1)
    least = differs.flatten(1).amax(1) / 4
    weight = (differs - least[:, None, None, None]).clamp(min=0).square()
    total = weight.sum((2, 3))
    rows, columns = (torch.arange(side, device=x.device, dtype=torch.float32) for side in (height, width))
    safe = total.clamp(min=1e-6)
    centre = torch.stack((weight.sum(2) @ columns / safe, weight.sum(3) @ rows / safe), dim=2)
    time = torch.arange(frames, device=x.device) - (frames - 1) / 2
    velocity = torch.einsum("f,bfc->bc", time, centre) / time.square().sum()
    path = centre.mean(1, keepdim=True) + velocity[:, None] * time[:, None]
    residual = (centre - path).square().sum(2).mean(1).sqrt()
    angle = torch.atan2(-velocity[:, 1], velocity[:, 0])
    direction = (angle / (math.tau / len(DIRECTIONS))).round().long() % len(DIRECTIONS)
    still = (velocity.norm(dim=1) < _SLOWEST * width / 64) | (total.amin(1) <= 0)
    return Motion(torch.where(still, NOTHING, direction), velocity, centre, residual)
