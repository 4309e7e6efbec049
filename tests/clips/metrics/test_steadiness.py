"""The difference after compensated motion: moving objects and uncovered backgrounds cost nothing, flicker does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnbench.clips.metrics.frames import Clip, as_clip
from attnbench.clips.metrics.measured import Skipped
from attnbench.clips.metrics.metrics import metric_named
from attnbench.clips.metrics.steadiness import motion_compensated_difference
from attnbench.mini.data import make_clips


def moving(dx: int, dy: int, length: int = 6) -> Tensor:
    """A textured square that moves by whole pixels over a plain background, uint8 [T, 48, 48, 3]."""
    texture = torch.randint(120, 256, (10, 10, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames = torch.full((length, 48, 48, 3), 40, dtype=torch.uint8)
    for number in range(length):
        y, x = 16 + dy * number, 16 + dx * number
        frames[number, y : y + 10, x : x + 10] = texture
    return frames


def plain_difference(frames: Tensor) -> float:
    return float((frames[1:].float() - frames[:-1].float()).abs().mean())


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (2, 0), (0, -1), (3, 2), (-2, 1)])
def test_an_object_that_moves_over_its_background_costs_nothing(dx: int, dy: int) -> None:
    frames = moving(dx, dy)
    assert motion_compensated_difference(Clip(frames)).value == pytest.approx(0, abs=0.01)
    assert plain_difference(frames) > 1 or (dx, dy) == (0, 0)


def test_flicker_counts_with_its_size_and_frames_at_the_ends_do_not() -> None:
    frames = torch.full((5, 32, 32, 3), 100, dtype=torch.uint8)
    frames[2] += 6
    found = motion_compensated_difference(Clip(frames))
    assert found.per_frame == pytest.approx((0.0, 6.0, 0.0), abs=1e-4)
    assert found.value == pytest.approx(2.0, abs=1e-4)


def test_a_channel_counts_for_a_third() -> None:
    frames = torch.full((3, 32, 32, 3), 100, dtype=torch.uint8)
    frames[1, ..., 0] += 9
    assert motion_compensated_difference(Clip(frames)).value == pytest.approx(3.0, abs=1e-4)


def test_real_motion_between_pixels_costs_little_and_noise_more_the_stronger_it_is() -> None:
    video = make_clips(0, 3, seed=3).video
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(video.shape, generator=generator) / 127.5
    found = [
        [motion_compensated_difference(as_clip(each.permute(1, 2, 3, 0), low=-1, high=1)).value for each in noisy]
        for noisy in (video, video + 2 * noise, video + 8 * noise)
    ]
    for still, weak, strong in zip(*found, strict=True):
        assert still < 0.3 < 1 < weak < 2 < 4 < strong


@pytest.mark.parametrize(
    ("shape", "said"), [((2, 32, 32, 3), "at least 3 frames, not 2"), ((3, 4, 32, 3), "clips are")]
)
def test_clips_that_cannot_be_judged_are_skipped(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(Skipped, match=said):
        motion_compensated_difference(Clip(torch.zeros(shape, dtype=torch.uint8)))


def test_the_table_knows_it_as_a_score_that_should_be_low() -> None:
    metric = metric_named("motion_compensated_difference")
    assert (metric.kind, metric.better) == ("score", "lower")
