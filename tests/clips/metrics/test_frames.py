from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.clips.metrics import frames as module
from attnbench.clips.metrics.frames import Clip, as_clip, float_batches, require_alike
from attnbench.kernels.errors import BadInput


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_floats_come_back_as_the_bytes_they_were(length: int, height: int, width: int, signed: bool) -> None:
    wanted = np.random.default_rng(length).integers(0, 256, (length, height, width, 3), dtype=np.uint8)
    values = wanted / 255 * (2 if signed else 1) - signed
    clip = as_clip(values, low=-1.0 if signed else 0.0)
    np.testing.assert_array_equal(clip.frames.numpy(), wanted)


def test_floats_are_rounded_not_cut_off() -> None:
    clip = as_clip(torch.full((1, 1, 1, 3), 0.999))
    assert clip.frames.flatten().tolist() == [255, 255, 255]


def test_a_small_overshoot_is_clamped_and_a_batch_of_one_taken_off() -> None:
    clip = as_clip(torch.tensor([-0.1, 0.0, 1.2]).expand(1, 2, 4, 5, 3))
    assert clip.frames.shape == (2, 4, 5, 3)
    assert clip.frames[0, 0, 0].tolist() == [0, 0, 255]


def test_bytes_are_taken_as_they_are() -> None:
    frames = torch.arange(24, dtype=torch.uint8).reshape(2, 2, 2, 3)
    assert torch.equal(as_clip(frames, fps=8).frames, frames)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (torch.zeros(2, 4, 4), r"\(2, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4), r"\(2, 3, 4, 4\)"),
        (torch.zeros(0, 4, 4, 3), "at least one frame"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.int32), "torch.int32"),
        (torch.full((3, 4, 4, 3), torch.nan), "3 of 3 frames hold NaN"),
        (torch.zeros(1, 4, 4, 3) + torch.inf, "1 of 1 frames"),
        (torch.full((1, 4, 4, 3), 255.0), "from 255 to 255"),
        (torch.full((1, 4, 4, 3), -1.0), "0 to 1"),
        ([np.zeros((4, 4, 3))], "frames are a list"),
        (None, "frames are a NoneType"),
        (np.full((1, 4, 4, 3), "red"), "frames are an array of <U3"),
    ],
)
def test_what_is_no_clip_is_refused(frames: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        as_clip(frames)


@pytest.mark.parametrize("fps", [0.0, -8.0, float("nan"), float("inf"), "16", None])
def test_an_impossible_fps_is_refused(fps: Any) -> None:
    with pytest.raises(BadInput, match="fps"):
        Clip(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), fps)


def test_a_range_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(BadInput, match="1 to -1"):
        as_clip(torch.zeros(1, 2, 2, 3), low=1.0, high=-1.0)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (3, 4, 5, 3), (3, 5, 6, 3)])
def test_clips_of_another_size_or_length_are_refused(shape: tuple[int, ...]) -> None:
    a, b = (Clip(torch.zeros(sides, dtype=torch.uint8)) for sides in ((3, 4, 6, 3), shape))
    with pytest.raises(BadInput, match=f"3 frames of 4x6 and of {b.words}"):
        require_alike(a, b)


def test_equal_frames_have_an_equal_digest_and_others_another() -> None:
    frames = torch.arange(48, dtype=torch.uint8).reshape(1, 4, 4, 3)
    changed = frames.clone()
    changed[0, 3, 3, 2] += 1
    assert Clip(frames).digest == Clip(frames.clone(), fps=8).digest
    assert len({Clip(frames).digest, Clip(changed).digest, Clip(frames.reshape(4, 2, 2, 3)).digest}) == 3


@pytest.mark.parametrize("pixels", [1, 40, 10**6])
def test_batches_hold_every_frame_once_in_order(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", pixels)
    frames = torch.randint(0, 256, (7, 4, 5, 3), dtype=torch.uint8)
    pairs = list(float_batches(Clip(frames), Clip(255 - frames)))
    assert {10**6: 1, 40: 4, 1: 7}[pixels] == len(pairs)
    first, second = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    assert torch.equal(first.permute(0, 2, 3, 1), frames.float())
    assert torch.equal(second, 255 - first)
