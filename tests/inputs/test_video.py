from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import attnbench
from attnbench.inputs.make import Inputs, make_inputs
from attnbench.inputs.shapes import Shape, resolve_shape
from attnbench.inputs.structure import locality, union_density
from attnbench.inputs.video import GAIN, POSITION, character
from attnbench.kernels.errors import BadInput

MakeVideo = Callable[..., Path]
MINI = resolve_shape(model="mini")


def make(shape: Shape, heads: int, spec: str = "video") -> Inputs:
    return make_inputs(spec, shape, heads=heads, dtype=torch.float32, device=torch.device("cpu"), seed=0)


@pytest.fixture(scope="module")
def video() -> Inputs:
    return make(MINI, 4)


@pytest.fixture(scope="module")
def gaussian() -> Inputs:
    return make(MINI, 4, "gaussian")


def rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean(dim=-1).sqrt()


def test_every_query_and_key_has_the_norm_of_its_heads_gain(video: Inputs) -> None:
    for head in range(4):
        gain = character(head).gain
        for x in (video.q, video.k):
            torch.testing.assert_close(rms(x[0, head]), torch.full((8192,), gain**0.5), atol=1e-3, rtol=0)
        top = (video.q[0, head, :64] @ video.k[0, head].T).max() / 8
        assert top <= gain * 8 * 1.001


def test_values_have_rms_one(video: Inputs) -> None:
    torch.testing.assert_close(video.v.square().mean(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_characters_fill_their_ranges() -> None:
    traits = [character(head) for head in range(12)]
    for values, (low, high) in (([t.position for t in traits], POSITION), ([t.gain for t in traits], GAIN)):
        assert all(low <= value <= high for value in values)
        assert max(values) - min(values) > 0.7 * (high - low)


def test_attention_is_more_local_than_gaussian_in_every_head(video: Inputs, gaussian: Inputs) -> None:
    ours = [locality(video.q[0, h], video.k[0, h], MINI.grid) for h in range(4)]
    theirs = [locality(gaussian.q[0, h], gaussian.k[0, h], MINI.grid) for h in range(4)]
    assert min(ours) > 2 * max(theirs)
    assert max(ours) > 1.5 * min(ours)


@pytest.mark.parametrize("layer", [1, 2])  # at layer 0 mini has three blocks, and hardly more than the own is kept
def test_at_nearly_equal_density_neighbouring_queries_agree_more(video: Inputs, gaussian: Inputs, layer: int) -> None:
    ours, theirs = (attnbench.select(x.q, x.k, method="vmoba", grid=MINI.grid, layer=layer) for x in (video, gaussian))
    assert ours.density == pytest.approx(theirs.density, rel=0.2)
    assert union_density(ours) < 0.7 * union_density(theirs)


def test_queries_attend_to_similar_content(make_video: MakeVideo) -> None:
    """At the seam of a dark and a bright half, position alone, or q and k that share nothing, give the own half .65."""
    rng = np.random.default_rng(0)
    dark, bright = (rng.integers(low, low + 60, (5, 256, 128, 3), dtype=np.uint8) for low in (0, 190))
    path = make_video(np.concatenate([dark, bright], axis=2))
    inputs = make(resolve_shape(grid="2x16x16", heads=8, head_dim=64), 8, f"video:{path}")
    column = torch.arange(512) % 16
    shares = []
    for seam, own in ((7, column < 8), (8, column >= 8)):
        mass = torch.softmax(inputs.q[0, :, column == seam] @ inputs.k[0].mT / 8, dim=2)
        shares.append(mass[:, :, own].sum(dim=2).mean())
    assert float(sum(shares)) / 2 > 0.8


def test_text_tokens_stand_where_the_model_joins_them() -> None:
    plain = make(resolve_shape(grid="2x4x4", heads=2, head_dim=64), 2)
    for model, before in (("cogvideox-5b", 226), ("hunyuan", 0)):
        shape = resolve_shape(model=model, grid="2x4x4", heads=2, head_dim=64)
        inputs = make(shape, 2)
        assert inputs.q.shape[2] == shape.tokens
        for name in "qkv":
            x = getattr(inputs, name)
            assert torch.equal(x[:, :, before : before + 32], getattr(plain, name))
            text = torch.cat([x[:, :, :before], x[:, :, before + 32 :]], dim=2)
            for head in range(2):
                wanted = character(head).gain if name in "qk" else 1.0
                assert float(text[0, head].square().mean()) == pytest.approx(wanted, rel=0.05)


def test_query_heads_of_one_kv_head_look_alike_but_are_not_equal() -> None:
    q = make(resolve_shape(grid="2x8x8", heads=4, kv_heads=2, head_dim=32), 4).q[0].flatten(1)
    likeness = torch.corrcoef(q)
    assert 0.3 < likeness[0, 1] < 0.999
    assert likeness[0, 1] > likeness[0, 2] + 0.2
    assert likeness[2, 3] > likeness[1, 2] + 0.2


@pytest.mark.parametrize(("grid", "head_dim"), [("1x1x9", 2), ("4x1x1", 4), ("2x3x5", 6), ("3x40x2", 130)])
def test_any_grid_and_even_head_dim_gives_finite_inputs(grid: str, head_dim: int) -> None:
    inputs = make(resolve_shape(grid=grid, heads=2, head_dim=head_dim), 2)
    assert all(torch.isfinite(x).all() and bool(x.any()) for x in (inputs.q, inputs.k, inputs.v))


def test_a_video_of_one_colour_is_refused(make_video: MakeVideo) -> None:
    path = make_video(np.full((5, 64, 64, 3), 90, dtype=np.uint8))
    with pytest.raises(BadInput, match=r"clip\.mkv' looks the same at every token of grid 2x4x4"):
        make(resolve_shape(grid="2x4x4", heads=1, head_dim=8), 1, f"video:{path}")


def test_an_odd_head_dim_is_refused() -> None:
    with pytest.raises(BadInput, match="head_dim 63 must be even"):
        make(resolve_shape(grid="2x4x4", heads=1, head_dim=63), 1)
