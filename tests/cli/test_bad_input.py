"""Bad input, as typed: one sentence that quotes it, exit code 2, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import attnbench
from attnbench.cli import main
from attnbench.results.journal import JOURNAL, Journal
from attnbench.results.records.cells import SCHEMA_VERSION

SMALL = ["--grid", "3x5x7", "--heads", "2", "--head-dim", "32", "--inputs", "gaussian", "--device", "cpu"]
CLIP = Path(attnbench.__file__).parent / "inputs" / "data" / "big_buck_bunny.mp4"

Refuse = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refuse(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Call the command line; return the one sentence it refuses with, having checked all else."""

    def call(*words: str) -> str:
        before = sorted(here.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["attnbench", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capsys.readouterr()
        assert exit_.value.code == 2, said.err
        assert said.out == ""
        *steps, sentence = said.err.splitlines()
        # Inputs are read only after this line, so what is wrong with a file comes below it.
        assert [line for line in steps if not line.startswith("attnbench: inputs: ")] == []
        assert sentence.startswith("attnbench: ")
        assert "Traceback" not in said.err
        assert "[type=" not in sentence, "pydantic's own words"
        assert sorted(here.rglob("*")) == before, "something was written"
        return sentence.removeprefix("attnbench: ")

    return call


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # unknown names, with the closest known one
        (["--method", "vmba"], "unknown method 'vmba': did you mean 'vmoba'?"),
        (["--method", "zzz"], "unknown method 'zzz': known: "),
        (["--engine", "sdap"], "unknown engine 'sdap': did you mean 'sdpa'?"),
        (["--model", "wan2.1"], "unknown model 'wan2.1': did you mean 'wan2.1-"),
        (["--dtype", "bfloat"], "unknown dtype 'bfloat': did you mean 'bfloat16'?"),
        (["--inputs", "gausian"], "unknown inputs 'gausian': did you mean 'gaussian'?"),
        (["--method", "moba", "--set", "topl=3"], "unknown setting of 'moba' 'topl': did you mean 'topk'?"),
        (["--method", "full", "--set", "topk=3"], "unknown setting 'topk': method 'full' has no settings"),
        (["--direction", "backward"], "direction 'backward' must be fwd or fwdbwd"),
        (["--device", "tpu"], "device 'tpu' must be cpu or cuda"),
        # grids and counts
        (["--grid", "3x5"], "grid '3x5' must be three positive whole numbers"),
        (["--grid", "3x5x0"], "must be three positive whole numbers"),
        (["--grid", "3x5x-7"], "grid '3x5x-7' must be"),
        (["--grid", "3x5x7x2"], "grid '3x5x7x2' must be"),
        (["--grid", "a x b x c"], "grid 'a x b x c' must be"),
        (["--grid", ""], "grid '' must be"),
        (["--grid", "99999x99999x99999"], "grid 99999x99999x99999 "),
        (["--heads", "0"], "heads 0 must be"),
        (["--heads", "3", "--kv-heads", "2"], "kv_heads 2 must divide heads 3"),
        (["--head-dim", "-1"], "head_dim -1 must be"),
        (["--batch", "0"], "batch 0 must be"),
        (["--layers", "-1"], "--layers '-1' must be whole numbers, as 0,1,5-8"),
        (["--rounds", "0"], "rounds 0 must be"),
        (["--budget", "0"], "budget 0 must be"),
        (["--budget", "nan"], "budget nan cannot be used"),
        (["--budget", "inf"], "budget inf cannot be used"),
        (["--seed", "-1"], "seed -1 must be"),
        (["--seed", "99999999999999999999"], "seed 99999999999999999999 must be"),
        # settings of the wrong type or range
        (["--method", "vmoba", "--set", "threshold=0"], "threshold is 0; it must be a number above 0 and at most 1"),
        (["--method", "vmoba", "--set", "threshold=1.01"], "threshold is 1.01"),
        (["--method", "vmoba", "--set", "threshold=-.5"], "threshold is -0.5"),
        (["--method", "vmoba", "--set", "threshold=NaN"], "threshold is nan"),
        (["--method", "vmoba", "--set", "threshold=high"], "threshold is 'high'"),
        (["--method", "vmoba", "--set", "partition=3,3"], "partition is "),
        (["--method", "moba", "--set", "topk=0"], "topk is 0; it must be"),
        (["--method", "moba", "--set", "topk=-2"], "topk is -2"),
        (["--method", "moba", "--set", "topk=1.5"], "topk is 1.5"),
        (["--method", "moba", "--set", "topk=true"], "topk is True"),
        (["--method", "moba", "--set", "blocks=none", "--set", "block_size=0"], "block_size is 0"),
        (["--method", "sta", "--set", "tile=(1,1,1)", "--set", "window=(2,3,3)"], "window is (2, 3, 3)"),
        (["--method", "sta", "--set", "window=3"], "window is 3; it must be 3 whole numbers"),
        (["--method", "sta", "--set", "tile={1: 2}"], "tile is {1: 2}"),
        (["--method", "sliding-window", "--set", "width=-1"], "width is -1"),
        # what the shape or the direction does not fit
        (["--method", "sparge:topk=[.5,.5,.5]"], "topk has 3 values and q has 2 heads; give one value, or one for"),
        (["--method", "svg1:temporal=[true]"], "temporal has 1 value and q has 2 heads"),
        (["--method", "radial:block=1000"], "block is 1000; it must fit into the 105 tokens of the grid"),
        (["--method", "sol-attn", "--direction", "fwdbwd"], "method 'sol-attn' has no gradient: leave it out of"),
        # --set itself
        (["--method", "moba", "--set", "topk"], "--set 'topk' must be name=value"),
        (["--method", "moba", "--set", "=3"], "--set '=3' must be name=value"),
        (["--method", "moba", "--set", "sta.tile=3"], "--set 'sta.tile=3' is for method 'sta', which is not run"),
        (["--method", "moba", "--method", "sta", "--set", "topk=3"], "--set 'topk=3' names no method and 2 are run"),
        # an engine that cannot serve the cell
        (["--method", "moba", "--engine", "sdpa"], "engine 'sdpa' runs full attention only"),
        # what typer finds
        (["--heads", "many"], "not 'many'; attnbench run --help says what there is"),
        (["--budget", "much"], "not 'much'"),
        (["--layers", "one"], "--layers 'one' must be whole numbers"),
        (["--metod", "moba"], "--metod"),
        (["moba"], "moba"),
    ],
)
def test_what_cannot_be_run_is_quoted(refuse: Refuse, words: list[str], said: str) -> None:
    method = [] if "--method" in words else ["--method", "sta"]
    assert said in refuse("run", *SMALL, *method, *words, "--out", "run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--res", "481p"], "unknown resolution '481p': did you mean '480p'?"),
        (["--frames", "80"], "frames 80 must be of the form 4k+1, such as 77 or 81"),
        (["--frames", "abc"], "not 'abc'"),
        (["--grid", "3x5x7", "--frames", "5"], "--grid 3x5x7 already says the tokens: drop --frames 5"),
        (["--model", "mini", "--res", "480p"], "--model mini has one grid, 8x32x32: drop --res 480p"),
        (["--model", "mini", "--layers", "6"], "layer 6 is not one of the 6 layers of mini"),
    ],
)
def test_shapes_that_do_not_exist_are_quoted(refuse: Refuse, words: list[str], said: str) -> None:
    assert said in refuse("run", "--inputs", "gaussian", "--device", "cpu", *words)


def test_cuda_without_a_gpu_is_refused(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device 'cuda' cannot be used" in refuse("run", *SMALL, "--device", "cuda")


# Inputs.


def with_inputs(spec: str, grid: str = "2x4x4") -> list[str]:
    return ["run", "--method", "full", "--grid", grid, "--heads", "2", "--head-dim", "8", "--inputs", spec,
            "--device", "cpu", "--out", "run"]  # fmt: skip


def test_a_video_that_cannot_be_used_is_quoted(refuse: Refuse, here: Path) -> None:
    (here / "text.mp4").write_text("not a video\n" * 50)
    (here / "empty.mp4").write_bytes(b"")
    (here / "half.mp4").write_bytes(CLIP.read_bytes()[: CLIP.stat().st_size // 2])
    assert "'gone.mp4' does not exist" in refuse(*with_inputs("video:gone.mp4"))
    assert "'~nobody-of-that-name/x.mp4' does not exist" in refuse(*with_inputs("video:~nobody-of-that-name/x.mp4"))
    assert "does not exist" in refuse(*with_inputs("video:" + "x" * 300))
    assert "is not a file" in refuse(*with_inputs(f"video:{here}"))
    for name in ("text.mp4", "empty.mp4", "half.mp4"):
        assert f"video '{name}' " in refuse(*with_inputs(f"video:{name}"))
    assert "frames and 797 are needed" in refuse(*with_inputs(f"video:{CLIP}", grid="200x4x4"))


def captured(**changes: Any) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(1, 2, 32, 8) for name in "qkv"} | changes


def test_a_capture_that_cannot_be_used_is_quoted(refuse: Refuse, here: Path) -> None:
    save = pytest.importorskip("safetensors.torch").save_file
    nan, inf = torch.zeros(1, 2, 32, 8), torch.zeros(1, 2, 32, 8)
    nan[0, 1, 5, 3], inf[0, 0, 0, 0] = float("nan"), float("inf")
    cases: dict[str, tuple[dict[str, torch.Tensor], str]] = {
        "nan": (captured(k=nan), "k holds 1 NaN or Inf"),
        "inf": (captured(v=inf), "v holds 1 NaN or Inf"),
        "tokens": (captured(q=torch.zeros(1, 2, 31, 8)), "q is (1, 2, 31, 8), and the shape asked for needs"),
        "heads": (captured(v=torch.zeros(1, 3, 32, 8)), "v is (1, 3, 32, 8)"),
        "names": ({"q": torch.zeros(1)}, "has no tensor k and no tensor v"),
        "whole": (captured(q=torch.zeros(1, 2, 32, 8, dtype=torch.int32)), "q is torch.int32"),
    }
    for name, (tensors, said) in cases.items():
        save(tensors, here / f"{name}.safetensors")
        sentence = refuse(*with_inputs(f"capture:{name}.safetensors"))
        assert said in sentence
        assert f"{name}.safetensors'" in sentence
    torch.save(captured(), here / "pickled.safetensors")
    assert "'pickled.safetensors' cannot be read" in refuse(*with_inputs("capture:pickled.safetensors"))


# Folders and journals.


@pytest.mark.parametrize("out", ["file", "file/below", "x" * 300, "/proc/nowhere/run"])
def test_a_folder_that_cannot_be_written_is_quoted(refuse: Refuse, here: Path, out: str) -> None:
    (here / "file").write_text("")
    assert f"cannot write results to '{out}'" in refuse("run", *SMALL, "--method", "sta", "--out", out)


@pytest.fixture
def results(here: Path) -> Path:
    """The journal of a run that was interrupted after one sample."""
    environment: dict[str, Any] = {
        "device": "a machine", "device_kind": "cpu", "cores": 2, "memory_gib": 8.0, "python": "3.11",
        "platform": "Linux", "packages": {}, "started_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    lines = [
        {"kind": "run", "schema_version": SCHEMA_VERSION, "run_id": "r", "environment": environment,
         "request": {"methods": {"sta": {}}, "grid": "3x5x7", "device": "cpu", "inputs": "gaussian"}},
        {"kind": "sample", "cell_id": "c", "round": 0, "cold_ms": 1.0, "heads_timed": 1, "inputs_hash": "h"},
    ]  # fmt: skip
    path = here / "old" / JOURNAL
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_folder_that_holds_a_run_is_not_written_over(refuse: Refuse, results: Path) -> None:
    before = results.read_bytes()
    assert "'old' holds a run already" in refuse("run", *SMALL, "--method", "sta", "--out", "old")
    assert results.read_bytes() == before


def test_a_run_of_another_device_cannot_be_resumed(refuse: Refuse, results: Path) -> None:
    assert "'old' was measured on 'a machine' and this is" in refuse("run", "--resume", "old")


def test_what_cannot_be_resumed_is_quoted(refuse: Refuse, results: Path) -> None:
    assert "nothing to resume: 'gone' has no journal.jsonl" in refuse("run", "--resume", "gone")
    assert "has no journal.jsonl" in refuse("run", "--resume", "x" * 300)
    assert "leave out --method, --out" in refuse("run", "--resume", "old", "--method", "sta", "--out=new")
    journal, _ = Journal.resume(results.parent)
    with journal:
        assert "another process is writing 'old'" in refuse("run", "--resume", "old")


@pytest.mark.parametrize("command", [["run", "--resume"], ["report"], ["compare", "old"]])
def test_a_newer_schema_and_a_damaged_line_are_refused_by_every_reader(
    refuse: Refuse, results: Path, command: list[str]
) -> None:
    text = results.read_text()
    newer = text.replace(f'"schema_version": {SCHEMA_VERSION}', f'"schema_version": {SCHEMA_VERSION + 1}')
    results.write_text(newer)
    assert f"has schema version {SCHEMA_VERSION + 1}; this attnbench reads up to" in refuse(*command, "old")
    results.write_text("not a journal\n" + text)
    assert "line 1 is not a record of a results journal: 'not a journal'" in refuse(*command, "old")


# Other commands, and other processes.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ls", "methds"], "'methds' is not one of"),
        (["ls"], "shapes, methods, engines, models, inputs"),
        (["rn"], "'rn'"),
        (["run", "--resume"], "'--resume' requires an argument"),
    ],
)
def test_commands_that_do_not_exist_are_quoted(refuse: Refuse, words: list[str], said: str) -> None:
    assert said in refuse(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", *SMALL, "--method", "vmba"], "attnbench: unknown method 'vmba': did you mean 'vmoba'?"),
        (["run", *SMALL, "--heads", "lots"], "attnbench: Invalid value for '--heads': "),
    ],
)
def test_a_process_of_its_own_says_the_same(words: list[str], said: str, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from attnbench.cli import main; main()"]
    done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
