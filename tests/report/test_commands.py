"""`attnbench report` and `attnbench show`, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from attnbench.cli import app, main
from attnbench.kernels.errors import BadInput
from attnbench.results.load import Results


def call(*words: str) -> Result:
    """Call the command line in this process; errors of attnbench come back as exceptions."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loaded(table: Results, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let every path hold the made-up table, and remember the paths that were read; leave the mask pictures out."""
    paths: list[Path] = []
    monkeypatch.setattr("attnbench.report.source.read", lambda *named: paths.extend(named) or table)
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])
    return paths


def test_without_any_run_report_says_what_to_do(here: Path) -> None:
    with pytest.raises(BadInput, match="attnbench run"):
        call("report")
    (here / "results").mkdir()
    (here / "results" / "latest").symlink_to(here / "gone")
    with pytest.raises(BadInput, match="attnbench run"):
        call("report")


def test_report_takes_the_newest_run_and_prints_where_the_page_is(
    here: Path, loaded: list[Path], table: Results
) -> None:
    (here / "results" / "latest").mkdir(parents=True)
    result = call("report")
    assert loaded == [Path("results/latest")]
    assert result.output.strip() == f"reports/{table.rows[0].run_id}.html"
    assert (here / result.output.strip()).read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(("out", "file"), [("deep/er", "deep/er/{run}.html"), ("mine.html", "mine.html")])
def test_report_writes_where_it_is_told(here: Path, loaded: list[Path], table: Results, out: str, file: str) -> None:
    call("report", "some/results", "--out", out)
    assert loaded == [Path("some/results")]
    assert (here / file.format(run=table.rows[0].run_id)).is_file()


def test_report_to_a_place_that_cannot_be_written(here: Path, loaded: list[Path]) -> None:
    (here / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        call("report", "results", "--out", "file/page.html")


def test_show_draws_each_layer_that_differs(here: Path) -> None:
    output = call("show", "--method", "vmoba").output
    files = [f"reports/show-vmoba-layer{layer}.png" for layer in range(3)]
    assert [line for line in output.splitlines() if line.startswith("picture: ")] == [
        f"picture: {file}" for file in files
    ]
    for file in files:
        with Image.open(here / file) as image:
            assert image.format == "PNG"
            assert image.width > 600


def test_show_says_what_is_kept(here: Path) -> None:
    output = call(
        "show", "--method", "sliding-window", "--grid", "2x3x4", "--set", "window=[0,1,1]", "--out", "a.png"
    ).output
    # along h: 3 + 2·2 = 7 of 9 pairs, along w: 4 + 2·3 = 10 of 16, along t: 2 of 4
    assert "140 of 576 pairs kept, density 0.2431" in output
    assert "frame 0   frame 1" in output
    assert "········  ··██████" in output
    assert (here / "a.png").is_file()


def test_show_takes_several_methods_and_a_folder(here: Path) -> None:
    call("show", "--method", "full", "--method", "sliding-window", "--grid", "2x3x4", "--out", "pictures")
    assert {file.name for file in (here / "pictures").iterdir()} == {"show-full.png", "show-sliding-window.png"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--method", "vmobo"], "vmoba"),
        (["--method", "full", "--grid", "16x16x17"], "4,352 tokens"),
        (["--method", "full", "--grid", "big"], "big"),
        (["--method", "vmoba", "--out", "one.png"], "3 pictures"),
        (["--method", "full", "--out", "file/folder"], "cannot write"),
        (["--method", "sta", "--set", "tyle=[2,2,2]"], "tile"),
    ],
)
def test_show_refuses_in_one_sentence_and_draws_nothing(here: Path, words: list[str], complaint: str) -> None:
    (here / "file").write_text("")
    with pytest.raises(BadInput, match=complaint):
        call("show", *words)
    assert [path.name for path in here.iterdir()] == ["file"]


def test_show_in_a_terminal_that_knows_ascii_only(here: Path) -> None:
    words = ["show", "--method", "sliding-window", "--grid", "2x3x4"]
    program = f"import sys; sys.argv = ['attnbench', *{words!r}]; from attnbench.cli import main; main()"
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=ascii_only)
    assert done.stdout.isascii()
    assert b"@@" in done.stdout


def test_report_tells_machines_where_the_page_is_and_what_is_on_it(
    here: Path, loaded: list[Path], table: Results
) -> None:
    document = json.loads(call("report", "some/results", "--json", "--out", "a.html").output)
    assert document["path"] == "a.html"
    (section,) = document["sections"]
    assert (section["kind"], section["anchor"]) == ("case", "answer")
    page = (here / "a.html").read_text(encoding="utf-8")
    assert f'<section id="{section["anchor"]}"' in page
    assert section["facts"]["Shape"] in page
    assert section["finding"][0].startswith("At 480p on Test CPU, sta (reference) is 2.90×")
    assert section["facts"]["Dense baseline"].startswith("full/sdpa (torch 2.11.0), 100 ms")
    assert sorted(section["row_ids"]) == sorted(row.row_id for row in table.rows)


def test_show_tells_machines_what_it_draws(here: Path) -> None:
    words = ["show", "--method", "sliding-window", "--grid", "2x3x4", "--set", "window=[0,1,1]", "--out", "a.png"]
    (drawn,) = json.loads(call(*words, "--json").output)["pictures"]
    assert drawn["settings"] == {"width": None, "window": [0, 1, 1]}
    assert (drawn["method"], drawn["layer"], drawn["head"], drawn["grid"]) == ("sliding-window", 0, 0, "2x3x4")
    assert (drawn["kept"], drawn["pairs"], drawn["density"]) == (140, 576, 140 / 576)
    assert (drawn["picture"], drawn["query"]) == ("a.png", 12 + 4 + 2)
    # frame 1, rows 0 to 2, columns 1 to 3
    assert drawn["keys"] == [12 + 4 * row + column for row in range(3) for column in (1, 2, 3)]
    assert (here / "a.png").is_file()


def test_show_refuses_a_seed_that_torch_does_not_take(here: Path) -> None:
    result = CliRunner().invoke(app, ["show", "--method", "full", "--seed", str(2**32)])
    assert result.exit_code == 2
    assert "4294967295" in result.output


def test_a_torn_journal_is_said_once_however_often_it_is_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path(__file__).resolve().parents[2] / "results" / "intel-xeon-2-cores" / "720p.jsonl"
    (here / "torn.jsonl").write_bytes(whole.read_bytes()[:-50])
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])
    monkeypatch.setattr(sys, "argv", ["attnbench", "report", "torn.jsonl", "--out", "a.html"])
    with warnings.catch_warnings(action="always"), pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert capsys.readouterr().err.count("is torn and was left out") == 1
