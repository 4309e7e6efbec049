from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.video import abreast, difference_clip, for_players, read_frames, write_frames, write_mp4
from attnbench.kernels.errors import BadInput

MakeClip = Callable[..., Clip]


def decoded(path: Path) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return np.stack(frames), stream


def test_raw_frames_come_back_bit_for_bit(tmp_path: Path, make_clip: MakeClip) -> None:
    clip = Clip(make_clip().frames, fps=23.976)
    write_frames(tmp_path / "clip.safetensors", clip, {"method": "vmoba"})
    read, label = read_frames(tmp_path / "clip.safetensors")
    assert torch.equal(read.frames, clip.frames)
    assert (read.fps, label) == (23.976, {"method": "vmoba"})


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_raw_frames_have_the_rights_of_other_files(umask: int, tmp_path: Path, make_clip: MakeClip) -> None:
    before = os.umask(umask)
    try:
        write_frames(tmp_path / "clip.safetensors", make_clip())
    finally:
        os.umask(before)
    assert (tmp_path / "clip.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("damage", ["missing", "truncated", "pickled", "of another kind", "with floats", "without fps"])
def test_files_that_hold_no_clip_are_refused(damage: str, tmp_path: Path, make_clip: MakeClip) -> None:
    path = tmp_path / "clip.safetensors"
    good = {"format": "attnbench clip", "fps": "8.0", "label": "{}"}
    if damage == "truncated":
        write_frames(path, make_clip())
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "pickled":
        path.write_bytes(pickle.dumps(make_clip().frames.numpy()))
    elif damage == "of another kind":
        save_file({"q": torch.zeros(3)}, path)
    elif damage == "with floats":
        save_file({"frames": torch.zeros(1, 2, 2, 3)}, path, metadata=good)
    elif damage == "without fps":
        save_file({"frames": torch.zeros(1, 2, 2, 3, dtype=torch.uint8)}, path, metadata={"format": good["format"]})
    with pytest.raises(BadInput, match=r"clip\.safetensors"):
        read_frames(path)


@pytest.mark.parametrize("write", [write_frames, write_mp4])
def test_what_cannot_be_written_is_one_sentence(
    write: Callable[[Path, Clip], None], tmp_path: Path, make_clip: MakeClip
) -> None:
    with pytest.raises(BadInput, match="cannot be written"):
        write(tmp_path / "no such folder" / "clip", make_clip())


@pytest.mark.parametrize("write", [write_frames, write_mp4])
def test_a_write_that_fails_at_the_end_leaves_the_old_file_and_nothing_else(
    write: Callable[[Path, Clip], None], tmp_path: Path, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip"
    path.write_text("the old one")

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadInput, match="No space left on device"):
        write(path, make_clip())
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("clip", "the old one")]


def test_the_players_file_is_h264_with_its_index_in_front(tmp_path: Path, make_clip: MakeClip) -> None:
    clip = Clip(make_clip(length=5, height=64, width=64).frames, fps=8)
    write_mp4(tmp_path / "clip.mp4", clip)
    frames, stream = decoded(tmp_path / "clip.mp4")
    assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
    assert frames.shape == (5, 256, 256, 3)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


@pytest.mark.parametrize("fps", [7.5, 24000 / 1001, 16])
def test_fps_is_kept(fps: float, tmp_path: Path, make_clip: MakeClip) -> None:
    write_mp4(tmp_path / "clip.mp4", Clip(make_clip(length=4).frames, fps))
    _, stream = decoded(tmp_path / "clip.mp4")
    assert float(stream.average_rate or 0) == pytest.approx(fps, rel=1e-6)


@pytest.mark.parametrize("colour", [(200, 30, 30), (20, 180, 60), (40, 60, 220), (255, 255, 255), (0, 0, 0)])
def test_colours_come_back(colour: tuple[int, int, int], tmp_path: Path) -> None:
    frames = torch.tensor(colour, dtype=torch.uint8).expand(2, 300, 270, 3).clone()
    write_mp4(tmp_path / "clip.mp4", Clip(frames))
    found, _ = decoded(tmp_path / "clip.mp4")
    assert np.abs(found.astype(int) - np.array(colour)).max() <= 4


def test_a_clip_of_one_frame_with_odd_sides_can_be_played(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", Clip(torch.full((1, 257, 301, 3), 90, dtype=torch.uint8)))
    assert decoded(tmp_path / "clip.mp4")[0].shape == (1, 258, 302, 3)


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (64, 64, (256, 256)),
        (63, 65, (316, 326)),
        (255, 400, (510, 800)),
        (257, 256, (258, 256)),
        (480, 832, (480, 832)),
    ],
)
def test_small_clips_are_scaled_by_whole_pixels_and_sides_made_even(
    height: int, width: int, shown: tuple[int, int], make_clip: MakeClip
) -> None:
    frames = make_clip(length=1, height=height, width=width).frames
    made = for_players(frames)
    assert made.shape == (1, *shown, 3)
    factor = shown[1] // width
    assert torch.equal(made[:, : height * factor : factor, : width * factor : factor], frames)
    assert torch.equal(made[:, -1], made[:, min(shown[0], height * factor) - 1])


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(64, 64, (256, 784)), (480, 832, (240, 1264)), (63, 65, (316, 994)), (270, 1100, (90, 1120))],
)
def test_clips_abreast_are_small_enough_and_in_order(height: int, width: int, shown: tuple[int, int]) -> None:
    clips = [Clip(torch.full((2, height, width, 3), level, dtype=torch.uint8), 8) for level in (40, 120, 200)]
    both = abreast(clips)
    assert (both.length, both.fps, both.height, both.width) == (2, 8, *shown)
    panel = (both.width - 16) // 3
    assert panel <= 512
    middle = both.frames[0, both.height // 2]
    assert [int(middle[place, 0]) for place in (panel // 2, panel + 4, panel + 8, both.width - 1)] == [40, 0, 120, 200]


def test_clips_abreast_must_be_alike(make_clip: MakeClip) -> None:
    with pytest.raises(BadInput, match="size and length"):
        abreast([make_clip(length=2), make_clip(length=3)])
    with pytest.raises(BadInput, match="no clips"):
        abreast([])


def test_a_difference_is_amplified_and_shows_either_sign() -> None:
    a, b = (
        torch.tensor(v, dtype=torch.uint8).reshape(1, 1, 3, 1).expand(1, 1, 3, 3) for v in ([9, 5, 200], [7, 8, 10])
    )
    found = difference_clip(Clip(a, 8), Clip(b, 8))
    assert found.frames[0, 0, :, 0].tolist() == [8, 12, 255]
    assert found.fps == 8
    assert difference_clip(Clip(b), Clip(a), gain=1.0).frames[0, 0, :, 1].tolist() == [2, 3, 190]


def test_a_difference_needs_clips_alike_and_a_gain() -> None:
    a, b = (Clip(torch.zeros(length, 2, 2, 3, dtype=torch.uint8)) for length in (1, 2))
    with pytest.raises(BadInput, match="size and length"):
        difference_clip(a, b)
    with pytest.raises(BadInput, match="gain"):
        difference_clip(a, a, gain=0.0)
