"""Cells over time, from journals written here: a planted step is found at its commits, and noise alone is none."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnbench.report.history_words import grouped
from attnbench.results.change_points import FEWEST, find_changes
from attnbench.results.estimates import Estimate
from attnbench.results.history import Series, history_of, runs_of
from attnbench.results.layers import MeanRow
from attnbench.results.load import read
from attnbench.results.records.cells import Row


def by_method(folder: Path) -> dict[str, Series]:
    return {series.last.method: series for series in history_of(read(folder))}


def test_points_are_in_order_of_time_with_their_commits(tmp_path: Path, histories: Any) -> None:
    histories.write_runs(tmp_path, histories.plain(2))
    late, early = (tmp_path / name for name in ("run-000", "run-001"))  # names say nothing of the order
    late.rename(tmp_path / "x")
    early.rename(tmp_path / "a")
    found = by_method(tmp_path)
    assert list(found) == ["full", "sta", "vmoba"]
    assert [run.run_id for run in runs_of(read(tmp_path))] == ["run-000", "run-001"]
    for series in found.values():
        assert [point.run.commit for point in series.points] == [histories.commit(0)[:9], histories.commit(1)[:9]]
        assert (series.gaps, series.shifts, series.ended) == ((), (), None)
    assert (found["full"].measure, found["sta"].measure) == ("latency", "speed-up")


def test_a_speed_up_is_paired_by_round(tmp_path: Path, histories: Any) -> None:
    histories.write_runs(tmp_path, histories.plain(1), rounds=40)
    series = by_method(tmp_path)["sta"]
    rows = [json.loads(line) for line in (tmp_path / "run-000" / "journal.jsonl").read_text().splitlines()]
    times = {row["method"]: row["samples_ms"] for row in rows if row["kind"] == "row"}
    logs = sorted(math.log(dense / own) for dense, own in zip(times["full"], times["sta"], strict=True))
    (value,) = series.values
    assert value.value == pytest.approx(sum(logs[8:-8]) / 24)  # a fifth of the rounds is cut off on either side
    assert value.error > histories.BETWEEN  # the noise between runs is in it, however many rounds there are
    assert series.points[0].latency.value == pytest.approx(math.log(sorted(times["sta"])[20]), abs=0.05)


def test_a_method_whose_layers_differ_is_followed_by_its_mean_too(tmp_path: Path, histories: Any) -> None:
    histories.write_runs(tmp_path, histories.plain(2), rounds=40, layers={"vmoba": {0: 10, 1: 20}})
    found = [series for series in history_of(read(tmp_path)) if series.last.method == "vmoba"]
    assert [(type(series.last), len(series.points)) for series in found] == [(MeanRow, 2), (Row, 2), (Row, 2)]
    assert [group.members[0].name for group in grouped(found)] == ["vmoba · mean over layers"]
    lines = map(json.loads, (tmp_path / "run-000" / "journal.jsonl").read_text().splitlines())
    times = {(row["method"], row["layer"]): row["samples_ms"] for row in lines if row["kind"] == "row"}
    rounds = zip(times["full", 0], times["vmoba", 0], times["vmoba", 1], strict=True)
    logs = sorted(math.log(dense / ((10 * first + 20 * second) / 30)) for dense, first, second in rounds)
    assert found[0].values[0].value == pytest.approx(sum(logs[8:-8]) / 24)


def test_a_mean_is_lost_with_any_of_its_layers(tmp_path: Path, histories: Any) -> None:
    lost = histories.Made({}, histories.commit(1), {"vmoba": "incorrect"})
    histories.write_runs(tmp_path, [*histories.plain(1), lost], layers={"vmoba": {0: 10, 1: 20}})
    ended = [series.ended for series in history_of(read(tmp_path)) if series.last.method == "vmoba"]
    assert [gap and gap.what for gap in ended] == ["incorrect"] * 3


@pytest.mark.parametrize(("factor", "slower"), [(1.15, True), (0.85, False), (1.4, True)])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_planted_step_is_found_at_its_commits(
    tmp_path: Path, factor: float, slower: bool, at: int, histories: Any
) -> None:
    pytest.importorskip("ruptures")
    runs = [
        histories.Made({"sta": factor} if number >= at else {}, histories.commit(number), {}) for number in range(8)
    ]
    histories.write_runs(tmp_path, runs, rounds=20, seed=at)
    found = by_method(tmp_path)
    (shift,) = found["sta"].shifts
    assert shift.commits == f"{histories.commit(at - 1)[:9]}..{histories.commit(at)[:9]}"
    assert shift.slower is slower
    value, lo, hi = shift.ratio
    assert lo < 1 / factor < hi  # of the speed-up
    assert (value < 1) is slower
    assert shift.also == ()
    assert found["vmoba"].shifts == found["full"].shifts == ()  # the machine's own drift is larger, and shared


def test_a_step_of_the_baseline_itself_is_found_by_its_latency(tmp_path: Path, histories: Any) -> None:
    pytest.importorskip("ruptures")
    runs = [histories.Made({"full": 2.0} if number >= 5 else {}, histories.commit(number), {}) for number in range(10)]
    histories.write_runs(tmp_path, runs)
    found = by_method(tmp_path)
    (shift,) = found["full"].shifts
    assert shift.slower
    assert shift.before.run.run_id == "run-004"
    assert [each.slower for each in found["sta"].shifts] == [False]  # beside a slower baseline it is faster


def test_a_step_that_is_taken_back_is_two(tmp_path: Path, histories: Any) -> None:
    pytest.importorskip("ruptures")
    runs = [
        histories.Made({"sta": 1.3} if 3 <= number < 6 else {}, histories.commit(number), {}) for number in range(9)
    ]
    histories.write_runs(tmp_path, runs)
    shifts = by_method(tmp_path)["sta"].shifts
    assert [(shift.after.run.run_id, shift.slower) for shift in shifts] == [("run-003", True), ("run-006", False)]


def test_noise_alone_is_no_step(tmp_path: Path, histories: Any) -> None:
    pytest.importorskip("ruptures")
    alarms = 0
    for seed in range(40):
        histories.write_runs(tmp_path / str(seed), histories.plain(random.Random(seed).randint(3, 15)), seed=seed)
        alarms += any(
            series.shifts for series in by_method(tmp_path / str(seed)).values() if series.measure != "latency"
        )
    assert alarms <= 2


def found_in(count: int, trials: int, step: float = 0.0, at: int = 0, noise: float = 0.015) -> list[list[int]]:
    """Return where changes are found in series of so many values with a known error, which step up by ``step``."""
    made = []
    for seed in range(trials):
        source = random.Random(seed)
        values = [source.gauss(0, noise) + step * (place >= at) for place in range(count)]
        (changes,) = find_changes([[Estimate(value, 0.015, 40) for value in values]], math.log(1.03))
        made.append([change.index for change in changes])
    return made


def check_rates(count: int, trials: int) -> None:
    """Check what docs/history.md says of series with as many values."""
    alarms = sum(bool(places) for places in found_in(count, trials)) / trials
    assert alarms <= 0.01 + 3 * math.sqrt(0.01 / trials)
    middle = count // 2
    steps = sum(places == [middle] for places in found_in(count, trials, 0.1, middle)) / trials
    assert steps >= 0.97 - 3 * math.sqrt(0.03 / trials)
    if count >= 8:  # the noise is twice as large as is known
        alarms = sum(bool(places) for places in found_in(count, trials, noise=0.03)) / trials
        assert alarms <= 0.06 + 3 * math.sqrt(0.06 / trials)


@pytest.mark.parametrize("count", [3, 9])
def test_how_often_steps_are_found_and_made_up(count: int) -> None:
    pytest.importorskip("ruptures")
    check_rates(count, 80)


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 5, 8, 15, 30])
def test_how_often_steps_are_found_and_made_up_in_many_series(count: int) -> None:
    pytest.importorskip("ruptures")
    check_rates(count, 600)


def test_small_steps_are_left_out_however_sure(tmp_path: Path) -> None:
    pytest.importorskip("ruptures")
    steps = [Estimate((place >= 5 and 0.02) or 0.0, 1e-4, math.inf) for place in range(10)]
    assert find_changes([steps], 0.03) == [[]]
    assert [change.index for change in find_changes([steps], 0.01)[0]] == [5]


@pytest.mark.parametrize("count", range(FEWEST))
def test_fewer_than_three_points_have_no_steps(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch, histories: Any
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ruptures", None)  # nor do they need ruptures
    assert find_changes([[Estimate(100.0 * place, 0.01, math.inf) for place in range(count)]], 0.03) == [[]]
    if count:
        histories.write_runs(
            tmp_path,
            [histories.Made({"sta": 5.0 * number + 1}, histories.commit(number), {}) for number in range(count)],
        )
        assert all(series.shifts == () for series in by_method(tmp_path).values())


@pytest.mark.parametrize("errors", [math.inf, 5.0])
def test_values_of_which_nothing_is_known_have_no_steps(errors: float) -> None:
    pytest.importorskip("ruptures")
    assert find_changes([[Estimate(float(place >= 3), errors, 5) for place in range(6)]], 0.03) == [[]]


def test_a_series_that_scatters_more_than_it_says_has_no_steps() -> None:
    pytest.importorskip("ruptures")
    alarms = 0
    for seed in range(50):
        source = random.Random(seed)
        alarms += bool(find_changes([[Estimate(source.gauss(0, 0.1), 0.02, math.inf) for _ in range(20)]], 0.03)[0])
    assert alarms <= 10  # a level that fits such noise by chance explains a part of the scatter


def test_a_single_round_is_shown_and_concludes_nothing(tmp_path: Path, histories: Any) -> None:
    pytest.importorskip("ruptures")
    histories.write_runs(
        tmp_path, [histories.Made({"sta": 1.0 + number}, histories.commit(number), {}) for number in range(4)], rounds=1
    )
    series = by_method(tmp_path)["sta"]
    assert len(series.points) == 4
    assert not series.shifts


def test_a_cell_that_vanishes_or_loses_its_verdict_is_told(tmp_path: Path, histories: Any) -> None:
    pytest.importorskip("ruptures")
    runs = [
        *histories.plain(2),
        histories.Made({}, histories.commit(2), {"vmoba": "incorrect"}, ("sta",)),
        histories.Made({}, histories.commit(3), {}, ("sta", "vmoba")),
    ]
    histories.write_runs(tmp_path, runs)
    found = by_method(tmp_path)
    gaps = {name: [(gap.run.run_id, gap.what) for gap in series.gaps] for name, series in found.items()}
    absent = [("run-002", "absent"), ("run-003", "absent")]
    assert gaps == {"full": [], "sta": absent, "vmoba": [("run-002", "incorrect"), ("run-003", "absent")]}
    ended = found["vmoba"].ended
    assert ended is not None
    assert (ended.what, ended.reason, ended.run.commit) == ("incorrect", "it says so", histories.commit(2)[:9])
    assert found["full"].ended is None


def test_a_cell_that_comes_back_has_not_ended(tmp_path: Path, histories: Any) -> None:
    pytest.importorskip("ruptures")
    histories.write_runs(
        tmp_path, [*histories.plain(1), histories.Made({}, histories.commit(1), {}, ("sta",)), *histories.plain(1)]
    )
    series = by_method(tmp_path)["sta"]
    assert [gap.what for gap in series.gaps] == ["absent"]
    assert series.ended is None


def test_runs_of_other_cells_make_no_gaps(tmp_path: Path, histories: Any) -> None:
    histories.write_runs(
        tmp_path,
        [
            histories.Made({}, histories.commit(0), {}, ("vmoba",)),
            histories.Made({}, histories.commit(1), {}, ("full", "sta")),
        ],
    )
    assert [series.gaps for series in by_method(tmp_path).values()] == [(), (), ()]


@pytest.mark.parametrize(("field", "value"), [("threads", 8), ("inputs_hash", "other"), ("heads_timed", 2)])
def test_other_conditions_make_another_series(tmp_path: Path, field: str, value: object, histories: Any) -> None:
    pytest.importorskip("ruptures")
    histories.write_runs(
        tmp_path,
        [
            *histories.plain(3),
            *(histories.Made({}, histories.commit(number), {}, row={field: value}) for number in (3, 4)),
        ],
    )
    found = [series for series in history_of(read(tmp_path)) if series.last.method == "sta"]
    assert [len(series.points) for series in found] == [3, 2]
    ended = found[0].ended
    assert ended is not None
    assert (ended.what, ended.run.run_id) == ("other conditions", "run-003")
    assert field in ended.reason
    assert found[1].ended is None


def test_what_else_changed_is_named(tmp_path: Path, histories: Any) -> None:
    pytest.importorskip("ruptures")
    packages = {"packages": {"torch": "2.12"}, "driver": "600"}
    runs = [
        *histories.plain(4),
        *(histories.Made({"sta": 1.5}, histories.commit(3), {}, environment=packages) for _ in range(4)),
    ]
    histories.write_runs(tmp_path, runs)
    (shift,) = by_method(tmp_path)["sta"].shifts
    assert set(shift.also) == {"torch 2.11 → 2.12", "driver None → 600"}
    assert shift.before.run.commit == shift.after.run.commit


def test_unknown_times_and_commits_are_said_to_be(tmp_path: Path, histories: Any) -> None:
    histories.write_runs(
        tmp_path, [histories.Made({}, None, {}, environment={"started_at": "no date"}), *histories.plain(1)]
    )
    first, second = by_method(tmp_path)["sta"].points
    assert (first.run.date, first.run.commit) == ("unknown", "unknown")
    assert second.run.date == "2026-01-02 00:00"
    dirty = replace(second.run, environment=second.run.environment.model_copy(update={"git_dirty": True}))  # type: ignore[union-attr]  # it has one
    assert dirty.commit == f"{histories.commit(0)[:9]}+"
