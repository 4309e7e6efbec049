"""The first dense steps: a number, a share, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.models.warm_up import NeverCalled, WarmUp, dense_steps


@pytest.mark.parametrize(
    ("steps", "share", "dense"),
    [(50, 0.25, 12), (4, 0.25, 1), (3, 0.25, 0), (10, 0.3, 3), (100, 0.29, 29), (7, 1.0, 7), (7, 0.0, 0)],
)
def test_a_share_is_rounded_down(steps: int, share: float, dense: int) -> None:
    assert dense_steps(steps, share) == dense


PIPELINE = SimpleNamespace(scheduler=SimpleNamespace())


def test_a_quarter_is_the_default_of_a_pipeline_and_none_that_of_a_transformer() -> None:
    warm_up = WarmUp(None, PIPELINE)
    assert [warm_up.covers(step, 8) for step in range(8)] == [True] * 2 + [False] * 6
    assert not WarmUp(None, SimpleNamespace()).covers(0, None)


@pytest.mark.parametrize("clips", [(4, 10), (1, 8), (8, 1, 8), (1, 1, 1)])
def test_each_clip_has_steps_of_its_own(clips: tuple[int, ...]) -> None:
    warm_up = WarmUp(0.5, PIPELINE)
    for steps in clips:
        assert sum(warm_up.covers(step, steps) for step in range(steps)) == steps // 2


def test_a_share_of_an_unknown_number_of_steps_is_refused() -> None:
    with pytest.raises(BadInput, match=r"0\.25, and the pipeline's scheduler does not say its timesteps"):
        WarmUp(None, PIPELINE).covers(0, None)


@pytest.mark.parametrize(("asked", "steps"), [(2, 2), (4, 1), (1.0, 3)])
def test_a_clip_whose_steps_are_all_dense_is_told_once(asked: float, steps: int) -> None:
    warm_up = WarmUp(asked, PIPELINE)
    with pytest.warns(NeverCalled, match=f"it has {steps} denoising step.* dense_steps"):
        assert warm_up.covers(0, steps)
    assert warm_up.covers(0, steps)


@pytest.mark.parametrize("asked", [-1, -0.1, 1.5, "3", True, float("nan"), (1,)])
def test_anything_else_is_refused(asked: object) -> None:
    with pytest.raises(BadInput, match="must be a whole number of at least 0, or a share"):
        WarmUp(asked, SimpleNamespace(scheduler=None))


def test_a_share_of_a_transformers_steps_is_refused() -> None:
    with pytest.raises(BadInput, match="does not know how many steps"):
        WarmUp(0.25, SimpleNamespace())
