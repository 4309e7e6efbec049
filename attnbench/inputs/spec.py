"""The values of ``--inputs``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from attnbench.kernels.errors import BadInput, unknown_name

INPUT_SOURCES: dict[str, str] = {
    "video": "video[:PATH]: modelled q, k, v from a video's frames (default: the bundled Big Buck Bunny excerpt)",
    "gaussian": "gaussian: standard normal q, k, v, without any structure",
    "capture": "capture:FILE.safetensors[@layer0.step0]: q, k, v saved from a real model (attnbench capture)",
}
"""Kinds of inputs by name, with one line on each."""


@dataclass(frozen=True, slots=True)
class InputsSpec:
    """A kind of inputs, the file that it reads, and the part of a capture with several parts."""

    kind: str
    path: Path | None
    part: str | None = None


def check_inputs_spec(spec: str) -> InputsSpec:
    """Read ``--inputs``. The kind must be known, and a file that is named must exist.

    Raises:
        BadInput: quoting ``spec``.
    """
    kind, colon, name = spec.partition(":")
    if kind not in INPUT_SOURCES:
        raise unknown_name("inputs", kind, INPUT_SOURCES)
    if kind == "gaussian" and colon:
        raise BadInput(f"inputs {spec!r}: gaussian reads no file, so write gaussian alone")
    if not name and (colon or kind == "capture"):
        raise BadInput(f"inputs {spec!r} names no file: write {INPUT_SOURCES[kind].partition(': ')[0]}")
    if not name:
        return InputsSpec(kind, None)
    path = Path(os.path.expanduser(name))  # unchanged if there is no such user
    file, at, part = name.rpartition("@")
    if kind == "capture" and at and part and not os.path.isfile(path):
        name, path = file, Path(os.path.expanduser(file))
        if os.path.isfile(path):
            return InputsSpec(kind, path, part)
    if not os.path.isfile(path):  # also False for names that the system refuses
        problem = "is not a file" if os.path.exists(path) else "does not exist"
        raise BadInput(f"inputs {spec!r}: {name!r} {problem}")
    return InputsSpec(kind, path)
