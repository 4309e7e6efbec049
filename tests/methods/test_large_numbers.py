"""Numbers of any size: what a method cannot compute with is refused in a sentence, and nothing overflows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

import attnbench
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Layout
from attnbench.methods import get_method
from attnbench.methods.checks import LARGEST
from attnbench.methods.registry import method_names

GRID = (3, 4, 6)
TIMES = ("dense_steps", "dense_layers", "first_iterations", "iterations")
"""How often something is done, which no number of blocks limits."""

SETTINGS = [
    (method, field.name)
    for method in method_names()
    for field in fields(get_method(method).settings or ())
    if field.name not in TIMES
]


@pytest.mark.parametrize(("method", "setting"), SETTINGS)
def test_a_large_number_is_refused_or_means_everything(method: str, setting: str, tensors: Callable[..., Any]) -> None:
    q, k, v = (x.float() for x in tensors(Layout(attnbench.Grid(*GRID)), 1, 1, 1))

    def density(value: Any) -> float | None:
        try:
            plan = attnbench.select(q, k, v=v, method=method, grid=GRID, step=0, **{setting: value})
        except (BadInput, Unsupported):
            return None
        plan.check()
        return plan.density

    for more in ((), (1,), (1, 1)):
        most = density((LARGEST, *more) if more else LARGEST)
        for number in (2**31, 2**63 - 1, 2**63, 10**30):
            assert density((number, *more) if more else number) in (None, most)


@pytest.mark.parametrize(
    ("method", "setting"),
    [(name, each.name) for name in method_names() for each in fields(get_method(name).settings) if each.name in TIMES],
)
def test_what_is_done_too_often_is_refused(method: str, setting: str) -> None:
    with pytest.raises(BadInput, match=f"{setting} is 2147483648; it must be at most 2,147,483,647"):
        get_method(method).settings(**{setting: 2**31})


@pytest.mark.parametrize("where", ["layer", "step"])
@pytest.mark.parametrize("method", ["svg1", "svg2", "vmoba"])
def test_a_layer_or_step_of_no_model_is_refused(method: str, where: str, tensors: Callable[..., Any]) -> None:
    layout = Layout(attnbench.Grid(*GRID))
    q, k, v = tensors(layout, 1, 1, 1)
    with pytest.raises(BadInput, match=f"{where} is .*; it must be at most 2,147,483,647"):
        attnbench.select(q, k, v=v, method=method, grid=GRID, **{where: 2**31})


@pytest.mark.parametrize("rule", ["published", "paper"])
@pytest.mark.parametrize(("decay", "density"), [(0.0, None), (1e-320, None), (1e18, 1.0), (1e308, 1.0)])
def test_bands_may_decay_to_nothing_or_not_at_all(
    rule: str, decay: float, density: float | None, tensors: Callable[..., Any]
) -> None:
    layout = Layout(attnbench.Grid(20, 2, 2))
    q, k, _ = tensors(layout, 1, 1, 1)
    plan = attnbench.select(q, k, method="radial", grid=(20, 2, 2), block=4, rule=rule, decay=decay)
    plan.check()
    assert density is None or plan.density == density or rule == "published"
