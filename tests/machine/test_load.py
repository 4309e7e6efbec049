"""What else the machine does: made-up counters, made-up files of the system, and this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attnbench.machine import load
from attnbench.machine.load import WINDOW, Counters, LoadWatch, load_between, read_counters

STAT = """cpu  400 0 100 1000 0 0 0 50 0 0
cpu0 100 0 0 300 100 0 0 0 0 0
cpu1 200 50 100 700 0 10 40 50 7 7
cpu2 999 999 999 999 999 999 999 999 0 0
intr 1 2 3
"""


def at(moment: float, **changes: float) -> Counters:
    """Two cores: a second of wall clock is two of theirs."""
    fields = {"own": moment, "busy": moment, "stolen": 0.0, "total": 2 * moment, "waited": 0.0, "switches": 0}
    return Counters(moment, **fields | changes)  # type: ignore[arg-type]  # switches is whole


def test_others_are_what_is_busy_beyond_this_process() -> None:
    found = load_between(at(10), at(20, own=18, busy=23, stolen=1, waited=0.5, switches=7))
    assert found.others_busy == pytest.approx((13 - 8) / 20)
    assert (found.steal, found.waited, found.switches) == (pytest.approx(0.05), pytest.approx(0.05), 7)


def test_a_machine_of_ours_alone_is_not_busy() -> None:
    assert load_between(at(0), at(5)).others_busy == 0


def test_what_the_system_does_not_tell_stays_unknown() -> None:
    found = load_between(Counters(0, 0), Counters(1, 1))
    assert (found.others_busy, found.steal, found.waited, found.switches) == (None, None, None, None)


def test_shares_stay_shares_where_counters_step_back() -> None:
    found = load_between(at(10, busy=30, waited=5), at(11))
    assert (found.others_busy, found.waited) == (0, 0)
    assert load_between(at(0), at(1, busy=9)).others_busy == 1


def test_a_watch_looks_back_far_enough_to_count_and_no_further() -> None:
    moments = [0.0, 0.1, WINDOW + 0.1, 10.0, 10.01, 10.02]
    busy = [0.0, 0.1, WINDOW + 0.1, 10.0, 10.02, 10.04]
    readings = iter([at(m, own=m, busy=b) for m, b in zip(moments, busy, strict=True)])
    watch = LoadWatch(lambda: next(readings))
    looks = [watch.look().others_busy for _ in moments[1:]]
    assert looks[:3] == [0, 0, pytest.approx(0)]
    # The newest reading that is old enough is that before the long stretch, not the ones of some milliseconds ago.
    assert looks[3] == pytest.approx(0.01 / (2 * (10.01 - WINDOW - 0.1)))


def test_what_is_left_out_is_no_load() -> None:
    readings = iter([at(0), at(1), at(11, own=1, busy=11, switches=9), at(12, own=2, busy=12, switches=10)])
    watch = LoadWatch(lambda: next(readings))
    before = watch._read()
    watch.leave_out(before)  # ten seconds, all of them busy for others
    found = watch.look()
    assert (found.others_busy, found.switches) == (0, 1)


def test_the_cores_of_this_process_are_read_as_the_system_writes_them() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    busy, stolen, total = load._core_times(STAT, {0, 1}) or (0, 0, 0)
    assert busy * tick == pytest.approx(100 + 200 + 50 + 100 + 10 + 40)
    assert stolen * tick == pytest.approx(50)
    assert total * tick == pytest.approx(500 + 200 + 50 + 100 + 700 + 10 + 40 + 50)
    assert load._core_times("", {0}) is None
    assert load._core_times("cpu0 1 2\n", {0}) is None


def test_governors_and_frequencies_are_read_of_the_usable_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for core, governor, khz in ((0, "powersave", "800000"), (1, "powersave", "2400000"), (2, "performance", "9")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
        (folder / "scaling_cur_freq").write_text(khz + "\n")
    monkeypatch.setattr(load, "_CPUS", tmp_path)
    monkeypatch.setattr(load, "_usable", lambda: {0, 1})
    assert load.governors() == ("powersave",)
    assert load_between(at(0), at(1)).cpu_mhz == pytest.approx(1600)


def test_this_machine_can_be_read() -> None:
    before = read_counters()
    sum(range(10**5))
    after = read_counters()
    assert after.moment >= before.moment
    assert after.own >= before.own > 0
    found = LoadWatch().look()
    for share in (found.others_busy, found.steal, found.waited):
        assert share is None or 0 <= share <= 1
