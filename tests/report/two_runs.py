"""Two made-up runs of the same cells, of which each verdict of a comparison has one."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Any

from attnbench.report.source import Source
from attnbench.results.load import Results
from attnbench.results.pairs import baseline_ids
from attnbench.results.records.cells import Row, RunHeader, Sample
from tests.report.conftest import BASELINE_MS, environment, make_row

ROUNDS = 12
_CELLS: tuple[tuple[str, dict[str, Any], float, float], ...] = (
    ("full", {}, 1.0, 100.0), ("sta", {"tile": [6, 8, 8]}, 0.2, 40.0), ("sta", {"tile": [4, 4, 4]}, 0.15, 35.0),
    ("vmoba", {"threshold": 0.25}, 0.3, 50.0), ("moba", {"topk": 15}, 0.25, 60.0), ("radial", {}, 0.2, 45.0),
    ("sliding-window", {"window": [2, 3, 4]}, 0.2, 52.0), ("nabla", {}, 0.3, 55.0),
)  # fmt: skip


def source(run: str, seed: int, grid: str = "21x30x52", device: str = "Test CPU", **changes: dict[str, Any]) -> Source:
    """Return a run. ``changes`` may say of a method: ``factor`` on its times, ``scatter``, ``lacking``, or columns."""
    rng = random.Random(seed)
    rows: list[Row] = []
    samples: list[Sample] = []
    shared = {"grid": grid, "device": device, "run_id": run}
    for method, settings, density, usual in _CELLS:
        given = ({"engine": "sdpa"} if method == "full" else {}) | dict(changes.get(method.replace("-", "_"), {}))
        if given.pop("lacking", False):
            continue
        ms, scatter = usual * given.pop("factor", 1.0), given.pop("scatter", 0.004)
        dense = [BASELINE_MS * rng.gauss(1, 0.004) for _ in range(ROUNDS)]
        own = dense if method == "full" else [ms * rng.gauss(1, scatter) for _ in range(ROUNDS)]
        timed = given.get("verdict", "ok") == "ok"
        known = {"samples_ms": own, "latency_ms": statistics.median(own)} if timed else {}
        row = make_row(
            method, settings=settings, settings_given=json.dumps(settings, separators=(",", ":")), density=density,
            **shared | known | given,
        )  # fmt: skip
        rows.append(row)
        if timed:
            taken = {"heads_timed": 12, "inputs_hash": row.inputs_hash, "threads": 2}
            times = zip((row.cell_id, baseline_ids(row)[0]), (own, dense), strict=True)
            for name, each in times if method != "full" else ((row.cell_id, own),):
                samples += [
                    Sample.model_validate({"cell_id": name, "round": number, "cold_ms": time, **taken})
                    for number, time in enumerate(each)
                ]
    known_as = environment(device=device, packages={"torch": "2.11.0" if run == "a" else "2.12.0"}, git_dirty=False)
    headers = (RunHeader(run_id=run, environment=known_as, request={}),)
    results = Results(headers=headers, rows=tuple(rows), samples={run: tuple(samples)})
    return Source((Path("results/runs") / run,), results, ())


def two_runs() -> tuple[Source, Source]:
    """Return A and B: two cells slower, one each faster, the same, ambiguous, broken, only in A, and only in B."""
    a = source("a", 1, radial={"scatter": 0.3}, sliding_window={"lacking": True})
    b = source(
        "b", 2, sta={"factor": 1.2}, vmoba={"factor": 0.8}, moba={"verdict": "incorrect", "reason": "error 0.3"},
        radial={"scatter": 0.3}, nabla={"lacking": True},
    )  # fmt: skip
    return a, b
