"""The first dense steps: a number, a share, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from attnbench.kernels.errors import BadInput
from attnbench.models.warm_up import WarmUp, dense_steps


@pytest.mark.parametrize(
    ("steps", "share", "dense"),
    [(50, 0.25, 12), (4, 0.25, 1), (3, 0.25, 0), (10, 0.3, 3), (100, 0.29, 29), (7, 1.0, 7), (7, 0.0, 0)],
)
def test_a_share_is_rounded_down(steps: int, share: float, dense: int) -> None:
    assert dense_steps(steps, share) == dense


def test_a_quarter_is_the_default_of_a_pipeline_and_none_that_of_a_transformer() -> None:
    pipeline = SimpleNamespace(scheduler=SimpleNamespace(timesteps=torch.linspace(1000, 10, 8)))
    warm_up = WarmUp(None, pipeline)
    assert [warm_up.covers(step, step + 1) for step in range(8)] == [True] * 2 + [False] * 6
    assert not WarmUp(None, SimpleNamespace()).covers(0, 1)


def test_each_clip_has_steps_of_its_own() -> None:
    pipeline = SimpleNamespace(scheduler=SimpleNamespace(timesteps=torch.linspace(1000, 10, 4)))
    warm_up, seen = WarmUp(0.5, pipeline), 0
    for steps in (4, 10):
        pipeline.scheduler.timesteps = torch.linspace(1000, 10, steps)
        dense = [warm_up.covers(step, seen := seen + 1) for step in range(steps)]
        assert sum(dense) == steps // 2
        assert dense[0]
        assert not dense[-1]


def test_a_timestep_that_comes_twice_is_one_step() -> None:
    pipeline = SimpleNamespace(scheduler=SimpleNamespace(timesteps=torch.tensor([900, 700, 700, 500, 500, 100.0])))
    warm_up = WarmUp(0.5, pipeline)
    assert [warm_up.covers(step, step + 1) for step in range(4)] == [True, True, False, False]


@pytest.mark.parametrize("asked", [-1, -0.1, 1.5, "3", True, float("nan"), (1,)])
def test_anything_else_is_refused(asked: object) -> None:
    with pytest.raises(BadInput, match="must be a whole number of at least 0, or a share"):
        WarmUp(asked, SimpleNamespace(scheduler=None))


def test_a_share_of_a_transformers_steps_is_refused() -> None:
    with pytest.raises(BadInput, match="does not know how many steps"):
        WarmUp(0.25, SimpleNamespace())
