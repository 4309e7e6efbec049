"""Draw the clips of runs: python scripts/clips_gallery.py PICTURE RUN…

A column for each prompt, its first seed; a row for full attention, and one for each method of each run, in their order.
A clip is four of its frames, side by side. The runs must have the same clips of full attention, to the bit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from matplotlib import image
from mini_gallery import picture_file, sheet
from torch import Tensor

from attnbench.clips.metrics.video import read_frames
from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.results.load import load_clips

Row = dict[str, tuple[str, Path]]
"""Of each prompt its clip's digest, and the file of its raw frames."""


def rows_of(run: Path) -> tuple[Row, list[Row]]:
    """Return the clips of full attention, and those of each method.

    Raises:
        BadInput: if nothing is there, or no clip of full attention.
    """
    exact: Row = {}
    methods: dict[tuple[str, ...], Row] = {}
    for folder, clip in sorted(load_clips(run), key=lambda each: each[1].seed):
        if clip.status == "ok" and clip.role != "kernel-floor":
            name = (clip.method, clip.settings, clip.engine)
            row = exact if clip.role == "exact" else methods.setdefault(name, {})
            row.setdefault(clip.prompt, (clip.clip_hash, folder / clip.raw))
    if not exact:
        raise BadInput(f"{str(run)!r} has no clip of full attention: give the folder of a run of attnbench clips")
    return exact, list(methods.values())


def picture_of(runs: list[Path]) -> Tensor:
    """Return the picture [height, width, 3], from 0 to 1.

    Raises:
        BadInput: as ``rows_of``; if runs have other clips of full attention, a method lacks one, or raw frames cannot
            be read.
    """
    exact, methods = rows_of(runs[0])
    for run in runs[1:]:
        other, more = rows_of(run)
        if {prompt: digest for prompt, (digest, _) in other.items()} != {p: digest for p, (digest, _) in exact.items()}:
            raise BadInput(f"{str(run)!r} must have the same clips of full attention as {str(runs[0])!r}")
        methods += more
    if missing := [prompt for row in methods for prompt in exact if prompt not in row]:
        raise BadInput(f"a method has no clip of {missing[0]!r}: finish the run with attnbench clips --resume")
    clips = [read_frames(row[prompt][1])[0].frames for row in (exact, *methods) for prompt in exact]
    return sheet(torch.stack(clips).permute(0, 4, 1, 2, 3) / 255, len(exact))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", type=picture_file)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    options = parser.parse_args()
    try:
        image.imsave(options.picture, picture_of(options.runs).numpy(), pil_kwargs={"quality": 92})
    except (AttnbenchError, OSError) as error:
        print(f"clips_gallery.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
