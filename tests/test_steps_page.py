"""What docs/torch-compile.md says of steps with and without CUDA graphs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from attnbench.results.records.steps import StepRecord

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "steps_page.py"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def record(
    name: str, gpu: float, wall: float | None, *, graphs: bool = False, run: str = "a", grid: str = "2x3x4"
) -> Any:
    return StepRecord.model_construct(
        run_id=run, grid=grid, heads=3, name=name, graphs=graphs, baseline="full/flash4", step_ms=gpu,
        step_speedup=20 / gpu, step_eager_ms=wall,
    )  # fmt: skip


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_method_and_its_replays_are_one_line_over_the_faster_dense_step(page: dict[str, Any]) -> None:
    first = [
        record("own", 25.0, 16.0),
        record("full/flash4", 20.0, 24.0),
        record("vmoba/triton select topk", 10.0, 32.0),
        record("vmoba/triton select topk, graphs", 16.0, 12.0, graphs=True),
    ]
    second = [
        record("full/flash4", 20.0, 24.0, run="b", grid="1x1x2"),
        record("sta/triton", 10.0, None, run="b", grid="1x1x2"),
        record("sta/triton, graphs", 8.0, 16.0, graphs=True, run="b", grid="1x1x2"),
    ]
    lines = page["table"](first + second).splitlines()[2:]
    assert [cells(line) for line in lines] == [
        ["2", "3", "`full`", "20.0", "1.00×", "–", "–", "24.0", "1.00×", "–", "–"],
        ["2", "3", "`sta`", "10.0", "2.00×", "8.0", "2.50×", "–", "–", "16.0", "1.50×"],
        ["24", "3", "`own`", "25.0", "0.80×", "–", "–", "16.0", "1.00×", "–", "–"],
        ["24", "3", "`full`", "20.0", "1.00×", "–", "–", "24.0", "0.67×", "–", "–"],
        ["24", "3", "`vmoba` `select topk`", "10.0", "2.00×", "16.0", "1.25×", "32.0", "0.50×", "12.0", "1.33×"],
    ]


def test_without_steps_there_is_a_sentence(page: dict[str, Any]) -> None:
    assert page["table"]([]) == page["NONE_YET"]
