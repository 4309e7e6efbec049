"""Denoising steps counted by timesteps, and how seldom the device is read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from attnbench.models.clock import StepClock


@pytest.mark.parametrize(
    ("timesteps", "steps"),
    [
        ([900, 900, 500, 500, 100], [0, 0, 1, 1, 2]),
        ([900, 500, 900, 500], [0, 1, 0, 1]),
        ([0.75, 0.5, 0.5, 0.25], [0, 1, 1, 2]),
        ([300], [0]),
    ],
)
def test_lower_is_the_next_step_and_higher_another_clip(timesteps: list[float], steps: list[int]) -> None:
    clock = StepClock()
    assert clock.step is None
    assert [clock.see(torch.tensor([t, t])) for t in timesteps] == steps


def test_steps_of_all_clips_are_summed() -> None:
    clock = StepClock()
    for t in (900, 500, 900, 900, 500):
        clock.see(torch.tensor([t]))
    assert (clock.steps, clock.step) == (4, 1)


def test_of_a_timestep_a_token_the_highest_counts() -> None:
    clock = StepClock()
    assert [clock.see(torch.tensor([[0, t, t], [0, 0, t]])) for t in (9, 9, 5)] == [0, 0, 1]


def test_a_tensor_written_in_place_is_seen() -> None:
    clock, timestep = StepClock(), torch.tensor([900.0])
    assert clock.see(timestep) == 0
    assert clock.see(timestep.fill_(400.0)) == 1
    assert clock.see(timestep.fill_(100.0)) == 2


def test_inference_tensors_are_counted_too() -> None:
    clock = StepClock()
    with torch.inference_mode():
        timestep = torch.tensor([900.0])
        assert [clock.see(timestep), clock.see(timestep)] == [0, 0]
        timestep.fill_(400.0)
        assert clock.see(timestep) == 1


def test_a_sampler_is_read_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Tensor] = []
    read = Tensor.__float__
    monkeypatch.setattr(Tensor, "__float__", lambda x: reads.append(x) or read(x))
    clock, schedule = StepClock(), torch.tensor([900.0, 600.0, 300.0])
    seen = [clock.see(t.expand(2)) for t in schedule for _ in range(2)]  # both halves of guidance
    assert seen == [0, 0, 1, 1, 2, 2]
    assert len(reads) == 3  # the first and second at the second step, then the third


def test_one_timestep_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "__float__", lambda x: pytest.fail("the device was read"))
    clock, timestep = StepClock(), torch.tensor([500.0])
    assert [clock.see(timestep) for _ in range(3)] == [0, 0, 0]


class Sampler:
    """A pipeline's loop as diffusers writes it: new timesteps for each clip, then one turn after the other."""

    def __init__(self) -> None:
        self.scheduler = SimpleNamespace(timesteps=torch.linspace(999, 0, 1000))
        self.current_timestep: Tensor | None = None

    def run(
        self, clock: StepClock, timesteps: list[float], coming: int = 0, dtype: torch.dtype = torch.float32
    ) -> list[int]:
        """Give the step of each turn; guidance makes two calls of it."""
        self.scheduler.timesteps = torch.tensor(timesteps)
        turns = self.scheduler.timesteps[-coming:]
        self.num_timesteps = len(turns)
        found = []
        for turn in turns:
            self.current_timestep = turn
            given = turn.expand(2).to(dtype)
            found += [clock.see(given), clock.see(given)][:1]
            assert clock.step == found[-1]
        self.current_timestep = None
        return found


@pytest.mark.parametrize("lengths", [(1, 8), (8, 1, 8), (1, 1, 1), (4, 2)])
def test_a_pipeline_says_where_its_clips_begin(lengths: tuple[int, ...]) -> None:
    sampler = Sampler()
    clock = StepClock(pipeline=sampler)
    for length in lengths:
        assert sampler.run(clock, torch.linspace(1000, 100, length).tolist()) == list(range(length))
        assert clock.clip_steps == length
    assert clock.steps == sum(lengths)


def test_the_steps_that_video_to_video_leaves_out_are_not_counted() -> None:
    sampler = Sampler()
    clock = StepClock(pipeline=sampler)
    schedule = torch.linspace(1000, 100, 8).tolist()
    for coming in (4, 2, 8):
        assert sampler.run(clock, schedule, coming) == list(range(coming))
        assert clock.clip_steps == coming


def test_turns_of_a_second_order_sampler_with_one_timestep_are_one_step() -> None:
    sampler = Sampler()
    clock = StepClock(pipeline=sampler)
    assert sampler.run(clock, [900, 700, 700, 500, 500, 100]) == [0, 1, 1, 2, 2, 3]
    assert (clock.clip_steps, clock.steps) == (4, 4)


def test_steps_that_the_models_dtype_cannot_tell_apart_are_still_steps() -> None:
    sampler = Sampler()
    clock = StepClock(pipeline=sampler)
    schedule = [1000.0, 999.0, 998.0, 997.0, 500.0]
    assert len(torch.tensor(schedule).bfloat16().unique()) < 5
    assert sampler.run(clock, schedule, dtype=torch.bfloat16) == [0, 1, 2, 3, 4]


def test_a_scheduler_that_was_exchanged_is_the_one_that_counts() -> None:
    sampler = Sampler()
    clock = StepClock(pipeline=sampler)
    sampler.run(clock, [900, 500])
    sampler.scheduler = SimpleNamespace(timesteps=None)
    assert sampler.run(clock, [900, 700, 500, 300]) == [0, 1, 2, 3]
    assert clock.clip_steps == 4


def test_a_loop_of_ones_own_over_a_pipelines_scheduler() -> None:
    sampler = Sampler()
    clock = StepClock(pipeline=sampler)
    for length in (1, 1, 3):
        sampler.scheduler.timesteps = torch.linspace(900, 300, length)
        assert [clock.see(t.expand(2)) for t in sampler.scheduler.timesteps for _ in range(2)] == [
            step for step in range(length) for _ in range(2)
        ]
        assert clock.clip_steps == length
    assert [clock.see(t.expand(2)) for t in sampler.scheduler.timesteps[1:]] == [0, 1]  # higher again: another clip
    assert (clock.clip_steps, clock.steps) == (2, 7)


def test_a_turn_that_a_broken_off_clip_left_behind_counts_no_longer() -> None:
    sampler = Sampler()
    clock = StepClock(pipeline=sampler)
    sampler.run(clock, [900, 500, 100])
    sampler.current_timestep = sampler.scheduler.timesteps[1]
    assert [clock.see(torch.tensor([t])) for t in (900.0, 500.0, 500.0)] == [0, 1, 1]


def test_a_pipelines_timesteps_are_read_once_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: reads.append(1) or read(x))
    monkeypatch.setattr(Tensor, "__float__", lambda x: pytest.fail("a timestep was read"))
    sampler = Sampler()
    clock = StepClock(pipeline=sampler)
    sampler.run(clock, [900, 500, 100])
    sampler.run(clock, [900, 500, 100])
    assert len(reads) == 2
