"""The script of the gate action, on a throw-away repository: what it leaves for the steps after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

if TYPE_CHECKING:
    from tests.projects import Project


SCRIPT = Path(__file__).parents[2] / ".github/actions/gate/gate.sh"
TABLE = Path(__file__).parents[2] / "results/intel-xeon-2-cores/table.parquet"
OPTIONS = (
    "--method thrown-away --grid 2x4x4 --heads 1 --head-dim 16 --inputs 'gaussian' --rounds 6 "
    "--stability-calls 2 --repeats 1 --threshold .9 --margin .9"
)


def act(project: Project, **inputs: str) -> tuple[str, str]:
    """Run the script; return the exit code and the text that it keeps."""
    out = project.root.parent / "kept"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "GATE_OPTIONS": OPTIONS, **inputs}
    done = subprocess.run([SCRIPT, out], cwd=project.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (out / "exit-code").read_text().strip(), (out / "gate.txt").read_text()


def test_a_run_is_judged_by_a_table(project: Project, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    journal = TABLE.with_name("720p.jsonl").read_text()
    (run / "journal.jsonl").write_text(journal)
    judge = {"GATE_BASELINE": str(TABLE), "GATE_RUN": str(run), "GATE_OPTIONS": ""}
    assert act(project, **judge)[0] == "0"
    kept = [line for line in journal.splitlines(keepends=True) if json.loads(line).get("method") != "moba"]
    (run / "journal.jsonl").write_text("".join(kept))
    code, text = act(project, **judge)
    assert code == "1"
    assert "moba" in text
    failed = ElementTree.parse(project.root.parent / "kept/gate.xml").getroot().findall(".//testcase[failure]")
    assert ["moba" in case.get("name", "") for case in failed] == [True]


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
    assert "unknown method 'thrown-away'" in text


def test_options_are_words_and_never_code(project: Project) -> None:
    code, text = act(project, GATE_AGAINST="main", GATE_OPTIONS="--res '$(touch ../harm)' --method 'a b'")
    assert code == "2"
    assert "$(touch ../harm)" in text
    assert not (project.root.parent / "harm").exists()
