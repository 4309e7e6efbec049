"""Parts of a fused kernel from times that are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from attnbench.bench.profile.parts import ablation_of, measure_ablation, model_parts, record_launches
from attnbench.cost.roofline import peak_of, split_attend
from attnbench.kernels.ablation import Part
from attnbench.machine.clock import Clock
from attnbench.machine.stopwatch import Stopwatch


def test_parts_are_differences_of_medians_and_add_up_to_the_whole() -> None:
    found = ablation_of({"qk": [2.0, 2.1, 9.0], "softmax": [5.0, 5.0, 5.2], "whole": [7.0, 7.5, 7.4]})
    assert {part.phase: part.time.median for part in found.parts} == {
        "qk": 2.1, "softmax": pytest.approx(2.9), "av": pytest.approx(2.4),
    }  # fmt: skip
    assert sum(part.time.median for part in found.parts) == pytest.approx(found.whole_ms) == 7.4
    assert all(part.time.lo <= part.time.median <= part.time.hi for part in found.parts)
    softmax = found.parts[1].time
    assert (softmax.lo, softmax.hi) == (0.0, 3.0)  # round by round: 3.0, 2.9 and -3.8


def test_a_build_that_is_slower_than_the_one_with_more_gives_no_time_below_zero_and_says_so() -> None:
    found = ablation_of({"qk": [3.0] * 3, "softmax": [2.0] * 3, "whole": [4.0] * 3})
    softmax = found.parts[1]
    assert (softmax.time.median, softmax.time.lo, softmax.time.hi) == (0.0, 0.0, 0.0)
    assert softmax.note.endswith("the difference was -1 ms")


def test_builds_take_turns(monkeypatch: pytest.MonkeyPatch, hand_clock: Callable[[list[float]], Clock]) -> None:
    now, ran = [0.0], list[Part]()
    seconds: dict[Part, float] = {"qk": 0.004, "softmax": 0.006, "whole": 0.011}

    def launch(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        ran.append(part)
        now[0] += seconds[part]
        return torch.empty(0), torch.empty(0)

    found = measure_ablation([launch, launch], Stopwatch(torch.device("cpu"), clock=hand_clock(now)), 3)
    times = {part.phase: part.time.median for part in found.parts}
    assert times == {"qk": pytest.approx(8), "softmax": pytest.approx(4), "av": pytest.approx(10)}
    once = ["qk", "qk", "softmax", "softmax", "whole", "whole"]
    assert ran == [*once, *once, *once[::-1], *once]  # once to compile, then in turns


def test_calls_of_other_kernels_have_no_launches_to_repeat() -> None:
    assert record_launches(lambda: torch.ones(3).sum()) == []


def test_the_model_is_that_of_the_roofline() -> None:
    gpu = peak_of("NVIDIA H100 80GB HBM3")
    assert gpu is not None
    split = split_attend(6.64, gpu, pairs=10**10, head_dim=128)
    parts = {part.phase: part.time for part in model_parts(6.64, gpu, pairs=10**10, head_dim=128)}
    assert (parts["softmax"].median, parts["softmax"].lo, parts["softmax"].hi) == (
        split.softmax.ms, split.softmax.lo_ms, split.softmax.hi_ms,
    )  # fmt: skip
    assert sum(time.median for time in parts.values()) == pytest.approx(6.64)
