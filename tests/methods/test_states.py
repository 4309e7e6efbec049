"""States while a model runs: by layer and by branch of guidance, from step to step, and not from clip to clip."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import attnbench
from attnbench.bench.verify import TwinSpec, twin_tensors
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import get_method, make_settings
from attnbench.methods.base import Cycle
from attnbench.methods.examples import Example
from attnbench.methods.registry import BUILT_IN
from attnbench.methods.states import States

WITH_STATE = [name for name in BUILT_IN if get_method(name).cycle is not None]


def test_each_layer_and_each_branch_of_guidance_has_its_own_state() -> None:
    states = States()
    for step in range(3):
        for branch in ("with", "without"):
            for layer in range(2):
                wanted = None if step == 0 else (layer, branch, step - 1)
                assert states.of(layer, step) == wanted
                states.keep((layer, branch, step))
    assert len(states) == 4


def test_a_clip_begins_without_states() -> None:
    states = States()
    for clip in range(2):
        for step in (0, 1):
            assert states.of(0, step) == (None if step == 0 else clip)
            states.keep(clip)


def test_clips_of_one_step_are_told_apart_by_the_moment() -> None:
    states = States()
    for moment in range(3):
        assert states.of(0, 0, moment=moment) is None
        states.keep(moment)


def test_dense_steps_between_leave_the_states_and_other_shapes_have_others() -> None:
    states = States()
    states.of(0, 0, (1, 2))
    states.keep("small")
    assert states.of(0, 3, (3, 4)) is None
    states.keep("large")
    assert states.of(0, 4, (1, 2)) == "small"
    assert states.of(0, 4, (3, 4)) == "large"


def test_training_keeps_no_state() -> None:
    states = States()
    assert states.of(0, None) is None
    states.keep("lost")
    assert len(states) == 0


@pytest.mark.parametrize("dense", [0, 14])
@pytest.mark.parametrize("name", WITH_STATE)
def test_a_clip_whose_first_steps_are_dense_goes_on_to_keep_fewer_pairs(name: str, dense: int) -> None:
    q, k, v = torch.randn(3, 1, 2, 3 * 4 * 6, 8, generator=torch.Generator().manual_seed(0))
    few: dict[str, Any] = {
        "mod-dit": {"interval": 3},
        "svg2": {"first_iterations": 2, "q_clusters": 5, "k_clusters": 9},
    }
    settings = {"dense_steps": dense, **few.get(name, {})}
    state, full = None, []
    for step in range(dense + 16):
        where: dict[str, Any] = {"method": name, "grid": (3, 4, 6), "step": step, "state": state, **settings}
        _, plan = attnbench.attention(q, k, v, **where, return_plan=True)
        state = plan.state
        full.append(plan.pattern.is_full)
    assert all(full[:dense])
    cycle = get_method(name).cycle_of(make_settings(get_method(name), settings), 0)
    assert cycle is not None
    assert cycle.warm[0] >= dense
    assert not full[cycle.steady]


@pytest.mark.parametrize("name", WITH_STATE)
def test_what_is_verified_and_drawn_of_a_method_is_its_steady_step_whatever_steps_are_dense(name: str) -> None:
    method, layout = get_method(name), Layout(Grid(3, 4, 6))
    settings = method.resolve(make_settings(method, {"dense_steps": 14}), layout)
    cpu = torch.device("cpu")
    arguments, q, k, v = twin_tensors(
        TwinSpec(method, settings, layout, 0, None, 1, 2, 2, 8, torch.float32, cpu, "reference", False, 0)
    )
    assert not attnbench.select(q, k, v=v, **arguments).pattern.is_full
    assert not Example(method, 0, layout.grid, {"dense_steps": 14}, 1).plan().pattern.is_full


def test_settings_of_single_heads_are_drawn_for_the_heads_that_have_them() -> None:
    example = Example(
        get_method("sparge"), 0, Grid(3, 4, 6), {"topk": [0.2, 0.9], "block": [8, 8], "similarity": -1}, 1
    )
    assert example.plan(heads=1).density < example.plan(heads=2).density
    with pytest.raises(attnbench.BadInput, match="topk has 2 values and q has 3 heads"):
        example.plan(heads=3)


def test_a_cycle_without_a_warm_step_begins_at_its_steady_one() -> None:
    method = dataclasses.replace(get_method("svg2"), cycle=lambda settings, layer: Cycle((), 0, 0, 5))
    assert method.cycle_of(make_settings(method, {"dense_steps": 2}), 0) == Cycle((), 2, 2, 5)
