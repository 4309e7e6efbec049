"""Denoising steps counted by timesteps, and how seldom the device is read."""

from __future__ import annotations

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
