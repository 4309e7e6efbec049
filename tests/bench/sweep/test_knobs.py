"""Settings that bring a method near a density, checked against the plans that result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import attnbench
from attnbench.bench.sweep.knobs import turn, with_density_setting
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import get_method, registry
from attnbench.methods.density import DensitySetting
from attnbench.methods.registry import BUILT_IN

GRID = Grid(6, 10, 16)


def density_of(method: str, settings: dict[str, Any], grid: Grid, layer: int = 0) -> float:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, grid.tokens, 8, generator=generator)
    return attnbench.select(q, k, method=method, grid=grid.shape, layer=layer, step=0, v=k, **settings).density


@pytest.mark.parametrize("density", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(
    ("method", "given_settings", "off"),
    [
        ("moba", {"blocks": 20}, 0.06),
        ("sliding-window", {}, 0.05),
        ("sta", {"tile": (2, 2, 2)}, 0.25),
        ("vmoba", {"select": "topk", "partition": (1, (2, 2), (2, 2, 2))}, 0.7),
    ],
)
def test_the_density_that_results_is_near(
    method: str, given_settings: dict[str, Any], off: float, density: float
) -> None:
    layers = (0, 1, 2) if method == "vmoba" else (0,)
    settings = turn(method, given_settings, Layout(GRID), density)
    for layer in layers:
        assert density_of(method, settings, GRID, layer) == pytest.approx(density, rel=off)


def test_a_threshold_keeps_more_the_higher_it_is() -> None:
    fine = {"partition": (1, (2, 2), (2, 2, 2))}
    found = [density_of("vmoba", turn("vmoba", fine, Layout(GRID), d), GRID, layer=1) for d in (0.1, 0.4, 1.0)]
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.999


@given(st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from(with_density_setting(BUILT_IN)), st.floats(0.01, 1))
@hypothesis_settings(max_examples=40)
def test_any_grid_takes_any_density(shape: tuple[int, int, int], method: str, density: float) -> None:
    grid = Grid(*shape)
    kept = density_of(method, turn(method, {}, Layout(grid), density), grid)
    # As published, LongCat's attention keeps nothing where its share of the blocks is less than one.
    assert 0 < kept <= 1 or (method, kept) == ("longcat-bsa", 0)


def test_what_is_given_stays() -> None:
    assert turn("moba", {"blocks": 10}, Layout(GRID), 0.5) == {"blocks": 10, "topk": 5}


@pytest.mark.parametrize(
    ("method", "given_settings", "density", "said"),
    [
        (
            "full",
            {},
            0.5,
            "'full' has no setting that a sweep over density could turn.*moba, vmoba, sliding-window, sta",
        ),
        ("moba", {"topk": 3}, 0.5, "moba.topk=3: the sweep over density sets it"),
        ("sta", {}, 0.0, "density 0.0 must be above 0"),
        ("sta", {}, 1.5, "density 1.5 must be above 0 and at most 1"),
        ("nothing", {}, 0.5, "unknown method 'nothing'"),
    ],
)
def test_what_cannot_be_turned_is_refused(
    method: str, given_settings: dict[str, Any], density: float, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        turn(method, given_settings, Layout(GRID), density)


@dataclass(frozen=True)
class Share:
    """Settings of a method that keeps the first blocks, so many that their share is the density."""

    share: float = 0.5
    other: int = 1


def test_a_setting_that_is_the_density_is_only_named(monkeypatch: pytest.MonkeyPatch) -> None:
    method = replace(get_method("full"), name="theirs", settings=Share, density_setting="share")
    monkeypatch.setattr("attnbench.bench.sweep.knobs.get_method", {"theirs": method}.__getitem__)
    assert turn("theirs", {"other": 3}, Layout(GRID), 0.3) == {"other": 3, "share": 0.3}
    with pytest.raises(BadInput, match=r"theirs\.share=0\.1: the sweep over density sets it"):
        turn("theirs", {"share": 0.1}, Layout(GRID), 0.3)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("shares", "density_setting of method 'theirs': unknown setting of 'theirs' 'shares': did you mean 'share'"),
        (
            DensitySetting(("other", "more"), dict),
            "density_setting of method 'theirs': unknown setting of 'theirs' 'more'",
        ),
        (3, "density_setting of method 'theirs' is 3; it must be a setting's name or a DensitySetting"),
    ],
)
def test_a_density_setting_that_is_none_is_refused(named: Any, said: str) -> None:
    method = replace(get_method("full"), name="theirs", settings=Share, density_setting=named)
    with pytest.raises(BadInput, match=said):
        registry.check_method("theirs", method)
