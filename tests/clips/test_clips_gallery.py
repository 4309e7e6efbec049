"""scripts/clips_gallery.py: clips of runs in rows, one below the other."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from attnbench.clips import session
from attnbench.clips.metrics.video import read_frames
from attnbench.clips.request import ClipsRequest
from attnbench.results.load import load_clips

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "clips_gallery.py"
GAP = 6

Ask = Callable[..., ClipsRequest]
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the script as a program; return its exit code and what it said on standard error."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", [SCRIPT.name, *map(str, words)])
        monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as it is where a script is run
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    return run


def test_a_row_for_full_attention_and_each_method(call: Call, ask: Ask, tmp_path: Path, quiet: Any) -> None:
    runs = [tmp_path / "first", tmp_path / "second"]
    prompts = {"prompts": ["3 moving north-east", "ring moving west"]}
    session.start(ask(**prompts), runs[0], quiet)
    session.start(ask(**prompts, methods={"moba": {"blocks": 8, "topk": 2}}), runs[1], quiet)
    assert call(tmp_path / "p.png", *runs) == (0, "")
    picture = (image.imread(tmp_path / "p.png")[..., :3] * 255).round().astype(np.uint8)
    clips = {
        (run.name, clip.method, clip.prompt): read_frames(folder / clip.raw)[0].frames
        for run in runs
        for folder, clip in load_clips(run)
        if clip.seed == 0 and clip.role != "kernel-floor"
    }
    rows = [("first", "full"), ("first", "sta"), ("second", "moba")]
    height, width = next(iter(clips.values())).shape[1:3]
    assert picture.shape == (3 * height + 2 * GAP, 2 * 4 * width + GAP, 3)
    for y, (run, method) in enumerate(rows):
        for x, prompt in enumerate(prompts["prompts"]):
            top, left = y * (height + GAP), x * (4 * width + GAP)
            clip = clips[run, method, prompt]
            for column, frame in ((0, clip[0]), (3, clip[-1])):
                begin = left + column * width
                assert np.array_equal(picture[top : top + height, begin : begin + width], frame.numpy())


@pytest.mark.parametrize("damage", ["of other seeds", "without raw frames", "no run", "unfinished"])
def test_runs_that_cannot_be_drawn_are_refused(damage: str, call: Call, ask: Ask, tmp_path: Path, quiet: Any) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    session.start(ask(prompts=["3 moving north-east", "ring moving west"]), first, quiet)
    runs, said = [first], ""
    if damage == "of other seeds":
        session.start(ask(seed=1), second, quiet)
        runs, said = [first, second], "same clips of full attention"
    elif damage == "without raw frames":
        for path in (first / "raw").iterdir():
            path.unlink()
        said = "cannot be read"
    elif damage == "no run":
        runs, said = [second], str(second)
    else:
        journal = first / "journal.jsonl"
        lines = journal.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not is_method_of(json.loads(line), "ring moving west")]
        journal.write_text("".join(kept))
        said = "--resume"
    code, error = call(tmp_path / "p.png", *runs)
    assert (code, said in error, error.count("\n")) == (2, True, 1)
    assert not (tmp_path / "p.png").exists()


def is_method_of(record: dict[str, Any], prompt: str) -> bool:
    return record["kind"] == "clip" and record["role"] == "method" and record["prompt"] == prompt
