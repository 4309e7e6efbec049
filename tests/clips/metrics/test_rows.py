"""Rows of clips and metrics in a journal: read back as written, the later one counting, beside rows of other kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.results.journal import _KINDS, JOURNAL, Journal, read_journal
from attnbench.results.load import load_clips
from attnbench.results.records.cells import Environment, RunHeader
from attnbench.results.records.clips import ClipRow, QualityRow

# The fixed columns, in the words of the design: whoever reads metrics by these names must go on working.
FIXED_COLUMNS = [
    "run_id", "model", "method", "prompt", "seed", "metric", "value", "reference", "status", "reason",
]  # fmt: skip


def header(**request: Any) -> RunHeader:
    environment = Environment(
        device="a machine", device_kind="cpu", cores=2, memory_gib=8.0, python="3.11", platform="Linux",
        packages={"torch": "2"}, command=["attnbench", "clips"], started_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    return RunHeader(run_id="run", environment=environment, request={"command": "clips", **request})


def quality(**changes: Any) -> QualityRow:
    fields: dict[str, Any] = {
        "run_id": "run", "model": "mini", "method": "vmoba", "engine": "triton", "prompt": "a cat", "seed": 0,
        "metric": "psnr", "value": 30.5, "reference": "full/sdpa, seed 0", "status": "ok", "reference_seed": 0,
        "metric_kind": "distance", "better": "higher", "unit": "dB", "per_frame": [30.0, 31.0], "frames": 2,
        "size": "64x64", "fps": 8.0, "clip_hash": "a", "reference_hash": "b",
    }  # fmt: skip
    return QualityRow(**fields | changes)


def clip(**changes: Any) -> ClipRow:
    fields: dict[str, Any] = {
        "run_id": "run", "clip_id": "c", "role": "method", "model": "mini", "method": "vmoba", "prompt": "a cat",
        "seed": 0, "status": "ok", "steps": 10, "dense_steps": 2, "densities": [0.25, None], "clip_hash": "a",
        "raw": "raw/c.safetensors",
    }  # fmt: skip
    return ClipRow(**fields | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Journal.create(tmp_path / "run", header()) as journal:
        for record in (
            clip(status="failed", clip_hash="", reason="no memory"), clip(), quality(value=None, status="skipped",
            reason="skipped: no weights", per_frame=[]), quality(), quality(seed=1), quality(metric="ssim", value=0.9),
        ):  # fmt: skip
            journal.append(record)
    return tmp_path / "run"


def test_rows_are_read_back_as_they_were_written(folder: Path) -> None:
    first, *_, last = read_journal(folder / JOURNAL)
    assert first == header()
    assert last == quality(metric="ssim", value=0.9)


def test_no_record_has_a_field_that_says_what_kind_of_line_it_is() -> None:
    """The journal writes that word itself, and a field of the same name would take its place."""
    assert [model.__name__ for model in _KINDS.values() if "kind" in model.model_fields] == []


def test_the_table_has_the_fixed_columns_first_and_each_value_once(folder: Path) -> None:
    table = attnbench.load_quality(folder)
    assert [name for name in table.columns if name in FIXED_COLUMNS] == FIXED_COLUMNS
    assert table[["metric", "seed", "value", "status"]].values.tolist() == [
        ["psnr", 0, 30.5, "ok"], ["psnr", 1, 30.5, "ok"], ["ssim", 0, 0.9, "ok"],
    ]  # fmt: skip
    assert table.attrs["environments"]["run"]["device"] == "a machine"
    assert len(attnbench.load_results(folder)) == len(attnbench.load_phases(folder)) == 0


def test_a_clip_counts_as_written_last_and_knows_its_folder(folder: Path) -> None:
    assert load_clips(folder) == [(folder, clip())]


@pytest.mark.parametrize(
    "changes",
    [
        {"value": None}, {"status": "skipped"}, {"status": "skipped", "value": None, "per_frame": []},
        {"status": "skipped", "value": None, "reason": "why"}, {"value": float("nan")}, {"role": "floor"},
    ],
)  # fmt: skip
def test_a_value_stands_only_where_the_status_is_ok(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        quality(**changes)


@pytest.mark.parametrize("changes", [{"clip_hash": ""}, {"status": "failed"}, {"status": "failed", "clip_hash": ""}])
def test_a_clip_is_there_or_says_why_not(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        clip(**changes)


def test_a_run_is_finished_by_the_command_that_began_it(folder: Path) -> None:
    Journal.resume(folder, "clips")[0].close()
    with pytest.raises(BadInput, match="was begun by attnbench clips; continue with: attnbench clips --resume"):
        Journal.resume(folder)
