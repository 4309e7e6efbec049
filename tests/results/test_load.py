"""Reading results: every journal once, every record once, and of what was written twice the later."""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import attnbench
from attnbench.cli import app
from attnbench.kernels.errors import BadInput
from attnbench.results.journal import _KINDS, JOURNAL, line_of
from attnbench.results.load import load_clips, load_steps, read
from attnbench.results.pairs import own_samples
from attnbench.results.premises import premises
from attnbench.results.tables import table_bytes
from tests.hostile import journal

H100 = Path(__file__).resolve().parents[2] / "results" / "h100"
OPENED: list[str] = []
LISTENING: list[bool] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if LISTENING and event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


class _Counting:
    """Stands in for the validator of a kind of record, and counts what it validates."""

    def __init__(self, inner: Any, found: Counter[str], name: str) -> None:
        self.inner, self.found, self.name = inner, found, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("validate"):
            self.found[self.name] += 1
        return getattr(self.inner, name)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that were opened during the test, by name."""
    if not getattr(sys, "_attnbench_hears", False):
        sys.addaudithook(_hear)  # a hook stays for the life of the process
        sys._attnbench_hears = True  # type: ignore[attr-defined]  # audit hooks stay: one a process
    OPENED.clear()
    LISTENING.append(True)
    yield OPENED
    LISTENING.clear()


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many records of each kind were validated during the test."""
    found: Counter[str] = Counter()
    for kind, model in _KINDS.items():
        monkeypatch.setattr(model, "__pydantic_validator__", _Counting(model.__pydantic_validator__, found, kind))
    return found


def text_of(journal: Path) -> str:
    content = journal.read_bytes()
    return (gzip.decompress(content) if journal.suffix == ".gz" else content).decode()


def kinds_in(journal: Path) -> Counter[str]:
    return Counter(json.loads(line)["kind"] for line in text_of(journal).splitlines())


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a part of the committed results, some of it unzipped, in which there is every kind of record."""
    folder = tmp_path_factory.mktemp("some")
    names = ("480p-*.jsonl.gz", "profiles/480p-*.jsonl.gz", "clips/fifth/journal.jsonl.gz")
    kept = [journal for name in names for journal in H100.glob(name)]
    for each in kept:
        place = folder / each.relative_to(H100)
        place.parent.mkdir(parents=True, exist_ok=True)
        if each.parent == H100:
            place.with_suffix("").write_text(text_of(each))
        else:
            place.write_bytes(each.read_bytes())
    plain = next(folder.glob("*.jsonl"))
    with plain.open("a") as journal:  # what the committed runs have none of: cells in own processes, and analyses
        for added in (
            {"kind": "choices", "heads": 1, "rounds": 3, "baseline": None},
            {"kind": "analysis", "run_id": "r", "model": "mini", "measure": "entropy", "value": 1.5, "lo": 1.5,
             "hi": 1.5, "layer": 0, "head": 0, "tokens": 64, "queries": 64, "grid": "4x4x4"},
            {"kind": "premise", "run_id": "r", "premise": "p", "claim": "c", "sources": "s", "statistic": "t",
             "holds": ">= 2", "fails": "<= 1", "verdict": "undecided", "tested_on": "mini", "reason": "too few heads"},
        ):  # fmt: skip
            journal.write(json.dumps(added) + "\n")
    return folder


def test_a_report_opens_each_journal_once_and_validates_each_record_once(
    some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str], validated: Counter[str]
) -> None:
    journals = sorted(some.rglob("*.jsonl*"))
    expected = sum(map(kinds_in, journals), Counter[str]())
    assert set(expected) == set(_KINDS)
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])
    opened.clear()
    validated.clear()
    done = CliRunner().invoke(app, ["report", str(some), "--out", str(tmp_path / "a.html")])
    assert done.exit_code == 0, done.output
    assert sorted(name for name in opened if ".jsonl" in name) == list(map(str, journals))
    assert validated == expected + Counter(premise=len(premises()))  # the page judges the analysis anew


def test_the_tables_are_made_of_the_records_that_are_read(some: Path) -> None:
    found = read(some)
    written = sum(map(kinds_in, some.rglob("*.jsonl*")), Counter[str]())
    kinds = {
        "row": found.rows,
        "phase": found.phases,
        "quality": found.quality,
        "clip": found.clips,
        "step": found.steps,
    }
    assert {kind: len(records) for kind, records in kinds.items()} == {kind: written[kind] for kind in kinds}
    assert sum(map(len, found.samples.values())) == written["sample"]
    assert sum(map(len, found.phases_by_row.values())) == written["phase"]
    assert attnbench.load_results(some)["row_id"].tolist() == [row.row_id for row in found.rows]
    assert attnbench.load_phases(some)["pass"].tolist() == [phase.pass_ for phase in found.phases]
    quality = attnbench.load_quality(some)
    assert quality["value"].dropna().tolist() == [row.value for row in found.quality if row.value is not None]
    assert load_clips(some) == list(found.clips)
    assert {folder for folder, _ in found.clips} == {some / "clips" / "fifth"}
    assert load_steps(some) == list(found.steps)


LINES = text_of(H100 / "profiles" / "480p-step-fwd.jsonl.gz").splitlines()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def put(content: str) -> Path:
        path = tmp_path / "x.jsonl"
        path.write_text(content, encoding="utf-8")
        return path

    return put


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("load", [read, attnbench.load_results, attnbench.load_phases, attnbench.load_quality])
def test_a_number_that_is_not_finite_is_refused_with_file_and_line(
    write: Callable[[str], Path], number: str, load: Any
) -> None:
    bad = json.dumps(json.loads(LINES[1]) | {"step_ms": 0.125}).replace("0.125", number)
    assert number in bad
    path = write("\n".join([LINES[0], bad, ""]))
    with pytest.raises(BadInput, match=r"x\.jsonl' line 2 is not a valid record: "):
        load(path)


@pytest.mark.parametrize("line", ["9" * 5000, "[" * 100_000, '{"kind": ["run"]}', '{"kind": "run", "run_id": {}}'])
def test_whatever_a_line_holds_is_refused_in_a_sentence(write: Callable[[str], Path], line: str) -> None:
    for path in (write(f"{LINES[0]}\n{line}\n{LINES[1]}\n"), write(f"{LINES[0]}\n{line}\n")):
        with pytest.raises(BadInput, match="line 2 is not a"):
            read(path)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + "\n".join(LINES) + "\n", "\n\n" + "\n\n".join(LINES) + "\n  \n", "\r\n".join(LINES) + "\r\n",
        "\ufeff" + "\n".join(LINES), "\n".join(LINES) + "\n   ", "\ufeff\n" + "\n".join(f"\ufeff{e}" for e in LINES),
    ],
)  # fmt: skip
def test_empty_lines_and_a_byte_order_mark_are_skipped(
    write: Callable[[str], Path], content: str, recwarn: pytest.WarningsRecorder
) -> None:
    assert read(write(content)) == read(write("\n".join(LINES) + "\n"))
    assert not recwarn.list


def test_runs_that_were_joined_into_one_file_keep_their_own_samples(tmp_path: Path) -> None:
    parts = [H100 / name for name in ("480p-gaussian-fwd.jsonl.gz", "576p-gaussian-fwd.jsonl.gz")]
    (tmp_path / "both.jsonl").write_text("".join(map(text_of, parts)))
    apart = [read(part) for part in parts]
    joined = read(tmp_path / "both.jsonl")
    assert joined.rows == apart[0].rows + apart[1].rows
    assert joined.samples == apart[0].samples | apart[1].samples
    assert len(joined.samples) == 2


def test_line_numbers_count_empty_lines(write: Callable[[str], Path]) -> None:
    with pytest.raises(BadInput, match="line 4 is not a record"):
        read(write(f"\n{LINES[0]}\n\nhello\n"))


@pytest.mark.parametrize("as_table", [False, True])
def test_samples_that_are_not_those_of_the_row_are_refused(as_table: bool, tmp_path: Path) -> None:
    lines = journal("run", random.Random(1))
    (place := tmp_path / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read(place)
    assert found.rows[1].samples_ms == [sample.cold_ms for sample in own_samples(found.rows[1], found.samples["run"])]
    other = [each.model_copy(update={"cold_ms": 2 * each.cold_ms}) for each in found.samples["run"]]
    if as_table:
        place = tmp_path / "t.parquet"
        place.write_bytes(table_bytes(found.headers, found.rows, {"run": other}))
    else:
        place.write_text("".join(map(line_of, [*found.headers, *other, *found.rows])))
    with pytest.raises(BadInput, match=r"samples_ms of the row .* are not the 3 samples that were taken of its cell"):
        read(place)


def test_a_time_of_the_baseline_that_its_samples_do_not_allow_is_refused(tmp_path: Path) -> None:
    lines = journal("run", random.Random(1))
    told = next(line for line in lines if line["kind"] == "row" and line["method"] == "sta")
    for name in ("baseline_ms", "speedup", "translation"):
        told[name] *= 2000
    (tmp_path / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadInput, match=r"baseline_ms of the row .* \(sta\) is .* samples of its dense baseline are"):
        read(tmp_path)


def test_a_sample_that_is_written_twice_is_one_sample(tmp_path: Path) -> None:
    lines = journal("run", random.Random(1))
    twice = [line for line in lines for _ in range(2 if line["kind"] == "sample" else 1)]
    (tmp_path / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in twice))
    assert len(read(tmp_path).rows) == 3
