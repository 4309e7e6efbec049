"""Find the weights that VBench reads, and lay them out as it expects them. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attnbench.clips.vbench.dimensions import Dimension, Weight

State = Literal["present", "stand-in", "missing", "wrong"]

STAND_IN_SUFFIX = ".stand-in"
"""An empty file named like the weights with this suffix marks them as random, for tests of the code."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one file of weights. ``sentence`` says what is wrong with it and where to get it."""

    weight: Weight
    state: State
    sentence: str = ""

    @property
    def usable(self) -> bool:
        """Whether a dimension can run with it."""
        return self.state in ("present", "stand-in")


def weights_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which VBench keeps weights: ``VBENCH_CACHE_DIR``, or ``~/.cache/vbench``."""
    return Path(environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench")


def look(weight: Weight, folder: Path) -> Found:
    """Look for one file of weights, and compare its SHA-256 if one is published."""
    path = folder / weight.path
    get_it = f"get it from {weight.url}"
    needed = path / weight.inside if weight.inside else path
    if not needed.is_file():
        size = f"about {weight.about_mb:g} MB"
        return Found(weight, "missing", f"weights {weight.path!r} ({size}) are not in {str(folder)!r}: {get_it}")
    if path.with_name(path.name + STAND_IN_SUFFIX).exists():
        return Found(weight, "stand-in")
    if needed.stat().st_size == 0:
        return Found(weight, "wrong", f"weights {str(path)!r} are empty: {get_it}")
    if weight.digest:
        with needed.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(weight.digest):
            reason = f"(SHA-256 {digest[:8]}…, and {weight.digest[:8]}… is needed)"
            return Found(weight, "wrong", f"weights {str(path)!r} are truncated or another file {reason}: {get_it}")
    return Found(weight, "present")


def look_all(dimension: Dimension, folder: Path) -> tuple[Found, ...]:
    """Look for all weights of a dimension. The result is empty if it reads none."""
    return tuple(look(weight, folder) for weight in dimension.weights)


def lay_out(dimension: Dimension, folder: Path, cache: Path, torch_home: Path) -> None:
    """Link the weights of one dimension into a cache folder for VBench, so that the user's folder is only read.

    torch.hub gets a second link, because the entry point of DINO's repository ignores the path that VBench passes. It
    loads the checkpoint by its file name from torch's own cache.

    Args:
        dimension: a dimension of which all weights were found.
        folder: the folder in which they were found.
        cache: the new ``VBENCH_CACHE_DIR``.
        torch_home: the new ``TORCH_HOME``.
    """
    checkpoints = torch_home / "hub" / "checkpoints"
    for weight in dimension.weights:
        source, target = (folder / weight.path).resolve(), cache / weight.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=bool(weight.inside))
        if not weight.inside:
            checkpoints.mkdir(parents=True, exist_ok=True)
            (checkpoints / target.name).symlink_to(source)
