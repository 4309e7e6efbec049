"""Clips made for the occasion, and an environment that holds stubs instead of VBench."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from attnbench.clips.vbench.dimensions import DIMENSIONS
from attnbench.clips.vbench.environment import MARKER, Environment, find, lock_digest

STUBS = Path(__file__).with_name("stubs")

MakeClip = Callable[..., Path]


@pytest.fixture
def make_clip() -> MakeClip:
    """Write a clip of noise, 48 x 64 pixels."""

    def write(path: Path, *, frames: int = 4, fps: int = 16, codec: str = "libx264") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = np.random.default_rng(0).integers(0, 255, (frames, 48, 64, 3), dtype=np.uint8)
        with av.open(str(path), "w", format="mp4") as writer:
            stream = writer.add_stream(codec, rate=Fraction(fps))
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for picture in pictures:
                writer.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            writer.mux(stream.encode(None))
        return path

    return write


@dataclass(frozen=True)
class Fake:
    """An environment whose vbench is the stub; ``tell`` says what it shall do, ``calls`` how it was called."""

    folder: Path
    log: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def environment(self) -> Environment:
        return find(self.folder)

    def tell(self, **dimensions: dict[str, Any]) -> None:
        self.monkeypatch.setenv("FAKE_VBENCH", json.dumps({"calls": str(self.log), **dimensions}))

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


def write_python(path: Path, stubs: Sequence[str] = (str(STUBS),)) -> None:
    """Write an interpreter that finds the stubs before anything else."""
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\nPYTHONPATH={":".join(stubs)} exec {sys.executable} -S "$@"\n')
    path.chmod(0o755)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "environment"
    write_python(folder / "bin" / "python")
    imports = dict.fromkeys(DIMENSIONS)
    (folder / MARKER).write_text(json.dumps({"lock": lock_digest(), "python": "3.11.0", "imports": imports}))
    made = Fake(folder, tmp_path / "calls.jsonl", monkeypatch)
    made.tell()
    return made


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights folder with a stand-in for everything."""
    folder = tmp_path / "weights"
    for dimension in DIMENSIONS.values():
        for weight in dimension.weights:
            path = folder / weight.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name + ".stand-in").touch()
            if weight.inside:
                path.mkdir()
                path = path / weight.inside
            path.write_text(f"random numbers of {weight.path}")
    return folder
