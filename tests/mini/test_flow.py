"""Sampling and training times, against velocities that are known."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.mini.classifier import load_classifier
from attnbench.mini.config import PRESETS
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.mini.flow import Sampler, generate, integrate, losses, usual_sampler
from attnbench.mini.model import FULL, MiniTransformer
from attnbench.mini.score import score
from attnbench.mini.stored import load_mini, read_card
from attnbench.mini.times import draw_times, shifted

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def model() -> MiniTransformer:
    torch.manual_seed(1)
    made = MiniTransformer(TINY)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made.eval()


def gaussian_velocity(x: Tensor, t: float, step: int) -> Tensor:
    """The exact velocity of data with mean 2 and deviation 0.5."""
    mean, deviation = 2.0, 0.5
    variance = ((1 - t) * deviation) ** 2 + t**2
    return -mean + (t - (1 - t) * deviation**2) / variance * (x - (1 - t) * mean)


@pytest.mark.parametrize(("solver", "steps"), [("euler", 200), ("heun", 30)])
def test_a_known_flow_ends_at_the_data(solver: str, steps: int) -> None:
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    made = integrate(gaussian_velocity, noise, Sampler(steps=steps, shift=3.0, solver=solver))
    assert made.mean() == pytest.approx(2, abs=0.02)
    assert made.std() == pytest.approx(0.5, abs=0.02)
    assert torch.corrcoef(torch.stack((made, noise)))[0, 1] > 0.999  # the flow of a Gaussian keeps the order


def test_heun_is_closer_than_euler_with_as_many_steps() -> None:
    noise = torch.linspace(-2, 2, 101)
    exact = 2 + 0.5 * noise
    off = {s: (integrate(gaussian_velocity, noise, Sampler(20, 1.0, s)) - exact).abs().max() for s in ("euler", "heun")}
    assert off["heun"] < off["euler"] / 3


def test_the_times_of_a_sampler_fall_from_1_to_0() -> None:
    times = Sampler(steps=10, shift=12.0).times
    assert times[0] == 1
    assert times[-1] == 0
    assert times == sorted(times, reverse=True)
    assert times[5] == pytest.approx(12 / 13)
    assert Sampler(steps=4, shift=1.0).times == [1, 0.75, 0.5, 0.25, 0]


def test_training_times_are_spread_evenly_over_their_distribution() -> None:
    t = draw_times(2000, "a")
    odds = (t / (1 - t)).log()
    assert odds.mean() == pytest.approx(torch.tensor(12.0).log().item(), abs=0.01)
    assert odds.std() == pytest.approx(1.6, abs=0.02)
    assert torch.equal(t, draw_times(2000, "a"))
    assert not torch.equal(t, draw_times(2000, "b"))
    assert shifted(0.5, 8.0) == pytest.approx(8 / 9)


def test_the_loss_is_the_mean_square_of_what_is_missed() -> None:
    video, noise = torch.zeros(2, 3, 4, 16, 16), torch.ones(2, 3, 4, 16, 16)
    seen: list[Tensor] = []

    def guesses(x: Tensor, t: Tensor, label: Tensor, direction: Tensor, attend: Any) -> Tensor:
        seen.append(x)
        return torch.full_like(x, 3.0)  # the velocity is 1

    found = losses(guesses, video, noise, torch.tensor([0.25, 1.0]), torch.zeros(2), torch.zeros(2), FULL)
    assert found.tolist() == [4, 4]
    assert seen[0][:, 0, 0, 0, 0].tolist() == [0.25, 1]


def test_a_clip_depends_on_its_own_seed_and_not_on_its_neighbours(model: MiniTransformer) -> None:
    sampler = Sampler(steps=3)
    three = generate(model, [1, 2, 3], [4, 5, 6], [7, 8, 9], sampler=sampler)
    alone = generate(model, [2], [5], [8], sampler=sampler)
    torch.testing.assert_close(three[1], alone[0], atol=1e-5, rtol=0)
    assert torch.equal(three, generate(model, [1, 2, 3], [4, 5, 6], [7, 8, 9], sampler=sampler))
    assert (generate(model, [2], [5], [9], sampler=sampler)[0] - alone[0]).abs().max() > 0.01
    assert three.shape == (3, 3, 4, 16, 16)
    assert three.abs().max() <= 1


def test_guidance_goes_from_the_plain_velocity_through_the_asked_one(model: MiniTransformer) -> None:
    def after_one_step(guidance: float) -> Tensor:
        return generate(model, [1], [2], [3], sampler=Sampler(steps=1, shift=1, guidance=guidance))

    none, single, double = (after_one_step(weight) for weight in (0.0, 1.0, 2.0))
    inside = (torch.stack((none, single, double)).abs() < 1).all(0)  # where nothing was cut off
    assert inside.any()
    torch.testing.assert_close((double - single)[inside], (single - none)[inside], atol=1e-4, rtol=1e-3)


def test_guidance_of_the_first_steps_costs_only_there(model: MiniTransformer) -> None:
    passes = []

    def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Any, layer: int, step: int | None) -> Tensor:
        passes.append((layer, step))
        return FULL(q, k, v, grid=grid, layer=layer, step=step)

    sampler = Sampler(steps=4, guidance=3.0, guided=2)
    generate(model, [0], [0], [0], sampler=sampler, attend=attend)
    assert [step for layer, step in passes if layer == 0] == [0, 0, 1, 1, 2, 3]
    plain = generate(model, [0], [0], [0], sampler=Sampler(steps=4))
    unguided = generate(model, [0], [0], [0], sampler=Sampler(steps=4, guidance=3.0, guided=0))
    assert torch.equal(plain, unguided)


def test_each_denoising_step_is_told(model: MiniTransformer) -> None:
    told, done = set(), []

    def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Any, layer: int, step: int | None) -> Tensor:
        told.add(step)
        return FULL(q, k, v, grid=grid, layer=layer, step=step)

    generate(model, [0], [0], [0], sampler=Sampler(steps=3, solver="heun"), attend=attend, after_step=done.append)
    assert told == {0, 1, 2}
    assert done[-1] == 2


def test_the_usual_sampler_is_the_one_that_the_card_was_scored_with(model: MiniTransformer) -> None:
    scored = read_card()["score"]
    assert asdict(usual_sampler()) == scored["sampler"]
    assert torch.equal(generate(model, [0], [0], [0]), generate(model, [0], [0], [0], sampler=usual_sampler()))
    assert usual_sampler(guidance=1.0) == Sampler(steps=8, guidance=1.0, guided=4)
    assert [usual_sampler(steps).guided for steps in (1, 4, 20)] == [1, 4, 4]
    with pytest.raises(BadInput, match="sampler steps 0 must be"):
        usual_sampler(0)


@pytest.mark.slow  # small models are drawn above, and test_judges.py tries the judges that ship
def test_the_model_that_ships_draws_what_is_asked() -> None:
    scored = read_card()["score"]
    assert scored["clips"] >= 200
    assert min(scored["class"][1], scored["motion"][1]) > 0.9, "the lower end of the interval"

    seven, east = CLASSES.index("7"), DIRECTIONS.index("east")
    clip = generate(load_mini(), [seven], [east], [1], sampler=usual_sampler(2), dtype=torch.bfloat16)
    found = score(clip, torch.tensor([seven]), torch.tensor([east]), load_classifier())
    assert (found.class_share.value, found.motion_share.value) == (1, 1)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"shift": 0.0}, {"solver": "rk4"}, {"guided": 11}])
def test_samplers_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Sampler(**wrong)


@pytest.mark.parametrize(
    ("labels", "directions", "said"),
    [([15], [0], "class 15 does"), ([0], [8], "direction 8 does"), ([0, 1], [0], "do not make clips")],
)
def test_clips_that_cannot_be_asked_for_are_refused(
    model: MiniTransformer, labels: list[int], directions: list[int], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        generate(model, labels, directions, [0])
