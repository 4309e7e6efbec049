"""Made-up rows for the report's tests: the figures mean nothing, their relations are those of real rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from attnbench.results.load import Results
from attnbench.results.records.cells import Cell, Environment, Row, RunHeader, canonical_json, digest

BASELINE_MS = 100.0


def make_row(
    method: str = "sta", *, settings: dict[str, Any] | None = None, run_id: str = "2026-01-02T03-04-05Z", **given: Any
) -> Row:
    """Return a row; ``latency_ms`` None means a row without any figure of time."""
    cell = {
        "method": method, "settings": canonical_json(settings or {}), "layer": 0, "grid": "21x30x52",
        "text_tokens": (0, 0), "batch": 1, "heads": 12, "kv_heads": 12, "head_dim": 128, "dtype": "bfloat16",
        "direction": "fwd", "inputs": "video", "seed": 0, "engine": "reference", "device": "Test CPU",
    }  # fmt: skip
    cell |= {name: given.pop(name) for name in list(given) if name in Cell.model_fields}
    cell_id = Cell.model_validate(cell).identity
    rest: dict[str, Any] = {
        "row_id": digest([run_id, cell_id]), "run_id": run_id, "cell_id": cell_id, "verdict": "ok", "tokens": 32760,
        "heads_timed": 12, "engine_version": "torch 2.11.0", "inputs_hash": "0123456789abcdef", "threads": 2,
        "density": 0.25, "baseline": "full/sdpa", "baseline_version": "torch 2.11.0", "baseline_ms": BASELINE_MS,
    } | given  # fmt: skip
    ms = rest.setdefault("latency_ms", 40.0 if rest["verdict"] == "ok" else None)
    if ms is not None:
        taken = rest.get("samples_ms")
        low, high = (min(taken), max(taken)) if taken else (ms * 0.98, ms * 1.03)
        rest = {"latency_lo_ms": low, "latency_hi_ms": high} | rest
        ends = [ms if end is None else end for end in (rest["latency_lo_ms"], rest["latency_hi_ms"])]
        speedup = None if rest["baseline_ms"] is None else rest["baseline_ms"] / ms
        rest = {
            "interval": "bootstrap95", "latency_warm_ms": ms * 0.95, "samples_ms": [ends[0], ms, ends[1]],
            "timer": "wall", "speedup": speedup, "translation": speedup and speedup * rest["density"],
            "numerical_error": 1.3e-7, "numerical_tolerance": 1e-5, "approximation_error": 0.31, "mass_recall": 0.87,
            "peak_extra_mib": 12.5,
        } | rest  # fmt: skip
    return Row.model_validate(cell | rest)


def environment(**given: Any) -> Environment:
    """Return the environment of a run."""
    fields: dict[str, Any] = {
        "device": "Test CPU", "device_kind": "cpu", "cores": 2, "memory_gib": 7.6, "python": "3.11.9",
        "platform": "Linux",
        "packages": {"torch": "2.11.0", "numpy": "2.1.0"}, "git_commit": "a" * 40, "git_dirty": True,
        "command": ["attnbench", "run", "--method", "sta"], "started_at": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    return Environment.model_validate(fields | given)


def make_table(rows: Sequence[Row], **environments: Environment) -> Results:
    """Return rows as results; every run without a given environment gets the default one."""
    known = {row.run_id: environment() for row in rows} | environments
    headers = (RunHeader(run_id=run, environment=each, request={}) for run, each in known.items())
    return Results(headers=tuple(headers), rows=tuple(rows))


@pytest.fixture
def row_of() -> Callable[..., Row]:
    return make_row


@pytest.fixture
def table_of() -> Callable[..., Results]:
    return make_table


@pytest.fixture
def environment_of() -> Callable[..., Environment]:
    return environment


@pytest.fixture(scope="session")
def table() -> Results:
    """A run with the dense baseline, two sparse methods, three layers of one of them, and an unsupported cell."""
    vmoba = {
        "partition": [3, [5, 13], [7, 5, 13]],
        "select": "threshold",
        "scope": "head",
        "threshold": 0.25,
        "topk": None,
    }
    return make_table(
        [
            make_row(
                "full", engine="sdpa", density=1.0, latency_ms=BASELINE_MS, approximation_error=0.0, mass_recall=1.0
            ),
            make_row("sta", settings={"tile": [6, 8, 8], "window": [3, 3, 3]}, density=0.19, latency_ms=34.5),
            *(
                make_row("vmoba", settings=vmoba, layer=layer, density=0.25 + 0.03 * layer, latency_ms=62.0 + 9 * layer)
                for layer in range(3)
            ),
            make_row(
                "moba",
                settings={"topk": 15},
                verdict="unsupported",
                engine="flash4",
                reason="flash4 needs a GPU",
                density=None,
            ),
        ]
    )
