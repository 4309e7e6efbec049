"""The judges of generated clips, on clips whose class and motion are known."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.mini.classifier import load_classifier, train_classifier
from attnbench.mini.data import Clips, make_clips
from attnbench.mini.score import score
from attnbench.mini.tracker import NOTHING, track
from attnbench.results.intervals import mean_interval, wilson


@pytest.fixture(scope="module")
def real() -> Clips:
    return make_clips(0, 120, seed=77, split="held-out")


def test_the_judges_know_held_out_clips(real: Clips) -> None:
    found = score(real.video, real.label, real.direction, load_classifier())
    assert found.class_share.value >= 0.98
    assert found.motion_share.value >= 0.98
    wrong = score(real.video[:40], (real.label[:40] + 1) % 15, (real.direction[:40] + 1) % 8, load_classifier())
    assert wrong.class_share.value <= 0.05
    assert wrong.motion_share.value <= 0.05


def test_the_tracker_reads_velocity_and_place_within_noise(real: Clips) -> None:
    noisy = real.video + 0.1 * torch.randn(real.video.shape, generator=torch.Generator().manual_seed(0))
    motion = track(noisy)
    assert (motion.velocity - real.velocity).norm(dim=1).quantile(0.95) < 0.15
    assert (motion.direction == real.direction).float().mean() >= 0.98


def test_a_turned_clip_moves_the_turned_way(real: Clips) -> None:
    video = real.video[:40]
    before, after = track(video), track(video.rot90(1, (3, 4)))  # anticlockwise as one sees it
    assert torch.equal((before.direction + 2) % 8, after.direction)


def test_a_reversed_clip_moves_the_other_way(real: Clips) -> None:
    video = real.video[40:80]
    assert torch.equal((track(video).direction + 4) % 8, track(video.flip(2)).direction)


def test_what_stands_still_or_is_empty_has_no_direction(real: Clips) -> None:
    still = real.video[:4, :, :1].expand(-1, -1, 16, -1, -1)
    assert track(still).direction.tolist() == [NOTHING] * 4
    assert track(torch.zeros(2, 3, 16, 64, 64)).direction.tolist() == [NOTHING] * 2


@pytest.mark.parametrize("clip", [torch.zeros(1, 3, 1, 64, 64), torch.zeros(3, 16, 64, 64), torch.zeros(1, 3, 4, 4, 4)])
def test_clips_that_cannot_be_tracked_are_refused(clip: Tensor) -> None:
    with pytest.raises(BadInput, match="clips are"):
        track(clip)


def test_nan_and_missing_clips_are_refused(real: Clips) -> None:
    bad = real.video[:1].clone()
    bad[0, 0, 3, 3, 3] = torch.nan
    with pytest.raises(BadInput, match="NaN"):
        track(bad)
    with pytest.raises(BadInput, match="NaN"):
        load_classifier()(bad)
    with pytest.raises(BadInput, match="0 clips"):
        score(real.video[:0], real.label[:0], real.direction[:0], load_classifier())
    with pytest.raises(BadInput, match="cannot be scored"):
        score(real.video[:2], real.label[:3], real.direction[:2], load_classifier())


def test_training_lowers_the_classifiers_loss() -> None:
    losses: list[float] = []
    model = train_classifier(16, batch=15, progress=lambda step, loss: losses.append(loss))
    assert sum(losses[-4:]) < sum(losses[:4])
    assert not model.training


@given(st.integers(1, 400), st.data())
def test_wilson_solves_its_equation(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    low, high = wilson(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    z = 1.959964
    for end in (low, high):
        if 0 < end < 1:
            assert abs(hits / count - end) == pytest.approx(z * math.sqrt(end * (1 - end) / count), abs=1e-6)


def test_the_interval_of_a_mean_covers_it_19_times_in_20() -> None:
    draws = torch.randn(1000, 60, generator=torch.Generator().manual_seed(0)).exp().tolist()
    inside = [low < math.exp(0.5) < high for _, low, high in map(mean_interval, draws)]
    assert 0.88 < sum(inside) / 1000 < 0.97  # a little short of 0.95: the distribution is skewed
    assert mean_interval([1.0, 3.0]) == pytest.approx((2, 2 - 1.959964, 2 + 1.959964))


def test_the_classifier_can_be_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "train_mini.py"
    words = ["classifier", str(tmp_path / "new"), "--counts", "1", "--clips", "15"]
    monkeypatch.setattr("sys.argv", [script.name, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    clips = make_clips(0, 15, seed=11, split="held-out")
    model = load_classifier(tmp_path / "new" / "classifier.safetensors")
    hits = int((model(clips.video).argmax(1) == clips.label).sum())
    assert capsys.readouterr().out == f"{hits} of 15 held-out clips are seen as what they are\n"
