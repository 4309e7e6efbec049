"""``attnbench report`` in each of its forms, of one folder and of several."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import attnbench
from attnbench.report.formats.place import ENDINGS, FORMATS
from attnbench.results.load import read

Call = Callable[..., tuple[int, str, str]]
RESULTS = Path(__file__).resolve().parents[2] / "results"
CPU, GPU = str(RESULTS / "intel-xeon-2-cores" / "720p.jsonl"), str(RESULTS / "h100" / "720p-video-fwd.jsonl.gz")
RUN = read(CPU).rows[0].run_id
DOCUMENTS = [form for form in FORMATS if form not in ("html", "png", "svg", "pdf")]


@pytest.mark.parametrize("form", DOCUMENTS)
def test_each_form_is_one_file_named_after_its_run_or_as_told(form: str, call: Call) -> None:
    ending = ENDINGS[form][0]
    assert call("report", CPU, "--format", form) == (0, f"reports/{RUN}{ending}\n", "")
    assert Path(f"reports/{RUN}{ending}").stat().st_size > 500
    assert call("report", CPU, "--format", form, "--out", f"mine{ending}") == (0, f"mine{ending}\n", "")
    assert call("report", CPU, "--format", form, "--out", "folder") == (0, f"folder/{RUN}{ending}\n", "")
    assert Path(f"mine{ending}").read_bytes() == Path(f"folder/{RUN}{ending}").read_bytes()


def test_a_table_that_is_asked_for_by_name_is_in_the_name_of_its_file(call: Call) -> None:
    said = [call("report", CPU, "--format", "csv", "--table", name)[1] for name in ("means", "runs")]
    assert said == [f"reports/{RUN}-{name}.csv\n" for name in ("means", "runs")]


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_figures_are_a_folder_with_a_file_each(form: str, call: Call) -> None:
    code, out, _ = call("report", CPU, "--format", form, "--figures", "trade-off-error,memory", "--json")
    document = json.loads(out)
    names = [Path(path).name for path in document["paths"]]
    assert code == 0
    assert names == [f"{name}-720p-12-heads-fwd-video.{form}" for name in ("trade-off-error", "memory")]
    assert all(Path(path).parent == Path(f"reports/{RUN}-figures") for path in document["paths"])


@pytest.mark.parametrize("form", FORMATS)
def test_the_form_is_what_the_file_ends_as(form: str, call: Call) -> None:
    for ending in ENDINGS[form]:
        assert call("report", CPU, "--figure-width", "60", "--out", f"one{ending}", *_one(form))[0] == 0
        assert call("report", CPU, "--format", form, "--figure-width", "60", "--out", "in", *_one(form))[0] == 0
        (other,) = Path("in").iterdir()
        assert Path(f"one{ending}").read_bytes() == other.read_bytes()
    assert call("report", CPU, "--out", "v1.0")[1] == f"v1.0/{RUN}.html\n"


def _one(form: str) -> list[str]:
    return ["--figures", "memory"] if form in ("png", "svg", "pdf") else []


def test_a_table_may_go_to_a_pipe(call: Call) -> None:
    command = [sys.executable, "-m", "attnbench", "report", CPU, "--format", "csv"]
    piped = subprocess.run([*command, "--out", "/dev/stdout"], capture_output=True, check=True)
    assert call("report", CPU, "--out", "table.csv") == (0, "table.csv\n", "")
    assert piped.stdout == Path("table.csv").read_bytes()
    words = shlex.join([*command[:-1], "json", "--out", "/dev/stdout"])
    gone = f"{words} | head -c 9; exit ${{PIPESTATUS[0]}}"
    left = subprocess.run(["bash", "-c", gone], capture_output=True, check=False)
    assert (left.returncode, left.stdout, left.stderr) == (0, b'{"schema"', b"")
    with Path("redirected").open("wb") as file:
        subprocess.run([*command, "--out", "/dev/stdout"], stdout=file, check=True)
    assert Path("redirected").read_bytes() == piped.stdout


def test_several_folders_are_one_report_and_a_file_counts_once(call: Call) -> None:
    code, _, _ = call("report", CPU, GPU, CPU, "--format", "csv", "--out", "both.csv")
    assert code == 0
    with Path("both.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["row_id"] for row in rows} == {row.row_id for path in (CPU, GPU) for row in read(path).rows}
    assert len(rows) == len(read(CPU).rows) + len(read(GPU).rows)
    assert len({row["device"] for row in rows}) == 2


def test_the_same_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert attnbench.write_report([CPU, GPU], format="markdown", out="both.md") == Path("both.md")
    assert Path("both.md").read_text("utf-8").count("\n## ") == 3, "two selections and the runs"
    with pytest.raises(attnbench.BadInput, match="unknown format 'docx'"):
        attnbench.write_report(CPU, format="docx")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "excel"], "unknown format 'excel': known: csv, html"),
        (["--format", "cvs"], "unknown format 'cvs': did you mean 'csv'?"),
        (["--format", "csv", "--out", "mine.txt"], "--out 'mine.txt' must end in .csv for csv, or be a folder"),
        (["--format", "png", "--out", "mine.png"], "name a folder, or one figure with --figures"),
        (["--out", "mine.pdf", "--figures", "trade-off"], "--out 'mine.pdf' is one file, and there are"),
        (["--out", "mine.xlsx"], "--out 'mine.xlsx' ends as no form of a report does: name a folder, or a file"),
        (["--format", "html", "--out", "mine.csv"], "--out 'mine.csv' must end in .html for html, or be a folder"),
        (["--out", "/dev/full"], "cannot write '/dev/full': No space left on device; name another place with --out"),
        (["--format", "csv", "--out", "/dev/full"], "cannot write '/dev/full': No space left on device; name another"),
        (["--format", "csv", "--table", "clips"], "did you mean 'cells'? known: cells, means, runs"),
        (["--table", "cells"], "table 'cells' is for csv and parquet; html has them all"),
        (["--figures", "memory"], "figure 'memory' is for png, svg, pdf, not for html"),
        (["--format", "svg", "--figures", "memroy"], "unknown figure 'memroy': did you mean 'memory'?"),
        (["--format", "svg", "--figure-width", "1"], "width 1 must be from 20 to 400 millimetres"),
        (["--format", "csv", "--open"], "--open shows a page in a browser, and csv is none"),
        (["nowhere", "--format", "csv"], "no such file or folder: 'nowhere'"),
    ],
)
def test_what_cannot_be_written_is_told_in_a_sentence(words: list[str], said: str, call: Call) -> None:
    code, out, err = call("report", CPU, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert [*Path().iterdir()] == []


@pytest.mark.parametrize("form", FORMATS)
def test_two_runs_are_shown_with_the_verdicts_of_compare(form: str, call: Call) -> None:
    other = str(RESULTS / "h100" / "profiles" / "720p-fwd.jsonl.gz")
    told = {cell["cell"]["method"]: cell for cell in json.loads(call("compare", GPU, other, "--json")[1])["cells"]}
    code, out, err = call("report", "--compare", GPU, other, "--format", form)
    assert (code, err, out.count("\n")) == (0, "", 1)
    path = Path(out.strip())
    if form == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = {row["method"]: row for row in csv.DictReader(file)}
        shapes = {(row["device"], row["grid"], row["heads"], row["text_tokens"]) for row in rows.values()}
        assert shapes == {("NVIDIA H100 80GB HBM3", "21x45x80", "12", "0+0")}
        assert rows.keys() == told.keys()
        verdicts = {"slower": "SLOW", "faster": "FAST", "same": "SAME", "unclear": "AMBIGUOUS"}
        for method, row in rows.items():
            assert row["verdict"] == verdicts.get(told[method]["change"], told[method]["change"])
            assert (float(row["ratio"]) if row["ratio"] else None) == told[method]["ratio"]
    elif form in ("html", "markdown", "latex"):
        text = path.read_text("utf-8").replace("\\", "")
        assert all(method in text for method in told)
        assert ("larger than 3%" if form == "html" else "threshold 3.0") in text


@pytest.mark.parametrize("paths", [[], [CPU], [CPU, GPU, CPU]])
def test_a_comparison_is_of_two(paths: list[str], call: Call) -> None:
    code, _, said = call("report", "--compare", *paths)
    assert (code, f"--compare shows two runs, A and B: {len(paths)} given" in said) == (2, True)


def test_runs_without_latencies_are_not_compared(call: Call) -> None:
    clips = str(RESULTS / "h100" / "clips" / "fifth")
    code, _, said = call("report", "--compare", GPU, clips)
    assert (code, f"{clips!r} holds no latencies" in said) == (2, True)
