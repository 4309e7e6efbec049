"""Attribution on made-up events: which launch lies where is known, so every nanosecond is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.bench.profile.attribute import Work, cpu_calls, gpu_calls, peak_bytes, work_ns
from attnbench.bench.profile.call import Profile, gpu_profile
from attnbench.bench.profile.events import UNKNOWN_THREAD, Event, read_events
from attnbench.bench.profile.timeline import OTHER, segments_of
from attnbench.kernels.phases import PHASES

MS = 1_000_000


def in_range(name: str, start: int, end: int, thread: int = 1) -> Event:
    return Event("range", name, start, end, thread)


def launched(number: int, at: int, start: int, ns: int, thread: int = 1, name: str = "kernel") -> list[Event]:
    """A launch, and the work that it makes later."""
    return [
        Event("launch", "cudaLaunchKernel", at, at + 2, thread, correlation=number),
        Event("work", name, start, start + ns, correlation=number),
    ]


def one_call(first: int = 0) -> list[Event]:
    """A call of 1 µs on the CPU: 3 ms pool, 1 ms gap, 6 ms attend, 2 ms in no phase; a flush before it."""
    at, gpu, number = first, first + 10_000, first + 1
    return [
        *launched(number, at - 50, gpu - 5 * MS, 4 * MS, name="flush"),
        in_range("repeat", at, at + 1000),
        in_range("pool", at + 100, at + 300),
        *launched(number + 1, at + 200, gpu, 3 * MS),
        in_range("attend", at + 300, at + 900),
        in_range("index", at + 320, at + 330),
        *launched(number + 2, at + 400, gpu + 4 * MS, 6 * MS),
        *launched(number + 3, at + 950, gpu + 10 * MS, 2 * MS, name="stray_copy"),
    ]


def calls(count: int) -> list[Event]:
    return [event for i in range(count) for event in one_call(100 * MS * i)]


def times(profile: Profile) -> dict[str, float]:
    return {f"{p.pass_} {p.phase}": p.time.median for p in profile.phases}


def test_work_belongs_to_the_innermost_range_around_its_launch_and_what_was_launched_before_does_not_count() -> None:
    profile = gpu_profile(calls(3), 3, latency_ms=12.0)
    assert times(profile) == {"fwd pool": 3.0, "fwd attend": 6.0, "fwd other": 2.0, "fwd gap": 1.0}
    assert (profile.busy_ms, profile.span_ms, profile.gap_ms) == (11.0, 12.0, 1.0)
    assert [p.kernels for p in profile.phases] == [1, 1, 1, 0]
    assert profile.unnamed == {"stray_copy": pytest.approx(2.0)}
    assert profile.complaint == ""


def test_a_planted_dropped_event_is_reported() -> None:
    events = calls(3)
    lost = next(e for e in events if e.kind == "work" and e.name == "kernel")
    profile = gpu_profile([e for e in events if e is not lost], 3, latency_ms=12.0)
    assert "the profiler dropped 1 of 9 GPU events: of cudaLaunchKernel no work was seen" in profile.complaint
    assert "equal calls made from 2 to 3 GPU events" in profile.complaint


def test_a_lost_launch_and_a_lost_call_are_reported() -> None:
    events = calls(2)
    lost = [e for e in events if e.kind == "launch"][-1]
    assert (
        "of 1 GPU events the launch was not seen: stray_copy"
        in gpu_profile([e for e in events if e is not lost], 2).complaint
    )
    assert "the profiler kept 2 of 3 calls" in gpu_profile(events, 3).complaint
    assert "no GPU event was seen" in gpu_profile([e for e in events if e.kind == "range"], 2).complaint


@pytest.mark.parametrize(
    ("share", "said"), [(1.04, ""), (0.96, ""), (1.06, "less than the unprofiled"), (0.94, "more than the unprofiled")]
)
def test_phases_that_do_not_add_up_to_the_latency_are_reported_beyond_five_percent(share: float, said: str) -> None:
    complaint = gpu_profile(calls(3), 3, latency_ms=12.0 * share).complaint
    assert (said in complaint) if said else not complaint
    if said:
        assert "the phases and the gaps between kernels add up to 12 ms" in complaint


def test_a_range_on_another_thread_does_not_claim_a_launch() -> None:
    events = [
        in_range("repeat", 0, 1000),
        in_range("merge", 0, 1000, thread=2),
        in_range("pool", 100, 300),
        *launched(1, 200, 5000, 10),
        *launched(2, 210, 5020, 30, thread=2),
        *launched(3, 220, 5060, 40, thread=3),
    ]
    (call,) = gpu_calls(events)
    assert [(w.phase, w.end - w.start) for w in call.work] == [("pool", 10), ("merge", 30), (OTHER, 40)]


def backward_events() -> list[Event]:
    """A forward pass on thread 1 and, while it waits, its backward pass on thread 9."""
    return [
        in_range("repeat", 0, 2000),
        in_range("forward", 0, 900),
        in_range("permute", 100, 200),
        Event("operator", "Move", 110, 190, sequence=4),
        *launched(1, 150, 10_000, 100),
        in_range("attend", 300, 500),
        Event("operator", "expand", 310, 320, sequence=5),  # saw the number, made no node
        Event("operator", "Attend", 350, 450, sequence=5),
        *launched(2, 400, 10_100, 200),
        in_range("backward", 1000, 2000),
        Event("gradient", "AttendBackward", 1100, 1400, thread=9, sequence=5, forward_thread=1),
        *launched(3, 1200, 10_400, 300, thread=9),
        in_range("merge", 1300, 1350, thread=9),
        *launched(4, 1310, 10_700, 50, thread=9),
        Event("gradient", "MoveBackward", 1500, 1600, thread=9, sequence=4, forward_thread=1),
        *launched(5, 1550, 10_750, 70, thread=9),
        *launched(6, 1700, 10_820, 80, thread=9),
    ]


def test_the_backward_pass_takes_its_own_ranges_then_those_of_the_operators_it_differentiates() -> None:
    (call,) = gpu_calls(backward_events())
    assert work_ns(call.work) == {
        ("fwd", "permute"): 100, ("fwd", "attend"): 200, ("bwd", "gap"): 100, ("bwd", "attend"): 300,
        ("bwd", "merge"): 50, ("bwd", "permute"): 70, ("bwd", OTHER): 80,
    }  # fmt: skip


def test_cpu_time_is_that_of_ranges_without_those_within_and_the_rest_is_other() -> None:
    (total,) = cpu_calls(backward_events())
    assert total == {
        ("fwd", "permute"): 100, ("fwd", "attend"): 200, ("fwd", OTHER): 700, ("bwd", "attend"): 250,
        ("bwd", "merge"): 50, ("bwd", "permute"): 100, ("bwd", OTHER): 600,
    }  # fmt: skip
    assert sum(total.values()) == 2000


def test_parts_of_attend_are_shown_within_it() -> None:
    events = [
        in_range("repeat", 0, 1000),
        in_range("attend", 0, 900),
        in_range("qk", 100, 200),
        *launched(1, 150, 10_000, 2 * MS),
        *launched(2, 300, 10_000 + 2 * MS, 3 * MS),
    ]
    profile = gpu_profile(events, 1)
    assert times(profile) == {"fwd attend": 5.0, "fwd qk": 2.0}
    assert [(p.phase, p.parent, p.kernels) for p in profile.phases] == [("attend", None, 2), ("qk", "attend", 1)]


def test_peaks_count_what_earlier_phases_still_hold() -> None:
    def memory(at: int, nbytes: int) -> Event:
        return Event("memory", "[memory]", at, at, nbytes=nbytes)

    events = [
        memory(-10, 1000),
        in_range("repeat", 0, 1000),
        in_range("pool", 100, 200), memory(110, 64), memory(120, 32), memory(130, -32),
        in_range("attend", 300, 400),
        in_range("merge", 500, 600), memory(510, 10), memory(520, -74),
        memory(700, 5),
    ]  # fmt: skip
    assert peak_bytes(events) == {
        ("fwd", "pool"): 96, ("fwd", "attend"): 64, ("fwd", "merge"): 74, ("fwd", OTHER): 5,
    }  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.sampled_from(PHASES)), max_size=8))
def test_segments_are_the_innermost_range_at_every_moment(drawn: list[tuple[int, int, str]]) -> None:
    ranges = nested([(start, start + length, name) for start, length, name in drawn])
    segments = segments_of(ranges)
    for moment in range(45):
        around = [r for r in ranges if r[0] <= moment < r[1]]
        expected = min(around, key=lambda r: r[1] - r[0]) if around else None
        found = [s.phase for s in segments if s.start <= moment < s.end]
        assert found == ([] if expected is None else [expected[2]])


def nested(ranges: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Keep ranges that lie within one another or apart, and are of different extent, as those of one thread are."""
    kept: list[tuple[int, int, str]] = []
    for start, end, name in ranges:
        fits = all(end <= a or b <= start or a < start < end <= b or a <= start < end < b or start < a < b <= end
                   or start <= a < b < end for a, b, _ in kept)  # fmt: skip
        if fits:
            kept.append((start, end, name))
    return kept


@dataclass(frozen=True)
class Raw:
    """An event as torch hands it out: the same names, each a method."""

    text: str
    device: str = "CPU"
    begin: int = 0
    thread: int = 1
    correlation: int = 0
    linked: int = 0
    sequence: int = -1
    forward: int = 0
    kind: int = 0
    annotation: bool = False
    size: int = 0
    system: int = 0
    activity: str = ""
    hidden: bool = False

    def name(self) -> str:
        return self.text

    def device_type(self) -> Any:
        return SimpleNamespace(name=self.device)

    def start_ns(self) -> int:
        return self.begin

    def end_ns(self) -> int:
        return self.begin + 10

    def start_thread_id(self) -> int:
        return self.thread

    def correlation_id(self) -> int:
        return self.correlation

    def linked_correlation_id(self) -> int:
        return self.linked

    def sequence_nr(self) -> int:
        return self.sequence

    def fwd_thread_id(self) -> int:
        return self.forward

    def scope(self) -> int:
        return self.kind

    def is_user_annotation(self) -> bool:
        return self.annotation

    def nbytes(self) -> int:
        return self.size

    def device_resource_id(self) -> int:
        return self.system

    def activity_type(self) -> str:
        return self.activity

    def is_hidden_event(self) -> bool:
        return self.hidden


class Older(Raw):
    """As an older torch hands it out: some names are not there."""

    activity_type = is_hidden_event = property(lambda self: (_ for _ in ()).throw(AttributeError))  # type: ignore[assignment]  # so that getattr finds none


def test_torch_s_events_are_read_as_what_they_are() -> None:
    raw = [
        Raw("attnbench::pool", annotation=True, correlation=1, system=5),
        Raw("attnbench::pool", "CUDA", annotation=True, correlation=1),
        Raw("ProfilerStep#1", annotation=True, correlation=2),
        Raw("attnbench::attend", begin=1, thread=7, correlation=3, sequence=5),  # our operator, not a range
        Raw("cuLaunchKernelEx", begin=2, thread=1, correlation=900, linked=3),
        Raw("_attend_tiles", "CUDA", begin=50, correlation=900, linked=3),
        Raw("cudaMemsetAsync", begin=3, correlation=901, system=5),
        Raw("Memset (Device)", "CUDA", begin=60, correlation=901),
        Raw("Context Sync", "CUDA", begin=70, correlation=902),
        Raw("cudaDeviceSynchronize", begin=4, correlation=3),
        Raw("autograd::engine::evaluate_function: AttendBackward", begin=5, sequence=5),
        Raw("AttendBackward", begin=6, thread=9, sequence=5, forward=7, kind=1),
        Raw("aten::empty", begin=7),
        Raw("[memory]", "CUDA", begin=8, size=-64),
        Raw("[memory]", begin=8, size=64),
    ]
    assert read_events(raw) == [
        Event("range", "pool", 0, 10),
        Event("operator", "attnbench::attend", 1, 11, 7, sequence=5),
        Event("launch", "cuLaunchKernelEx", 2, 12, 7, correlation=900),
        Event("launch", "cudaMemsetAsync", 3, 13, correlation=901),
        Event("gradient", "AttendBackward", 6, 16, 9, sequence=5, forward_thread=7),
        Event("memory", "[memory]", 8, 8, nbytes=-64),
        Event("work", "_attend_tiles", 50, 60, correlation=900),
        Event("work", "Memset (Device)", 60, 70, correlation=901),
    ]


@pytest.mark.parametrize("made", [Raw, Older])
def test_a_launch_outside_all_operators_is_on_the_thread_that_the_system_names(made: type[Raw]) -> None:
    nowhere = 2**64 - 1
    raw = [
        made("attnbench::repeat", annotation=True, correlation=1, thread=7, system=400),
        made("aten::fill_", begin=1, thread=9, system=401, correlation=2),
        made("Lazy Function Loading", begin=2, thread=nowhere, system=400),
        made("[memory]", begin=2, thread=3, system=400, size=8),
        made("cuLaunchKernelEx", begin=3, thread=nowhere, system=400, correlation=900),
        made("cudaLaunchKernel", begin=4, thread=nowhere, system=999, correlation=901),
        made("cudaLaunchHostFunc", begin=5, thread=nowhere, system=400, correlation=902),
    ]
    assert [(e.correlation, e.thread) for e in read_events(raw) if e.kind == "launch"] == [
        (900, 7), (901, UNKNOWN_THREAD),
    ]  # fmt: skip


def test_what_newer_versions_mark_as_no_work_is_left_out() -> None:
    raw = [
        Raw("a range's shadow", "CUDA", activity="gpu_user_annotation"), Raw("waits", "CUDA", activity="cuda_sync"),
        Raw("secret", "CUDA", activity="kernel", hidden=True), Raw("gemm", "CUDA", activity="kernel"),
    ]  # fmt: skip
    assert [event.name for event in read_events(raw)] == ["gemm"]


def test_a_launch_of_an_unknown_thread_belongs_to_the_phase_that_was_entered_last() -> None:
    events = [in_range("repeat", 0, 1000), in_range("attend", 100, 300), in_range("merge", 200, 400, thread=2)]
    for number, at in enumerate((150, 250, 350, 500), 1):
        events += launched(number, at, 5000 + 10 * number, 5, thread=UNKNOWN_THREAD)
    (call,) = gpu_calls(events)
    assert [w.phase for w in call.work] == ["attend", "merge", "merge", OTHER]


def test_a_launch_that_runtime_and_driver_both_report_counts_once() -> None:
    inner = Event("launch", "cuLaunchKernelEx", 201, 202, correlation=1)
    events = sorted([in_range("repeat", 0, 1000), *launched(1, 200, 5000, 10), inner], key=lambda e: e.start)
    (call,) = gpu_calls(events)
    assert len(call.work) == 1
    assert not call.dropped


def test_overlapping_work_is_counted_once_in_busy_time_and_complained_of_in_the_sum() -> None:
    events = [
        in_range("repeat", 0, 1000), in_range("attend", 0, 900),
        *launched(1, 100, 10_000, 4 * MS), *launched(2, 200, 10_000 + 2 * MS, 4 * MS),
    ]  # fmt: skip
    profile = gpu_profile(events, 1, latency_ms=6.0)
    assert (profile.busy_ms, profile.span_ms, profile.gap_ms) == (6.0, 6.0, 0.0)
    assert "33.3% more than the unprofiled 6 ms" in profile.complaint
    apart = [replace(e, start=e.start + 5 * MS, end=e.end + 5 * MS) if e.correlation == 2 and e.kind == "work" else e
             for e in events]  # fmt: skip
    assert gpu_profile(apart, 1, latency_ms=11.0).gap_ms == 3.0


def test_of_an_exchange_beside_other_work_only_the_rest_counts() -> None:
    def work(phase: str, start: int, end: int) -> Work:
        return Work("fwd", phase, phase, start, end)

    # 0-10 alone, then 20-60 beside a selection from 25 to 45 and a score, within it, from 30 to 50.
    mixed = [
        work("communicate", 0, 10), work("communicate", 20, 60), work("select", 25, 45), work("score", 30, 50),
        work("attend", 60, 100),
    ]  # fmt: skip
    assert work_ns(reversed(mixed)) == {
        ("fwd", "communicate"): 10 + 5 + 10, ("fwd", "select"): 20, ("fwd", "score"): 20, ("fwd", "attend"): 40,
        ("fwd", "gap"): 10,
    }  # fmt: skip
