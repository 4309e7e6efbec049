"""Runs of three cells over days, written as journals with seeded noise."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from attnbench.results.records.cells import Cell, digest

CELL: dict[str, Any] = {
    "settings": "{}", "settings_given": "{}", "layer": 0, "step": None, "grid": "21x45x80", "text_tokens": (0, 0),
    "batch": 1, "heads": 12, "kv_heads": 12, "head_dim": 128, "dtype": "bfloat16", "direction": "fwd",
    "inputs": "gaussian", "inputs_content": "", "seed": 0, "engine_asked": None, "device": "A CPU of these tests",
}  # fmt: skip
ENGINES = {"full": "sdpa", "sta": "reference", "vmoba": "reference"}
TIMES = {"full": 40.0, "sta": 10.0, "vmoba": 20.0}
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
BETWEEN, WITHIN, DRIFT = 0.009, 0.03, 0.1
"""Of the logs: between runs of a cell, between its rounds, and of the machine between runs, which all cells share."""


class Made(NamedTuple):
    """A run to write: a factor on each method's time, and what its journal says besides."""

    factors: dict[str, float]
    commit: str | None
    lost: dict[str, str]
    absent: tuple[str, ...] = ()
    environment: dict[str, Any] | None = None
    row: dict[str, Any] | None = None


def cell_of(method: str, layer: int = 0) -> dict[str, Any]:
    return {**CELL, "method": method, "engine": ENGINES[method], "layer": layer}


def write_runs(
    folder: Path,
    runs: Sequence[Made],
    rounds: int = 12,
    seed: int = 0,
    layers: Mapping[str, Mapping[int, int]] | None = None,
) -> None:
    """Write a journal of each run, a day apart.

    Args:
        layers: of methods whose layers differ, the layers of each kind and how many of the model's are alike; the time
            of layer N is N + 1 times that of layer 0.
    """
    kinds = [
        (method, layer, alike) for method in ENGINES for layer, alike in (layers or {}).get(method, {0: None}).items()
    ]
    source = random.Random(seed)
    for number, run in enumerate(runs):
        run_id = f"run-{number:03d}"
        environment = {
            "device": CELL["device"], "device_kind": "cpu", "cores": 2, "memory_gib": 8.0, "python": "3.11",
            "platform": "Linux", "packages": {"torch": "2.11"}, "git_commit": run.commit, "git_dirty": False,
            "started_at": (FIRST + timedelta(days=number)).isoformat(), **(run.environment or {}),
        }  # fmt: skip
        lines: list[dict[str, Any]] = [{"kind": "run", "run_id": run_id, "environment": environment, "request": {}}]
        machine = math.exp(source.gauss(0, DRIFT))
        of_round = [machine * math.exp(source.gauss(0, WITHIN)) for _ in range(rounds)]
        medians: dict[str, float] = {}
        for method, layer, alike in kinds:
            level = TIMES[method] * (1 + layer) * run.factors.get(method, 1.0) * math.exp(source.gauss(0, BETWEEN))
            own = [level * each * math.exp(source.gauss(0, WITHIN)) for each in of_round]
            medians[method] = statistics.median(own)
            if method in run.absent:
                continue
            identity = Cell.model_validate(cell_of(method, layer)).identity
            row = {
                **cell_of(method, layer), "layers_alike": alike,
                "row_id": digest([run_id, identity]), "run_id": run_id, "cell_id": identity,
                "tokens": 75600, "heads_timed": 1, "engine_version": "1", "inputs_hash": "abc", "threads": 2,
                "density": 1.0 if method == "full" else 0.2, **(run.row or {}),
            }  # fmt: skip
            if method in run.lost:
                lines.append({"kind": "row", **row, "verdict": run.lost[method], "reason": "it says so"})
                continue
            lines += [
                {
                    "kind": "sample", "cell_id": identity, "round": place, "cold_ms": ms, "heads_timed": 1,
                    "inputs_hash": row["inputs_hash"], "threads": row["threads"],
                }
                for place, ms in enumerate(own)
            ]  # fmt: skip
            speedup = medians["full"] / medians[method]
            lines.append({
                "kind": "row", **row, "verdict": "ok", "latency_ms": medians[method], "samples_ms": own,
                "timer": "perf_counter", "baseline": "full/sdpa", "baseline_ms": medians["full"], "speedup": speedup,
                "translation": speedup * row["density"],
            })  # fmt: skip
        (folder / run_id).mkdir(parents=True)
        (folder / run_id / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def commit(number: int) -> str:
    return f"{number:040x}"[::-1]


def plain(count: int) -> list[Made]:
    return [Made({}, commit(number), {}) for number in range(count)]
