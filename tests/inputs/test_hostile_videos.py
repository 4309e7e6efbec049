"""Damaged and hostile videos through everything that reads them: frames, or one sentence that says what is wrong."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import av
import numpy as np
import pytest

from attnbench.cli import main
from attnbench.clips.vbench.videos import read_clip
from attnbench.inputs.clip import read_frames
from attnbench.kernels.errors import BadInput

SECONDS = 30
FRAMES, HEIGHT, WIDTH = 9, 8, 12
Mutation = Callable[[bytearray, random.Random], bytes]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of one clip in four containers and codecs."""
    folder = tmp_path_factory.mktemp("sound")
    pixels = np.random.default_rng(0).integers(0, 256, (FRAMES, 3, 4, 3), dtype=np.uint8)
    found = {}
    for name, codec in (("a.mp4", "libx264"), ("b.mp4", "mpeg4"), ("c.mkv", "libx264"), ("d.avi", "mjpeg")):
        with av.open(str(folder / name), "w") as container:
            container.metadata["title"] = "a title"
            stream = container.add_stream(codec, rate=16)
            stream.height, stream.width = 48, 64
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for frame in pixels.repeat(16, axis=1).repeat(16, axis=2):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        found[name] = (folder / name).read_bytes()
    return found


def _cut(content: bytearray, generator: random.Random) -> bytes:
    return bytes(content[: generator.randrange(len(content))])


def _flipped(content: bytearray, generator: random.Random) -> bytes:
    for _ in range(generator.choice((1, 4, 40))):
        content[generator.randrange(len(content))] = generator.randrange(256)
    return bytes(content)


def _header(content: bytearray, generator: random.Random) -> bytes:
    """Change bytes around the names of a container's boxes: sizes, counts, dimensions, codecs."""
    names = (b"moov", b"tkhd", b"stsd", b"avc1", b"avcC", b"stsz", b"stco", b"stts", b"mvhd", b"mdhd", b"hdlr", b"udta")
    places = [place for name in names if (place := content.find(name)) >= 0] or [0]
    for _ in range(generator.randint(1, 3)):
        start = max(0, min(generator.choice(places) + generator.randrange(-4, 60), len(content) - 4))
        content[start : start + 4] = generator.choice(
            (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", generator.randbytes(4))
        )
    return bytes(content)


def _zeroed(content: bytearray, generator: random.Random) -> bytes:
    start = generator.randrange(len(content))
    content[start : start + generator.randrange(1, 2000)] = bytes(generator.randrange(1, 2000))
    return bytes(content)


def _doubled(content: bytearray, generator: random.Random) -> bytes:
    start, end = sorted(generator.randrange(len(content)) for _ in range(2))
    return bytes(content[:end] + content[start:])


def _metadata(content: bytearray, generator: random.Random) -> bytes:
    return bytes(
        content.replace(b"a title", generator.choice((b"\xff\xfe\0\1\x9b31m"[:7], b"\x1b]0;x\x07\n", b"\0" * 7)))
    )


def _no_video(content: bytearray, generator: random.Random) -> bytes:
    return generator.choice(
        (b"", b"\0" * 5000, b"some text\n" * 100, generator.randbytes(5000), b"#EXTM3U\n/etc/passwd\n",
         bytes(content[:40]), b"ffconcat version 1.0\nfile /etc/passwd\n", b"\x89PNG\r\n\x1a\n" + bytes(50))
    )  # fmt: skip


MUTATIONS: tuple[Mutation, ...] = (_cut, _flipped, _header, _header, _zeroed, _doubled, _metadata, _no_video)


def late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"a video took more than {SECONDS} s")


def outcome(read: Callable[[], Any]) -> tuple[Any, str]:
    """Return what a reader gives, or in which words it refuses."""
    try:
        return read(), ""
    except BadInput as error:
        return None, str(error)


def try_all(seed: int, sound: dict[str, bytes], folder: Path) -> None:
    generator = random.Random(seed)
    mutation = MUTATIONS[seed % len(MUTATIONS)]
    name = generator.choice(sorted(sound))
    path = folder / name
    path.write_bytes(mutation(bytearray(sound[name]), generator))
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    readers: tuple[Callable[[], Any], ...] = (
        lambda: list(read_frames(path, 5, HEIGHT, WIDTH)), lambda: read_clip(path),
    )  # fmt: skip
    try:
        for reader in readers:
            found, refusal = outcome(reader)
            assert "\n" not in refusal, (seed, mutation, refusal)
            assert not refusal or name in refusal, (seed, mutation, refusal)
            frames = found if isinstance(found, list) else []
            assert all(frame.shape == (HEIGHT, WIDTH, 3) for frame in frames), (seed, mutation)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [each.name for each in folder.iterdir()] == [name]
    path.unlink()


def test_sound_videos_are_read(sound: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in sound.items():
        (tmp_path / name).write_bytes(content)
        assert len(list(read_frames(tmp_path / name, FRAMES, HEIGHT, WIDTH))) == FRAMES
        assert read_clip(tmp_path / name).frames == FRAMES


def test_hostile_videos(sound: dict[str, bytes], tmp_path: Path) -> None:
    for seed in range(40):
        try_all(seed, sound, tmp_path)


@pytest.mark.slow
def test_two_hundred_and_thirty_hostile_videos(sound: dict[str, bytes], tmp_path: Path) -> None:
    for seed in range(1000, 1230):
        try_all(seed, sound, tmp_path)


@pytest.mark.parametrize("seed", [0, 7, 15, 23])
def test_a_run_on_a_hostile_video_leaves_nothing(
    seed: int,
    sound: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mutation = MUTATIONS[seed % len(MUTATIONS)]
    (tmp_path / "a.mp4").write_bytes(mutation(bytearray(sound["a.mp4"]), random.Random(seed)))
    words = ["run", "--grid", "3x2x3", "--heads", "1", "--head-dim", "16", "--device", "cpu", "--rounds", "3"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["attnbench", *words, "--inputs", "video:a.mp4", "--out", "run"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "attnbench: video 'a.mp4'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile other.mp4\n"]
)
def test_a_list_of_other_files_is_no_video(text: str, sound: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(sound["a.mp4"])
    (tmp_path / "a.mp4").write_text(text)
    with pytest.raises(BadInput, match=r"a\.mp4' (cannot be read|has no picture stream)"):
        list(read_frames(tmp_path / "a.mp4", 5, HEIGHT, WIDTH))
