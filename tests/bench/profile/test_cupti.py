"""The timer ``cupti`` on made-up recordings, and which timers a device has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attnbench.bench.profile import cupti
from attnbench.bench.profile.attribute import REPEAT
from attnbench.bench.profile.cupti import ATTEMPTS, Cupti, make_stopwatch
from attnbench.bench.profile.events import Event
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.machine.clock import ClockFault, ClockStood

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def recording(*kernels: tuple[int, int], lost: int = 0) -> list[Event]:
    """Two kernels before the recorded call, then those of the call, launched 1 ns apart; times in nanoseconds."""
    events = [Event("launch", "launch", 1, 2, correlation=1), Event("work", "warm-up", 50, 9_000_000, correlation=1)]
    events.append(Event("range", REPEAT, 100, 1000))
    for number, (start, end) in enumerate(kernels, 2):
        events.append(Event("launch", "launch", 100 + number, 101 + number, correlation=number))
        events.append(Event("work", f"kernel {number}", start, end, correlation=number))
    events += [Event("launch", "launch", 500 + n, 501 + n, correlation=100 + n) for n in range(lost)]
    return sorted(events, key=lambda event: event.start)


def recorded(monkeypatch: pytest.MonkeyPatch, *recordings: list[Event]) -> list[Any]:
    left, asked = list(recordings), list[Any]()

    def record(*given: Any, **named: Any) -> tuple[list[Event], tuple[str, ...]]:
        asked.append((given, named))
        return left.pop(0), ()

    monkeypatch.setattr(cupti, "record_calls", record)
    return asked


def take() -> Any:
    return Cupti(CUDA).time(lambda: None, lambda: None, lambda: None, warm=True)


def test_a_call_lasts_from_its_first_kernel_to_the_end_of_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, recording((10_000_000, 11_000_000), (10_500_000, 14_000_000), (12_000_000, 13_000_000)))
    taken = take()
    assert (taken.cold_ms, taken.warm_ms, taken.host_ms) == (pytest.approx(4), None, None)


@pytest.mark.parametrize("bad", [recording(), recording((1000, 2000), lost=2)])
def test_a_recording_that_lost_events_is_made_again(bad: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recorded(monkeypatch, bad, recording((1_000_000, 3_000_000)))
    assert take().cold_ms == pytest.approx(2)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "did not record a call; of 3 recordings none was whole"),
        (recording((1000, 2000), lost=2), "dropped 2 GPU events of a call; of 3 recordings none was whole"),
    ],
)
def test_what_is_always_lost_is_no_latency(bad: list[Event], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, *[bad] * ATTEMPTS)
    with pytest.raises(ClockFault, match=words):
        take()


def test_the_clock_stands_for_a_call_that_never_launches_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, *[recording()] * ATTEMPTS)
    with pytest.raises(ClockStood):
        take()


def test_one_recording_without_launches_is_no_proof_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, recording(), recording((1000, 2000), lost=1), recording())
    with pytest.raises(ClockFault, match="dropped 1 GPU events") as raised:
        take()
    assert not isinstance(raised.value, ClockStood)


def test_a_device_has_its_own_timer_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_stopwatch(CPU, None).timer == make_stopwatch(CPU, "wall").timer == "wall"
    with pytest.raises(BadInput, match="times a GPU"):
        make_stopwatch(CPU, "cupti")


def test_without_cupti_the_timer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupti, "supported_activities", lambda: {cupti.ProfilerActivity.CPU})
    with pytest.raises(Unsupported, match="--timer cupti needs CUPTI"):
        make_stopwatch(CUDA, "cupti")
