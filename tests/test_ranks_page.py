"""What docs/parallel.md will say of measured runs over several GPUs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from attnbench.results.records.cells import Row
from attnbench.results.records.steps import StepRecord

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "ranks_page.py"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def row(method: str, layer: int, one: float, latency: float, heads: int = 12) -> Row:
    return Row.model_construct(
        device="GPU", tokens=800, heads=heads, kv_heads=heads, head_dim=16, batch=1, direction="fwd", settings="{}",
        method=method, layer=layer, gpus=2, parallel="ulysses", one_ms=one, latency_ms=latency, baseline_ms=12.0,
        exchange_ms=1.0, imbalance=1.0 + layer / 10, sent_mib=10.0, flags="",
    )  # fmt: skip


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_layers_of_a_method_are_one_line_of_means_and_their_ratios(page: dict[str, Any]) -> None:
    lines = page["calls"]([row("full", 0, 20.0, 12.0), row("vmoba", 0, 4.0, 3.0), row("vmoba", 1, 8.0, 5.0)], 4)
    title, _, _, _, full, vmoba = lines.splitlines()
    assert title == "GPU, 800 tokens, 12 heads, forward, `ulysses`:"
    assert cells(full)[:6] == ["full", "20.00", "2", "12.00", "1.67×", "1.00×"]
    # Means of 6 and 4 ms. On four GPUs a quarter of one GPU's time, and three quarters of the bytes. Nothing is left
    # of the 4 ms beyond half of one GPU's time and the exchanges.
    assert cells(vmoba) == ["vmoba", "6.00", "2", "4.00", "1.50×", "3.00×", "1.00", "1.10×", f"{6 / 4 + 0.75:.2f}"]
    assert cells(full)[-1] == f"{20 / 4 + 2 * 0.75:.2f} to {20 / 4 + 0.75 + 1:.2f}"


def test_methods_that_met_the_power_limit_are_named(page: dict[str, Any]) -> None:
    rows = [row("full", 0, 20.0, 12.0), row("vmoba", 0, 4.0, 3.0), row("vmoba", 1, 8.0, 5.0)]
    rows[2] = rows[2].model_copy(update={"flags": "unstable,power-capped"})
    said = "The power limit lowered the clock of vmoba (flag `power-capped`)."
    assert page["calls"](rows, 4).splitlines()[-1] == said
    assert said not in page["calls"](rows[:2], 4)


def test_more_ranks_than_heads_have_no_model(page: dict[str, Any]) -> None:
    assert cells(page["calls"]([row("full", 0, 20.0, 12.0, heads=2)], 8).splitlines()[-1])[-1] == "–"


def test_steps_over_ranks_have_a_table_and_others_have_none(page: dict[str, Any]) -> None:
    record = StepRecord.model_construct(
        run_id="a", size="1.3b", grid="21x45x80", device="GPU", direction="fwdbwd", name="full/flash4", gpus=2,
        one_ms=900.0, step_ms=500.0, step_lo_ms=490.0, step_hi_ms=700.0, step_speedup=1.0, parallel_error=0.0123,
    )  # fmt: skip
    title, *_, line = page["steps"]([record, record.model_copy(update={"gpus": None, "run_id": "b"})]).splitlines()
    assert title == "A training step of Wan 2.1 1.3B, 21x45x80 tokens, GPU:"
    assert cells(line) == ["full/flash4", "900", "2", "500 [490, 700]", "1.80×", "1.00×", "0.01"]
    assert page["steps"]([record.model_copy(update={"gpus": None})]) == ""
