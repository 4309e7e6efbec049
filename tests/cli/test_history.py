"""``attnbench history`` as a user calls it: the table, the document, the page, and what it refuses."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attnbench
from tests.committed import copy_results

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stepped(tmp_path: Path, histories: Any) -> str:
    """Eight runs: STA a fifth slower from the sixth on, and no VMoBA in the last."""
    runs = [histories.Made({"sta": 1.2} if number >= 5 else {}, histories.commit(number), {}) for number in range(7)]
    histories.write_runs(
        tmp_path / "tables", [*runs, histories.Made({"sta": 1.2}, histories.commit(7), {}, ("vmoba",))]
    )
    return "tables"


def test_the_table_fits_80_columns_and_names_the_commits(call: Call, stepped: str, histories: Any) -> None:
    pytest.importorskip("ruptures")
    code, said, _ = call("history", stepped)
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    words = re.sub(r"\s+", " ", said)
    found = re.search(r"sta 8 (\S+)× \[\S+ \S+\] \S+ \[\S+ \S+\] slower (-\d+\.\d) %", words)
    assert found is not None
    assert float(found[1]) == pytest.approx(40 / 12, rel=0.05)
    assert float(found[2]) == pytest.approx(100 / 1.2 - 100, abs=2.5)
    assert f"sta: slower, {found[2]} % [" in words
    assert (
        f"in {histories.commit(4)[:9]}..{histories.commit(5)[:9]}, between 2026-01-05 00:00 and 2026-01-06 00:00"
        in words
    )
    assert f"vmoba: not measured any more from 2026-01-08 00:00 on, commit {histories.commit(7)[:9]}" in words
    assert "lost: absent" in words
    assert "no change" in words


def test_the_document_holds_every_point(call: Call, stepped: str, histories: Any) -> None:
    pytest.importorskip("ruptures")
    code, said, _ = call("history", stepped, "--json")
    assert code == 0
    document = json.loads(said)
    cells = {cell["name"]: cell for cell in document["cells"]}
    assert {name: len(cell["points"]) for name, cell in cells.items()} == {"full": 8, "sta": 8, "vmoba": 7}
    (change,) = cells["sta"]["changes"]
    assert (change["before"], change["after"], change["slower"]) == ("run-004", "run-005", True)
    assert change["ratio_lo"] < 1 / 1.2 < change["ratio_hi"]
    assert 0 <= change["p_value"] < 0.01
    assert [gap["what"] for gap in cells["vmoba"]["gaps"]] == ["absent"]
    for point in cells["sta"]["points"]:
        assert point["speedup_lo"] < point["speedup"] < point["speedup_hi"]
        assert point["latency_ms_lo"] < point["latency_ms"] < point["latency_ms_hi"]
    assert [point["commit"] for point in cells["sta"]["points"]] == [histories.commit(number) for number in range(8)]


def test_the_page_is_one_file_in_the_look_of_the_report(
    call: Call, stepped: str, tmp_path: Path, histories: Any
) -> None:
    pytest.importorskip("ruptures")
    code, said, _ = call("history", stepped, "--out", "page.html")
    assert code == 0
    assert "page.html" in said
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert text.count("data:image/svg+xml;base64,") == 3
    page = html.unescape(text)
    for words in (
        "A CPU of these tests",
        "sta",
        "lost: absent",
        f"in {histories.commit(4)[:9]}..{histories.commit(5)[:9]}",
    ):
        assert words in page
    assert page.count("<tr>") == 3 + 8 * 3  # a line a run, also for the run that lacks VMoBA
    first = text
    call("history", stepped, "--out", "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == first


def test_committed_tables_of_every_schema_have_a_history(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("ruptures")  # a dense baseline is measured with every table
    folder = copy_results(tmp_path / "committed")
    code, said, _ = call("history", str(folder), "--json")
    assert code == 0
    cells = json.loads(said)["cells"]
    timed = attnbench.load_results(folder).query("latency_ms.notna()")
    means = [cell for cell in cells if cell["layers"] is not None]
    assert {cell["name"].split(" · ")[:2][1] for cell in means} == {"mean over layers"}
    cells = [cell for cell in cells if cell["layers"] is None]
    assert sum(len(cell["points"]) for cell in cells) == len(timed)
    by_cell = timed.groupby("cell_id")["latency_ms"].agg(list)
    for cell in cells:
        for point in cell["points"]:
            near = [ms for ms in by_cell[cell["cell_id"]] if point["latency_ms"] == pytest.approx(ms, rel=0.1)]
            assert near, cell["name"]


def test_names_in_journals_are_only_text(call: Call, tmp_path: Path, histories: Any) -> None:
    histories.write_runs(
        tmp_path / "tables",
        [histories.Made({}, "<b>\x1b]0;x\x07", {}, environment={"device": "<i>"}), *histories.plain(1)],
    )
    code, said, _ = call("history", "tables", "--out", "page.html")
    assert code == 0
    assert "\x1b]0" not in said
    assert "<b>" not in (tmp_path / "page.html").read_text(encoding="utf-8").replace("<b>ok</b>", "")


def test_times_that_are_as_far_apart_as_numbers_allow_are_shown(call: Call, tmp_path: Path, histories: Any) -> None:
    apart = ({"full": 1e-302}, {"full": 1e27})
    histories.write_runs(tmp_path / "tables", [histories.Made(apart[number > 1], None, {}) for number in range(4)])
    code, said, err = call("history", "tables", "--json", "--out", "page.html")
    assert code == 0, err
    assert json.loads(said)["cells"]
    code, said, err = call("compare", "tables/run-000", "tables/run-003", "--json")
    assert code in (1, 3), err
    assert json.loads(said)["cells"]


def test_without_ruptures_one_sentence_says_how_to_get_it(
    call: Call, stepped: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ruptures", None)
    code, said, error = call("history", stepped, "--out", "page.html")
    assert (code, said) == (2, "")
    assert error == "attnbench: change points need ruptures: pip install 'attnbench[history]'\n"
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "no such file or folder: 'nowhere'"),
        (("tables", "--threshold", "1.5"), "threshold 1.5 must be a fraction"),
        (("tables", "--out", "page.pdf"), "--out 'page.pdf' must end in .html"),
        (("tables", "--noise", "gone.json"), "noise model 'gone.json' cannot be read"),
        (("tables", "--out", "file/page.html"), "cannot write 'file/page.html'"),
        (("empty",), "holds no rows of cells"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    call: Call, tmp_path: Path, words: tuple[str, ...], said: str, histories: Any
) -> None:
    histories.write_runs(tmp_path / "tables", histories.plain(2))
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    header = (tmp_path / "tables" / "run-000" / "journal.jsonl").read_text().splitlines()[0]
    (tmp_path / "empty" / "journal.jsonl").write_text(f"{header}\n")
    code, out, error = call("history", *words)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert said in error
