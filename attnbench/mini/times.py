"""Times of flow matching, 0 for a clip and 1 for noise.

Most of the path decides nothing. For 960 clips of the training data and the exact posterior over them, class and
direction can only be guessed above t = 0.985 and are certain below 0.95. So times are shifted towards noise, both in
training and in sampling: t' = s·t / (1 + (s - 1)·t).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from attnbench.mini.draws import generator

TRAIN_SHIFT, TRAIN_WIDTH = 12.0, 1.6

Time = TypeVar("Time", float, Tensor)


def shifted(t: Time, shift: float) -> Time:
    """Shift a time, or a tensor of times, towards noise. 0 and 1 stay, and a shift of 1 changes nothing."""
    return shift * t / (1 + (shift - 1) * t)


def draw_times(count: int, *key: int | str, shift: float = TRAIN_SHIFT) -> Tensor:
    """Return training times, float32 [count]: logit-normal with width 1.6, stratified, then shifted."""
    source = generator(*key)
    share = (torch.randperm(count, generator=source) + torch.rand(count, generator=source)) / count
    u = torch.special.ndtri(share.double().clamp(1e-6, 1 - 1e-6)) * TRAIN_WIDTH
    return shifted(torch.sigmoid(u), shift).float()
