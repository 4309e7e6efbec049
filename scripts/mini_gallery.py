"""Draw what mini models make.

python scripts/mini_gallery.py docs/mini.jpg                             # a clip of each class; five minutes, two cores
python scripts/mini_gallery.py docs/native.jpg OUT/full-0 OUT/vmoba-0    # of each run of train_mini.py native a row

A clip is four of its frames, side by side; by the usual sampler.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import image
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.mini.flow import generate
from attnbench.mini.stored import load_mini

FRAMES = 4
"""Of a clip, from its first to its last."""
COLUMNS = 3
GAP = 6
SHOWN = (1, 3, 7, 11, 13)
"""Of the judged clips of a run: two digits and three shapes, in four directions."""


def sheet(clips: Tensor, columns: int) -> Tensor:
    """Return clips [B, 3, F, H, W] from 0 to 1 as one picture [height, width, 3], white between them."""
    places = torch.linspace(0, clips.shape[2] - 1, FRAMES).round().long()
    frames = clips[:, :, places].permute(0, 3, 2, 4, 1)  # [clips, height, frames, width, 3]
    strips = torch.nn.functional.pad(frames.flatten(2, 3), (0, 0, 0, GAP, 0, GAP), value=1.0)
    rows = strips.unflatten(0, (-1, columns)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    return rows[:-GAP, :-GAP]


def picture_file(text: str) -> Path:
    """Return the path of a picture to write.

    Raises:
        ArgumentTypeError: if it is of another kind than JPEG or PNG.
    """
    if Path(text).suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .jpg or .png")
    return Path(text)


def of_each_class() -> Tensor:
    """Make a clip of each class with the weights that ship."""
    labels = list(range(len(CLASSES)))
    directions = [3 * label % len(DIRECTIONS) for label in labels]
    return (generate(load_mini(), labels, directions, labels, dtype=torch.bfloat16) + 1) / 2


def of_runs(folders: list[Path]) -> Tensor:
    """Read the clips that are shown of each run, one run after the other.

    Raises:
        BadInput: if a folder has no clips to look at, or too few.
    """
    return torch.cat([look_of(folder)[list(SHOWN)] for folder in folders]) / 255


def look_of(folder: Path) -> Tensor:
    """Read the clips [B, 3, F, H, W], uint8, that ``train_mini.py`` left to look at.

    Raises:
        BadInput: as ``of_runs``.
    """
    path = folder / "look.npy"
    try:
        look = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} cannot be read: give the folder of a run of train_mini.py native") from error
    if look.dtype != np.uint8 or look.ndim != 5 or look.shape[0] <= max(SHOWN) or look.shape[2] < FRAMES:
        raise BadInput(f"{str(path)!r} is {look.dtype} {list(look.shape)}, not clips that train_mini.py judged")
    return torch.from_numpy(look)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", type=picture_file)
    parser.add_argument("runs", type=Path, nargs="*", help="folders with a look.npy; default: make clips of each class")
    options = parser.parse_args()
    try:
        picture = sheet(of_runs(options.runs), len(SHOWN)) if options.runs else sheet(of_each_class(), COLUMNS)
        image.imsave(options.picture, picture.numpy(), pil_kwargs={"quality": 92})
    except (BadInput, OSError) as error:
        print(f"mini_gallery.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
