"""The mini model keeps a method's states from step to step."""

from __future__ import annotations

import torch

from attnbench.api import attention
from attnbench.kernels.grid import Grid
from attnbench.mini.model import attend_by


def test_a_method_with_a_state_gets_the_state_of_the_step_before() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 24, 8, generator=generator) for _ in range(3))
    grid = Grid(2, 3, 4)
    attend = attend_by("ditfastattn", width=2)
    _, first = attention(q, k, v, method="ditfastattn", width=2, grid=grid, step=0, return_plan=True)
    for _ in range(2):
        full = attend(q, k, v, grid=grid, layer=3, step=0)
        torch.testing.assert_close(full, attention(q, k, v, method="full", grid=grid))
        other = attend(k, q, v, grid=grid, layer=3, step=0)  # the other branch of guidance
        window = attention(q, k, k, method="sliding-window", width=2, grid=grid)
        torch.testing.assert_close(attend(q, k, k, grid=grid, layer=3, step=1), window + first.state["residual"])
        assert not torch.equal(attend(q, k, k, grid=grid, layer=3, step=1), window + first.state["residual"])
        assert not torch.equal(other, full)
    assert attend_by("sta")(q, k, v, grid=grid, layer=0, step=None).shape == q.shape
