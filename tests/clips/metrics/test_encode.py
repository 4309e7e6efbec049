"""Who writes H.264 where PyAV cannot: an ffmpeg, or a sentence that says how to get one."""

from __future__ import annotations

import importlib.util
import stat
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

from attnbench.clips.metrics.encode import h264_encoder
from attnbench.kernels.errors import BadInput, Unsupported

FRAMES = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).mul(90).expand(3, 64, 48, 3).contiguous()


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without PyAV and ffmpeg; programs put into the folder are found."""
    for name in ("av", "imageio_ffmpeg"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    h264_encoder.cache_clear()
    yield tmp_path / "bin"
    h264_encoder.cache_clear()


def stand_in(folder: Path, body: str) -> None:
    """Put a program in the place of ffmpeg: it lists libx264, and does ``body`` when it is to encode."""
    program = folder / "ffmpeg"
    lists = 'import sys\nif "-encoders" in sys.argv:\n    print(" V....D libx264  H.264")\n    sys.exit()\n'
    program.write_text(f"#!{sys.executable}\n{lists}{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_with_neither_there_is_a_sentence_that_says_how_to_get_one(bare: Path) -> None:
    with pytest.raises(Unsupported, match="pip install av, or install an ffmpeg that has libx264"):
        h264_encoder()


def test_an_av_without_libx264_is_passed_by(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", SimpleNamespace(codecs_available={"vp9"}))
    with pytest.raises(Unsupported, match="libx264"):
        h264_encoder()


def test_ffmpeg_gets_every_byte_and_the_size(bare: Path, tmp_path: Path) -> None:
    stand_in(bare, "open(sys.argv[-1], 'wb').write(repr(sys.argv).encode() + b'|' + sys.stdin.buffer.read())")
    h264_encoder()(tmp_path / "clip.mp4", FRAMES, Fraction(15, 2))
    words, _, pixels = (tmp_path / "clip.mp4").read_bytes().partition(b"|")
    assert pixels == FRAMES.numpy().tobytes()
    for word in (b"'48x64'", b"'15/2'", b"'libx264'", b"'+faststart'", b"format=yuv420p"):
        assert word in words


def test_an_ffmpeg_that_fails_is_a_sentence(bare: Path, tmp_path: Path) -> None:
    stand_in(bare, "sys.exit('No space left on device')")
    with pytest.raises(BadInput, match=r"clip\.mp4' cannot be written: ffmpeg gave exit code 1 No space left"):
        h264_encoder()(tmp_path / "clip.mp4", FRAMES, Fraction(8))


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="imageio-ffmpeg is not installed")
def test_a_real_ffmpeg_writes_what_av_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = h264_encoder()
    monkeypatch.setitem(sys.modules, "av", None)
    h264_encoder.cache_clear()
    try:
        theirs = h264_encoder()
    finally:
        h264_encoder.cache_clear()
    monkeypatch.undo()
    decoded = []
    for name, encode in (("own", own), ("theirs", theirs)):
        path = tmp_path / f"{name}.mp4"
        encode(path, FRAMES, Fraction(8))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == (
                "h264", "yuv420p", 8,
            )  # fmt: skip
            decoded.append([frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)])
    assert len(decoded[0]) == len(decoded[1]) == 3
    assert max(abs(a - b).max() for a, b in zip(*decoded, strict=True)) <= 4
