"""Made-up results of two GPUs: on each of them latencies, whole steps, clips, training runs and a calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnbench.report.data.calibrations import CalibrationRead
from attnbench.report.html.page import Report, make_report
from attnbench.results.load import Results
from attnbench.results.noise import NoiseModel
from attnbench.results.records.clips import QualityRow
from attnbench.results.records.steps import StepRecord
from attnbench.results.training import Checkpoint, TrainingGroup, TrainingRun
from tests.report.conftest import environment, make_row, make_table

DEVICES = ("First GPU", "Second GPU")


def report_of_two(latencies_on: tuple[str, ...] = DEVICES) -> Report:
    """Return the page of both; only devices with latencies can be chosen on it."""
    rows = [
        make_row(method, run_id=f"run-{device}", device=device, latency_ms=ms, settings=settings)
        for device in latencies_on
        for method, ms, settings in (("full", 100.0, {}), ("sta", 40.0, {"tile": [6, 8, 8]}))
    ]
    table = make_table(rows, **{f"run-{device}": environment(device=device) for device in DEVICES})
    results = Results(
        headers=table.headers, rows=table.rows, steps=tuple(_step(device) for device in DEVICES),
        quality=tuple(row for device in DEVICES for row in _clips(device)),
    )  # fmt: skip
    found = [
        CalibrationRead(f"of {device}", NoiseModel(
            device=device, speedup_sd=0.01, latency_sd=0.03, runs=30, cells=5, provenance="measured",
            details={"found_0.1": 0.8},
        ))
        for device in DEVICES
    ]  # fmt: skip
    return make_report(results, training=[_training(device) for device in DEVICES], calibrations=found)


def _step(device: str) -> StepRecord:
    return StepRecord(
        run_id=f"run-{device}", size="1.3b", grid="21x30x52", text_tokens=512, batch=1, layers=30, dtype="bfloat16",
        device=device, direction="fwd", checkpointing=False, engine_asked="auto", seed=0, timer="events", rounds=3,
        baseline="full/flash4", without_ms=50.0, share=0.5, share_lo=0.4, share_hi=0.6, share_alone=0.5,
        name="sta/triton", settings='{"tile":[6,8,8]}', density=0.25, step_ms=60.0, step_lo_ms=59.0, step_hi_ms=61.0,
        attention_ms=10.0, attention_lo_ms=9.0, attention_hi_ms=11.0, step_speedup=1.6, step_speedup_lo=1.5,
        step_speedup_hi=1.7, attention_speedup=5.0, predicted_speedup=1.7, samples_ms=[59.0, 60.0, 61.0],
    )  # fmt: skip


def _clips(device: str) -> list[QualityRow]:
    shared: dict[str, Any] = {
        "run_id": f"run-{device}", "model": "mini", "engine": "triton", "prompt": "3", "status": "ok",
        "frames": 2, "size": "64x64", "fps": 8.0, "clip_hash": "a",
    }  # fmt: skip
    rows = []
    for role, method, value in (("method", "sta", 30.0), ("kernel-floor", "full", 50.0), ("exact", "full", None)):
        for seed in range(3):
            if value is not None:
                rows.append(QualityRow(
                    **shared, method=method, role=role, seed=seed, metric="psnr", value=value + seed,
                    reference=f"full/sdpa, seed {seed}", reference_seed=seed, metric_kind="distance", better="higher",
                    unit="dB", per_frame=[value - 1, value + 1],
                ))  # fmt: skip
            rows.append(QualityRow(
                **shared, method=method, role=role, seed=seed, metric="class_accuracy", value=float(seed > 0),
                metric_kind="score", better="higher",
            ))  # fmt: skip
    return rows


def _training(device: str) -> TrainingGroup:
    def run(method: str, seed: int) -> TrainingRun:
        ends = [(step, step / 10, (1 / step + 0.1 * seed, 2 / step)) for step in range(10, 110, 10)]
        score = {"clips": 10, "wrong_class": [1, 2], "wrong_motion": [3], "density": 0.25}
        card = {"engine": "triton", "environment": {"device": device}, "training": {"method": method}, "score": score}
        return TrainingRun(method, seed, tuple(Checkpoint(*each) for each in ends), 12.5, 2048.0, card)

    runs = tuple(run(method, seed) for method in ("full", "sta") for seed in (0, 1))
    return TrainingGroup(Path(f"runs on {device}"), runs)
