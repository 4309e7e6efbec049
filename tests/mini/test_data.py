"""The clips are what they say they are."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from attnbench.mini.data import CLASSES, DIRECTIONS, labels_of, make_clips
from attnbench.mini.digits import load_digits


def test_the_cover_moves_by_the_velocity() -> None:
    clips = make_clips(0, 60, seed=3)
    weight = clips.cover.flatten(2).sum(2)
    columns = torch.arange(64.0)
    x = (clips.cover.sum(2) @ columns) / weight
    y = (clips.cover.sum(3) @ columns) / weight
    moved = torch.stack((x[:, -1] - x[:, 0], y[:, -1] - y[:, 0]), dim=1) / 15
    torch.testing.assert_close(moved, clips.velocity, atol=0.02, rtol=0)


def test_the_velocity_points_where_the_label_says() -> None:
    clips = make_clips(0, 120, seed=1)
    asked = clips.direction * (math.tau / len(DIRECTIONS))
    unit = clips.velocity / clips.velocity.norm(dim=1, keepdim=True)
    cosine = unit[:, 0] * asked.cos() - unit[:, 1] * asked.sin()  # rows count downwards
    assert cosine.min() > math.cos(math.radians(6.1))
    east = clips.direction == DIRECTIONS.index("east")
    north = clips.direction == DIRECTIONS.index("north")
    assert (clips.velocity[east, 0] > 0.9).all()
    assert (clips.velocity[north, 1] < -0.9).all()


def test_the_object_stays_inside_and_differs_from_a_ground_that_stands_still() -> None:
    clips = make_clips(0, 60, seed=2)
    reach = clips.radius[:, None, None]
    assert (clips.centre - reach).min() > -0.6
    assert (clips.centre + reach).max() < 63.6
    bare = clips.cover.amax(1) == 0  # never covered
    still = (clips.video - clips.video[:, :, :1]).abs().amax((1, 2))
    assert still[bare].max() < 1e-6
    for video, cover in zip(clips.video, clips.cover, strict=True):
        seen = [video[:, where].mean(1) for where in (cover > 0.99, cover == 0)]
        assert (seen[0] - seen[1]).abs().min() > 0.4
    assert clips.video.abs().max() <= 1


def test_every_pair_of_class_and_direction_comes_once_in_120() -> None:
    label, direction = labels_of(1234, 120)
    assert set(Counter(zip(label.tolist(), direction.tolist(), strict=True)).values()) == {1}
    assert len(CLASSES) * len(DIRECTIONS) == 120


def test_a_seed_gives_the_same_clips_and_another_seed_other_ones() -> None:
    first, again, other = (make_clips(7, 4, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.video, again.video)
    assert not torch.equal(first.video, other.video)


def test_the_splits_share_no_glyph() -> None:
    train, held_out = load_digits("train"), load_digits("held-out")
    assert not set(train.index.tolist()) & set(held_out.index.tolist())
    assert len(train.index) + len(held_out.index) == 1797
    shown = make_clips(0, 240, seed=0, split="held-out", frames=1, size=16)
    assert set(shown.glyph[shown.label < 10].tolist()) <= set(held_out.index.tolist())
    assert (shown.glyph[shown.label >= 10] == -1).all()


def test_a_glyph_is_of_the_digit_that_the_label_names() -> None:
    clips = make_clips(0, 120, seed=0, frames=1, size=16)
    digits = load_digits("train")
    drawn = dict(zip(digits.index.tolist(), digits.labels.tolist(), strict=True))
    shown = [(drawn[g], c) for g, c in zip(clips.glyph.tolist(), clips.label.tolist(), strict=True) if g >= 0]
    assert len(shown) == 80
    assert all(digit == label for digit, label in shown)


def test_smaller_clips_are_the_same_scene() -> None:
    large, small = (make_clips(0, 12, seed=0, frames=16, size=size) for size in (64, 32))
    shrunk = torch.nn.functional.avg_pool2d(large.video.flatten(1, 2), 2)
    assert (shrunk - small.video.flatten(1, 2)).abs().mean() < 0.04


def test_the_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    ours = load_digits("train")
    torch.testing.assert_close(ours.images * 16, torch.from_numpy(theirs.images[ours.index]).float())
    assert ours.labels.tolist() == theirs.target[ours.index].tolist()
