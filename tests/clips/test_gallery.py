"""Pictures of clips in rows, one below the other."""

from __future__ import annotations

import json
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

GAP = 6

Ask = Callable[..., ClipsRequest]
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(command_line: Callable[..., tuple[int, str, str]]) -> Call:
    """Draw a gallery on the command line; return the exit code and what was said on standard error."""

    def run(*words: object) -> tuple[int, str]:
        code, _, err = command_line("clips", "--gallery", *words)
        return code, err

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


@pytest.mark.parametrize(
    "damage", [pytest.param("of other seeds", marks=pytest.mark.slow), "without raw frames", "no run", "unfinished"]
)
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


def test_clips_of_a_run_stand_in_a_row_in_their_order(call: Call, tmp_path: Path) -> None:
    for level, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        look = np.zeros((15, 3, 16, 8, 8), dtype=np.uint8)
        look += (np.arange(15, dtype=np.uint8) * 10 + level * 100)[:, None, None, None, None]
        np.save(tmp_path / name / "look.npy", look)
    assert call(tmp_path / "p.png", tmp_path / "a", tmp_path / "b") == (0, "")
    picture = (image.imread(tmp_path / "p.png")[..., 0] * 255).round()
    assert picture.shape == (8 + 6 + 8, 5 * 4 * 8 + 4 * 6)
    starts = range(0, picture.shape[1], 4 * 8 + 6)
    assert [picture[0, x] for x in starts] == [10, 30, 70, 110, 130]
    assert [picture[14, x] for x in starts] == [110, 130, 170, 210, 230]
    assert picture[10].min() == 255


@pytest.mark.parametrize("damage", ["missing", "truncated", "of other numbers", "too few", "pickled"])
def test_what_holds_no_clips_is_refused(damage: str, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "look.npy"
    (tmp_path / "mini.json").write_text("{}")
    if damage == "too few":
        np.save(path, np.zeros((13, 3, 16, 8, 8), dtype=np.uint8))
    elif damage == "pickled":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif damage != "missing":
        np.save(path, np.zeros((15, 3, 16, 8, 8), dtype=np.uint8 if damage == "truncated" else np.float32))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    code, said = call(tmp_path / "p.png", tmp_path)
    assert (code, "look.npy' " in said, said.count("\n")) == (2, True, 1)
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("name", ["p.tiffy", "p"])
def test_pictures_of_another_kind_are_refused_before_any_work(name: str, call: Call, tmp_path: Path) -> None:
    code, said = call(tmp_path / name, tmp_path / "no run")
    assert (code, f"{name}' must end in .jpg or .png" in said) == (2, True)


def test_a_gallery_makes_no_run(call: Call, tmp_path: Path) -> None:
    code, said = call(tmp_path / "p.png", "--seeds", 3, "--method", "sta")
    assert (code, "leave out --method, --seeds" in said) == (2, True)
    assert list(tmp_path.iterdir()) == []
