"""``attnbench clips`` as users type it: exit codes, one sentence for what cannot be done, and how to go on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attnbench.clips.mini import MiniMaker
from attnbench.results.journal import JOURNAL, read_journal
from attnbench.results.load import load_quality
from attnbench.results.records.clips import ClipRow

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-c", "from attnbench.cli import main; main()"]
QUICK = ["--method", "sta", "--set", "tile=1,4,4", "--set", "window=1,1,1", "--metric", "psnr", "--device", "cpu"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Run) -> Run:
    """Run a command in an empty folder; give its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    return command_line


def test_clips_are_made_and_shown(run: Run, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])  # they take a second each
    monkeypatch.setattr("attnbench.cli.progress.EVERY", 0.0)
    code, out, err = run(
        "clips", "--weights", str(weights), "--sampler-steps", "4", *QUICK, "--metric", "vmaf", "--out", "run"
    )
    assert code == 0
    assert "sta" in out
    assert "psnr, dB ↑" in out
    assert "distinguishable" in out
    assert "( ): extremes, of fewer than six pairs" in out
    assert "vmaf skipped: VMAF needs frames of at least 32x32" in out
    assert "Make a page: attnbench report run" in out
    assert "full/sdpa, '3 moving north-east', seed 1" in err
    code, out, err = run("clips", "--resume", "run", "--json")
    document = json.loads(out)
    assert (code, document["folder"], document["failed"]) == (0, "run", [])
    assert document["gaps"][0]["sentence"].startswith("sta: psnr against full attention's clips is")
    assert len(document["rows"]) == len(load_quality("run"))
    code, out, _ = run("report", "run", "--out", "page.html")
    assert (code, out.strip()) == (0, "page.html")
    assert "data:video/mp4;base64," in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompts", "empty.txt"], "prompts 'empty.txt' are empty"),
        (["--prompts", "nowhere.txt"], "cannot be read"),
        (["--prompts", "empty.txt", "--classes", "3"], "in one way"),
        (["--prompt", "a cat on a sofa"], "must be a class and a direction"),
        (["--classes", "13"], "unknown class '13'"),
        (["--model", "wan", "--classes", "3"], "is for the mini model"),
        (["--model", "wan", "--prompt", "a cat"], "needs its weights"),
        (["--model", "wan", "--prompt", "a cat", "--weights", "nowhere"], "nowhere"),
        (["--method", "full"], "compares nothing"),
        (["--method", "vmba"], "did you mean 'vmoba'"),
        (["--set", "topkk=3"], "topkk"),
        (["--set", "tile=3"], "vmoba"),
        (["--dense-steps", "few"], "--dense-steps 'few'"),
        (["--metric", "pnsr"], "did you mean 'psnr'"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--weights", "empty.txt"], "not a safetensors file"),
        (["--seeds", "0"], "seeds 0"),
        (["--resume", "nowhere", "--seeds", "2"], "leave out --seeds"),
        (["--resume", "nowhere"], "nothing to resume"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words: list[str], said: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    if not {"--weights", "--resume", "--model"} & set(words):
        words = [*words, "--weights", "unread.safetensors"]
    code, out, err = run("clips", *words, *([] if "--resume" in words else ["--out", "run"]))
    assert (code, out) == (2, "")
    sentence = err.splitlines()[-1]
    assert said in sentence
    assert sentence.startswith("attnbench: ")
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_the_page_about_it_names_options_that_exist(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = (ROOT / "docs" / "clips.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`[^`\n]*?(--[a-z-]+)", page))
    assert len(named) > 15
    _, out, _ = run("clips", "--help")
    assert named <= set(re.findall(r"--[a-z-]+", out))


def test_an_interrupt_says_how_to_go_on(run: Run, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: MiniMaker, shot: Any, after_step: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MiniMaker, "make", interrupted)
        code, out, err = run("clips", "--weights", str(weights), *QUICK, "--out", "run")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1].endswith("Go on with: attnbench clips --resume run")
    code, out, err = run("run", "--resume", "run")
    assert code == 2
    assert err.splitlines()[-1].endswith("attnbench clips --resume run")


def test_a_method_that_cannot_run_is_exit_code_1(run: Run, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = MiniMaker.make

    def failing(self: MiniMaker, shot: Any, after_step: Any) -> Any:
        if shot.role == "method":
            raise MemoryError
        return make(self, shot, after_step)

    monkeypatch.setattr(MiniMaker, "make", failing)
    code, out, _ = run(
        "clips", "--weights", str(weights), "--sampler-steps", "2", *QUICK, "--seeds", "1", "--out", "run"
    )
    assert code == 1
    assert "psnr skipped: MemoryError" in out


def test_a_killed_run_keeps_whole_clips_only_and_is_finished(run: Run, weights: Path, waiting: ModuleType) -> None:
    words = ["clips", "--weights", str(weights), "--sampler-steps", "12", *QUICK, "--out", "run"]
    path = Path("run") / JOURNAL
    with Path("log").open("wb") as log, subprocess.Popen([*PROGRAM, *words], stdout=log, stderr=log) as process:

        def made_one() -> bool:
            if path.exists() and b'"kind": "clip"' in path.read_bytes():
                return True
            assert process.poll() is None, Path("log").read_text()
            return False

        waiting.until(made_one, "the first clip")
        process.kill()
    made = [record for record in read_journal(path) if isinstance(record, ClipRow)]
    assert all((Path("run") / clip.raw).is_file() for clip in made)
    code, _, err = run("clips", "--resume", "run")
    assert code == 0, err
    after = [record for record in read_journal(path) if isinstance(record, ClipRow)]
    assert after[: len(made)] == made
    assert len(after) == len({clip.clip_id for clip in after}) == 6
    assert len(load_quality("run")) == 5
