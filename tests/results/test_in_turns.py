"""Runs that took turns: what the machine did to both cancels, and what pairs differ by is in the interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attnbench.results import calibration_in_turns
from attnbench.results.calibration_in_turns import Session, calibrate_in_turns, joined, ratios_of
from attnbench.results.compare import compare_tables
from attnbench.results.estimates import Estimate
from attnbench.results.in_turns import between_pairs, mean_ratio
from attnbench.results.load import Results
from attnbench.results.noise import NoiseModel
from attnbench.results.records.cells import Cell, Environment, Row, RunHeader, Sample

DEVICE, ROUNDS = "A CPU (2 cores)", 12
NOISE = NoiseModel(
    device=DEVICE, speedup_sd=0.1, latency_sd=0.1, pair_sd=0.01, pairs=40, runs=40, provenance="measured"
)
METHODS = ("sta", "vmoba")


def cell(method: str) -> Cell:
    return Cell(
        method=method, settings_given="{}", settings="{}", layer=0, step=None, grid="2x2x2", text_tokens=(0, 0),
        batch=1, heads=1, kv_heads=1, head_dim=8, dtype="float32", direction="fwd", inputs="gaussian",
        inputs_content="", seed=0, engine_asked=None, engine="reference", device=DEVICE,
    )  # fmt: skip


def run(name: str, drift: np.ndarray[Any, Any], factor: float, generator: np.random.Generator, shared: str) -> Results:
    """A run on a machine whose speed changes by ``drift`` from round to round, whatever the method."""
    setup: dict[str, Any] = {"heads_timed": 1, "inputs_hash": "abc", "threads": 2}
    dense = cell("full").model_copy(update={"engine": "sdpa", "engine_asked": "sdpa"})
    of_dense = (5 * np.exp(drift + 0.03 * generator.standard_normal(ROUNDS))).tolist()
    rows: list[Row] = []
    samples = [Sample(cell_id=dense.identity, round=i, cold_ms=x, **setup) for i, x in enumerate(of_dense)]
    for place, method in enumerate(METHODS):
        each = cell(method)
        own = 10 * factor * np.exp(drift + 0.03 * generator.standard_normal(ROUNDS))
        rows.append(
            Row(
                **each.model_dump(), **setup, row_id=f"{name}-{place}", run_id=name, cell_id=each.identity,
                verdict="ok", tokens=8, latency_ms=float(np.median(own)), samples_ms=own.tolist(), engine_version="1",
                timer="wall", baseline="full/sdpa",
            )
        )  # fmt: skip
        samples += [Sample(cell_id=each.identity, round=i, cold_ms=x, **setup) for i, x in enumerate(own.tolist())]
    environment = Environment(
        device=DEVICE, device_kind="cpu", cores=2, memory_gib=8.0, python="3.11", platform="Linux", packages={},
        started_at=f"2025-01-01T00:00:{int(name[1:3]):02}+00:00",
    )  # fmt: skip
    header = RunHeader(run_id=name, environment=environment, request={}, in_turns=shared)
    return Results(headers=(header,), rows=tuple(rows), samples={name: tuple(samples)})


def pair(
    number: int, generator: np.random.Generator, factor: float = 1.0, between: float = 0.01, shared: str = "t"
) -> tuple[Results, Results]:
    """Two runs in turns, of which the second is slower by a factor, on a machine whose speed changes threefold."""
    drift = np.cumsum(0.3 * generator.standard_normal(ROUNDS))
    factor *= math.exp(between * generator.standard_normal())
    token = f"{shared}{number}" if shared else ""
    return (
        run(f"a{number:02}", drift, 1.0, generator, token),
        run(f"b{number:02}", drift + (0 if shared else 1), factor, generator, token),
    )


def pooled(pairs: list[tuple[Results, Results]]) -> tuple[Results, Results]:
    a, b = Results(), Results()
    for first, second in pairs:
        a, b = joined(a, first), joined(b, second)
    return a, b


@pytest.mark.parametrize(("factor", "change"), [(1.0, "same"), (1.1, "slower"), (0.9, "faster")])
def test_a_change_of_the_machine_cancels(factor: float, change: str) -> None:
    generator = np.random.default_rng(1)
    found = compare_tables(*pooled([pair(n, generator, factor) for n in range(3)]), noise=NOISE, pool=True)
    assert [each.change for each in found.cells] == [change, change]
    assert {each.judged_by for each in found.cells} == {"latency in turns"}
    for each in found.cells:
        assert each.lo is not None
        assert each.hi is not None
        assert each.lo < factor < each.hi
        assert each.hi / each.lo < 1.1


def test_runs_that_took_no_turns_are_not_paired() -> None:
    generator = np.random.default_rng(2)
    found = compare_tables(*pooled([pair(n, generator, shared="") for n in range(3)]), noise=NOISE, pool=True)
    assert {each.judged_by for each in found.cells} == {"speed-up"}
    a, b = pooled([pair(n, generator) for n in range(3)])
    alone, _ = pair(9, generator, shared="")
    found = compare_tables(joined(a, alone), b, noise=NOISE, pool=True)
    assert {each.judged_by for each in found.cells} == {"speed-up"}, "one run has no partner"


def test_many_intervals_hold_the_truth_and_more_looks_ask_for_more() -> None:
    generator = np.random.default_rng(3)
    held = []
    for _ in range(60):
        found = compare_tables(*pooled([pair(n, generator) for n in range(2)]), noise=NOISE, pool=True)
        held += [each.lo <= 1 <= each.hi for each in found.cells if each.lo is not None and each.hi is not None]
    assert len(held) == 120
    assert 0.88 <= sum(held) / len(held) <= 1

    a, b = pooled([pair(n, np.random.default_rng(4), 1.05) for n in range(2)])
    once, often = (compare_tables(a, b, noise=NOISE, pool=True, looks=looks).cells for looks in (1, 10**6))
    assert [each.change for each in once] == ["slower", "slower"]
    assert "slower" not in [each.change for each in often]


def test_pairs_that_differ_by_more_than_is_known_say_so_themselves() -> None:
    quiet = [[Estimate(value, 0.01, 11.0) for value in (0.004, -0.008, 0.01)]] * 3
    assert between_pairs(quiet, NOISE) == Estimate(0.0, 0.01, 39)
    wild = [[Estimate(value, 0.01, 11.0) for value in (0.2, -0.1, 0.0)]] * 3
    found = between_pairs(wild, NOISE)
    assert found.error == pytest.approx(math.sqrt(0.14 / 3 / 2 - 0.01**2))
    assert found.freedom == 6
    assert between_pairs([], NOISE).error == NOISE.pair_sd
    assert between_pairs([[Estimate(0.5, math.inf, 1)] * 2], NOISE).error == NOISE.pair_sd, "single rounds say nothing"


def test_the_error_of_a_mean_has_both_parts() -> None:
    found = mean_ratio([Estimate(0.1, 0.02, 11.0), Estimate(0.2, 0.02, 11.0)], Estimate(0.0, 0.03, math.inf))
    assert found.value == pytest.approx(0.15)
    assert found.error == pytest.approx(math.sqrt(0.02**2 / 2 + 0.03**2 / 2))


def test_a_calibration_finds_delays_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_in_turns, "GATES", 60)
    monkeypatch.setattr(calibration_in_turns, "DELAYED_GATES", 30)
    generator = np.random.default_rng(5)
    sessions = []
    for number in range(10):
        delay = (0.01, 0.2)[number % 2]
        same, slower = pair(2 * number, generator), pair(2 * number + 1, generator, 1 + delay)
        base = same[0]
        third = run(f"c{number:02}", np.zeros(ROUNDS), 1.0, generator, f"t{2 * number}")
        slow = _as_if_beside(slower, base, third)
        sessions.append(Session((base, same[1]), delay, slow))
    found = calibrate_in_turns(sessions, 2, 4)
    small, large = found.delayed
    assert (small.delay, small.runs, large.delay, large.runs) == (0.01, 5, 0.2, 5)
    assert large.slower.value == 1
    assert small.slower.value < 0.2
    assert found.failed.value < 0.05
    assert found.unclear.value < 0.1
    assert found.model.pair_sd < 0.03
    assert found.model.pairs == found.runs == 10
    assert 2 <= found.pairs <= 4


def _as_if_beside(slower: tuple[Results, Results], base: Results, shape: Results) -> Results:
    """Return a run beside ``base`` that is slower than it by what the pair differs by."""
    (a, b), (name,) = slower, {row.run_id for row in shape.rows}
    shared = shape.headers[0].model_copy(update={"in_turns": base.headers[0].in_turns})
    rows, samples = [], []
    for row in shape.rows:
        times = [
            {s.round: s.cold_ms for s in each.samples[each.rows[0].run_id] if s.cell_id == row.cell_id}
            for each in (base, a, b)
        ]
        own = [times[0][number] * times[2][number] / times[1][number] for number in range(ROUNDS)]
        rows.append(row.model_copy(update={"samples_ms": own, "latency_ms": float(np.median(own))}))
        mine = [sample for sample in shape.samples[name] if sample.cell_id == row.cell_id]
        samples += [sample.model_copy(update={"cold_ms": own[sample.round]}) for sample in mine]
    return Results(headers=(shared,), rows=tuple(rows), samples={name: tuple(samples)})


def test_ratios_of_two_runs_are_those_that_were_put_in() -> None:
    found = ratios_of(*pair(0, np.random.default_rng(6), 1.3, between=0.0))
    assert len(found) == len(METHODS)
    for each in found.values():
        assert each.value == pytest.approx(math.log(1.3), abs=0.05)
        assert each.error < 0.03
