"""What methods, budgets and partitions keep, on a GPU: the figures of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch

from attnbench.analysis.budgets import measure_budgets
from attnbench.analysis.call import AttentionCall, Finding, How, Seen, see
from attnbench.analysis.kept import kept_measurer
from attnbench.analysis.plans import Planner
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods.entries import named

pytestmark = pytest.mark.gpu

HOW = How(methods=tuple(named(["sta", "sliding-window", "full"])), density=0.5)
GRID = Grid(6, 9, 14)


@pytest.mark.parametrize("make", [lambda: kept_measurer(Planner(HOW)), lambda: partial(measure_budgets, how=HOW)])
def test_a_gpu_gives_the_figures_of_a_cpu(make: Callable[[], Callable[[Seen], Iterable[Finding]]]) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(3, 1, 3, GRID.tokens + 5, 64, generator=generator)
    there = [
        list(make()(see(AttentionCall(*tensors.to(device).unbind(0), Layout(GRID, (2, 3)), 1, 0), HOW)))
        for device in ("cpu", "cuda")
    ]
    assert len(there[0]) > 10
    for wanted, found in zip(*there, strict=True):
        assert (found.measure, found.head, found.method, found.reason) == (
            wanted.measure, wanted.head, wanted.method, wanted.reason,
        )  # fmt: skip
        if wanted.value is not None:
            assert found.value == pytest.approx(wanted.value, rel=1e-3, abs=1e-4), wanted.measure
