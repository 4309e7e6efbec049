"""`attnbench train` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

Result = tuple[int, str, str]
Call = Callable[..., Result]
TINY = ("train", "--model", "tiny", "--batch", "2", "--held-out", "2", "--device", "cpu", "--warmup", "2")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Call) -> Call:
    """Call the command line in an empty folder; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return command_line


def test_a_sparse_method_trains_stops_and_goes_on(call: Call, tmp_path: Path) -> None:
    asked = ("--method", "moba", "--set", "blocks=8", "--set", "topk=2", "--train-steps", "4", "--coarse", "2x3")
    code, said, progress = call(*TINY, *asked, "--out", "run", "--seconds", "0.000001")
    assert code == 0
    assert "time is up after step 1 of 4; continue with: attnbench train --resume run" in said
    assert "held-out loss" in progress
    code, said, _ = call("train", "--resume", "run", "--device", "cpu")
    assert code == 0
    assert "4 steps done: run/mini.safetensors" in said
    lines = [json.loads(line) for line in Path("run/train.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert {"loss", "seconds", "peak_mib", "rate"} <= steps[0].keys()
    assert json.loads(Path("run/config.json").read_text())["settings"] == {"blocks": 8, "topk": 2}


def test_methods_share_coarse_stages(call: Call) -> None:
    asked = ("--coarse", "2x3", "--dense-coarse")
    assert call(*TINY, "--train-steps", "2", *asked, "--out", "coarse")[0] == 0
    sparse = (
        "--method",
        "moba",
        "--set",
        "blocks=8",
        "--set",
        "topk=2",
        "--train-steps",
        "4",
        "--coarse-from",
        "coarse",
    )
    code, said, _ = call(*TINY, *asked, *sparse, "--out", "run")
    assert (code, said.strip()) == (0, "4 steps done: run/mini.safetensors")
    lines = [json.loads(line) for line in Path("run/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3, 4]
    code, _, said = call(*TINY, *asked, *sparse, "--out", "run")
    assert (code, "'run' holds a training run already" in said) == (2, True)
    code, _, said = call(*TINY, "--coarse", "2x3", *sparse, "--out", "other")
    assert (code, "add --dense-coarse" in said) == (2, True)
    assert not Path("other").exists()


def test_a_run_of_so_many_seconds_is_done_then_and_judged_by_its_own_attention(call: Call) -> None:
    asked = ("--method", "vmoba", "--set", "partition=1,(4,4),(2,4,4)", "--as-layer", "1", "--train-steps", "100000")
    limited = ("--coarse", "2x3", "--dense-coarse", "--full-seconds", "0.000001", "--judge", "16", "--ema", "0.9")
    code, said, _ = call(*TINY, *asked, *limited, "--out", "run")
    assert code == 0
    first, *shares = said.splitlines()
    assert first == "3 steps done: run/mini.safetensors"  # two coarse ones, which do not count, and one of full clips
    card = json.loads(Path("run/mini.json").read_text())
    assert card["training"]["as_layer"] == 1
    score = card["score"]
    assert (score["clips"], score["engine"]) == (16, "reference")
    assert score["class"][0] == 16 - len(score["wrong_class"])
    assert shares[0].startswith(f"class right: {score['class'][0]} of 16 = ")
    assert shares[1].startswith(f"motion right: {score['motion'][0]} of 16 = ")
    assert np.load("run/look.npy").shape == (15, 3, 4, 16, 16)
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    code, said, _ = call("train", "--resume", "run", "--device", "cpu")  # it is done: nothing changes
    assert (code, said.splitlines()) == (0, [first])
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before
    card.pop("score")
    Path("run/mini.json").write_text(json.dumps(card))  # as of a run that was killed while its clips were judged
    code, said, _ = call("train", "--resume", "run", "--device", "cpu")
    assert (code, said.splitlines()) == (0, [first, *shares])
    assert json.loads(Path("run/mini.json").read_text())["score"] == score


def test_every_layer_attends_as_the_one_that_is_named(call: Call) -> None:
    asked = ("--method", "vmoba", "--set", "partition=1,(4,4),(2,4,4)", "--train-steps", "9", "--lr", "0.1")
    for name, more in (("own", ()), ("first", ("--as-layer", "0")), ("third", ("--as-layer", "2"))):
        assert call(*TINY, *asked, *more, "--out", name)[0] == 0
    last = {name: Path(name, "train.jsonl").read_text().splitlines()[8] for name in ("own", "first", "third")}
    assert len({json.loads(line)["loss"] for line in last.values()}) == 3


def test_averaged_weights_follow_the_decay(call: Call) -> None:
    for decay in ("0.001", "0.999"):
        assert call(*TINY, "--train-steps", "12", "--lr", "0.1", "--ema", decay, "--out", decay)[0] == 0
    losses = [json.loads(Path(decay, "train.jsonl").read_text().splitlines()[-1]) for decay in ("0.001", "0.999")]
    assert losses[0]["held_out"] != losses[1]["held_out"]


@pytest.mark.slow
def test_under_torchrun_two_processes_make_one_run(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    train = [sys.executable, "-c", "from attnbench.cli import main; main()", *TINY, "--train-steps", "3"]
    done = subprocess.run([*torchrun, *train], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert done.stdout.strip() == f"3 steps done: {folder.relative_to(tmp_path) / 'mini.safetensors'}"
    assert json.loads((folder / "mini.json").read_text())["processes"] == 2
    assert done.stderr.count("step 3: held-out loss") == 1


@pytest.mark.slow  # the small version is in test_coarse.py
def test_under_torchrun_no_process_goes_on_without_the_first(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    coarse = [*TINY, "--coarse", "2x4", "--dense-coarse", "--coarse-from", "nowhere", "--train-steps", "3"]
    train = [sys.executable, "-c", "from attnbench.cli import main; main()", *coarse]
    done = subprocess.run([*torchrun, *train], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert "attnbench: 'nowhere' holds no training run" in done.stderr
    assert "attnbench/mini/workers.py" not in done.stderr  # no traceback of ours; torchrun has its own
    assert not (tmp_path / "results").exists()


def test_a_compiler_that_fails_is_told_in_a_sentence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def fails(*args: object, **kwargs: object) -> object:
        raise TorchDynamoException("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: fails)
    code, _, said = call(*TINY, "--train-steps", "2", "--compile", "--out", "run")
    assert code == 2
    assert "attnbench: --compile does not work here (No working C++ compiler found" in said
    assert not Path("run").exists()


@pytest.mark.slow
def test_without_a_compiler_nothing_is_compiled(tmp_path: Path) -> None:
    train = [sys.executable, "-c", "from attnbench.cli import main; main()", *TINY, "--train-steps", "2", "--compile"]
    here = {"PATH": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [*train, "--out", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=here, check=False
    )
    assert done.returncode == 2
    assert "attnbench: --compile does not work here (InvalidCxxCompiler: No working C++ compiler found" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_without_out_a_run_goes_among_the_others(call: Call) -> None:
    code, said, _ = call(*TINY, "--train-steps", "1")
    assert code == 0
    (folder,) = Path("results/runs").iterdir()
    assert folder.name.endswith("Z-train-full")
    assert str(folder) in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "vmbo"), "unknown method 'vmbo': did you mean 'vmoba'?"),
        (("--train-steps", "0"), "steps is 0; it must be a whole number of at least 1"),
        (("--model", "huge"), "unknown preset 'huge'"),
        (("--coarse", "3"), "--coarse '3' must be steps and clips per step, such as 2000x64"),
        (("--coarse", "10x2", "--train-steps", "9"), "more than the 9 steps of the whole run"),
        (("--seconds", "-1"), "seconds is -1.0; it must be above 0"),
        (("--set", "nothing=3"), "nothing"),
        (("--full-seconds", "0"), "full_seconds is 0.0; it must be a number of seconds above 0"),
        (("--judge", "-1"), "judge is -1; it must be a whole number of at least 0"),
        (("--ema", "1"), "ema is 1.0; it must lie between 0 and 1"),
        (("--as-layer", "-1"), "as_layer is -1"),
        (("--engine", "warp"), "unknown engine 'warp'"),
        (("--resume", "nowhere"), "holds no training run to resume"),
        (("--dtype", "float8"), "unknown dtype of training 'float8'"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(call: Call, words: tuple[str, ...], said: str) -> None:
    first = ("train", "--device", "cpu") if "--resume" in words else (*TINY, "--out", "run")
    code, out, err = call(*first, *words)
    assert code == 2
    assert out == ""
    assert err.startswith("attnbench: ")
    assert said in err
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


def test_resume_takes_no_settings(call: Call) -> None:
    code, _, err = call("train", "--resume", "run", "--train-steps", "3")
    assert code == 2
    assert "leave out --train-steps" in err


def test_a_folder_that_cannot_be_written_is_bad_input(call: Call) -> None:
    Path("file").write_text("")
    code, _, err = call(*TINY, "--out", "file/run")
    assert code == 2
    assert "cannot write" in err
