"""`attnbench train` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbench.cli import main

Result = tuple[int, str, str]
Call = Callable[..., Result]
TINY = ("train", "--model", "tiny", "--batch", "2", "--held-out", "2", "--device", "cpu", "--warmup", "2")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in an empty folder; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["attnbench", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, said.out, said.err

    return run


def test_a_sparse_method_trains_stops_and_goes_on(call: Call, tmp_path: Path) -> None:
    asked = ("--method", "moba", "--set", "blocks=8", "--set", "topk=2", "--steps", "4", "--coarse", "2x3")
    code, said, progress = call(*TINY, *asked, "--out", "run", "--seconds", "0.000001")
    assert code == 0
    assert "time is up after step 1 of 4; go on with: attnbench train --resume run" in said
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
    assert call(*TINY, "--steps", "2", *asked, "--out", "coarse")[0] == 0
    sparse = ("--method", "moba", "--set", "blocks=8", "--set", "topk=2", "--steps", "4", "--coarse-from", "coarse")
    code, said, _ = call(*TINY, *asked, *sparse, "--out", "run")
    assert (code, said.strip()) == (0, "4 steps done: run/mini.safetensors")
    lines = [json.loads(line) for line in Path("run/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3, 4]
    code, _, said = call(*TINY, *asked, *sparse, "--out", "run")
    assert (code, "'run' holds a training run already" in said) == (2, True)
    code, _, said = call(*TINY, "--coarse", "2x3", *sparse, "--out", "other")
    assert (code, "add --dense-coarse" in said) == (2, True)
    assert not Path("other").exists()


def test_under_torchrun_two_processes_make_one_run(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    train = [sys.executable, "-c", "from attnbench.cli import main; main()", *TINY, "--steps", "3"]
    done = subprocess.run([*torchrun, *train], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert done.stdout.strip() == f"3 steps done: {folder.relative_to(tmp_path) / 'mini.safetensors'}"
    assert json.loads((folder / "mini.json").read_text())["processes"] == 2
    assert done.stderr.count("step 3: held-out loss") == 1


def test_under_torchrun_no_process_goes_on_without_the_first(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    coarse = [*TINY, "--coarse", "2x4", "--dense-coarse", "--coarse-from", "nowhere", "--steps", "3"]
    train = [sys.executable, "-c", "from attnbench.cli import main; main()", *coarse]
    done = subprocess.run([*torchrun, *train], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert "attnbench: 'nowhere' holds no training run" in done.stderr
    assert "attnbench/mini/workers.py" not in done.stderr  # no traceback of ours; torchrun has its own
    assert not (tmp_path / "results").exists()


def test_without_a_compiler_nothing_is_compiled(tmp_path: Path) -> None:
    train = [sys.executable, "-c", "from attnbench.cli import main; main()", *TINY, "--steps", "2", "--compile"]
    here = {"PATH": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run(
        [*train, "--out", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=240, env=here, check=False
    )
    assert done.returncode == 2
    assert "attnbench: --compile does not work here (InvalidCxxCompiler: No working C++ compiler found" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_without_out_a_run_goes_among_the_others(call: Call) -> None:
    code, said, _ = call(*TINY, "--steps", "1")
    assert code == 0
    (folder,) = Path("results/runs").iterdir()
    assert folder.name.endswith("Z-train-full")
    assert str(folder) in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "vmbo"), "unknown method 'vmbo': did you mean 'vmoba'?"),
        (("--steps", "0"), "steps is 0; it must be a whole number of at least 1"),
        (("--model", "huge"), "unknown preset 'huge'"),
        (("--coarse", "3"), "--coarse '3' must be steps and clips per step, such as 2000x64"),
        (("--coarse", "10x2", "--steps", "9"), "more than the 9 steps of the whole run"),
        (("--seconds", "-1"), "seconds is -1.0; it must be above 0"),
        (("--set", "nothing=3"), "nothing"),
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
    code, _, err = call("train", "--resume", "run", "--steps", "3")
    assert code == 2
    assert "leave out --steps" in err


def test_a_folder_that_cannot_be_written_is_bad_input(call: Call) -> None:
    Path("file").write_text("")
    code, _, err = call(*TINY, "--out", "file/run")
    assert code == 2
    assert "cannot write" in err
