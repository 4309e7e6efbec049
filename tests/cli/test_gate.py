"""The gate: a planted regression and a vanished method fail, an A/A passes, and what cannot run is told apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from attnbench.methods.registry import OF_ONE
from attnbench.results.load import read

if TYPE_CHECKING:
    from tests.projects import Project

Call = Callable[..., tuple[int, str, str]]

# Of fewer than five rounds a single disturbed one is not left out.
CELLS = (
    "--grid", "2x4x4", "--heads", "1", "--head-dim", "16", "--inputs", "gaussian", "--rounds", "6",
    "--stability-calls", "2", "--in-process",
)  # fmt: skip


EARLIER = '<testsuite name="attnbench compare" tests="1"/>'
"""A report that an earlier gate has left."""


def attnbench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "attnbench", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def gate(project: Project, *words: str) -> tuple[int, dict[str, Any]]:
    done = attnbench(project.root, "gate", "--against", "main", "--json", "--out", "../gate", *words)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"said": done.stderr}


def test_a_planted_regression_fails_and_the_runs_are_kept(project: Project) -> None:
    project.slow_down(0.2)
    code, found = gate(project, "--method", "thrown-away", *CELLS, "--repeats", "1")
    assert (code, found["counts"]) == (1, {"slower": 1})
    assert found["cells"][0]["ratio"] > 2
    assert found["against"] == project.first
    runs = {str(path.relative_to(project.root.parent)) for path in project.root.parent.glob("gate/*/*/journal.jsonl")}
    assert runs == {f"gate/{version}/01/journal.jsonl" for version in ("base", "head")}


@pytest.mark.slow
def test_no_change_is_no_regression(project: Project) -> None:
    # The margins are wide: this machine may be busy, and 32 tokens take microseconds.
    code, found = gate(project, "--method", "thrown-away", *CELLS, "--threshold", "0.9", "--margin", "0.9")
    assert code == 0, found


RENAMED = ("--method", "thrown-away", "--method", "sta", "--method", "renamed", "--repeats", "1")
WIDE = ("--threshold", "0.9", "--margin", "0.9")


def test_a_method_that_only_one_version_has_is_lost_or_new(project: Project) -> None:
    project.rename_method("renamed")
    code, found = gate(project, *RENAMED, *CELLS, *WIDE)
    assert (code, found["exit_code"]) == (1, 1), found
    cells = {cell["cell"]["method"]: cell for cell in found["cells"]}
    assert {name: (cell["change"], cell["reason"]) for name, cell in cells.items() if name != "sta"} == {
        "thrown-away": ("only in A", "B does not know this method"),
        "renamed": ("only in B", "new: A does not know this method"),
    }
    assert cells["sta"]["judged_by"] == "latency in turns"


@pytest.mark.slow
@pytest.mark.parametrize("isolate", ["--in-process", "--isolate"])
def test_a_method_that_was_renamed_on_purpose_is_admitted(project: Project, isolate: str) -> None:
    project.rename_method("renamed")
    suite = """
        [[cells]]
        name = "one"
        method = ["thrown-away", "sta", "renamed"]
        [[cells]]
        name = "two"
        method = ["renamed", "moba"]
        [[cells]]
        name = "three"
        method = ["thrown-away"]
        seed = 1
        [defaults]
        grid = "2x4x4"
        heads = 1
        head_dim = 16
        inputs = "gaussian"
        rounds = 6
        stability_calls = 2
    """
    suite += "isolate = false" if isolate == "--in-process" else "isolate = true"
    project.write("gate.toml", suite)
    code, found = gate(project, "--suite", "gate.toml", "--repeats", "1", *WIDE, "--allow-missing", "thrown-away")
    assert code in (0, 3), found
    changes = [(cell["cell"]["method"], cell["change"], cell["allowed"]) for cell in found["cells"]]
    assert changes.count(("thrown-away", "only in A", True)) == 2
    assert changes.count(("renamed", "only in B", False)) == 1
    judged = {cell["cell"]["method"]: cell["judged_by"] for cell in found["cells"] if cell["ratio"] is not None}
    assert judged == {"sta": "latency in turns", "moba": "latency in turns"}


@pytest.mark.slow
def test_the_only_method_that_vanished_fails(project: Project) -> None:
    project.lose_method()
    code, found = gate(project, "--method", "thrown-away", *CELLS, "--repeats", "1")
    assert (code, found["exit_code"], found["counts"]) == (1, 1, {"only in A": 1})


@pytest.mark.slow
def test_the_only_method_that_is_new_has_nothing_to_be_compared_with(project: Project) -> None:
    project.lose_method()
    project.commit("without the method")
    project.git("checkout", "--quiet", project.first, "--", ".")
    code, found = gate(project, "--method", "thrown-away", *CELLS, "--repeats", "1")
    assert (code, found["exit_code"], found["counts"]) == (4, 4, {"only in B": 1})


def test_a_method_that_neither_version_has_is_code_4(project: Project) -> None:
    code, found = gate(project, "--method", "sta", "--method", "thrown-awry", *CELLS, "--repeats", "1")
    assert (code, found["exit_code"]) == (4, 4)
    assert "unknown method 'thrown-awry': did you mean 'thrown-away'?" in found["refusal"]


def test_a_run_leaves_out_what_only_the_other_version_has(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("run", "--method", "sta", "--method", "elsewhere:tile=3", "--method", "gone", *CELLS, "--out")
    monkeypatch.setenv(OF_ONE, "elsewhere")
    code, _, err = call(*words, "one")
    assert code == 2
    assert "unknown method 'gone'" in err
    monkeypatch.setenv(OF_ONE, "elsewhere\ngone")
    code, _, err = call(*words, "two")
    assert code == 0, err
    found = read(Path("two"))
    assert [row.method for row in found.rows] == ["sta"]
    assert found.headers[0].unknown_methods == ["elsewhere", "gone"]
    assert [each["method"] for each in found.headers[0].request["methods"]] == ["sta", "elsewhere", "gone"]
    code, out, err = call("run", "--method", "gone", *CELLS, "--out", "three")
    assert (code, read(Path("three")).rows) == (1, ())
    assert "left out: only the other version of this gate has the method 'gone'" in err
    assert "three" in out


@pytest.mark.parametrize(("broken", "code"), [("head", 1), ("base", 4)])
def test_a_version_that_cannot_run_is_told_in_every_form(
    project: Project, broken: str, code: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = (project.root / "pyproject.toml").read_text()
    project.write("pyproject.toml", "[project]\nname = 3\n")
    if broken == "base":
        project.commit("broken")
        project.write("pyproject.toml", works)
    monkeypatch.chdir(project.root)
    project.write("gate.xml", EARLIER)
    words = ("gate", "--against", "main", *CELLS, "--out", "../gate", "--junit", "gate.xml")
    ended, out, err = call(*words, "--json")
    found = json.loads(out)
    assert (ended, found["exit_code"]) == (code, code), err
    assert found["refusal"].startswith(f"{broken} cannot run: pip cannot install it: ")
    assert found["against"] == project.git("rev-parse", "HEAD")
    (case,) = ElementTree.parse("gate.xml").getroot()
    (error,) = case.findall("error")
    assert error.get("message") == found["refusal"]
    if broken == "base":  # which fails first
        assert call(*words)[1].startswith("Not compared: base cannot run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "gate needs either RUN --baseline TABLE, or --against REV"),
        (["--against", "main", "--baseline", "x"], "gate needs either"),
        (["--baseline", "x"], "needs a run to judge"),
        (["run", "--against", "main"], "leave out 'run'"),
        (["run", "--baseline", "x", "--rounds", "3"], "leave out --rounds"),
        (["--against", "main", "--suite", "x.toml", "--res", "480p"], "leave out --res"),
        (["--against", "nothing", "--grid", "2x4x4"], "'nothing' is no commit"),
        (["--against", "main", "--res", "721p"], "721p"),
        (["--against", "main", "--repeats", "many"], "--repeats 'many' must be a whole number from 1 to 1000, or auto"),
        (["--against", "main", "--repeats", "0"], "--repeats '0' must be"),
        (["--against", "main", "--pool"], "--pool is for --baseline"),
        (["--against", "main", "--suite", "absent.toml"], "suite 'absent.toml' cannot be read"),
        (["--against", "main", "-m", "thrown-away:tile"], "'tile' must be setting=value"),
        (["--against", "main", "-m", "moba", "--density", "2"], "density 2.0 must be 1.0 or less"),
        (["--against", "nothing", "-m", "moba", "--density", "0.5", "--grid", "2x4x4"], "'nothing' is no commit"),
        (["--against", "main", "--grid", "2x4x4", "--out", "full"], "'full' is not empty"),
        (["run", "--baseline", "x", "--update", "--pool"], "leave out --pool"),
        (["--against", "main", "--noise", "absent.json"], "absent.json"),
        (["absent", "--baseline", "absent"], "absent"),
    ],
)
def test_bad_input_is_code_2_and_leaves_nothing(
    project: Project, words: list[str], said: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    project.write("gate.xml", EARLIER)
    (project.root / "full" / "base").mkdir(parents=True)
    code, out, err = call("gate", *words, "--junit", "gate.xml", "--json")
    assert (code, out) == (2, ""), err
    assert said in " ".join(err.split())
    assert not (project.root / "results").exists()
    assert not (project.root / "gate.xml").exists()


def test_a_run_is_judged_by_a_table(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call("run", "--method", "sta", "--method", "moba", *CELLS, "--out", "table")
    assert code == 0, err
    shutil.copytree("table", "run")
    code, out, _ = call("gate", "run", "--baseline", "table", "--json")
    assert code == 0, out
    assert all(cell["ratio"] == 1 for cell in json.loads(out)["cells"])
    code, _, err = call("run", "--method", "moba", *CELLS, "--out", "other")
    assert code == 0, err
    code, out, _ = call("gate", "other", "--baseline", "table", "--threshold", "0.9", "--junit", "gate.xml")
    assert code == 1
    assert "sta" in out
    assert "<failure" in Path("gate.xml").read_text()
    journal = Path("table/journal.jsonl").read_bytes()
    for words in (("gate", "run", "--baseline", "table"), ("compare", "table", "run")):
        code, out, err = call(*words, "--junit", "table/journal.jsonl")
        assert (code, out) == (2, "")
        assert "'table/journal.jsonl' holds something else than the report of a comparison" in err
    assert Path("table/journal.jsonl").read_bytes() == journal


def test_all_runs_are_judged_together_where_that_is_asked_for(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        code, _, err = call("run", "--method", "sta", *CELLS, "--out", f"runs/{name}")
        assert code == 0, err
    shutil.copytree("runs/two", "table")
    _, out, _ = call("gate", "runs", "--baseline", "table", "--json")
    assert json.loads(out)["cells"][0]["ratio"] == 1, "the newest run is that of the table"
    _, out, _ = call("gate", "runs", "--baseline", "table", "--json", "--pool")
    assert json.loads(out)["cells"][0]["ratio"] != 1
