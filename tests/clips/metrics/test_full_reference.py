"""PSNR, SSIM and MS-SSIM against numpy computations of their own, and against torchmetrics as far as float32 goes."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure as multiscale_similarity,
)
from torchmetrics.functional.image import (
    structural_similarity_index_measure as structural_similarity,
)

from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.full_reference import ms_ssim, psnr, psnr_pooled, ssim
from attnbench.clips.metrics.measured import Measured, Skipped
from attnbench.kernels.errors import BadInput

MakeClip = Callable[..., Clip]
Floats = npt.NDArray[np.float64]


def decibels(error: float) -> float:
    return float(10 * np.log10(255**2 / error))


def maps(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """SSIM and its contrast part at each pixel of one channel, the picture mirrored at its edges."""
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2

    def smooth(x: Floats) -> Floats:
        around = sliding_window_view(np.pad(x, 5, mode="reflect"), (11, 11))
        return np.asarray(np.einsum("hwij,ij->hw", around, window))

    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b, cov = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2, smooth(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrast = (2 * cov + c2) / (var_a + var_b + c2)
    return (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast, contrast


def channels(clip: Clip, frame: int) -> Floats:
    return clip.frames[frame].permute(2, 0, 1).numpy().astype(np.float64)


def halved(x: Floats) -> Floats:
    height, width = (side // 2 * 2 for side in x.shape[1:])
    return x[:, :height, :width].reshape(3, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def expected_ms_ssim(a: Floats, b: Floats) -> float:
    result = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        made = [maps(*pair) for pair in zip(a, b, strict=True)]
        inner = np.mean([contrast[5:-5, 5:-5] for _, contrast in made])
        part = np.mean([whole for whole, _ in made]) if scale == 4 else inner
        result *= max(float(part), 0.0) ** weight
        a, b = halved(a), halved(b)
    return result


def test_psnr_is_that_of_each_frame_averaged(make_clip: MakeClip) -> None:
    a, b = make_clip(0, length=5), make_clip(1, length=5)
    errors = ((a.frames.numpy().astype(float) - b.frames.numpy()) ** 2).mean(axis=(1, 2, 3))
    found = psnr(a, b)
    assert found.per_frame == pytest.approx([decibels(error) for error in errors], abs=1e-5)
    assert found.value == pytest.approx(np.mean(found.per_frame))
    assert (found.identical_frames, found.made_by.split()[0]) == (0, "torchmetrics")


def test_pooled_psnr_is_that_of_all_pixels_together(make_clip: MakeClip) -> None:
    a, b = make_clip(0, length=5), make_clip(1, length=5)
    mixed = Clip(torch.cat([a.frames[:3], b.frames[3:]]))
    error = ((a.frames.numpy().astype(float) - mixed.frames.numpy()) ** 2).mean()
    found = psnr_pooled(a, mixed)
    assert found.value == pytest.approx(decibels(error), abs=1e-5)
    assert (found.per_frame, found.identical_frames) == ((), 3)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_pooled_psnr_is_never_above_the_mean_over_frames(length: int, height: int, width: int, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (2, length, height, width, 3), dtype=np.uint8)
    a, b = (Clip(torch.from_numpy(part)) for part in frames)
    assert psnr_pooled(a, b).value <= psnr(a, b).value + 1e-9


def test_identical_frames_have_100_db_and_are_counted(make_clip: MakeClip) -> None:
    a, b = make_clip(0), make_clip(1)
    half = Clip(torch.cat([a.frames[:1], b.frames[1:]]))
    found = psnr(half, a)
    assert (found.per_frame[0], found.identical_frames) == (100.0, 1)
    assert max(found.per_frame[1:]) < 40
    assert (psnr(a, a).value, psnr_pooled(a, a).value, ssim(a, a).value) == (100.0, 100.0, 1.0)


def test_one_step_in_one_pixel_of_a_large_frame_has_no_more_than_identical_frames() -> None:
    plain = torch.zeros(1, 200, 200, 3, dtype=torch.uint8)
    changed = plain.clone()
    changed[0, 7, 7, 0] = 1
    assert decibels(1 / 120_000) > 98
    wide = (Clip(part.repeat(1, 2, 2, 1).clone()) for part in (plain, plain))
    first, second = wide
    second.frames[0, 7, 7, 0] = 1
    for metric in (psnr, psnr_pooled):
        found = metric(first, second)
        assert (found.value, found.identical_frames) == (100.0, 0)
        assert metric(Clip(plain), Clip(changed)).value == pytest.approx(decibels(1 / 120_000))


def test_the_range_is_255_whatever_the_pixels_are() -> None:
    a, b = (Clip(torch.full((1, 16, 16, 3), value, dtype=torch.uint8)) for value in (100, 110))
    assert psnr(a, b).value == pytest.approx(decibels(100))
    assert ssim(a, b).value == pytest.approx((2 * 1.1e4 + 6.5025) / (1e4 + 1.21e4 + 6.5025))


@pytest.mark.parametrize(("height", "width"), [(11, 11), (24, 40), (40, 33)])
def test_ssim_is_wangs_with_the_gaussian_window(height: int, width: int, make_clip: MakeClip) -> None:
    a, b = (make_clip(seed, length=2, height=height, width=width) for seed in (0, 1))
    expected = [
        np.mean([maps(*pair)[0].mean() for pair in zip(channels(a, frame), channels(b, frame), strict=True)])
        for frame in range(2)
    ]
    found = ssim(a, b)
    assert found.per_frame == pytest.approx(expected)
    assert 0.1 < found.value < 0.95


@pytest.mark.parametrize("side", [64, 192])
def test_ssim_and_ms_ssim_agree_with_torchmetrics(side: int, make_clip: MakeClip) -> None:
    a, b = (make_clip(seed, length=2, height=side, width=side) for seed in (0, 1))
    pictures = [clip.frames.permute(0, 3, 1, 2).float() for clip in (a, b)]
    assert ssim(a, b).value == pytest.approx(float(structural_similarity(*pictures, data_range=255.0)), abs=1e-4)
    if side == 192:
        assert ms_ssim(a, b).value == pytest.approx(float(multiscale_similarity(*pictures, data_range=255.0)), abs=1e-4)


def test_flat_areas_that_are_equal_have_an_ssim_of_1() -> None:
    white = Clip(torch.full((1, 40, 40, 3), 210, dtype=torch.uint8))
    spotted = Clip(white.frames.clone())
    spotted.frames[0, 0, 0] -= 1
    assert ssim(white, spotted).value == pytest.approx(1, abs=1e-4)


def test_ssim_has_no_window_across_time(make_clip: MakeClip) -> None:
    a, b = make_clip(0, length=4), make_clip(1, length=4)
    order = [2, 0, 3, 1]
    shuffled = ssim(Clip(a.frames[order]), Clip(b.frames[order])).per_frame
    assert shuffled == pytest.approx([ssim(a, b).per_frame[frame] for frame in order], abs=1e-6)


def test_ms_ssim_is_wangs_over_five_scales(make_clip: MakeClip) -> None:
    a, b = (make_clip(seed, length=1, height=176, width=181, noise=60) for seed in (0, 1))
    found = ms_ssim(a, b)
    assert found.value == pytest.approx(expected_ms_ssim(channels(a, 0), channels(b, 0)))
    assert 0.1 < found.value < 0.95
    assert ms_ssim(a, a).value == 1.0


@pytest.mark.parametrize(
    ("metric", "side", "least"), [(ssim, 10, "11x11"), (ms_ssim, 175, "176x176"), (ms_ssim, 64, "176x176")]
)
def test_frames_too_small_are_skipped_with_the_size_that_is_needed(
    metric: Callable[[Clip, Clip], Measured], side: int, least: str, make_clip: MakeClip
) -> None:
    clip = make_clip(length=1, height=side, width=200)
    with pytest.raises(Skipped, match=f"{least}, and these are {side}x200"):
        metric(clip, clip)


@pytest.mark.parametrize("metric", [psnr, psnr_pooled, ssim, ms_ssim])
def test_clips_that_do_not_match_are_refused(metric: Callable[[Clip, Clip], Measured], make_clip: MakeClip) -> None:
    with pytest.raises(BadInput, match="size and length must agree"):
        metric(make_clip(length=2), make_clip(length=3))


def test_a_torchmetrics_that_cannot_be_imported_is_a_reason(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(Skipped, match="torchmetrics cannot be imported"):
        psnr(make_clip(0), make_clip(1))
