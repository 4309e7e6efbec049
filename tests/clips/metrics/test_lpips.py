"""LPIPS with stand-in weights, random but placed and named as the published files are, against a numpy computation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from attnbench.clips.metrics import lpips as module
from attnbench.clips.metrics import published_weights
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.lpips import heads_path, lpips, trunk_path
from attnbench.clips.metrics.measured import Skipped
from attnbench.clips.metrics.published_weights import read_weights
from attnbench.kernels.errors import BadInput

MakeClip = Callable[..., Clip]
Floats = npt.NDArray[np.float64]
State = dict[str, torch.Tensor]

LAYERS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """Place stand-ins for the trunk and the heads; return all their tensors."""
    generator = torch.Generator().manual_seed(0)
    trunk: State = {"classifier.6.bias": torch.zeros(1000)}
    for number, (out, into, side) in LAYERS.items():
        spread = (into * side * side) ** -0.5
        trunk[f"features.{number}.weight"] = torch.randn(out, into, side, side, generator=generator) * spread * 1.4
        trunk[f"features.{number}.bias"] = torch.randn(out, generator=generator) * 0.1
    heads = {
        f"lin{number}.model.1.weight": torch.rand(1, out, 1, 1, generator=generator)
        for number, (out, _, _) in enumerate(LAYERS.values())
    }
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    package = tmp_path / "site" / "lpips"
    for folder in (trunk_path().parent, package / "weights" / "v0.1"):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no torchvision here')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for state, path, name in ((trunk, trunk_path(), "TRUNK_DIGEST"), (heads, heads_path(), "HEADS_DIGEST")):
        torch.save(state, path)
        monkeypatch.setattr(module, name, hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    module._model.cache_clear()
    return trunk | heads


def convolved(x: Floats, weight: Floats, bias: Floats, stride: int, edge: int) -> Floats:
    around = sliding_window_view(np.pad(x, ((0, 0), (edge, edge), (edge, edge))), weight.shape[2:], axis=(1, 2))
    made = np.tensordot(around[:, ::stride, ::stride], weight, axes=([0, 3, 4], [1, 2, 3]))
    return np.maximum(made.transpose(2, 0, 1) + bias[:, None, None], 0)


def stages(picture: Floats, state: State) -> list[Floats]:
    x = (picture / 127.5 - 1 - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    x, found = x.transpose(2, 0, 1), []
    for number, stride, edge in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
        if number in (3, 6):
            x = sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
        weight, bias = (state[f"features.{number}.{name}"].double().numpy() for name in ("weight", "bias"))
        x = convolved(x, weight, bias, stride, edge)
        found.append(x)
    return found


def expected(a: Floats, b: Floats, state: State) -> float:
    total = 0.0
    for number, (one, other) in enumerate(zip(stages(a, state), stages(b, state), strict=True)):
        units = [x / (np.linalg.norm(x, axis=0) + 1e-10) for x in (one, other)]
        head = state[f"lin{number}.model.1.weight"].reshape(-1, 1, 1).double().numpy()
        total += float((head * (units[0] - units[1]) ** 2).sum(axis=0).mean())
    return total


def test_lpips_is_the_weighted_distance_of_alexnets_five_stages(weights: State, make_clip: MakeClip) -> None:
    a, b = (make_clip(seed, length=2, height=39, width=52) for seed in (0, 1))
    wanted = [
        expected(a.frames[frame].numpy().astype(float), b.frames[frame].numpy().astype(float), weights)
        for frame in range(2)
    ]
    found = lpips(a, b)
    assert found.per_frame == pytest.approx(wanted, rel=1e-4)
    assert found.value == pytest.approx(np.mean(wanted), rel=1e-4)


def test_equal_clips_have_0_and_the_order_of_two_does_not_matter(weights: State, make_clip: MakeClip) -> None:
    a, b = make_clip(0), make_clip(1)
    assert lpips(a, a).value == 0
    assert lpips(a, b).value > 0
    assert lpips(a, b).value == pytest.approx(lpips(b, a).value)


def test_missing_weights_are_skipped_with_where_they_belong(
    tmp_path: Path, make_clip: MakeClip, weights: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "elsewhere"))
    with pytest.raises(
        Skipped, match=r"alexnet-owt-7be5be79\.pth' are not in '.*elsewhere/checkpoints'.*copy the file"
    ):
        lpips(make_clip(), make_clip())


def test_a_missing_package_of_heads_is_skipped(make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_weights, "find_spec", lambda name: None)
    with pytest.raises(Skipped, match="pip install --no-deps lpips"):
        lpips(make_clip(), make_clip())


def test_truncated_weights_are_skipped(make_clip: MakeClip, weights: State) -> None:
    trunk_path().write_bytes(trunk_path().read_bytes()[:1000])
    with pytest.raises(Skipped, match="truncated or another file"):
        lpips(make_clip(), make_clip())


def test_weights_of_another_model_are_skipped(
    make_clip: MakeClip, weights: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, trunk_path())
    monkeypatch.setattr(module, "TRUNK_DIGEST", hashlib.sha256(trunk_path().read_bytes()).hexdigest())
    with pytest.raises(Skipped, match="do not fit LPIPS on AlexNet"):
        lpips(make_clip(), make_clip())


def test_code_in_a_weights_file_is_not_run(tmp_path: Path, trap: Callable[[Path], object]) -> None:
    path, touched = tmp_path / "weights.pth", tmp_path / "touched"
    torch.save({"features.0.weight": trap(touched)}, path)
    with pytest.raises(Skipped, match=r"more than tensors.*: get it there"):
        read_weights(path, digest=hashlib.sha256(path.read_bytes()).hexdigest(), get_it="get it there")
    assert not touched.exists()


def test_a_file_of_something_else_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(Skipped, match="not a table of tensors"):
        read_weights(path, digest="", get_it="get it there")


def test_frames_too_small_are_skipped_and_the_smallest_run(weights: State, make_clip: MakeClip) -> None:
    with pytest.raises(Skipped, match="31x31, and these are 30x40"):
        lpips(make_clip(height=30, width=40), make_clip(height=30, width=40))
    small = [make_clip(seed, length=1, height=31, width=31) for seed in (0, 1)]
    assert lpips(*small).value > 0


def test_clips_that_do_not_match_are_refused(make_clip: MakeClip) -> None:
    with pytest.raises(BadInput, match="size and length"):
        lpips(make_clip(length=2), make_clip(length=3))
