"""Draw what the mini model makes: python scripts/mini_gallery.py docs/mini.jpg

A clip of each class, four of its frames side by side, by full attention and the usual sampler. It takes
five minutes on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib import image
from torch import Tensor

from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.mini.flow import generate
from attnbench.mini.weights import load_mini

FRAMES = (0, 5, 10, 15)
COLUMNS = 3
GAP = 6


def gallery() -> Tensor:
    """Return the picture, [height, width, 3] from 0 to 1: white between the clips."""
    labels = list(range(len(CLASSES)))
    directions = [3 * label % len(DIRECTIONS) for label in labels]
    clips = generate(load_mini(), labels, directions, labels, dtype=torch.bfloat16)
    frames = ((clips[:, :, FRAMES] + 1) / 2).permute(0, 3, 2, 4, 1)  # [clips, height, frames, width, 3]
    strips = torch.nn.functional.pad(frames.flatten(2, 3), (0, 0, 0, GAP, 0, GAP), value=1.0)
    rows = strips.unflatten(0, (-1, COLUMNS)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    return rows[:-GAP, :-GAP]


def main() -> None:
    image.imsave(Path(sys.argv[1]), gallery().numpy(), pil_kwargs={"quality": 92})


if __name__ == "__main__":
    main()
