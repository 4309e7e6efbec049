"""The mini transformer: its positions, its shapes, and what it makes of the noise."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.mini.config import PRESETS, ModelConfig
from attnbench.mini.model import MiniTransformer, attend_by, from_patches, to_patches
from attnbench.mini.rope import rotate, rotations, shares

TINY = PRESETS["tiny"]
CPU = torch.device("cpu")


def random_model(config: ModelConfig = TINY) -> MiniTransformer:
    """A model with nothing at zero, so that every part has a say."""
    torch.manual_seed(0)
    model = MiniTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def inputs(count: int = 2, config: ModelConfig = TINY) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (count, 3, config.frames, config.size, config.size)
    return torch.randn(shape), torch.rand(count), torch.arange(count), torch.arange(count)


def test_the_model_that_ships_has_8192_tokens_and_fits_8_mb() -> None:
    config = PRESETS["mini"]
    assert config.grid == Grid(8, 32, 32)
    assert [sizes.grid.tokens for sizes in config.sizes] == [8192, 1024, 128]
    assert sum(p.numel() for p in MiniTransformer(config).parameters()) * 2 < 8e6


def test_the_shares_of_a_head_are_those_of_wan() -> None:
    assert shares(64) == (24, 20, 20)
    assert sum(shares(16)) == 16


@given(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 5)), st.integers(0, 10**6))
def test_scores_depend_on_the_distance_of_two_places_only(shift: tuple[int, int, int], seed: int) -> None:
    grid = Grid(8, 12, 12)
    cosine, sine = rotations(grid, 16, CPU)
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)).double()

    def score(a: tuple[int, ...], b: tuple[int, ...]) -> float:
        at = [(t * 12 + h) * 12 + w for t, h, w in (a, b)]
        turned = [rotate(x[None], cosine[i : i + 1], sine[i : i + 1])[0] for x, i in zip((q, k), at, strict=True)]
        return float(turned[0] @ turned[1])

    a, b = (1, 2, 3), (4, 0, 6)
    moved = [tuple(place + by for place, by in zip(x, shift, strict=True)) for x in (a, b)]
    assert score(a, b) == pytest.approx(score(*moved), abs=1e-4)


def test_a_token_of_a_stretched_grid_stands_in_the_middle_of_eight() -> None:
    """The turn from one corner's token to it is the turn from it to the opposite corner's."""
    wide, fine = (torch.complex(*rotations(grid, 16, CPU, s)) for grid, s in ((Grid(1, 2, 2), 2), (Grid(2, 4, 4), 1)))
    for token in range(4):
        h, w = divmod(token, 2)
        first, last = (fine[(t * 4 + 2 * h + t) * 4 + 2 * w + t] for t in (0, 1))
        torch.testing.assert_close(wide[token] / first, last / wide[token], atol=1e-5, rtol=0)


def test_patches_stand_in_grid_order_and_come_back() -> None:
    clip = torch.arange(3 * 4 * 6 * 8.0).view(1, 3, 4, 6, 8)
    grid = Grid(2, 3, 4)
    tokens = to_patches(clip, (2, 2, 2))
    assert tokens.shape == (1, grid.tokens, 24)
    place = (1 * 3 + 2) * 4 + 1  # t = 1, h = 2, w = 1
    torch.testing.assert_close(tokens[0, place], clip[0, :, 2:4, 4:6, 2:4].flatten())
    assert torch.equal(from_patches(tokens, grid, (2, 2, 2)), clip)


def test_an_untrained_model_gives_the_best_linear_guess() -> None:
    """Of the velocity of clips of white noise, by a regression that knows nothing of the formula."""
    model = MiniTransformer(TINY)
    sigma = 0.65
    for at in (0.2, 0.7, 0.95):
        clip = sigma * torch.randn(40, 3, 4, 16, 16)
        noise = torch.randn_like(clip)
        x = (1 - at) * clip + at * noise
        slope = float((x * (noise - clip)).sum() / x.square().sum())
        labels = torch.zeros(40, dtype=torch.long)
        with torch.no_grad():
            guess = model(x, torch.full((40,), at), labels, labels)
        torch.testing.assert_close(guess, slope * x, atol=0.06, rtol=0.03)


def test_class_direction_and_time_all_count() -> None:
    model = random_model()
    x, t, label, direction = inputs()
    with torch.no_grad():
        plain = model(x, t, label, direction)
        assert plain.shape == x.shape
        for other in ((x, t, label + 1, direction), (x, t, label, direction + 1), (x, t / 2, label, direction)):
            assert (model(*other) - plain).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient() -> None:
    model = random_model()
    model(*inputs()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_attention_is_told_layer_step_and_grid_and_takes_any_method() -> None:
    model = random_model()
    seen = []

    def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
        seen.append((q.shape, grid, layer, step))
        return attend_by("full")(q, k, v, grid=grid, layer=layer, step=step)

    given = inputs()
    with torch.no_grad():
        watched = model(*given, attend=attend, step=3)
        plain = model(*given)
        windowed = model(*given, attend=attend_by("sliding-window", window=(0, 1, 1)))
    assert seen == [((2, 2, 128, 16), Grid(2, 8, 8), layer, 3) for layer in range(3)]
    assert torch.equal(watched, plain)
    assert (windowed - plain).abs().max() > 1e-3


def test_every_layer_can_attend_as_one() -> None:
    q, k, v = torch.randn(3, 1, 2, 128, 16)
    grid, partition = Grid(2, 8, 8), (1, (2, 2), (1, 4, 2))
    second = attend_by("vmoba", partition=partition)(q, k, v, grid=grid, layer=1, step=None)
    always = attend_by("vmoba", partition=partition, as_layer=1)
    for layer in range(3):
        assert torch.equal(always(q, k, v, grid=grid, layer=layer, step=None), second)
    first = attend_by("vmoba", partition=partition)(q, k, v, grid=grid, layer=0, step=None)
    assert not torch.allclose(first, second)


def test_fused_and_plain_blocks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: torch._dynamo.optimize("eager")(function))
    model, given = random_model(dataclasses.replace(TINY, layers=1)), inputs()
    with torch.no_grad():
        plain = model(*given)
        model.fuse()
        torch.testing.assert_close(model(*given), plain)


def test_clips_of_another_size_are_refused() -> None:
    with pytest.raises(BadInput, match=r"this model takes \[batch, 3, 4, 16, 16\]"):
        MiniTransformer(TINY)(torch.randn(1, 3, 4, 20, 20), *inputs(1)[1:])


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"head_dim": 5}, {"size": 63}, {"frames": True}])
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        dataclasses.replace(TINY, **wrong)


def test_bfloat16_stays_within_rounding_of_float32() -> None:
    model, given = random_model(), inputs()
    with torch.no_grad():
        plain = model(*given)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = model(*given)
    assert narrow.dtype == torch.float32
    assert (narrow - plain).norm() / plain.norm() < 2**-6 * math.sqrt(3)
