"""Handwritten digits of 8 × 8 pixels, some of them held out. ATTRIBUTION.md beside this file names their authors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Split = Literal["train", "held-out"]

_HELD_OUT_EVERY = 5


@dataclass(frozen=True, slots=True)
class Digits:
    """Glyphs of one split.

    Attributes:
        images: float32 [n, 8, 8] from 0 (paper) to 1 (ink).
        labels: int64 [n], the digit that is drawn.
        index: int64 [n], place in scikit-learn's ``load_digits``.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    def of(self, digit: int) -> Tensor:
        """Return the indices of ``digit`` in this split, int64 [count]."""
        return (self.labels == digit).nonzero().squeeze(1)


@lru_cache(maxsize=2)
def load_digits(split: Split) -> Digits:
    """Return the glyphs of a split. Every fifth one is held out; the others are for training.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998 (CC BY 4.0).
    """
    with files("attnbench.mini").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    index = torch.arange(len(labels))
    chosen = index[(index % _HELD_OUT_EVERY == 0) == (split == "held-out")]
    return Digits(images[chosen].float() / 16, labels[chosen].long(), chosen)
