from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from attnbench.kernels.errors import BadInput
from attnbench.report.terminal.summary import summary_records, summary_table
from attnbench.results.records.cells import Cell, Row


def row(method: str, ms: float | None, **given: Any) -> Row:
    cell = {
        "method": method, "settings": given.pop("settings", "{}"), "layer": given.pop("layer", 0), "grid": "21x45x80",
        "text_tokens": (0, 0), "batch": 1, "heads": 12, "kv_heads": 12, "head_dim": 128, "dtype": "bfloat16",
        "direction": "fwd", "inputs": "video", "seed": 0, "engine": given.pop("engine", "triton"), "device": "Test GPU",
    }  # fmt: skip
    cell |= {name: given.pop(name) for name in list(given) if name in Cell.model_fields}
    cell_id = Cell.model_validate(cell).identity
    fields = {
        "row_id": f"row-{cell_id}", "run_id": "run-1", "cell_id": cell_id, "verdict": "ok" if ms else "oom",
        "tokens": 75600,
        "heads_timed": 1, "engine_version": "1", "density": 0.2, "baseline": "full/cudnn", "baseline_ms": 60.0,
        "baseline_version": "9.1",
    }  # fmt: skip
    if ms:
        fields |= {
            "latency_ms": ms, "latency_lo_ms": ms * 0.99, "latency_hi_ms": ms * 1.01, "interval": "min-max",
            "samples_ms": [ms * 0.99, ms, ms * 1.01], "speedup": 60.0 / ms,
            "translation": 60.0 / ms * given.get("density", 0.2), "numerical_error": 0.0021,
            "approximation_error": 0.31,
        }  # fmt: skip
    return Row.model_validate(cell | fields | given)


@pytest.fixture
def table() -> list[Row]:
    return [
        row("moba", None, verdict="unsupported", reason="needs [bold]a GPU[/bold] of 9.0", density=None),
        row("vmoba", 30.0, layer=1),
        row("vmoba", 31.0, layer=0),
        row("full", 60.0, engine="cudnn", density=1.0),
        row("sliding-window", 24.3),
    ]


def printed(table: list[Row], width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(table))
    return capture.get()


def test_every_row_is_there_dense_first_and_the_rest_by_speed(table: list[Row]) -> None:
    lines = [line.split() for line in printed(table).splitlines()]
    names = ("full", "sliding-window", "vmoba", "moba")
    assert [line[1:3] for line in lines if line[1:] and line[1] in names] == [
        ["full", "0"], ["sliding-window", "0"], ["vmoba", "mean"], ["vmoba", "0"], ["vmoba", "1"], ["moba", "0"],
    ]  # fmt: skip


def test_a_row_has_its_figures(table: list[Row]) -> None:
    line = next(line for line in printed(table).splitlines() if "sliding-window" in line)
    assert line.split() == [
        "◆", "sliding-window", "0", "triton", "ok", "0.200", "24.3", "[24.1,", "24.5]", "2.47×", "0.494", "0.00210",
        "0.310",
    ]  # fmt: skip


def test_what_is_measured_and_against_what_is_said(table: list[Row]) -> None:
    text = printed(table)
    for words in ("Test GPU", "run-1", "75,600 tokens", "1 of 12 heads timed", "bfloat16", "forward", "video inputs"):
        assert words in text
    assert "dense baseline: full/cudnn (9.1), 60.0 ms" in text
    assert "min–max" in text


def test_a_reason_is_shown_as_it_is(table: list[Row]) -> None:
    assert "moba: unsupported: needs [bold]a GPU[/bold] of 9.0" in printed(table)


def test_a_flag_is_told_below_the_table_and_80_columns_hold_it(table: list[Row]) -> None:
    flagged = row("sta", 33.0, settings='{"tile":[6,8,8]}', flags="power-capped,busy-machine,unstable")
    text = printed([*table, flagged], width=80)
    assert "flagged capped, busy, unstable" in " ".join(text.split())
    assert text.count("flagged") == 1
    assert max(map(len, text.splitlines())) <= 80


def test_it_fits_120_columns_with_long_names_and_numbers(table: list[Row]) -> None:
    long = row("a-method-with-quite-a-long-name", 123456.0, engine="reference", settings='{"window":[3,3,3]}')
    other = row("a-method-with-quite-a-long-name", 234567.0, engine="reference", settings='{"window":[5,5,5]}')
    text = printed([*table, long, other])
    assert max(map(len, text.splitlines())) <= 120
    assert "123,456 [122,221, 124,691]" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [66, 80, 96])
def test_a_narrow_terminal_loses_whole_columns_and_is_told_which(table: list[Row], width: int) -> None:
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    line = next(line for line in text.splitlines() if "sliding-window" in line)
    assert "24.3 [24.1, 24.5]" in line
    assert "2.47×" in line
    assert "left out because the terminal is too narrow: numerical error" in " ".join(text.split())
    assert "0.00210" not in text
    assert "…" not in text
    assert "left out" not in printed(table, 120)


def test_several_runs_are_shown_one_below_the_other(table: list[Row]) -> None:
    other = row("sta", 12.0, run_id="run-2", device="Another GPU")
    text = printed([*table, other])
    assert text.index("run-1") < text.index("Another GPU – run run-2") < text.index("sta")


def test_records_are_json_in_the_order_of_the_table(table: list[Row]) -> None:
    records = json.loads(json.dumps(summary_records(table), allow_nan=False))
    assert [(record["method"], record["layer"]) for record in records] == [
        ("full", 0), ("sliding-window", 0), ("vmoba", 0), ("vmoba", 1), ("moba", 0),
    ]  # fmt: skip
    assert records[-1]["latency_ms"] is None
    assert records[-1]["reason"] == "needs [bold]a GPU[/bold] of 9.0"
    assert records[1]["speedup"] == pytest.approx(60 / 24.3)


def test_an_empty_table_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no rows"):
        summary_table([])


def test_a_mean_is_named_with_the_settings_that_tell_it_apart() -> None:
    def lines(*blocks: int) -> list[str]:
        rows = [
            row("moba", 20.0 + layer + count, layer=layer, settings=f'{{"blocks":{count}}}')
            for count in blocks
            for layer in (0, 1)
        ]
        rows += [row("vmoba", 80.0, layer=layer) for layer in (0, 1)]
        return [line.strip() for line in printed(rows, 200).splitlines() if line.startswith("mean of ")]

    assert lines(8, 9) == ["mean of moba · blocks 8, moba · blocks 9 and vmoba: over layers 0 and 1"]
    assert lines(6, 7, 8, 9) == ["mean of moba with 4 settings and vmoba: over layers 0 and 1"]
