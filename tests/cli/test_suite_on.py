"""``--on``: the plan and its time, what is refused before anything is written, and a suite on workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import attnbench

Call = Callable[..., tuple[int, str, str]]

SUITE = """
[defaults]
grid = "2x3x4"
heads = 1
head_dim = 32
inputs = "gaussian"
rounds = 3
device = "cpu"
budget = 15

[[cells]]
name = "two"
method = ["sta", "moba:blocks=4,topk=2"]

[[cells]]
name = "curve"
command = "sweep"
over = "tokens"
points = "24,48"
method = "sta"
"""


@pytest.fixture(autouse=True)
def suite(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE)


def test_a_dry_run_prints_the_plan_and_its_time(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("run", "--suite", "suite.toml", "--on", "local", "--dry-run")
    two, curve, whole = out.splitlines()
    assert code == 0
    # 3 processes of 20 s, each stopped after 30 + 2 x 15 s; two points of a baseline and a cell or two
    assert two.startswith("two: attnbench run --grid 2x3x4")
    assert two.endswith("(2 rows, about 1 min 00 s, at most 3 min 00 s)")
    assert "rows, about" in curve
    assert whole.startswith("2 cells on local, one a GPU: about ")
    assert whole.endswith(" of GPU time")
    assert [path.name for path in tmp_path.iterdir()] == ["suite.toml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "suite.toml", "--on", "slrm"], "unknown engine of --on 'slrm': did you mean 'slurm'"),
        (["--suite", "suite.toml", "--on", "local:gpus=x"], "gpus 'x'"),
        (["--suite", "suite.toml", "--on", "local:gpus=99"], "--on local:gpus=99: this machine has"),
        (["--on", "local"], "--on is for --suite"),
        (["--suite", "suite.toml", "--on", "local", "--resume", "nowhere"], "'nowhere' is not a folder"),
    ],
)
def test_what_cannot_be_asked_writes_no_results(call: Call, words: list[str], said: str, tmp_path: Path) -> None:
    code, out, err = call("run", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_a_bad_cell_is_named_before_a_worker_begins(call: Call, tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE.replace("blocks=4", "bloks=4"))
    code, _, err = call("run", "--suite", "suite.toml", "--on", "local", "--out", "made")
    assert code == 2
    assert "cell 'two'" in err
    assert "'bloks'" in err
    assert not (tmp_path / "made").exists()


def test_a_cell_over_several_gpus_is_not_given_to_workers_of_one(call: Call, tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE.replace('name = "two"', 'name = "two"\ngpus = 2'))
    code, _, err = call("run", "--suite", "suite.toml", "--on", "local", "--out", "made")
    assert code == 2
    assert "cell 'two' is measured over several GPUs" in err
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_workers_measure_what_the_suite_says(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("run", "--suite", "suite.toml", "--on", "local", "--out", "made", "--json")
    document = json.loads(out)
    assert code == 0
    assert [(cell["name"], cell["exit_code"]) for cell in document["cells"]] == [("two", 0), ("curve", 0)]
    table = attnbench.load_results(tmp_path / "made")
    assert set(table["verdict"]) == {"ok"}
    assert set(table["method"]) >= {"sta", "moba"}
    code, _, err = call("run", "--suite", "suite.toml", "--on", "local", "--out", "made")
    assert code == 2
    assert "holds 'two' already" in err
