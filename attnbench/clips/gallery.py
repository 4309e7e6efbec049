"""Pictures that show clips below one another: of runs of clips, of training runs, or of the mini model's classes.

A clip is shown as four of its frames, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnbench.clips.metrics.video import read_frames
from attnbench.inputs.files import inside, open_file
from attnbench.kernels.errors import BadInput
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.mini.flow import generate
from attnbench.mini.stored import load_mini
from attnbench.results.load import load_clips
from attnbench.results.training import CARD

KINDS = (".jpg", ".jpeg", ".png")
LOOK = "look.npy"
"""File in which a training run leaves clips to look at."""
FRAMES = 4
"""Frames of a clip that are shown, from the first to the last."""
COLUMNS = 3
GAP = 6
SHOWN = (1, 3, 7, 11, 13)
"""Judged clips of a training run that are shown: two digits and three shapes, in four directions."""

Row = dict[str, tuple[str, Path]]
"""For each prompt: the digest of its clip, and the file of its raw frames."""


def write_gallery(picture: Path, folders: Sequence[Path] = ()) -> Path:
    """Write a picture of clips.

    Args:
        picture: a file that ends in .jpg or .png.
        folders: runs of ``attnbench clips``, drawn with a column for the first seed of each prompt, a row for full
            attention, and a row for each method of each run; or training runs with a ``look.npy``, drawn with a row for
            each run. Empty: a clip of each class, made now by the mini model that ships.

    Raises:
        BadInput: for another kind of picture, before any work is done; for folders that hold nothing to show, or clips
            that do not belong together; if the picture cannot be written.
    """
    if picture.suffix.lower() not in KINDS:
        raise BadInput(f"--gallery {str(picture)!r} must end in .jpg or .png")
    if not folders:
        shown = sheet(_of_each_class(), COLUMNS)
    elif any((folder / name).exists() for folder in folders for name in (LOOK, CARD)):
        shown = sheet(_of_training(folders), len(SHOWN))
    else:
        shown = _of_runs(folders)
    from matplotlib import image

    try:
        image.imsave(picture, shown.numpy(), pil_kwargs={"quality": 92})
    except OSError as error:
        raise BadInput(f"cannot write {str(picture)!r}: {error.strerror or error}") from error
    return picture


def sheet(clips: Tensor, columns: int) -> Tensor:
    """Return clips [B, 3, F, H, W] from 0 to 1 as one picture [height, width, 3], white between them."""
    places = torch.linspace(0, clips.shape[2] - 1, FRAMES).round().long()
    frames = clips[:, :, places].permute(0, 3, 2, 4, 1)  # [clips, height, frames, width, 3]
    strips = torch.nn.functional.pad(frames.flatten(2, 3), (0, 0, 0, GAP, 0, GAP), value=1.0)
    rows: Tensor = strips.unflatten(0, (-1, columns)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    return rows[:-GAP, :-GAP]


def _of_each_class() -> Tensor:
    labels = list(range(len(CLASSES)))
    directions = [3 * label % len(DIRECTIONS) for label in labels]
    return (generate(load_mini(), labels, directions, labels, dtype=torch.bfloat16) + 1) / 2


def _of_training(folders: Sequence[Path]) -> Tensor:
    return torch.cat([_look_of(folder)[list(SHOWN)] for folder in folders]) / 255


def _look_of(folder: Path) -> Tensor:
    """Read the clips [B, 3, F, H, W], uint8, that a training run left to look at."""
    path = folder / LOOK
    try:
        with open_file(path) as file:
            look = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} cannot be read: give folders of judged training runs only") from error
    if look.dtype != np.uint8 or look.ndim != 5 or look.shape[0] <= max(SHOWN) or look.shape[2] < FRAMES:
        raise BadInput(f"{str(path)!r} is {look.dtype} {list(look.shape)}, not clips of a judged training run")
    return torch.from_numpy(look)


def _of_runs(folders: Sequence[Path]) -> Tensor:
    """Return the picture of runs of clips, whose clips of full attention must be identical bit for bit."""
    exact, methods = _rows_of(folders[0])
    for folder in folders[1:]:
        other, more = _rows_of(folder)
        if {prompt: digest for prompt, (digest, _) in other.items()} != {p: digest for p, (digest, _) in exact.items()}:
            raise BadInput(f"{str(folder)!r} must have the same clips of full attention as {str(folders[0])!r}")
        methods += more
    if missing := [prompt for row in methods for prompt in exact if prompt not in row]:
        raise BadInput(f"a method has no clip of {missing[0]!r}: finish the run with attnbench clips --resume")
    clips = [read_frames(row[prompt][1])[0].frames for row in (exact, *methods) for prompt in exact]
    return sheet(torch.stack(clips).permute(0, 4, 1, 2, 3) / 255, len(exact))


def _rows_of(folder: Path) -> tuple[Row, list[Row]]:
    """Return the clips of full attention, and those of each method."""
    exact: Row = {}
    methods: dict[tuple[str, ...], Row] = {}
    for place, clip in sorted(load_clips(folder), key=lambda each: each[1].seed):
        if clip.status == "ok" and clip.role != "kernel-floor":
            name = (clip.method, clip.settings, clip.engine)
            row = exact if clip.role == "exact" else methods.setdefault(name, {})
            if (raw := inside(place, clip.raw)) is None:
                raise BadInput(f"{str(folder)!r} names frames outside of its folder: {clip.raw!r}")
            row.setdefault(clip.prompt, (clip.clip_hash, raw))
    if not exact:
        raise BadInput(f"{str(folder)!r} has no clip of full attention: give the folder of a run of attnbench clips")
    return exact, list(methods.values())
