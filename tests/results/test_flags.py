"""Flags from recorded conditions: each is raised from its bound on, and by nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.results.flags import BADGES, BOUNDS, as_read, badges, flags_of, is_unstable, strays
from attnbench.results.records.cells import FLAGS, Sample


def samples(*conditions: dict[str, Any], ms: float = 10.0) -> list[Sample]:
    return [
        Sample(**{"cell_id": "c", "round": n, "cold_ms": ms, "heads_timed": 1, "inputs_hash": "h"} | condition)
        for n, condition in enumerate(conditions)
    ]


def test_nothing_known_raises_nothing() -> None:
    assert flags_of([], on_gpu=True) == ()
    assert flags_of(samples({}, {}, {}), on_gpu=True) == flags_of(samples({}, {}, {}), on_gpu=False) == ()


@pytest.mark.parametrize("capped", range(5))
def test_a_power_cap_counts_from_half_of_the_samples(capped: int) -> None:
    found = flags_of(
        samples(*[{"clock_reasons": 0x4 | 0x1}] * capped, *[{"clock_reasons": 0x1}] * (4 - capped)), on_gpu=True
    )
    assert found == (("power-capped",) if capped >= 2 else ())


@pytest.mark.parametrize(("host", "raised"), [(9.9, False), (10.0, True), (30.0, True)])
def test_enqueuing_longer_than_the_latency_is_bound_by_the_cpu(host: float, raised: bool) -> None:
    assert flags_of(samples(*[{"host_ms": host}] * 3), on_gpu=True) == (("cpu-bound",) if raised else ())


@pytest.mark.parametrize(("eager", "raised"), [(12.4, False), (12.6, True)])
def test_back_to_back_calls_longer_than_the_latency_are_bound_by_the_cpu(eager: float, raised: bool) -> None:
    plain = samples({}, {}, {})
    assert flags_of(plain, on_gpu=True, eager_ms=eager) == (("cpu-bound",) if raised else ())
    assert flags_of(plain, on_gpu=False, eager_ms=eager) == ()


def test_a_call_that_waits_for_the_gpu_in_most_samples_is_bound_by_the_cpu() -> None:
    assert flags_of(samples({"host_ms": 1.0}, {}, {}), on_gpu=True) == ("cpu-bound",)
    assert flags_of(samples({"host_ms": 1.0}, {"host_ms": 1.0}, {}), on_gpu=True) == ()


@pytest.mark.parametrize(
    ("name", "bound"), [("others_busy", BOUNDS.others_busy), ("steal", BOUNDS.steal), ("waited", BOUNDS.waited)]
)
def test_a_busy_machine_is_one_that_spoils_a_quarter_of_the_samples(name: str, bound: float) -> None:
    spoilt, fine = {name: bound * 1.01}, {name: bound}
    assert flags_of(samples(spoilt, fine, fine, fine), on_gpu=False) == ("busy-machine",)
    assert flags_of(samples(spoilt, fine, fine, fine, fine), on_gpu=False) == ()
    assert flags_of(samples(fine, fine), on_gpu=False) == ()
    assert flags_of(samples(spoilt, spoilt), on_gpu=True) == ()  # a GPU does not care


def test_a_gpu_is_busy_if_others_compute_on_it() -> None:
    assert flags_of(samples({"foreign_processes": 1}, {"foreign_processes": 0}), on_gpu=True) == ("busy-machine",)
    assert flags_of(samples({"foreign_processes": 0}, {"foreign_processes": 0}), on_gpu=True) == ()


STEADY = [10.0, 10.1, 9.9, 10.05, 9.95, 10.02, 9.98, 10.0]


@pytest.mark.parametrize(
    ("values", "raised"),
    [
        (STEADY, False),
        ([*STEADY, 30.0], False),  # one stray sample is what the median is for
        ([8.0, 9.0, 10.0, 11.0, 12.0], True),
        ([10.0, 10.1, 9.9, 11.3, 11.4, 11.2, 10.0, 11.3], True),  # two groups, 13 % apart
        ([10.0, 10.1, 9.9, 10.0, 10.1, 9.9, 10.0, 11.3], False),
        ([10.0], False),
        ([10.0, 14.0], True),
    ],
)
def test_samples_that_spread_or_fall_into_two_groups_are_unstable(values: list[float], raised: bool) -> None:
    assert is_unstable(values) == is_unstable(values[::-1]) == raised
    found = flags_of(samples(*[{"cold_ms": value} for value in values]), on_gpu=False)
    assert found == (("unstable",) if raised else ())


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=30), st.floats(0.01, 100))
def test_instability_does_not_depend_on_the_unit(values: list[float], scale: float) -> None:
    # Beyond rounding: a value just at a bound may fall to either side.
    close = [is_unstable(values, BOUNDS), is_unstable([v * scale for v in values], BOUNDS)]
    exact = [v * 2.0**4 for v in values]
    assert is_unstable(exact) == close[0]


@given(st.floats(1, 100), st.lists(st.floats(-0.03, 0.03), min_size=2, max_size=40))
def test_samples_within_three_percent_are_stable(middle: float, off: list[float]) -> None:
    assert not is_unstable([middle * (1 + each) for each in off])


def test_several_flags_come_in_one_order() -> None:
    bad = {"clock_reasons": 0x4, "host_ms": 50.0, "foreign_processes": 2}
    both = samples({**bad, "cold_ms": 10.0}, {**bad, "cold_ms": 20.0})
    found = flags_of(both, on_gpu=True, plain_torch=True, unmatched=True, replayed=True)
    every = ("power-capped", "cpu-bound", "busy-machine", "unstable", "plain-torch", "unmatched", "replayed-video")
    assert found == every == tuple(flag for flag in FLAGS if flag != "slow-enqueue")
    assert flags_of(both, on_gpu=True) == every[:-3]
    assert set(BADGES) == set(FLAGS)
    assert all(len(badge) <= 8 for badge in BADGES.values())


def test_flags_have_short_words_for_tables() -> None:
    assert badges("busy-machine,unstable") == "busy, unstable"
    assert badges("") == badges(None) == ""


def test_strays_are_what_ends_of_intervals_of_few_samples_rest_on() -> None:
    assert strays([8.73, 5.154, 5.16, 5.153, 5.161]) == [8.73]
    assert strays([5.1, 5.154, 5.16, 5.153, 5.3]) == []
    assert strays([8.73, 5.154, 5.16, 5.153, 5.161, 5.16]) == []  # enough of them for one not to count
    assert strays([3.0, 5.0, 8.0, 9.0, 5.0]) == []  # unstable as a whole, which is a flag
    assert strays([5.0, 9.0]) == strays([]) == []


@pytest.mark.parametrize(("eager", "flag"), [(10.3, "slow-enqueue"), (10.9, "slow-enqueue"), (11.1, "cpu-bound")])
def test_back_to_back_calls_that_keep_up_overrule_the_time_of_enqueuing(eager: float, flag: str) -> None:
    slow = samples(*[{"host_ms": 15.0}] * 3)
    assert flags_of(slow, on_gpu=True, eager_ms=eager) == (flag,)
    assert flags_of(slow, on_gpu=False, eager_ms=eager) == ()
    assert flags_of(samples(*[{"host_ms": 9.0}] * 3), on_gpu=True, eager_ms=eager) == ()
    assert as_read("power-capped,cpu-bound", slow, eager) == f"power-capped,{flag}"


def test_nothing_acquits_a_call_that_waits_for_the_gpu() -> None:
    waiting, partly = samples({}, {}, {}), samples({"host_ms": 15.0}, {}, {})
    for eager in (None, 10.2):
        assert flags_of(waiting, on_gpu=True, eager_ms=eager, enqueuing_timed=True) == ("cpu-bound",)
        assert flags_of(waiting, on_gpu=True, eager_ms=eager) == ()  # nothing is known
        assert flags_of(partly, on_gpu=True, eager_ms=eager) == ("cpu-bound",)
        assert as_read("cpu-bound", partly, eager) == as_read("cpu-bound", waiting, eager) == "cpu-bound"


def test_recorded_flags_stay_where_nothing_denies_them() -> None:
    slow = samples(*[{"host_ms": 15.0}] * 3)
    assert as_read("cpu-bound", slow, None) == as_read("cpu-bound", [], 10.2) == "cpu-bound"
    assert as_read("", slow, 10.2) == ""
    assert as_read("unstable", slow, 10.2) == "unstable"
