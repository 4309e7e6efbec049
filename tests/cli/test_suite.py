"""``--suite``: cells become calls, a failing one costs itself only, and an interrupted suite goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import attnbench
from attnbench.cli.suite import COMMANDS
from attnbench.results.files import alone
from attnbench.results.training import runs_in

Call = Callable[..., tuple[int, str, str]]

SUITE = """
[defaults]
grid = "2x3x4"
heads = 1
head_dim = 32
inputs = "gaussian"
rounds = 3
device = "cpu"

[[cells]]
name = "small-{seed}"
method = ["sta", "sta:tile=(1,1,2),window=(1,1,1)"]
seed = [0, 1]

[[cells]]
name = "refused"
method = "sta"
dtype = "float7"
"""


@pytest.fixture(autouse=True)
def suite(tmp_path: Path) -> None:
    """A suite in the folder where the command line is called."""
    (tmp_path / "suite.toml").write_text(SUITE)


def test_every_cell_is_a_run_and_one_that_cannot_run_here_costs_itself_only(call: Call, tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE.replace('dtype = "float7"', 'engine = "flash4"'))
    code, out, err = call("run", "--suite", "suite.toml", "--out", "made")
    assert code == 2
    assert "refused: engine 'flash4'" in err
    assert "2 of 3 cells are fine: made" in out
    table = attnbench.load_results(tmp_path / "made")
    assert sorted(table["seed"]) == [0, 0, 1, 1]
    assert set(table["verdict"]) == {"ok"}
    header = json.loads((tmp_path / "made" / "small-0" / "journal.jsonl").read_text().splitlines()[0])
    assert header["environment"]["command"][:2] == ["attnbench", "run"]
    assert "--seed" in header["environment"]["command"]
    before = [(path, path.read_bytes()) for path in sorted((tmp_path / "made").rglob("journal.jsonl"))]
    (tmp_path / "suite.toml").write_text(SUITE.replace("float7", "float32"))
    code, out, err = call("run", "--suite", "suite.toml", "--resume", "made", "--json")
    document = json.loads(out)
    assert (code, [cell["exit_code"] for cell in document["cells"]]) == (0, [0, 0, 0])
    assert [(path, path.read_bytes()) for path, _ in before] == before
    assert len(attnbench.load_results(tmp_path / "made")) == 5


def test_a_dry_run_prints_the_calls_and_writes_nothing(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("profile", "--suite", "suite.toml", "--dry-run", "--only", "small-1")
    assert code == 0
    (line,) = out.splitlines()
    assert line.startswith("small-1: attnbench profile --grid 2x3x4 --heads 1")
    assert [path.name for path in tmp_path.iterdir()] == ["suite.toml"]


@pytest.mark.parametrize(
    ("only", "found"),
    [(["small-*"], ["small-0", "small-1"]), (["*-1"], ["small-1"]), (["*-1", "small-0"], ["small-0", "small-1"])],
)
def test_a_pattern_stands_for_the_cells_that_it_fits(call: Call, only: list[str], found: list[str]) -> None:
    words = [word for name in only for word in ("--only", name)]
    code, out, _ = call("run", "--suite", "suite.toml", "--dry-run", *words)
    assert (code, [line.partition(":")[0] for line in out.splitlines()]) == (0, found)


BAD = {
    "run": [
        ("dtype = 'float7'", "unknown dtype 'float7'"), ("res = '500p'", "unknown resolution '500p'"),
        ("method = 'vmbo'", "did you mean 'vmoba'"), ("set = ['tile=9']", "tile"), ("engine = 'warp'", "'warp'"),
        ("rounds = 'many'", "--rounds"), ("inputs = 'video:absent.mp4'", "absent.mp4"),
    ],
    "profile": [("repeats = 0", "--repeats"), ("checkpointing = true", "--checkpointing is for")],
    "step": [("set = ['tile=9']", "tile"), ("model = 'wan9'", "wan9"), ("method = 'vmbo'", "did you mean 'vmoba'")],
    "sweep": [("over = 'token'", "did you mean 'tokens'"), ("over = 'tokens'\npoints = 'x'", "--points 'x'")],
    "clips": [("metric = 'psn'", "did you mean 'psnr'"), ("method = 'full'", "--method full alone")],
    "train": [("coarse = ['3']", "--coarse '3'"), ("seconds = -1", "seconds"), ("judge = -1", "judge is -1")],
}  # fmt: skip


@pytest.mark.parametrize(("command", "line", "said"), [(name, *each) for name, all_ in BAD.items() for each in all_])
def test_a_cell_that_cannot_be_used_is_named_before_the_first_one_runs(
    call: Call, tmp_path: Path, command: str, line: str, said: str
) -> None:
    method = "" if line.startswith("method") else 'method = "sta"\n'
    good = '[[cells]]\nname = "good"\ncommand = "run"\nmethod = "sta"\ngrid = "2x3x4"\nheads = 1\nrounds = 3\n'
    text = f'{good}[[cells]]\nname = "bad"\ncommand = "{command}"\ndevice = "cpu"\n{method}{line}\n'
    (tmp_path / "suite.toml").write_text(text)
    code, out, err = call("run", "--suite", "suite.toml", "--out", "made")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("attnbench: suite 'suite.toml', cell 'bad': ")
    assert said in err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "suite.toml", "--heads", "3"], "--suite says what is measured; leave out --heads"),
        (["--suite", "suite.toml", "--only", "smal-0"], "unknown cell 'smal-0': did you mean 'small-0'"),
        (["--suite", "suite.toml", "--only", "big-*"], "unknown cell 'big-*'"),
        (["--suite", "suite.toml", "--resume", "nowhere"], "nothing to resume: 'nowhere' is not a folder"),
        (["--suite", "suite.toml", "--resume", ".", "--out", "x"], "leave out --out"),
        (["--only", "x"], "--only is for --suite"),
        (["--dry-run"], "--dry-run is for --suite"),
        (["--suite", "missing.toml"], "'missing.toml' cannot be read"),
    ],
)
def test_what_does_not_go_together_is_refused(call: Call, words: list[str], said: str, tmp_path: Path) -> None:
    code, out, err = call("run", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["suite.toml"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_goes_on_with_a_suite_as_it_says_when_it_is_interrupted(
    command: str, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "suite.toml").write_text(f'[[cells]]\ncommand = "{command}"\nname = "a"\n')
    code, out, err = call(command, "--suite", tmp_path / "suite.toml", "--resume", tmp_path, "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith(f"a: attnbench {command}")


def test_a_folder_that_holds_a_cell_is_not_written_again(call: Call, tmp_path: Path) -> None:
    (tmp_path / "made" / "small-1").mkdir(parents=True)
    code, _, err = call("run", "--suite", "suite.toml", "--out", "made")
    assert code == 2
    assert "holds 'small-1' already; choose another --out, or use --resume made" in err


@pytest.mark.slow
def test_a_step_that_was_killed_is_measured_anew(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "step.toml").write_text(
        '[[cells]]\nname = "s"\ncommand = "step"\nmethod = "sta"\nset = ["tile=1,2,2"]\n'
        'grid = "2x3x4"\ndevice = "cpu"\nrounds = 1\n'
    )
    code, _, _ = call("step", "--suite", "step.toml", "--out", "made")
    assert code == 0
    journal = tmp_path / "made" / "s" / "journal.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text(whole[0])
    code, _, _ = call("run", "--suite", "step.toml", "--resume", "made")
    assert code == 0
    assert len(journal.read_text().splitlines()) == len(whole)


def test_two_suites_are_not_run_in_one_folder_at_once(call: Call, tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE.replace("float7", "float32"))
    (tmp_path / "made").mkdir()
    with alone(tmp_path / "made", "running a suite in"):
        code, _, err = call("run", "--suite", "suite.toml", "--resume", "made")
    assert code == 2
    assert "another process is running a suite in 'made'; wait for it to end" in err
    assert list((tmp_path / "made").iterdir()) == []


TRAINING = """
[defaults]
command = "train"
model = "tiny"
batch = 2
held_out = 2
warmup = 2
device = "cpu"
coarse = ["2x3"]
dense_coarse = true

[[cells]]
name = "coarse/{seed}"
seed = [0, 1]
train_steps = 2

[[cells]]
name = "{method}-{seed}"
method = "vmoba"
seed = 0
train_steps = 100_000
full_seconds = 0.000001
judge = 3
coarse_from = "cell:coarse/{seed}"
"""


def test_training_runs_begin_with_the_results_of_earlier_cells(call: Call, tmp_path: Path) -> None:
    (tmp_path / "native.toml").write_text(TRAINING)
    code, out, _ = call("train", "--suite", "native.toml", "--out", "made", "--only", "vmoba-0")
    assert code == 0
    assert "2 of 2 cells are fine: made" in out
    place = tmp_path / "made" / "vmoba-0"
    steps = [json.loads(line)["step"] for line in (place / "train.jsonl").read_text().splitlines()]
    assert steps == [3, 3]  # the one step that it took itself, and its held-out loss
    assert json.loads((place / "mini.json").read_text())["score"]["clips"] == 3
    before = {path: path.read_bytes() for path in sorted((tmp_path / "made").rglob("*")) if path.is_file()}
    code, out, _ = call("train", "--suite", "native.toml", "--resume", "made")
    assert code == 0
    assert "3 of 3 cells are fine: made" in out
    assert {path: path.read_bytes() for path in before} == before
    assert [run.name for run in runs_in(tmp_path / "made")] == ["vmoba-0"]  # the coarse ones are deeper


def test_a_training_run_goes_on_where_and_as_long_as_its_cell_says(call: Call, tmp_path: Path) -> None:
    text = TRAINING.replace("full_seconds = 0.000001\njudge = 3", "seconds = 0.000001").replace("[0, 1]", "0")
    (tmp_path / "pieces.toml").write_text(text)
    for taken in (1, 2):  # another step with each call, on the device of the cell
        code, _, _ = call("train", "--suite", "pieces.toml", *(["--out"] if taken == 1 else ["--resume"]), "made")
        assert code == 0
        assert json.loads((tmp_path / "made" / "vmoba-0" / "mini.json").read_text())["steps"] == 2 + taken
