"""Clips, prompts and names of dimensions: what is read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbench.clips.vbench.dimensions import DEFAULT_DIMENSIONS, PAPER_DIMENSIONS, choose
from attnbench.clips.vbench.environment import lock_text
from attnbench.clips.vbench.prompt_file import read_prompts
from attnbench.clips.vbench.records import VBENCH_VERSION, Score
from attnbench.clips.vbench.videos import read_folder
from attnbench.kernels.errors import BadInput

MakeClip = Callable[..., Path]


def test_a_clip_is_described_by_what_moves_its_scores(tmp_path: Path, make_clip: MakeClip) -> None:
    make_clip(tmp_path / "one.mp4", frames=7, fps=24)
    (tmp_path / "one.txt").write_text("no clip")
    (clip,) = read_folder(tmp_path)
    assert (clip.name, clip.frames, clip.height, clip.width, clip.fps) == ("one.mp4", 7, 48, 64, "24")
    assert (clip.codec, clip.pixel_format) == ("h264", "yuv420p")
    assert clip.bytes == (tmp_path / "one.mp4").stat().st_size


def test_clips_that_were_encoded_differently_are_refused(tmp_path: Path, make_clip: MakeClip) -> None:
    make_clip(tmp_path / "a.mp4")
    make_clip(tmp_path / "b.mp4", fps=24)
    with pytest.raises(BadInput, match=r"differ in frames a second, .*'a.mp4' has 16, 'b.mp4' has 24"):
        read_folder(tmp_path)
    make_clip(tmp_path / "b.mp4", codec="mpeg4")
    with pytest.raises(BadInput, match=r"differ in codec, .*'a.mp4' has h264, 'b.mp4' has mpeg4"):
        read_folder(tmp_path)


def test_frames_a_second_are_checked_against_what_is_asked_for(tmp_path: Path, make_clip: MakeClip) -> None:
    make_clip(tmp_path / "a.mp4")
    assert len(read_folder(tmp_path, 16)) == 1
    with pytest.raises(BadInput, match="have 16 frames a second, and --fps asks for 24"):
        read_folder(tmp_path, 24)
    with pytest.raises(BadInput, match="--fps asks for nan"):
        read_folder(tmp_path, float("nan"))


def test_what_is_no_clip_is_refused(tmp_path: Path, make_clip: MakeClip) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="there is no mp4 file"):
        read_folder(tmp_path)
    make_clip(tmp_path / "a.mp4", frames=1)
    with pytest.raises(BadInput, match=r"has 1 frame\(s\)"):
        read_folder(tmp_path)
    whole = make_clip(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cannot be read as a video"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "are empty; wanted: a JSON object"),
        ("{", "are not JSON"),
        ("[]", "are something else"),
        ('{"a.mp4": 1}', "are something else"),
        ('{"b.mp4": "x"}', "have no prompt for clip 'a.mp4'"),
        ('{"a.mp4": " "}', "have no prompt for clip 'a.mp4'"),
        ('{"a.mp4": "x", "a.mp4": "y"}', r"cannot be told apart \(an object names 'a.mp4' twice"),
    ],
)
def test_prompts_that_say_nothing_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_prompts(tmp_path / "prompts.json", ["a.mp4"])


def test_prompts_of_other_clips_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({"a.mp4": "a", "b.mp4": "b"}))
    assert read_prompts(tmp_path / "prompts.json", ["b.mp4"]) == {"b.mp4": "b"}
    with pytest.raises(BadInput, match="cannot be read"):
        read_prompts(tmp_path / "nothing.json", [])


def test_a_mark_that_some_editors_put_first_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text('{"a.mp4": "a"}', encoding="utf-8-sig")
    assert read_prompts(tmp_path / "prompts.json", ["a.mp4"]) == {"a.mp4": "a"}


def test_the_default_set_is_the_papers_and_flickering() -> None:
    assert set(PAPER_DIMENSIONS) == {
        "overall_consistency",
        "dynamic_degree",
        "background_consistency",
        "imaging_quality",
        "subject_consistency",
    }
    assert tuple(one.name for one in choose(None)) == DEFAULT_DIMENSIONS == (*PAPER_DIMENSIONS, "temporal_flickering")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dynamic-degree", "did you mean 'dynamic_degree'"),
        ("scene", "needs the objects of VBench's own prompts"),
        ("human_action", "is not part of this environment"),
    ],
)
def test_other_dimensions_are_refused(name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        choose([name])


def test_the_lock_pins_every_package_once_and_numpy_as_vbench_wants_it() -> None:
    lines = [line for line in lock_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    assert pins["vbench"] == VBENCH_VERSION
    assert pins["numpy"].startswith("1.")
    assert int(pins["setuptools"].split(".")[0]) < 81
    assert not any("+" in version for version in pins.values())


def test_a_score_has_a_value_or_a_reason() -> None:
    with pytest.raises(ValueError, match="status 'ok' with value None"):
        Score("temporal_flickering", "a.mp4", None, "ok")
    with pytest.raises(ValueError, match="status 'skipped' with value None and reason ''"):
        Score("temporal_flickering", "a.mp4", None, "skipped")


def test_what_macos_puts_beside_clips_and_odd_metadata_do_not_matter(tmp_path: Path, make_clip: MakeClip) -> None:
    make_clip(tmp_path / "one.mp4")
    (tmp_path / "._one.mp4").write_bytes(b"\0\5\x16\7" + bytes(40))
    content = (tmp_path / "one.mp4").read_bytes()
    assert b"Lavf" in content
    (tmp_path / "one.mp4").write_bytes(content.replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert [clip.name for clip in read_folder(tmp_path)] == ["one.mp4"]
