"""Journals of schema 1 and 2, in which a cell is known by what ran: they are read as if what was asked stood there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnbench.inputs.presets import MODELS
from attnbench.results.journal import JOURNAL, read_journal
from attnbench.results.load import read
from attnbench.results.pairs import paired
from attnbench.results.records.cells import Cell, PhaseRow, Row, Sample, canonical_json
from attnbench.results.records.older import LAYERS
from tests.committed import copy_results

ENVIRONMENT: dict[str, Any] = {
    "device": "a machine", "device_kind": "cpu", "cores": 2, "memory_gib": 8.0, "python": "3.11", "platform": "Linux",
    "packages": {}, "started_at": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "method": "sta", "settings": '{"tile":[6,8,8],"window":[3,3,3]}', "layer": 0, "grid": "3x5x7",
        "text_tokens": (0, 0), "batch": 1, "heads": 2, "kv_heads": 2, "head_dim": 32, "dtype": "float32",
        "direction": "fwd", "inputs": "gaussian", "seed": 0, "engine": "sdpa", "device": "a machine",
    }  # fmt: skip
    return Cell(**fields | changes)


def write(folder: Path, *cells: Cell, contents: dict[str, str] | None = None, **request: Any) -> Path:
    """Write a journal of schema 2 with a row, two samples and a phase of each cell, and samples of a dense baseline."""
    folder.mkdir(parents=True, exist_ok=True)
    head = {"kind": "run", "schema_version": 2, "run_id": "run", "environment": ENVIRONMENT}
    lines: list[dict[str, Any]] = [{**head, "request": request, "contents": contents or {}}]
    dense = cell(method="full", settings="{}").legacy_identity
    for number in range(2):
        lines.append(_sample(dense, number, 4.0))
    for each in cells:
        old = {name: value for name, value in each.model_dump(mode="json").items() if name not in NEW}
        name = each.legacy_identity
        lines += [_sample(name, number, 2.0) for number in range(2)]
        lines.append({
            "kind": "row", **old, "schema_version": 2, "row_id": f"row-{name}", "run_id": "run", "cell_id": name,
            "verdict": "ok", "tokens": 105, "heads_timed": 2, "engine_version": "1", "latency_ms": 2.0,
            "samples_ms": [2.0, 2.0], "baseline": "full/sdpa", "baseline_ms": 4.0, "speedup": 2.0, "inputs_hash": "h",
            "threads": 2,
        })  # fmt: skip
        lines.append({
            "kind": "phase", "row_id": f"row-{name}", "run_id": "run", "cell_id": name, "pass": "fwd",
            "phase": "attend", "time_ms": 1.0, "time_lo_ms": 1.0, "time_hi_ms": 1.0, "provenance": "measured",
            "engine": "sdpa", "kernels": 0,
        })  # fmt: skip
    path = folder / JOURNAL
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


NEW = ("settings_given", "engine_asked", "inputs_content")


def _sample(name: str, number: int, time: float) -> dict[str, Any]:
    taken = {"cold_ms": time, "heads_timed": 2, "inputs_hash": "h", "threads": 2}
    return {"kind": "sample", "cell_id": name, "round": number, **taken}


def rows(path: Path) -> list[Row]:
    return [record for record in read_journal(path) if isinstance(record, Row)]


@pytest.mark.parametrize(
    "methods", [{"sta": {"tile": [6, 8, 8]}}, [{"method": "sta", "settings": {"tile": [6, 8, 8]}}]], ids=["1", "2"]
)
def test_what_was_asked_is_taken_from_the_request(tmp_path: Path, methods: object) -> None:
    (row,) = rows(write(tmp_path, cell(), methods=methods, engine="auto"))
    assert (row.settings_given, row.engine_asked, row.inputs_content) == ('{"tile":[6,8,8]}', None, "")
    fresh = cell(settings_given='{"tile":[6,8,8]}', inputs_content="", engine="flash4", settings="{}")
    assert row.cell_id == fresh.identity, "equal to a cell of today that came to something else"


def test_an_engine_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    (row,) = rows(write(tmp_path, cell(), methods={"sta": {}}, engine="sdpa"))
    assert (row.settings_given, row.engine_asked) == ("{}", "sdpa")


def test_without_a_request_what_ran_stands_in_for_it(tmp_path: Path) -> None:
    (row,) = rows(write(tmp_path, cell()))
    assert (row.settings_given, row.engine_asked) == (cell().settings, "sdpa")


def test_entries_of_one_method_are_told_apart_by_what_they_came_to(tmp_path: Path) -> None:
    wide = canonical_json({"tile": [6, 8, 8], "window": [5, 5, 5]})
    given: list[dict[str, Any]] = [{}, {"window": [5, 5, 5]}]
    methods = [{"method": "sta", "settings": each} for each in given]
    found = rows(write(tmp_path, cell(), cell(settings=wide), methods=methods, engine="auto"))
    assert [json.loads(row.settings_given or "") for row in found] == given
    assert len({row.cell_id for row in found}) == 2


def test_a_setting_that_was_clipped_to_the_grid_is_kept_as_it_was_given(tmp_path: Path) -> None:
    (row,) = rows(write(tmp_path, cell(), methods={"sta": {"tile": [6, 99, 99]}}, engine="auto"))
    assert row.settings_given == '{"tile":[6,99,99]}'


@pytest.mark.parametrize(
    ("inputs", "contents", "content"),
    [
        ("video", {}, ""),
        ("video:a.mp4", {"inputs": "0123456789abcdef" * 4}, "0123456789abcdef"),
        ("capture:a.safetensors@layer0.step0", {"inputs": "0123456789abcdef" * 4}, "0123456789abcdef@layer0.step0"),
        ("video:a.mp4", {}, None),
    ],
)
def test_inputs_are_known_by_what_the_run_noted(
    tmp_path: Path, inputs: str, contents: dict[str, str], content: str | None
) -> None:
    (row,) = rows(write(tmp_path, cell(inputs=inputs), contents=contents, methods={"sta": {}}, engine="auto"))
    assert row.inputs_content == content


def test_all_that_names_a_cell_names_it_alike(tmp_path: Path) -> None:
    path = write(tmp_path, cell(), methods={"sta": {}}, engine="auto")
    trace = tmp_path / "traces" / f"{cell().legacy_identity}.json.gz"
    trace.parent.mkdir()
    trace.write_bytes(b"")
    (row,) = rows(path)
    records = read_journal(path)
    assert [record.row_id for record in records if isinstance(record, PhaseRow)] == [row.row_id]
    assert sum(record.cell_id == row.cell_id for record in records if isinstance(record, (Sample, PhaseRow))) == 3
    found = read(tmp_path)
    assert found.traces == {row.cell_id: trace}
    assert [(own.cold_ms, dense.cold_ms) for own, dense in paired(row, found.samples["run"]).values()] == [(2, 4)] * 2


def test_committed_tables_know_what_was_asked_and_their_baselines(tmp_path: Path) -> None:
    found = read(copy_results(tmp_path))
    assert found.rows
    for row in found.rows:
        assert row.settings_given is not None
        if row.verdict == "ok":
            assert len(paired(row, found.samples[row.run_id])) == len(row.samples_ms)
    assert {phase.row_id for phase in found.phases} <= {row.row_id for row in found.rows}


def test_older_journals_know_how_many_layers_each_model_has() -> None:
    assert LAYERS.items() <= {name: model.layers for name, model in MODELS.items()}.items()
