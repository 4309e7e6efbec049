from __future__ import annotations

import itertools
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attnbench.inputs.clip import clip_path, features, is_replayed, patches, read_frames
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid

MakeVideo = Callable[..., Path]


def test_the_first_frame_stands_alone_and_the_others_are_averaged_by_four(make_video: MakeVideo) -> None:
    levels = np.array([10, 20, 40, 80, 160, 30, 50, 70, 90, 250, 250], dtype=np.uint8)  # the last two are not needed
    path = make_video(np.broadcast_to(levels[:, None, None, None], (11, 32, 48, 3)).copy())
    cells = patches(path, Grid(3, 2, 3)) * 255
    assert cells.shape == (3, 2, 3, 4, 4, 3)
    for frame, level in enumerate([10, (20 + 40 + 80 + 160) / 4, (30 + 50 + 70 + 90) / 4]):
        torch.testing.assert_close(cells[frame], torch.full_like(cells[frame], level), atol=1.5, rtol=0)


def test_each_cell_is_the_mean_of_its_pixels(make_video: MakeVideo) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)
    cells = patches(make_video(pixels), Grid(1, 2, 3))[0] * 255
    for h, w, y, x in itertools.product(range(2), range(3), range(4), range(4)):
        top, left = 16 * h + 4 * y, 16 * w + 4 * x
        expected = pixels[0, top : top + 4, left : left + 4].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(cells[h, w, y, x].numpy(), expected, atol=3)


def test_features_are_standardised_group_by_group() -> None:
    content = features(torch.rand(5, 4, 6, 4, 4, 3, generator=torch.Generator().manual_seed(0))).double()
    assert content.shape == (120, 102)
    variances = content.var(dim=0, correction=0)
    torch.testing.assert_close(content.mean(dim=0), torch.zeros(102).double(), atol=1e-6, rtol=0)
    for part in torch.split(variances, [48, 48, 3, 3]):
        assert float(part.sum()) == pytest.approx(0.25, rel=1e-4)
        torch.testing.assert_close(part, part.mean().expand_as(part), atol=1e-6, rtol=1e-4)


def test_change_is_measured_from_the_token_frame_before() -> None:
    cells = torch.rand(1, 2, 3, 4, 4, 3, generator=torch.Generator().manual_seed(0)).expand(4, 2, 3, 4, 4, 3).clone()
    cells[2:, 0, 0] += 0.5  # one token brightens between frames 1 and 2, then stays
    change = features(cells)[:, 48:96].reshape(4, 2, 3, 48)
    resting = change[0, 1, 1]
    differs = (change - resting).abs().amax(dim=-1) > 1e-3
    assert differs.nonzero().tolist() == [[2, 0, 0]]


def test_surroundings_are_means_over_the_tokens_that_exist() -> None:
    cells = torch.rand(3, 7, 4, 4, 4, 3, generator=torch.Generator().manual_seed(2))
    colour = cells.mean(dim=(3, 4))
    content = features(cells)
    for start, reach in ((96, 2), (99, 6)):
        expected = torch.empty(3, 7, 4, 3)
        for t, h, w in itertools.product(range(3), range(7), range(4)):
            around = colour[max(t - 1, 0) : t + 2, max(h - reach, 0) : h + reach + 1, max(w - reach, 0) : w + reach + 1]
            expected[t, h, w] = around.mean(dim=(0, 1, 2))
        wanted = expected.reshape(-1, 3)
        wanted = (wanted - wanted.mean(0)) / wanted.std(0, correction=0) / 12**0.5
        torch.testing.assert_close(content[:, start : start + 3], wanted, atol=1e-3, rtol=1e-3)


def test_a_constant_feature_becomes_zero_not_nan() -> None:
    assert not bool(features(torch.full((2, 3, 3, 4, 4, 3), 0.3)).any())


def test_the_bundled_clip_decodes_whole_and_is_small() -> None:
    with clip_path(None) as path:
        assert path.stat().st_size <= 1_500_000
        frames = list(read_frames(path, 132, 18, 32))
        with pytest.raises(BadInput, match=r"132 frames and 133 are needed.*at most 129"):
            list(read_frames(path, 133, 18, 32))
        assert "CC BY 3.0" in (path.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(frame.shape == (18, 32, 3) for frame in frames)
    assert float(torch.stack(frames).float().std()) > 10


def test_a_short_video_is_refused_with_what_it_has(noise_video: MakeVideo) -> None:
    path = noise_video(7)
    assert patches(path, Grid(2, 4, 5)).shape[0] == 2
    with pytest.raises(BadInput, match=r"clip\.mkv' has 7 frames and 9 are needed.*at most 5"):
        patches(path, Grid(3, 4, 5))


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    contents = {"empty.mp4": b"", "noise.mp4": bytes(range(256)) * 64, "text.txt": b"not a video\n" * 999}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=name):
            patches(tmp_path / name, Grid(1, 2, 2))
    with pytest.raises(BadInput, match=r"absent\.mp4' cannot be read"):
        patches(tmp_path / "absent.mp4", Grid(1, 2, 2))


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(BadInput, match=r"sound\.wav' has no picture stream"):
        patches(path, Grid(1, 2, 2))


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_truncated_video_is_refused(noise_video: MakeVideo, tmp_path: Path, part: float) -> None:
    whole = noise_video(21).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(BadInput, match=r"cut\.mkv' (has \d+ frames|is damaged after frame|cannot be read)"):
        patches(cut, Grid(6, 4, 5))


def test_a_damaged_video_is_refused(tmp_path: Path) -> None:
    with clip_path(None) as path:
        damaged = bytearray(path.read_bytes())
    damaged[300_000:300_400] = b"\xff" * 400
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    with pytest.raises(BadInput, match=r"damaged\.mp4' is damaged after frame \d+"):
        patches(tmp_path / "damaged.mp4", Grid(21, 4, 4))


def test_without_pyav_only_videos_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.modules['av'] = None; import attnbench.bench.session, attnbench.clips.session"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
    monkeypatch.setitem(sys.modules, "av", None)
    with clip_path(None) as path, pytest.raises(Unsupported, match="pip install av"):
        next(read_frames(path, 1, 4, 4))


ONE = 2**16
MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    "upright": ((ONE, 0, 0, ONE), lambda shown: shown),
    "a quarter turn to the right": ((0, ONE, -ONE, 0), lambda shown: np.rot90(shown, -1)),
    "a quarter turn to the left": ((0, -ONE, ONE, 0), lambda shown: np.rot90(shown, 1)),
    "upside down": ((-ONE, 0, 0, -ONE), lambda shown: np.rot90(shown, 2)),
    "mirrored": ((-ONE, 0, 0, ONE), lambda shown: shown[:, ::-1]),
    "mirrored and turned": ((0, ONE, ONE, 0), lambda shown: shown.transpose(1, 0, 2)),
}


def make_mp4(path: Path, picture: NDArray[np.uint8], matrix: tuple[int, int, int, int], title: str = "") -> Path:
    """Write one frame, uint8 [height, width, 3], that players show as the display matrix says."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream("libx264", rate=16, options={"qp": "0"})
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # in a track header of version 0 the matrix begins there
    a, b, c, d = matrix
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(content)
    return path


def blocks() -> NDArray[np.uint8]:
    colours = np.random.default_rng(3).integers(30, 226, (3, 5, 3), dtype=np.uint8)
    return colours.repeat(16, axis=0).repeat(16, axis=1)


@pytest.mark.parametrize("name", MATRICES)
def test_a_clip_is_read_as_players_show_it(name: str, tmp_path: Path) -> None:
    matrix, show = MATRICES[name]
    expected = show(blocks())
    height, width = expected.shape[0] // 4, expected.shape[1] // 4
    (frame,) = read_frames(make_mp4(tmp_path / "clip.mp4", blocks(), matrix), 1, height, width)
    assert frame.shape == (height, width, 3)
    means = expected.reshape(height, 4, width, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(frame.numpy(), means, atol=4)


def test_a_clip_that_is_shown_at_an_angle_is_refused(tmp_path: Path) -> None:
    path = make_mp4(tmp_path / "clip.mp4", blocks(), (46341, 46341, -46341, 46341))
    with pytest.raises(BadInput, match="is to be shown at an angle, and only quarter turns are read"):
        next(read_frames(path, 1, 4, 4))


def test_metadata_that_is_not_text_does_not_matter(tmp_path: Path) -> None:
    path = make_mp4(tmp_path / "clip.mp4", blocks(), (ONE, 0, 0, ONE), title="in latin-1")
    assert b"in latin-1" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"in latin-1", b"\xfcber \xff\xfe--"))
    assert next(read_frames(path, 1, 4, 4)).shape == (4, 4, 3)


def test_frames_that_are_too_large_are_refused(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnbench.inputs.clip.MOST_PIXELS", 100)
    with pytest.raises(BadInput, match="has frames of 48x32 pixels, and more than 100 are not read: scale it down"):
        next(read_frames(make_video(np.zeros((1, 32, 48, 3), dtype=np.uint8)), 1, 4, 4))


def test_a_short_video_can_be_played_forward_and_back(make_video: MakeVideo) -> None:
    levels = np.array([10, 20, 60, 120, 240], dtype=np.uint8)
    path = make_video(np.broadcast_to(levels[:, None, None, None], (5, 32, 48, 3)).copy())
    cells = patches(path, Grid(5, 2, 3), replay=True) * 255
    played = [10, 20, 60, 120, 240, 120, 60, 20, 10, 20, 60, 120, 240, 120, 60, 20, 10]
    for frame in range(5):
        level = 10 if frame == 0 else sum(played[4 * frame - 3 : 4 * frame + 1]) / 4
        torch.testing.assert_close(cells[frame], torch.full_like(cells[frame], level), atol=1.5, rtol=0)


def test_one_frame_that_is_replayed_stands_still(make_video: MakeVideo) -> None:
    path = make_video(np.full((1, 32, 48, 3), 77, dtype=np.uint8))
    cells = patches(path, Grid(3, 2, 3), replay=True) * 255
    torch.testing.assert_close(cells, torch.full_like(cells, 77.0), atol=1.5, rtol=0)


def test_only_the_bundled_video_is_replayed_and_only_where_it_is_short(make_video: MakeVideo) -> None:
    assert not is_replayed(None, Grid(33, 2, 2))
    assert is_replayed(None, Grid(34, 2, 2))
    assert not is_replayed(make_video(np.full((1, 32, 48, 3), 77, dtype=np.uint8)), Grid(34, 2, 2))
