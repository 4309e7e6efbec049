"""Calibrations of made-up runs, whose noise and delays are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attnbench.kernels.errors import BadInput
from attnbench.results import calibration
from attnbench.results.calibration import (
    CellJudged,
    Judged,
    calibrate,
    judge,
    log_latencies,
    log_speedups,
)
from attnbench.results.estimates import difference
from attnbench.results.load import Results
from attnbench.results.noise import NoiseModel
from attnbench.results.records.cells import Cell, Environment, Row, RunHeader, Sample

BETWEEN, WITHIN, ROUNDS = 0.02, 0.03, 12
DEVICE = "A CPU (2 cores)"


METHODS = ("sta", "moba", "vmoba", "sliding-window")


def cell(method: str) -> Cell:
    return Cell(
        method=method, settings_given="{}", settings="{}", layer=0, step=None, grid="2x2x2", text_tokens=(0, 0),
        batch=1, heads=1, kv_heads=1, head_dim=8, dtype="float32", direction="fwd", inputs="gaussian",
        inputs_content="", seed=0, engine_asked=None, engine="reference", device=DEVICE,
    )  # fmt: skip


def run(number: int, generator: np.random.Generator, cells: int = 4, delay: float = 0.0) -> Results:
    """A run in which rounds are slow or fast for all cells alike, as on a machine that others use."""
    name = f"run-{number}"
    setup: dict[str, Any] = {"heads_timed": 1, "inputs_hash": "abc", "threads": 2}
    dense = cell("full").model_copy(update={"engine": "sdpa", "engine_asked": "sdpa"})
    rounds = np.exp(0.3 * generator.standard_normal(ROUNDS))
    samples, rows = [], []
    times = {dense.identity: 10 * rounds}
    for layer, method in enumerate(METHODS[:cells]):
        own = (layer + 2) * (1 + delay) * rounds * math.exp(BETWEEN * generator.standard_normal())
        own = own * np.exp(WITHIN * generator.standard_normal(ROUNDS))
        each = cell(method)
        times[each.identity] = own
        rows.append(
            Row(
                **each.model_dump(), **setup, row_id=f"{name}-{layer}", run_id=name, cell_id=each.identity,
                verdict="ok", tokens=8, latency_ms=float(np.median(own)), samples_ms=own.tolist(), engine_version="1",
                timer="wall", baseline="full/sdpa",
            )
        )  # fmt: skip
    for identity, values in times.items():
        samples += [
            Sample(cell_id=identity, round=i, cold_ms=value, **setup) for i, value in enumerate(values.tolist())
        ]
    environment = Environment(
        device=DEVICE, device_kind="cpu", cores=2, memory_gib=8.0, python="3.11", platform="Linux", packages={},
        started_at="2025-01-01T00:00:00+00:00",
    )  # fmt: skip
    header = RunHeader(run_id=name, environment=environment, request={})
    return Results(headers=(header,), rows=tuple(rows), samples={name: tuple(samples)})


def by_speedups(a: Results, b: Results, noise: NoiseModel) -> Judged:
    """An exact judge: B's latency over A's by paired speed-ups, slower if its interval lies above 1."""
    mine, theirs = log_speedups(b), log_speedups(a)
    cells = []
    for name, value in mine.items():
        lo, hi = difference(value, theirs[name], noise.between_two(0.0, speedup=True)).interval()
        cells.append(
            CellJudged("sta", "slower" if lo > 0 else "faster" if hi < 0 else "unclear", (math.exp(lo), math.exp(hi)))
        )
    slow = any(each.change == "slower" for each in cells)
    return Judged(tuple(cells), 1 if slow else 3)


def test_the_noise_that_was_put_in_is_found_and_intervals_hold_the_truth() -> None:
    generator = np.random.default_rng(0)
    same = [run(number, generator) for number in range(20)]
    delayed = {0.2: [run(100 + n, generator, delay=0.2) for n in range(3)], 0.01: [run(200, generator, delay=0.01)]}
    found = calibrate(same, delayed, by_speedups, measured_at="2025-01-01")
    assert found.model.speedup_sd == pytest.approx(BETWEEN, rel=0.25)
    assert found.model.latency_sd > 2 * found.model.speedup_sd, "the machine's own noise is in latencies, not in ratios"
    assert (found.model.device, found.model.runs, found.model.cells) == (DEVICE, 20, 4)
    assert found.covered.of == 190 * 4
    assert found.covered.lo <= 0.95 <= found.covered.hi
    assert found.slower.count + found.faster.count + found.unclear.count == found.covered.of
    assert found.failed.of == 190
    small, large = found.delayed
    assert (small.delay, small.runs, small.slower.of) == (0.01, 1, 80)
    assert (large.delay, large.slower.value) == (0.2, 1.0)
    assert small.slower.value < 0.5
    assert found.model.details["found_0.2"] == 1.0


def test_a_pair_is_judged_by_the_noise_of_other_runs() -> None:
    generator = np.random.default_rng(1)
    same = [run(number, generator) for number in range(5)]
    wild = run(9, generator, delay=0.5)
    seen = []

    def watch(a: Results, b: Results, noise: NoiseModel) -> Judged:
        seen.append((a is wild or b is wild, noise.speedup_sd, noise.runs))
        return by_speedups(a, b, noise)

    calibrate([*same, wild], {}, watch)
    assert {runs for _, _, runs in seen} == {4}
    assert max(sd for about, sd, _ in seen if about) < min(sd for about, sd, _ in seen if not about)


def test_all_pairs_may_be_judged_by_a_noise_that_is_known() -> None:
    generator = np.random.default_rng(7)
    same, seen = [run(number, generator) for number in range(4)], []
    known = NoiseModel(device=DEVICE, speedup_sd=0.5, latency_sd=0.5, runs=9, provenance="measured")

    def watch(a: Results, b: Results, noise: NoiseModel) -> Judged:
        seen.append(noise)
        return by_speedups(a, b, noise)

    found = calibrate(same, {0.1: same[:1]}, watch, noise=known)
    assert seen == [known] * 10
    assert (found.model.runs, found.slower.count) == (4, 0)


def test_what_never_happened_may_yet_happen() -> None:
    generator = np.random.default_rng(2)
    found = calibrate(
        [run(n, generator) for n in range(6)], {}, lambda *_: Judged((CellJudged("sta", "same", (0.9, 1.1)),), 0)
    )
    assert (found.slower.count, found.slower.of, found.slower.lo) == (0, 15, 0.0)
    assert found.slower.hi == pytest.approx(1 - 0.025 ** (1 / 3)), "three pairs of six runs have no run in common"
    assert (found.covered.value, found.covered.hi) == (1.0, 1.0)
    assert found.covered.lo == pytest.approx(0.025 ** (1 / 3))


def test_pairs_that_share_a_run_count_as_less_than_pairs_that_do_not() -> None:
    """One odd run among twelve spoils eleven pairs; the interval knows that it is one run."""
    generator = np.random.default_rng(3)
    same = [run(number, generator, cells=1) for number in range(12)]

    def odd(a: Results, b: Results, noise: NoiseModel) -> Judged:
        return Judged((CellJudged("sta", "slower" if b is same[11] else "same", (0.9, 1.1)),), 0)

    found = calibrate(same, {}, odd).slower
    assert (found.count, found.of) == (11, 66)
    binomial = 1.96 * math.sqrt(found.value * (1 - found.value) / found.of)
    assert found.lo == 0.0, "in one resample of three the odd run is not there"
    assert found.hi - found.value > 1.5 * binomial


def test_runs_are_compared_as_the_command_does() -> None:
    generator = np.random.default_rng(4)
    same = [run(number, generator) for number in range(4)]
    found = calibrate(same, {1.0: [run(9, generator, delay=1.0)]})
    assert found.slower.of == 6 * 4
    assert found.delayed[0].slower.value > 0.9
    assert {each.change for each in judge(same[0], same[1], found.model).cells} <= {
        "slower",
        "faster",
        "same",
        "unclear",
    }


def test_too_few_runs_are_refused() -> None:
    generator = np.random.default_rng(5)
    with pytest.raises(BadInput, match="3 runs without a change are too few: 4 or more"):
        calibrate([run(number, generator) for number in range(calibration.LEAST_RUNS - 1)], {})


def test_cells_without_a_latency_say_nothing() -> None:
    generator = np.random.default_rng(6)
    found = run(0, generator)
    failed = found.rows[0].model_copy(update={"verdict": "error", "latency_ms": None, "samples_ms": []})
    some = Results(headers=found.headers, rows=(failed, *found.rows[1:]), samples=found.samples)
    assert len(log_latencies(some)) == len(log_speedups(some)) == 3
    assert log_speedups(some).items() <= log_speedups(found).items()
