"""Time the report of many made-up rows: how long it takes to write, how large it is, how fast it answers in a browser.

Usage: time_report.py [ROWS]. The browser part needs chromium, node and ``npm install --prefix tests/browser``; without
them it is left out. Exit code 1 if a limit is missed.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attnbench.results.journal import line_of
from attnbench.results.records.cells import Cell, Environment, Row, RunHeader, Sample, canonical_json, digest

ROOT = Path(__file__).resolve().parents[1]
SPARSE = ("vmoba", "moba", "sta", "sliding-window")
GRIDS = {"21x30x52": 32760, "24x36x64": 55296, "21x45x80": 75600}
ROUNDS, RUNS = 8, 20
SECONDS, MEGABYTES, MILLISECONDS = 15.0, 15.0, 100.0
"""Limits: to write 10,000 rows, of the page, and of sorting, filtering and selecting."""

_DRAWN = (
    "const drawn = new Promise((done) => new MutationObserver((_, watch) => { watch.disconnect(); done(); })"
    ".observe(document.querySelector('#trade-off .figure'), { childList: true }));"
)
_FILTER = (
    "const box = document.querySelector('#ranked-filter');"
    "box.value = ['vmoba', 'sta density<0.3', '', 'moba'][turn % 4]; box.dispatchEvent(new Event('input'));"
)
DEEDS = {
    "sort all cells": "document.querySelector(`#all-cells thead th:nth-child(${2 + turn % 3}) button`).click()",
    "filter all cells": "const box = document.querySelector('#all-filter');"
    "box.value = ['vmoba', 'sta density<0.3', '', 'moba 720p'][turn % 4]; box.dispatchEvent(new Event('input'))",
    "sort the ranked table": "document.querySelector(`#ranked thead th:nth-child(${2 + turn % 3}) button`).click()",
    "filter the ranked table": _FILTER,
    "filter, until the picture is drawn": f"{_DRAWN}{_FILTER} await drawn",
    "choose a shape": "const list = document.querySelector('#selectors select[data-facet=shape]');"
    "list.selectedIndex = turn % 3; list.dispatchEvent(new Event('change'))",
    "choose a selection further down": "document.querySelector('#memory').scrollIntoView();"
    "const list = document.querySelector('#here select');"
    "list.selectedIndex = turn % list.length; list.dispatchEvent(new Event('change'))",
}


def write_rows(folder: Path, count: int) -> None:
    """Write journals of so many rows, in runs of three shapes and two directions; the first of a run is dense."""
    chance = random.Random(1)
    for run in range(min(RUNS, count)):
        run_id, grid = f"202601{run + 1:02d}T000000Z-{run:04x}", list(GRIDS)[run % 3]
        environment = Environment(
            device="Made-up GPU", device_kind="cuda", cores=16, memory_gib=80, python="3.11", platform="Linux",
            packages={}, started_at=f"2026-01-{run + 1:02d}T00:00:00Z",
        )  # fmt: skip
        lines = [line_of(RunHeader(run_id=run_id, environment=environment, request={}))]
        for number in range(count // min(RUNS, count)):
            lines += _row(run_id, grid, "fwd" if run % 2 else "fwdbwd", number, chance)
        (folder / f"{run_id}.jsonl").write_text("".join(line.rstrip("\n") + "\n" for line in lines), encoding="utf-8")


def _row(run_id: str, grid: str, direction: str, number: int, chance: random.Random) -> list[str]:
    method = SPARSE[number % len(SPARSE)] if number else "full"
    settings = canonical_json({"topk": number // len(SPARSE)} if number else {})
    cell = Cell.model_validate({
        "method": method, "settings": settings, "settings_given": settings, "layer": 0, "grid": grid,
        "text_tokens": (0, 0), "batch": 1, "heads": 12, "kv_heads": 12, "head_dim": 128, "dtype": "bfloat16",
        "direction": direction, "inputs": "video", "inputs_content": "", "seed": 0, "engine": "triton",
        "device": "Made-up GPU",
    })  # fmt: skip
    ms = 100.0 if method == "full" else chance.uniform(8, 90)
    samples = [ms * chance.uniform(0.98, 1.02) for _ in range(ROUNDS)]
    middle, density = statistics.median(samples), 1.0 if method == "full" else chance.uniform(0.1, 0.5)
    row = Row(
        **cell.model_dump(), row_id=digest([run_id, cell.identity]), run_id=run_id, cell_id=cell.identity, verdict="ok",
        model="wan2.1-1.3b", tokens=GRIDS[grid], heads_timed=12, engine_version="1", inputs_hash="x", threads=2,
        density=density, latency_ms=middle, latency_lo_ms=min(samples), latency_hi_ms=max(samples),
        interval="bootstrap95", samples_ms=samples, timer="events", baseline="full/triton", baseline_ms=100.0,
        speedup=100.0 / middle, translation=100.0 / middle * density, flags="",
        approximation_error=chance.uniform(0.01, 0.5), mass_recall=chance.uniform(0.4, 1), numerical_error=1e-3,
        numerical_tolerance=1e-2, peak_extra_mib=chance.uniform(1, 500),
    )  # fmt: skip
    shared = {"cell_id": cell.identity, "heads_timed": 12, "inputs_hash": "x", "threads": 2}
    taken = [Sample.model_validate({**shared, "round": at, "cold_ms": each}) for at, each in enumerate(samples)]
    return [*map(line_of, taken), line_of(row)]


def browser_times(page: Path, folder: Path) -> dict[str, float] | None:
    """Return the median time of each deed in milliseconds; None without a browser to drive."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = ROOT / "tests/browser"
    if browser is None or shutil.which("node") is None or not (driver / "node_modules/playwright-core").is_dir():
        return None
    plan = folder / "plan.json"
    steps = [["time", deed] for deed in DEEDS.values()]
    plan.write_text(json.dumps([{"name": "page", "file": str(page.resolve()), "steps": steps}]))
    command = ["node", str(driver / "observe.mjs"), browser, str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return dict(zip(DEEDS, json.loads(done.stdout)["page"]["found"], strict=True))


def main(count: int = 10_000) -> int:
    """Print what was measured, and return the exit code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "results").mkdir()
        write_rows(folder / "results", count)
        page, began = folder / "page.html", time.perf_counter()
        command = [sys.executable, "-m", "attnbench", "report", str(folder / "results"), "--out", str(page)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds, size = time.perf_counter() - began, page.stat().st_size / 1e6
        lines = [("write the page, s", seconds, SECONDS), ("size of the page, MB", size, MEGABYTES)]
        times = browser_times(page, folder)
        lines += [(f"{name}, ms", ms, MILLISECONDS) for name, ms in (times or {}).items()]
    print(f"{count:,} rows")
    for what, value, limit in lines:
        print(f"{what:34} {value:8.1f}  limit {limit:g}{'' if value <= limit else '  MISSED'}")
    if times is None:
        print("no browser to drive: chromium, node and `npm install --prefix tests/browser` are needed")
    return int(any(value > limit for _, value, limit in lines))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
