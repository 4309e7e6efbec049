"""Committed tables and the gate that moves them: what is written is what was measured, or nothing is written."""

from __future__ import annotations

import base64
import contextlib
import csv
import errno
import json
import math
import os
import random
import statistics
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import attnbench
from attnbench.cli import app
from attnbench.kernels.errors import BadInput
from attnbench.report.terminal.comparison import comparison_lines, comparison_markdown
from attnbench.results.baseline import twin_bytes
from attnbench.results.compare import CellChange, Comparison, compare_tables
from attnbench.results.journal import JOURNAL, line_of
from attnbench.results.load import read
from attnbench.results.pairs import baseline_ids
from attnbench.results.records.cells import SCHEMA_VERSION, Row, Sample
from attnbench.results.tables import read_accepted, table_bytes
from tests.results.test_compare import header, row

RESULTS = Path(__file__).resolve().parents[2] / "results"
FULL = {"method": "full", "settings_given": "{}", "settings": "{}", "engine": "sdpa"}
ROUNDS = 20


def sample(of: Row, number: int, cold_ms: float, **changes: Any) -> Sample:
    facts = {"cell_id": of.cell_id, "round": number, "cold_ms": cold_ms, "heads_timed": 1, "inputs_hash": "abc"}
    return Sample.model_validate({**facts, "threads": 2, **changes})


def write_run(folder: Path, times: dict[str, float], run: str = "run-1", **changes: Any) -> Path:
    """Write the journal of a run with the dense baseline (10 ms) and methods, each with noise that rounds share."""
    noise = random.Random(run)
    shared = [1 + 0.05 * noise.random() for _ in range(ROUNDS)]
    dense = [10.0 * each for each in shared]
    middle: dict[str, Any] = {"baseline": "full/sdpa", "baseline_ms": statistics.median(dense)}
    full = row(dense, run, **FULL, **middle)
    records: list[Any] = [header(run), full, *(sample(full, number, time) for number, time in enumerate(dense))]
    for method, time in times.items():
        own = [time * each for each in shared]
        speedup = middle["baseline_ms"] / statistics.median(own)
        mine = row(own, run, method=method, speedup=speedup, **middle, **changes)
        assert full.cell_id in baseline_ids(mine)
        records += [mine, *(sample(mine, number, time) for number, time in enumerate(own))]
    folder.mkdir()
    (folder / JOURNAL).write_text("".join(map(line_of, records)))
    return folder


def gate(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["gate", *words])
    code = 2 if isinstance(done.exception, BadInput) else done.exit_code
    return code, " ".join(f"{done.stdout} {done.stderr} {done.exception or ''}".split())


def update(run: str, *words: str) -> tuple[int, str]:
    return gate(run, "--baseline", "kept", "--update", *words)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, and the table that was begun from it."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "first", {"moba": 5.0, "sta": 4.0})
    code, said = update("first")
    assert code == 0, said
    assert said.strip() == "begun: kept/table.parquet, kept/table.csv"
    return tmp_path


def test_a_table_that_is_begun_is_compared_with_nothing_in_words(here: Path) -> None:
    code, said = gate("first", "--baseline", "new", "--update", "--junit", "found.xml")
    assert (code, said.strip()) == (0, "begun: new/table.parquet, new/table.csv")
    assert (here / "found.xml").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("lo", "hi", "shown"),
    [(0.5, 99.0, "0.50–99.00"), (0.03, 165.0, "0.03–99+"), (2.1, 150.0, "2.10–99+"), (120.0, math.inf, "99+–99+")],
)
def test_a_wide_interval_keeps_its_lower_end(lo: float, hi: float, shown: str) -> None:
    cell = row([10.0]).cell().model_dump()
    change = CellChange("id", cell | {"layers": "0"}, "unclear", ratio=5.0, lo=lo, hi=hi)
    assert shown in " ".join(comparison_lines(Comparison(0.03, (change,))))
    assert shown in " ".join(comparison_markdown(Comparison(0.03, (change,))))


def test_methods_without_a_latency_are_named_when_a_table_is_begun(here: Path) -> None:
    folder = write_run(here / "second", {"moba": 5.0}, run="run-2")
    crashed = row([1.0], "run-2", method="evil", verdict="crashed", reason="exit code 0 and no result")
    with (folder / JOURNAL).open("a") as journal:
        journal.write(line_of(crashed))
    code, said = gate("second", "--baseline", "new", "--update")
    assert code == 0
    assert "no latency yet, so the gate does not ask for one: evil (crashed)" in said


@pytest.mark.parametrize("words", [["--markdown"], []])
def test_speed_ups_come_first_with_the_latencies_beside_them(here: Path, words: list[str]) -> None:
    write_run(here / "slow", {"moba": 5.5, "sta": 4.0}, run="run-3")
    _, said = gate("slow", "--baseline", "kept", *words)
    line = said[said.index("moba") :].replace("|", " ").split()
    assert line[:3] == ["moba", "2.00", "1.82"]
    assert float(line[3]) == pytest.approx(1.1, rel=1e-3)
    assert [float(each) for each in line[5:7]] == pytest.approx([5.13, 5.64], rel=0.02)


def test_the_document_has_the_exit_code_of_the_command(here: Path) -> None:
    code, said = gate("first", "--baseline", "other", "--update", "--json")
    assert code == 0
    assert json.loads(said)["exit_code"] == 0


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_table_is_the_journal_read_back(here: Path) -> None:
    journal, table = read("first"), read("kept")
    assert (table.headers, table.rows, table.samples) == (journal.headers, journal.rows, journal.samples)
    assert table.samples["run-1"]
    assert attnbench.load_results("kept/table.parquet").equals(attnbench.load_results("first"))
    assert {"samples", *Row.model_fields} - {"kept_by_frame"} == set(pq.read_table("kept/table.parquet").column_names)


@pytest.mark.parametrize("name", ["h100/480p-video-fwd.jsonl.gz", "intel-xeon-2-cores/720p.jsonl"])
def test_committed_journals_of_older_schemas_survive_as_tables(tmp_path: Path, name: str) -> None:
    journal = read(RESULTS / name)
    (tmp_path / "t.parquet").write_bytes(table_bytes(journal.headers, journal.rows, journal.samples))
    table = read(tmp_path / "t.parquet")
    assert (table.headers, table.rows) == (journal.headers, journal.rows)
    for run, samples in journal.samples.items():
        assert sorted(map(line_of, table.samples[run])) == sorted(map(line_of, samples))
    assert {cell.ratio for cell in compare_tables(journal, table).cells if cell.ratio is not None} == {1.0}


@pytest.mark.parametrize("device", ["h100", "h200", "intel-xeon-2-cores"])
def test_the_committed_baseline_of_a_device_is_what_its_journals_hold(device: str) -> None:
    folder = RESULTS / device
    journals, table = read(folder), read(folder / "table.parquet")
    assert table.rows == tuple(each.model_copy(update={"kept_by_frame": None}) for each in journals.rows)
    shown = {each.run_id for each in journals.rows}
    assert table.headers == tuple(each for each in journals.headers if each.run_id in shown)
    for run in shown:
        assert sorted(map(line_of, table.samples.get(run, ()))) == sorted(map(line_of, journals.samples.get(run, ())))
    assert (folder / "table.csv").read_bytes() == twin_bytes(journals.rows)


def test_samples_of_a_baseline_that_has_no_row_are_kept(here: Path) -> None:
    journal = read("first")
    alone = replace(journal, rows=tuple(each for each in journal.rows if each.method == "moba"))
    isolated = [each.model_copy(update={"group": alone.rows[0].cell_id}) for each in journal.samples["run-1"]]
    for samples in (journal.samples["run-1"], isolated):
        Path("one.parquet").write_bytes(table_bytes(alone.headers, alone.rows, {"run-1": samples}))
        assert sorted(map(line_of, read("one.parquet").samples["run-1"])) == sorted(map(line_of, samples))


def test_the_twin_has_every_column_that_is_read_in_a_diff(here: Path) -> None:
    with Path("kept/table.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    left_out = ("row_id", "run_id", "settings", "stop_reason", "samples_ms", "kernels", "kept_by_frame")
    assert [*lines[0]] == [name for name in Row.model_fields if name not in left_out]
    rows = read("first").rows
    assert [line["method"] for line in lines] == [each.method for each in rows]
    assert [float(line["latency_ms"]) for line in lines] == pytest.approx([x.latency_ms for x in rows], rel=1e-6)
    assert max(len(line["latency_ms"]) for line in lines) <= 8
    code, said = gate("first", "--baseline", "kept/table.csv")
    assert code == 2
    assert "'kept/table.csv' has no samples" in said


def test_a_folder_is_read_by_its_journals_and_otherwise_by_its_tables(here: Path) -> None:
    write_run(here / "both", {"moba": 9.0}, "run-9")
    (here / "both" / "table.parquet").write_bytes((here / "kept" / "table.parquet").read_bytes())
    assert read("both").runs == ["run-9"]
    assert read("both/table.parquet").runs == ["run-1"]
    assert read("kept").runs == ["run-1"]
    code, said = gate("first", "--baseline", "both", "--update")
    assert code == 2
    assert "name 'both/table.parquet'" in said


def test_a_run_without_a_change_moves_the_baseline(here: Path) -> None:
    write_run(here / "second", {"moba": 5.0, "sta": 4.0}, "run-2")
    assert gate("second", "--baseline", "kept")[0] == 0
    assert read("kept").runs == ["run-1"]
    code, said = update("second")
    assert code == 0, said
    assert "moved: kept/table.parquet, kept/table.csv" in said
    assert read("kept").runs == ["run-2"]
    assert sorted(content(here / "kept")) == ["table.csv", "table.parquet"]


@pytest.mark.parametrize(
    ("times", "verdict"), [({"moba": 6.0, "sta": 4.0}, "SLOW"), ({"moba": 5.0}, "only in A"), ({}, "only in A")]
)
def test_a_slow_or_missing_cell_leaves_the_baseline_as_it_is(here: Path, times: dict[str, float], verdict: str) -> None:
    write_run(here / "second", times, "run-2")
    before = content(here / "kept")
    assert gate("second", "--baseline", "kept")[0] == 1
    code, said = update("second")
    assert code == 1
    assert verdict in said
    assert "not moved: 'kept/table.parquet'" in said
    assert content(here / "kept") == before


def test_what_is_accepted_moves_the_baseline_and_is_recorded(here: Path) -> None:
    write_run(here / "second", {"moba": 6.0}, "run-2")
    assert update("second", "--accept", "moba")[0] == 1
    code, said = update("second", "--accept", "moba", "--accept", "sta", "--json")
    assert code == 0, said
    gone, slower = read_accepted(Path("kept/table.parquet"))
    assert (slower.method, slower.change, slower.run_id) == ("moba", "slower", "run-2")
    assert slower.ratio == pytest.approx(1.2)
    assert (gone.method, gone.change, gone.ratio) == ("sta", "only in A", None)
    with Path("kept/table.accepted.csv").open(newline="") as stream:
        shown = [(line["method"], line["change"]) for line in csv.DictReader(stream)]
    assert shown == [("sta", "only in A"), ("moba", "slower")]
    assert gate("second", "--baseline", "kept")[0] == 0

    write_run(here / "third", {"moba": 5.0}, "run-3")
    assert update("third")[0] == 0
    assert read_accepted(Path("kept/table.parquet")) == [gone, slower]


@pytest.mark.parametrize(("ms", "said"), [(5.0, "within 10%"), (4.0, "faster: significant, and more than 3%")])
def test_the_gate_fails_on_another_engine_at_whatever_speed(here: Path, ms: float, said: str) -> None:
    write_run(here / "other", {"moba": ms, "sta": 4.0}, "run-2", engine="flash")
    code, text = gate("other", "--baseline", "kept")
    assert code == 1
    assert f"moba: reference ran it in A, flash in B; {said}" in text
    assert CliRunner().invoke(app, ["compare", "kept", "other"]).exit_code == 0, "compare shows it and judges the speed"
    assert gate("other", "--baseline", "kept", "--allow-engine", "moba")[0] == 1, "sta has another engine too"
    code, text = gate("other", "--baseline", "kept", "--allow-engine", "moba", "--allow-engine", "sta")
    assert code == 0
    assert "allowed to run on another engine" in text
    assert gate("other", "--baseline", "kept", "--allow-engine", "mobas")[0] == 2


@pytest.mark.parametrize("words", [["--accept"], ["--allow-engine"]])
def test_a_baseline_moves_to_another_engine_only_if_that_is_meant_and_records_it(here: Path, words: list[str]) -> None:
    write_run(here / "other", {"moba": 5.0, "sta": 4.0}, "run-2", engine="flash")
    assert update("other")[0] == 1
    assert update("other", *words, "moba", *words, "sta")[0] == 0
    assert [each.attributes for each in read_accepted(Path("kept/table.parquet"))] == 2 * [
        ["engine: reference in A, flash in B"]
    ]
    assert gate("other", "--baseline", "kept")[0] == 0


def test_a_slower_engine_is_slower_even_where_it_may_be_another(here: Path) -> None:
    write_run(here / "slow", {"moba": 6.0, "sta": 4.0}, "run-3", engine="flash")
    code, said = gate("slow", "--baseline", "kept", "--allow-engine", "moba", "--allow-engine", "sta", "--json")
    assert code == 1
    (slower,) = (cell for cell in json.loads(said.removesuffix(" 1"))["cells"] if cell["change"] == "slower")
    assert (slower["cell"]["method"], slower["judged_by"]) == ("moba", "speed-up")
    assert "engine: reference in A, flash in B" in slower["attributes"]


def test_a_method_that_became_unstable_fails_the_gate(here: Path) -> None:
    write_run(here / "steady", {"moba": 5.0}, "run-4", stability="deterministic")
    write_run(here / "shaky", {"moba": 5.0}, "run-5", stability="unstable")
    code, said = gate("shaky", "--baseline", "steady")
    assert code == 1
    assert "deterministic in A, unstable in B" in said
    assert gate("steady", "--baseline", "shaky")[0] == 0


def test_a_baseline_that_moves_to_ambiguous_cells_says_so(here: Path) -> None:
    noise = random.Random(1)
    folder = write_run(here / "second", {"moba": 5.0}, "run-2")
    samples = [5.0 * math.exp(noise.gauss(0, 0.4)) for _ in range(ROUNDS)]
    loose = row(samples, "run-2", method="sta", baseline="full/sdpa", baseline_ms=10.2)
    with (folder / JOURNAL).open("a") as journal:
        journal.writelines(map(line_of, [loose, *(sample(loose, n, each) for n, each in enumerate(samples))]))
    kept = write_run(here / "before", {"moba": 5.0, "sta": 5.0}, "run-0")
    assert gate(str(kept), "--baseline", "begun", "--update")[0] == 0
    code, said = gate("second", "--baseline", "begun", "--update")
    assert code == 0
    assert "1 AMBIGUOUS: the new baseline may be off by as much as their intervals" in said


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_full_disk_leaves_the_old_table_whole(here: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    write_run(here / "second", {"moba": 5.0, "sta": 4.0}, "run-2")
    before, calls = content(here / "kept"), []

    def refuse(handle: int) -> None:
        calls.append(handle)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    code, said = update("second")
    assert code == 2
    assert "No space left on device; the baseline is as it was" in said
    assert content(here / "kept") == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["first", "--baseline", "kept", "--accept", "moba"], "--accept needs --update"),
        (["first", "--baseline", "kept", "--update", "--accept", "mobas"], "'mobas'"),
        (["first", "--baseline", "first/journal.jsonl", "--update"], "must end in .parquet"),
        (["--against", "main", "--update"], "--against has none"),
        (["first", "--baseline", "many", "--update"], "'many' holds 2 tables"),
        (["first", "--baseline", "first/journal.jsonl/t.parquet", "--update"], "cannot write"),
        (["first", "--baseline", "x" * 300, "--update"], "cannot write"),
        (["first", "--baseline", "x" * 300 + ".parquet", "--update"], "cannot write"),
    ],
)
def test_what_cannot_be_moved_is_said(here: Path, words: list[str], said: str) -> None:
    (here / "many").mkdir()
    for name in ("a.parquet", "b.parquet"):
        (here / "many" / name).write_bytes((here / "kept" / "table.parquet").read_bytes())
    code, text = gate(*words)
    assert code == 2
    assert said in text


def test_a_run_without_a_latency_begins_no_table(here: Path) -> None:
    (here / "failed").mkdir()
    (here / "failed" / JOURNAL).write_text(line_of(header("run-1")) + line_of(row(verdict="oom", reason="40 GiB")))
    assert gate("failed", "--baseline", "new", "--update")[0] == 4
    assert not (here / "new").exists()


def kept_table() -> pa.Table:
    """A table with its metadata in the schema, and not packed, as older tables have it."""
    about = zlib.decompress(base64.b64decode(packed_metadata().removeprefix(b"zlib:")))
    return pq.read_table("kept/table.parquet").replace_schema_metadata({b"attnbench": about})


def packed_metadata() -> bytes:
    found: bytes = pq.read_metadata("kept/table.parquet").metadata[b"attnbench"]
    return found


def packed(content: bytes) -> dict[bytes, bytes]:
    return {b"attnbench": b"zlib:" + base64.b64encode(zlib.compress(content))}


def rewritten(table: pa.Table, **metadata: Any) -> pa.Table:
    about = {**json.loads(table.schema.metadata[b"attnbench"]), **metadata}
    return table.replace_schema_metadata({b"attnbench": json.dumps(about)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.replace_schema_metadata({}), "says nothing of its runs"),
        (lambda table: table.replace_schema_metadata({b"attnbench": b"{"}), "not a whole Parquet file"),
        (lambda table: table.replace_schema_metadata({b"attnbench": b"[]"}), "is not a record"),
        (lambda table: table.replace_schema_metadata({b"attnbench": packed_metadata()[:-8]}), "not a whole Parquet"),
        (lambda table: table.replace_schema_metadata({b"attnbench": packed_metadata()[:-1]}), "not a whole Parquet"),
        (lambda table: table.replace_schema_metadata({b"attnbench": b"zlib:"}), "not a whole Parquet file"),
        (lambda table: table.replace_schema_metadata({b"attnbench": b"zlib:YWJj"}), "not a whole Parquet file"),
        (lambda table: table.replace_schema_metadata({b"attnbench": "zlib:é".encode()}), "not a whole Parquet file"),
        (lambda table: table.replace_schema_metadata(packed(b"[]")), "is not a record"),
        (lambda table: table.replace_schema_metadata(packed(b" " * (2**28 + 1))), "of its runs is more than 256 MiB"),
        (lambda table: rewritten(table, runs=3), "is not a record"),
        (lambda table: rewritten(table, runs=[{"run_id": 3}]), "run 1 is not a valid record: run_id"),
        (lambda table: table.drop_columns(["latency_ms"]), "row 1 is not a valid record"),
        (lambda table: table.append_column("more", [[1] * len(table)]), "row 1 is not a valid record: more"),
        (
            lambda table: table.set_column(
                table.column_names.index("schema_version"), "schema_version", [[SCHEMA_VERSION + 1] * len(table)]
            ),
            "upgrade it",
        ),
        (
            lambda table: table.set_column(table.column_names.index("samples"), "samples", [[[3]] * len(table)]),
            "is not a record",
        ),
    ],
)
def test_a_table_that_is_not_valid_is_refused(here: Path, change: Any, said: str) -> None:
    pq.write_table(change(kept_table()), "other.parquet")
    with pytest.raises(BadInput, match=said):
        read("other.parquet")


def test_a_table_whose_metadata_are_in_its_schema_and_not_packed_is_read(here: Path) -> None:
    pq.write_table(kept_table(), "older.parquet")
    assert read("older.parquet").rows == read("kept/table.parquet").rows


@pytest.mark.parametrize("keep", [0, 3, 1000, -9])
def test_a_torn_table_is_refused(here: Path, keep: int) -> None:
    Path("torn.parquet").write_bytes(Path("kept/table.parquet").read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"cannot read 'torn\.parquet' as a table"):
        read("torn.parquet")


def test_a_table_with_a_changed_byte_is_refused_or_read_and_never_a_crash(here: Path) -> None:
    whole, dice = Path("kept/table.parquet").read_bytes(), random.Random(0)
    for _ in range(150):
        place = dice.randrange(len(whole))
        changed = bytes([whole[place] ^ (1 << dice.randrange(8))])
        Path("other.parquet").write_bytes(whole[:place] + changed + whole[place + 1 :])
        with contextlib.suppress(BadInput):
            assert read("other.parquet").rows


def test_a_table_of_too_many_values_is_refused(here: Path) -> None:
    many = pa.table({"x": pa.nulls(2**24 + 1)}, metadata=kept_table().schema.metadata)
    pq.write_table(many, "many.parquet")
    with pytest.raises(BadInput, match="more than 16,777,216 values"):
        read("many.parquet")
