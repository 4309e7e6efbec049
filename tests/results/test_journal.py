"""The journal: nothing written is lost, nothing torn or foreign is read as a result."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.results import journal as store
from attnbench.results.journal import JOURNAL, BroughtBack, Journal, TornLine, read_journal
from attnbench.results.load import load_results
from attnbench.results.records.cells import SCHEMA_VERSION, Cell, Environment, Row, RunHeader, Sample
from attnbench.results.run import choose_place


def header(run_id: str = "run") -> RunHeader:
    environment = Environment(
        device="a machine", device_kind="cpu", cores=2, memory_gib=8.0, python="3.11", platform="Linux",
        packages={"torch": "2"}, command=["attnbench", "run"], started_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    return RunHeader(run_id=run_id, environment=environment, request={"methods": {"sta": {}}})


def row(seed: int = 0, run_id: str = "run", latency: float = 2.0) -> Row:
    cell = Cell(
        method="sta", settings="{}", layer=0, grid="3x5x7", text_tokens=(0, 0), batch=1, heads=2, kv_heads=2,
        head_dim=32, dtype="float32", direction="fwd", inputs="gaussian", seed=seed, engine="reference", device="m",
    )  # fmt: skip
    return Row(
        **cell.model_dump(), row_id=f"{run_id}-{cell.identity}", run_id=run_id, cell_id=cell.identity, verdict="ok",
        tokens=105, heads_timed=2, engine_version="1", latency_ms=latency, samples_ms=[latency],
    )  # fmt: skip


def sample(number: int) -> Sample:
    return Sample(cell_id="c", round=number, cold_ms=1.5 + number, heads_timed=1, inputs_hash="h")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a journal of four lines."""
    with Journal.create(tmp_path / "run", header()) as journal:
        for record in (sample(0), sample(1), row()):
            journal.append(record)
    return tmp_path / "run"


def records(folder: Path) -> list[store.Record]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return list(read_journal(folder / JOURNAL))


def test_what_is_appended_is_read_back_in_order(folder: Path) -> None:
    assert records(folder) == [header(), sample(0), sample(1), row()]


def test_every_line_is_synced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    path = tmp_path / JOURNAL
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_bytes()))
    with Journal.create(tmp_path, header()) as journal:
        for number in range(3):
            journal.append(sample(number))
            assert len(synced) == number + 2
            assert synced[-1] == path.read_bytes()
            assert synced[-1].count(b"\n") == number + 2


def test_a_journal_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(BadInput, match="holds a run already") as error:
        Journal.create(folder, header())
    assert repr(str(folder)) in str(error.value)
    assert len(records(folder)) == 4


@pytest.mark.parametrize(
    ("began", "again"),
    [
        (None, ", or continue with: attnbench run --resume {}"),
        ("clips", ", or continue with: attnbench clips --resume {}"),
        ("step", ""),
        ("profile --end-to-end", ""),
    ],
)
def test_a_folder_that_holds_a_run_says_what_goes_on_with_it(tmp_path: Path, began: str | None, again: str) -> None:
    request = {} if began is None else {"command": began}
    Journal.create(tmp_path, header().model_copy(update={"request": request})).close()
    said = f"{str(tmp_path)!r} holds a run already; choose another --out{again.format(tmp_path)}"
    for start in (lambda: choose_place(tmp_path), lambda: Journal.create(tmp_path, header())):
        with pytest.raises(BadInput) as error:
            start()
        assert str(error.value) == said


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="choose another --out") as error:
        Journal.create(tmp_path / name, header())
    assert repr(str(tmp_path / name)) in str(error.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file"]


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("made_before", [False, True])
def test_a_disk_that_is_full_at_once_leaves_nothing_behind(
    made_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    if made_before:
        place.mkdir()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(BadInput, match=f"cannot write results to '{place}': No space left on device"):
        Journal.create(place, header())
    assert list(tmp_path.iterdir()) == ([place] if made_before else [])
    monkeypatch.undo()
    Journal.create(place, header()).close()


class HalfWritten:
    """A file on a disk that takes ``room`` more bytes."""

    def __init__(self, stream: Any, room: int) -> None:
        self.stream, self.room = stream, room

    def write(self, data: memoryview) -> int:
        if self.room == 0:
            full_disk()
        taken = min(self.room, len(data), 40)  # writes may be partial even without an error
        self.room -= taken
        return int(self.stream.write(data[:taken]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def test_a_disk_that_fills_up_loses_the_line_and_nothing_else(folder: Path) -> None:
    journal, _ = Journal.resume(folder)
    stream = journal._stream
    with journal:
        journal._stream = HalfWritten(stream, 100)  # type: ignore[assignment]  # as much of a file as is used
        with pytest.raises(BadInput, match="No space left on device") as error:
            journal.append(sample(2))
        assert f"attnbench run --resume {folder}" in str(error.value)
        assert len(records(folder)) == 4
        journal._stream = HalfWritten(stream, 10**6)  # type: ignore[assignment]  # as above
        journal.append(sample(3))
    assert records(folder)[4:] == [sample(3)]


def test_records_that_belong_together_are_written_all_or_none(folder: Path) -> None:
    journal, _ = Journal.resume(folder)
    stream = journal._stream
    with journal:
        journal._stream = HalfWritten(stream, 300)  # type: ignore[assignment]  # one line and a half
        with pytest.raises(BadInput, match="No space left on device"):
            journal.append(sample(2), sample(3), sample(4))
        assert len(records(folder)) == 4
        journal._stream = HalfWritten(stream, 10**6)  # type: ignore[assignment]  # as above
        journal.append(sample(2), sample(3))
    assert records(folder)[4:] == [sample(2), sample(3)]


def test_a_step_that_is_not_resumed_is_refused_without_a_command_that_would_be_refused_too(tmp_path: Path) -> None:
    whole = header().model_copy(update={"request": {"command": "profile --end-to-end"}})  # of before there was step
    with Journal.create(tmp_path / "run", whole) as journal:
        journal._stream = HalfWritten(journal._stream, 0)  # type: ignore[assignment]  # as much of a file as is used
        with pytest.raises(BadInput, match="No space left on device; start a new run") as full:
            journal.append(sample(0))
    with pytest.raises(
        BadInput, match="attnbench profile --end-to-end, which is not resumed: start a new run"
    ) as error:
        Journal.resume(tmp_path / "run")
    assert "--resume" not in str(full.value) + str(error.value)


def torn(folder: Path, cut: int) -> bytes:
    """Cut bytes off the end of the journal, and return the last line as it was."""
    path = folder / JOURNAL
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    return data.splitlines(keepends=True)[-1]


@pytest.mark.parametrize("left", [1, 2, 5, 9, 50, 200, -40, -3, -2])
def test_a_torn_last_line_is_left_out_and_said(folder: Path, left: int) -> None:
    """``left`` bytes of the line, counted from its end if negative: so -2 lacks the brace and the line's end."""
    last = (folder / JOURNAL).read_bytes().splitlines(keepends=True)[-1]
    torn(folder, len(last) - left if left > 0 else -left)
    with pytest.warns(TornLine, match=r"line 4, \d+ characters") as caught:
        table = load_results(folder)
    assert len(caught) == 1
    assert str(folder / JOURNAL) in str(caught[0].message)
    assert len(table) == 0
    with pytest.warns(TornLine):
        journal, found = Journal.resume(folder)
    with journal:
        assert found == [header(), sample(0), sample(1)]
        journal.append(row(latency=3.0))
    assert records(folder) == [header(), sample(0), sample(1), row(latency=3.0)]


def test_a_line_that_lacks_only_its_end_is_whole(folder: Path) -> None:
    torn(folder, 1)
    assert len(records(folder)) == 4
    journal, found = Journal.resume(folder)
    with journal:
        assert found[-1] == row()
        journal.append(sample(7))
    assert records(folder) == [header(), sample(0), sample(1), row(), sample(7)]


@pytest.mark.parametrize("end", ["\n", "", "\n\n  "])
def test_a_journal_that_an_editor_saved_can_go_on(folder: Path, end: str) -> None:
    path = folder / JOURNAL
    path.write_text("\ufeff" + "\r\n\r\n".join(path.read_text().splitlines()) + end, encoding="utf-8", newline="")
    journal, found = Journal.resume(folder)
    with journal:
        journal.append(sample(7))
    assert records(folder) == [*found, sample(7)] == [header(), sample(0), sample(1), row(), sample(7)]


@pytest.mark.parametrize("garbage", [b"\0\0\0\0", b"\xff\xfe{", b'{"kind": "sample", "cell'])
def test_whatever_a_crash_left_at_the_end_is_cut_away(folder: Path, garbage: bytes) -> None:
    with (folder / JOURNAL).open("ab") as stream:
        stream.write(garbage)
    with pytest.warns(TornLine, match="line 5"):
        assert len(load_results(folder)) == 1
    with pytest.warns(TornLine):
        journal, found = Journal.resume(folder)
    journal.close()
    assert len(found) == 4
    assert len(records(folder)) == 4


def test_a_journal_torn_in_its_first_line_holds_nothing(tmp_path: Path) -> None:
    Journal.create(tmp_path, header()).close()
    torn(tmp_path, 20)
    with pytest.warns(TornLine, match="line 1"):
        assert len(load_results(tmp_path)) == 0


def edit(folder: Path, number: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the fields of one line."""
    lines = (folder / JOURNAL).read_text().splitlines()
    fields = json.loads(lines[number])
    change(fields)
    lines[number] = json.dumps(fields)
    (folder / JOURNAL).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("number", "change", "said"),
    [
        (1, lambda f: f.pop("kind"), "line 2 is not a record of a results journal"),
        (1, lambda f: f.update(kind="unheard-of"), "line 2 is not a record of a results journal"),
        (2, lambda f: f.update(cold_ms=-1), "line 3 is not a valid record: cold_ms"),
        (2, lambda f: f.update(extra=1), "line 3 is not a valid record: extra"),
        (3, lambda f: f.pop("engine"), "line 4 is not a valid record: engine"),
        (3, lambda f: f.update(verdict="oom"), "line 4 is not a valid record: row: .*a latency with verdict 'oom'"),
        (3, lambda f: f.update(seed=1), "line 4 is not a valid record: row: .*cell_id"),
    ],
)
def test_a_damaged_line_is_an_error_that_names_it(folder: Path, number: int, change: Any, said: str) -> None:
    edit(folder, number, change)
    with pytest.raises(BadInput, match=said) as error:
        load_results(folder)
    assert repr(str(folder / JOURNAL)) in str(error.value)
    for _ in range(2):  # a failed resume gives the lock back, or the second would speak of another process
        with pytest.raises(BadInput, match=said):
            Journal.resume(folder)


def test_a_torn_line_in_the_middle_is_an_error(folder: Path) -> None:
    lines = (folder / JOURNAL).read_text().splitlines()
    lines[1] = lines[1][:-5]
    (folder / JOURNAL).write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput, match="line 2 is not a record of a results journal"):
        load_results(folder)


@pytest.mark.parametrize("last_break", [True, False])
def test_a_newer_schema_is_refused_with_both_versions(folder: Path, last_break: bool) -> None:
    newer = SCHEMA_VERSION + 1
    edit(folder, 0, lambda fields: fields.update(schema_version=newer, something_new=1))
    if not last_break:
        path = folder / JOURNAL
        path.write_text(path.read_text().splitlines()[0])
    said = f"schema version {newer}; this attnbench reads up to {SCHEMA_VERSION}"
    with pytest.raises(BadInput, match=said) as error:
        load_results(folder)
    assert repr(str(folder / JOURNAL)) in str(error.value)
    with pytest.raises(BadInput, match=said):
        Journal.resume(folder)


@pytest.mark.parametrize(
    "content", [b"hello", b"hello\n", b"a,b\n1,2\n", b"[1]\n", b"7", b"\x89PNG\r\n\x1a\n\0", b"{}\n"]
)
def test_other_files_are_not_journals(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="line 1 is not a record of a results journal"):
        load_results(path)


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = Journal.create(tmp_path, header())
    with pytest.raises(BadInput, match="another process is writing"):
        Journal.resume(tmp_path)
    first.append(sample(0))
    first.close()
    second, found = Journal.resume(tmp_path)
    with second:
        assert found == [header(), sample(0)]
        with pytest.raises(BadInput, match="another process is writing"):
            Journal.resume(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "x" * 300, ""])
def test_resume_needs_a_journal(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=f"nothing to resume: '{tmp_path / name}' has no journal.jsonl"):
        Journal.resume(tmp_path / name)


def test_results_are_one_row_a_cell_with_the_environment(folder: Path) -> None:
    table = attnbench.load_results(str(folder))
    assert list(table.columns) == list(Row.model_fields)
    assert table.to_dict("records") == [row().model_dump()]
    assert table.attrs["environments"] == {"run": header().environment.model_dump()}


def test_a_cell_written_twice_counts_once_as_written_last(folder: Path) -> None:
    journal, _ = Journal.resume(folder)
    with journal:
        journal.append(row(seed=1))
        journal.append(row(latency=5.0))
    table = load_results(folder)
    assert table["seed"].tolist() == [1, 0]
    assert table["latency_ms"].tolist() == [2.0, 5.0]


def test_a_folder_is_read_with_all_that_is_below_it(tmp_path: Path) -> None:
    for name in ("b/deep", "a"):
        with Journal.create(tmp_path / name, header(name)) as journal:
            journal.append(row(run_id=name))
    (tmp_path / "a" / "notes.txt").write_text("not read")
    table = load_results(tmp_path)
    assert table["run_id"].tolist() == ["a", "b/deep"]
    assert set(table.attrs["environments"]) == {"a", "b/deep"}


def test_a_gzipped_journal_is_read_as_it_was(folder: Path) -> None:
    plain = load_results(folder)
    whole = gzip.compress((folder / JOURNAL).read_bytes())
    (folder / JOURNAL).unlink()
    packed = folder / f"{JOURNAL}.gz"
    packed.write_bytes(whole)
    pd.testing.assert_frame_equal(load_results(folder), plain)
    pd.testing.assert_frame_equal(load_results(packed), plain)
    for torn in (whole[:-12], whole[:40], b"{}"):
        packed.write_bytes(torn)
        with pytest.raises(BadInput, match=r"cannot read '.*journal\.jsonl\.gz' as a results journal: .* gzip"):
            load_results(folder)


def test_logs_of_training_are_no_results(folder: Path) -> None:
    (folder / "trained").mkdir()
    (folder / "trained" / "train.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    assert len(load_results(folder)) == 1
    with pytest.raises(BadInput, match=r"holds no \.jsonl journal"):
        load_results(folder / "trained")


def test_a_run_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    with Journal.create(tmp_path, header()) as journal:
        journal.append(sample(0))
    table = load_results(tmp_path)
    assert (len(table), list(table.columns)) == (0, list(Row.model_fields))
    assert set(table.attrs["environments"]) == {"run"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("gone", "no such file or folder"), ("x" * 300, "no such file or folder"), ("", "holds no .jsonl journal")],
)
def test_there_must_be_something_to_read(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        load_results(tmp_path / name)
    assert repr(str(tmp_path / name)) in str(error.value)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_journal_that_is_too_large_is_refused_in_a_sentence(
    packed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbench.inputs.files.MOST_BYTES", 2**20)
    content = b" " * 2**21
    path = folder / ("bomb.jsonl.gz" if packed else "bomb.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert not packed or path.stat().st_size < 2**12
    with pytest.raises(BadInput, match=r"cannot read '.*bomb.* as a results journal: it holds more than 1 MiB"):
        read_journal(path)


NUMBERS = {
    "9" * 5000: "a whole number of 5000 digits",
    "9" * 40: "a whole number of 40 digits",
    "-" + "9" * 5000: "a whole number of 5001 digits",
    "1e999": "1e999 is too large",
    "-1e999": "-1e999 is too large",
    "NaN": "NaN is not a number of JSON",
    "Infinity": "Infinity is not a number of JSON",
    "[" * 100_000 + "]" * 100_000: "not a record of a results journal",
}


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:8])
@pytest.mark.parametrize("place", ["round", "cold_ms"])
def test_numbers_that_no_run_has_are_refused_in_a_sentence(number: str, place: str, folder: Path) -> None:
    fields = {"kind": "sample", **sample(2).model_dump(mode="json"), place: "HERE"}
    with (folder / JOURNAL).open("a") as stream:
        stream.write(json.dumps(fields).replace('"HERE"', number) + "\n")
    with pytest.raises(BadInput, match=NUMBERS[number]) as error:
        read_journal(folder / JOURNAL)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("line", [0, 3], ids=["run", "row"])
@pytest.mark.parametrize(
    ("version", "words"),
    [
        (SCHEMA_VERSION + 1, "upgrade it"),
        (str(SCHEMA_VERSION + 1), "upgrade it"),
        ("99", "upgrade it"),
        ("9" * 5000, "must be a number from 1"),
        ("new", "must be a number from 1"),
        (0, "must be a number from 1"),
        (-1, "must be a number from 1"),
        (1.5, "must be a number from 1"),
        (True, "must be a number from 1"),
        (None, "must be a number from 1"),
        ([3], "must be a number from 1"),
    ],
)
def test_a_schema_version_that_is_not_known_is_refused(line: int, version: Any, words: str, folder: Path) -> None:
    edit(folder, line, lambda fields: fields.update(schema_version=version))
    with pytest.raises(BadInput, match=words):
        read_journal(folder / JOURNAL)


@pytest.mark.parametrize("line", [0, 3], ids=["run", "row"])
def test_a_schema_version_is_also_read_as_text_and_without_one_a_record_is_of_the_first(
    line: int, folder: Path
) -> None:
    edit(folder, line, lambda fields: fields.update(schema_version=str(SCHEMA_VERSION)))
    assert records(folder)[line].schema_version == SCHEMA_VERSION  # type: ignore[attr-defined]
    edit(folder, line, lambda fields: fields.pop("schema_version"))
    assert records(folder)[line].schema_version == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change", [{"x" * 9000: 1}, {"verdict": "x" * 9000}, {"cell_id": "x" * 9000}, {"kind": "x" * 9000}]
)
def test_a_sentence_about_a_record_is_short_whatever_it_holds(change: dict[str, Any], folder: Path) -> None:
    edit(folder, 3, lambda fields: fields.update(change))
    with pytest.raises(BadInput) as error:
        read_journal(folder / JOURNAL)
    assert len(str(error.value)) < len(str(folder)) + 500


def test_a_folder_that_is_deleted_while_it_is_written_is_made_again_with_all_it_held(folder: Path) -> None:
    before = read_journal(folder / JOURNAL)
    journal, _ = Journal.resume(folder)
    with journal:
        shutil.rmtree(folder)
        with pytest.warns(BroughtBack, match="was deleted while it was written; its journal was written anew"):
            journal.append(row(1))
        with pytest.raises(BadInput, match="another process is writing"):
            Journal.resume(folder)
        journal.append(row(2))
    assert read_journal(folder / JOURNAL) == [*before, row(1), row(2)]


def test_a_deleted_folder_in_which_another_run_began_is_left_to_that(folder: Path) -> None:
    journal, _ = Journal.resume(folder)
    with journal:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / JOURNAL).write_text("another run\n")
        with pytest.raises(BadInput, match="cannot write to"):
            journal.append(row(1))
    assert (folder / JOURNAL).read_text() == "another run\n"
