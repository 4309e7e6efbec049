"""The script of the gate action, on a throw-away repository: what it leaves for the steps after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from tests.results.test_baseline import write_run

if TYPE_CHECKING:
    from tests.projects import Project


SCRIPT = Path(__file__).parents[2] / ".github/actions/gate/gate.sh"
OPTIONS = (
    "--method thrown-away --grid 2x4x4 --heads 1 --head-dim 16 --inputs 'gaussian' --rounds 6 "
    "--stability-calls 2 --repeats 1 --threshold .9 --margin .9"
)


STUB = """#!/bin/sh
[ "$1" = run ] && exit 2
printf '%s\\n' "$@"
exit "${STUB_CODE:-0}"
"""
"""An attnbench that prints its words, one a line."""


def act(project: Project, *, at: Path | None = None, **inputs: str) -> tuple[str, str]:
    """Run the script; return the exit code and the text that it keeps."""
    out = project.root.parent / "kept"
    path = os.pathsep.join([str(at or Path(sys.executable).parent), os.environ["PATH"]])
    github = {name: str(project.root.parent / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "GATE_OPTIONS": OPTIONS, **github, **inputs}
    done = subprocess.run([SCRIPT, out], cwd=project.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = (out / "exit-code").read_text().strip()
    assert Path(github["GITHUB_OUTPUT"]).read_text().endswith(f"exit-code={code}\n")
    return code, (out / "gate.txt").read_text()


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A folder with a stub of the command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "attnbench").write_text(STUB)
    (folder / "attnbench").chmod(0o755)
    return folder


def test_a_run_is_judged_by_a_table(project: Project, tmp_path: Path) -> None:
    write_run(tmp_path / "table", {"moba": 5.0, "sta": 4.0})
    write_run(tmp_path / "same", {"moba": 5.0, "sta": 4.0}, "run-2")
    write_run(tmp_path / "changed", {"moba": 6.0}, "run-3")
    judge = {"GATE_BASELINE": str(tmp_path / "table"), "GATE_OPTIONS": ""}
    assert act(project, **judge, GATE_RUN=str(tmp_path / "same"))[0] == "0"
    code, text = act(project, **judge, GATE_RUN=str(tmp_path / "changed"))
    assert code == "1"
    assert "SLOW" in text
    suite = ElementTree.parse(project.root.parent / "kept/gate.xml").getroot()
    assert {case.get("name") for case in suite.findall(".//testcase[failure]")} == {"moba", "sta"}


def test_a_project_that_cannot_run_is_told_in_text_and_in_junit(project: Project) -> None:
    project.write("pyproject.toml", "[project]\nname = 3\n")
    code, text = act(project, GATE_AGAINST="main")
    assert code == "1"
    assert "Not compared: head cannot run: pip cannot install it: " in " ".join(text.split())
    assert "head cannot run" in (project.root.parent / "GITHUB_STEP_SUMMARY").read_text()
    (error,) = ElementTree.parse(project.root.parent / "kept/gate.xml").getroot().findall("testcase/error")
    assert str(error.get("message")).startswith("head cannot run: pip cannot install it: ")


@pytest.mark.slow
def test_a_planted_regression_is_kept_as_code_text_and_junit(project: Project) -> None:
    project.slow_down(0.2)
    code, text = act(project, GATE_AGAINST="main")
    assert code == "1"
    assert "SLOW" in text
    suite = ElementTree.parse(project.root.parent / "kept/gate.xml").getroot()
    assert suite.find(".//failure") is not None


@pytest.mark.slow
def test_no_change_is_code_0(project: Project) -> None:
    assert act(project, GATE_AGAINST="main")[0] == "0"


@pytest.mark.slow
def test_a_vanished_method_is_code_1(project: Project) -> None:
    project.lose_method()
    code, text = act(project, GATE_AGAINST="main")
    assert code == "1"
    assert "thrown-away: B does not know this method" in text


def test_options_are_words_and_never_code(project: Project, stub: Path) -> None:
    code, text = act(project, at=stub, GATE_AGAINST="main", GATE_OPTIONS="--res '$(touch ../harm)' --method 'a b'")
    assert (code, text.splitlines()[2:6]) == ("0", ["main", "--res", "$(touch ../harm)", "--method"])
    assert "a b" in text.splitlines()
    assert not (project.root.parent / "harm").exists()


def test_a_branch_that_a_shallow_checkout_lacks_is_fetched(project: Project, stub: Path, tmp_path: Path) -> None:
    project.git("checkout", "--quiet", "-b", "topic")
    project.write("new.py", "")
    project.commit("second")
    subprocess.run(
        ["git", "clone", "--quiet", "--depth=1", "--branch=topic", f"file://{project.root}", tmp_path / "clone"],
        check=True,
    )
    first, project.root = project.first, tmp_path / "clone"
    for given in ("main", first):
        assert act(project, at=stub, GATE_AGAINST=given)[1].splitlines()[:3] == ["gate", "--against", first]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"GATE_OPTIONS": "--method 'sta", "GATE_AGAINST": "main"}, "options '--method 'sta' are no shell words"),
        ({"GATE_AGAINST": "0" * 40}, f"origin has no commit '{'0' * 40}'"),
        ({"GATE_AGAINST": "--upload-pack=touch harm"}, "origin has no commit '--upload-pack=touch harm'"),
        ({"GATE_BASELINE": "table"}, "a baseline needs run (a finished run) or suite"),
        ({}, "it needs against (a commit) or baseline (a table)"),
    ],
)
def test_what_the_action_cannot_do_is_code_2_in_a_sentence(
    project: Project, stub: Path, inputs: dict[str, str], said: str
) -> None:
    code, text = act(project, at=stub, **inputs)
    assert code == "2"
    assert text.startswith(f"the gate action: {said}")
    assert not list(project.root.rglob("harm"))


def test_a_suite_that_cannot_run_is_not_judged_by_the_run_of_an_earlier_gate(
    project: Project, stub: Path, tmp_path: Path
) -> None:
    earlier = project.root.parent / "kept" / "run"
    earlier.mkdir(parents=True)
    act(project, at=stub, GATE_BASELINE="table", GATE_SUITE="absent.toml")
    assert not earlier.exists()


def test_nothing_that_is_printed_leaves_its_block_in_the_summary(project: Project, stub: Path) -> None:
    act(project, at=stub, GATE_AGAINST="main", GATE_OPTIONS="--method '```\n# big\r# bigger' ", STUB_CODE="137")
    summary = (project.root.parent / "GITHUB_STEP_SUMMARY").read_bytes().decode()
    assert "# big" in summary
    assert "\r" not in summary
    assert all(line.startswith("    ") for line in summary.splitlines())
