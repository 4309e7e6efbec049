"""Write a capture, completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Layout
from attnbench.machine.safe_weights import save_tensors
from attnbench.models.capture.collect import Point, Qkv
from attnbench.results.files import replacing


def check_target(path: Path) -> None:
    """Refuse a path to which a capture could not be written, before a clip is made for it.

    Raises:
        BadInput: if the name does not end in .safetensors or exists, or if the folder does not exist or is not
            writable.
    """
    if path.suffix != ".safetensors":
        raise BadInput(f"--out {str(path)!r} must end in .safetensors")
    if path.exists():
        raise BadInput(f"--out {str(path)!r} exists: remove it, or give another name")
    folder = path.parent
    if not folder.is_dir():
        raise BadInput(f"--out {str(path)!r}: the folder {str(folder)!r} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"--out {str(path)!r}: the folder {str(folder)!r} is not writable")


def room_for(path: Path) -> Callable[[int], None]:
    """Return a function that refuses a number of bytes for which the disk of ``path`` has no space.

    Raises:
        BadInput: raised by that function.
    """

    def check(size: int) -> None:
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise BadInput(
                f"--out {str(path)!r}: the capture takes {_bytes(size)}, and its disk has {_bytes(free)} free"
            )

    return check


def write_capture(path: Path, found: Mapping[Point, Qkv], layout: Layout, about: Mapping[str, Any]) -> None:
    """Write q, k and v of every point, with a header that describes them.

    A single point is written as tensors ``q``, ``k`` and ``v``, several as ``layer0.step25.q`` and so on. The header
    holds the token grid, the text tokens and ``about``.

    Raises:
        BadInput: if the file cannot be written, for example because the disk is full. No part of it is left behind.
    """
    from safetensors import SafetensorError

    tensors = {
        name if len(found) == 1 else f"{point}.{name}": tensor
        for point, qkv in found.items()
        for name, tensor in zip("qkv", qkv, strict=True)
    }
    header = {
        "attnbench-kind": "capture",
        "grid": str(layout.grid),
        "text": f"{layout.text[0]},{layout.text[1]}",
        "points": ",".join(map(str, found)),
        **{name: str(value) for name, value in about.items()},
    }
    try:
        with replacing(path) as fresh:
            save_tensors(tensors, fresh, header)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"--out {str(path)!r} cannot be written: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]


def _bytes(size: int) -> str:
    unit, name = next((each for each in ((1e9, "GB"), (1e6, "MB")) if size >= each[0]), (1e3, "kB"))
    return f"{size / unit:.3g} {name}"
