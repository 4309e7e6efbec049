from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from attnbench.kernels.errors import BadInput
from attnbench.results.estimates import Estimate, middle
from attnbench.results.noise import (
    UNCANCELLED,
    NoiseModel,
    between_runs,
    find_noise,
    noise_folder,
    read_noise,
    uncancelled,
    write_noise,
)

MODEL = NoiseModel(device="A CPU (2 cores)", speedup_sd=0.02, latency_sd=0.03, runs=10, provenance="measured")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNBENCH_NOISE", str(tmp_path / "noise"))


@pytest.mark.parametrize("rounds", [4, 20])
def test_the_noise_between_runs_is_found_beside_that_within(rounds: int) -> None:
    generator = np.random.default_rng(1)
    runs = []
    for _ in range(40):
        rows = 0.02 * generator.standard_normal((20, 1)) + 0.04 * generator.standard_normal((20, rounds))
        runs.append({str(number): middle(row) for number, row in enumerate(rows.tolist())})
    assert between_runs(runs) == pytest.approx(0.02, rel=0.15)


def test_runs_that_differ_by_less_than_their_rounds_have_no_noise_between_them() -> None:
    assert between_runs([{"a": Estimate(1.0, 0.5, 3)}, {"a": Estimate(1.1, 0.5, 3)}]) == 0.0


def test_cells_that_were_measured_once_say_nothing() -> None:
    with pytest.raises(BadInput, match="two or more runs"):
        between_runs([{"a": middle([1.0, 1.1])}, {"b": middle([1.0, 1.1])}])


def test_what_was_calibrated_here_comes_before_what_is_shipped() -> None:
    shipped = find_noise(MODEL.device, "cpu")
    assert (shipped.device, shipped.provenance) == ("cpu", "measured")
    assert find_noise("NVIDIA H100 80GB HBM3", "cuda").provenance in ("assumed", "measured")
    path = write_noise(MODEL)
    assert path.parent == noise_folder()
    assert find_noise(MODEL.device, "cpu") == MODEL
    assert find_noise("another CPU", "cpu") == shipped


def test_a_file_that_is_named_comes_first(tmp_path: Path) -> None:
    other = MODEL.model_copy(update={"speedup_sd": 0.5})
    assert find_noise(MODEL.device, "cpu", write_noise(other, tmp_path / "mine.json")) == other


def test_two_runs_differ_by_the_noise_of_both() -> None:
    assert MODEL.between_two(0.5, speedup=True) == Estimate(0.0, math.sqrt(2) * 0.02, 9)
    assert MODEL.between_two(0.5, speedup=False).error == pytest.approx(math.hypot(0.03, 0.03))


@pytest.mark.parametrize(("scatter", "deviation"), [(0.0, 0.02), (0.01, 0.02), (0.1, 0.1)])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_model_of_all_devices_reckons_with_the_scatter_of_rounds(kind: str, scatter: float, deviation: float) -> None:
    model = MODEL.model_copy(update={"device": kind})
    assert model.between_two(scatter, speedup=True).error == pytest.approx(math.sqrt(2) * deviation)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is no noise model"),
        (json.dumps({**MODEL.model_dump(), "speedup_sd": -1}), "speedup_sd"),
        (json.dumps({**MODEL.model_dump(), "schema_version": 9}), "version 9, newer"),
        (json.dumps({**MODEL.model_dump(), "latency_sd": 1e30}), "latency_sd: must be 10.0 or less"),
        (json.dumps({**MODEL.model_dump(), "details": {"covered": []}}), "details.covered"),
        (json.dumps(MODEL.model_dump()).replace('"details": {', '"details": {"covered": 1e999'), "details.covered"),
    ],
)
def test_what_is_no_noise_model_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_noise(tmp_path / "x.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_noise(tmp_path / "gone.json")


@pytest.mark.parametrize("truth", [0.0, 0.3, 0.8])
def test_what_pairing_leaves_of_a_change_of_speed_is_found(truth: float) -> None:
    generator = np.random.default_rng(2)
    dense = 2 + 0.2 * generator.standard_normal(400)
    moved = truth * (dense - 2)
    speedups = [{"a": 1 + each, "b": 2 + each} for each in moved + 0.01 * generator.standard_normal(400)]
    assert uncancelled(speedups, dense.tolist()) == pytest.approx(truth, abs=0.02)


def test_few_runs_or_runs_of_equal_speed_say_nothing_of_it() -> None:
    assert uncancelled([{"a": 1.0}, {"a": 2.0}], [1.0, 2.0]) == UNCANCELLED
    assert uncancelled([{"a": 1.0}] * 20, [1.0] * 20) == UNCANCELLED
