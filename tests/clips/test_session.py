"""A run of clips: what is on disk, and that nothing which is there is made again."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attnbench
from attnbench.bench.session import resume as resume_run
from attnbench.clips import session
from attnbench.clips.metrics.video import read_frames
from attnbench.clips.mini import MiniMaker
from attnbench.clips.request import ClipsRequest, Shot
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.results.journal import JOURNAL, BroughtBack, JournalRecord, read_journal
from attnbench.results.load import load_clips
from attnbench.results.records.clips import ClipRow, QualityRow

Ask = Callable[..., ClipsRequest]

CLIPS = 6  # of two seeds: full attention, the other kernel, one method
ROWS = {"method": 4, "kernel-floor": 4, "seed-floor": 2}  # two distances


@pytest.fixture(autouse=True)
def quick_players(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no H.264 unless a test asks for it."""
    monkeypatch.setattr(session, "can_encode", lambda: "not here")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Shot]:
    """The shots that a model was run for."""
    seen: list[Shot] = []
    make = MiniMaker.make

    def watched(self: MiniMaker, shot: Shot, after_step: Any) -> Any:
        seen.append(shot)
        return make(self, shot, after_step)

    monkeypatch.setattr(MiniMaker, "make", watched)
    return seen


def records(folder: Path) -> list[JournalRecord]:
    return list(read_journal(folder / JOURNAL))


def quality(folder: Path) -> list[QualityRow]:
    return [record for record in records(folder) if isinstance(record, QualityRow)]


def test_a_run_leaves_clips_rows_and_where_it_was(ask: Ask, tmp_path: Path, quiet: Any) -> None:
    outcome = session.start(ask(), tmp_path / "run", quiet)
    assert (outcome.folder, outcome.failed, quiet.folder) == (tmp_path / "run", (), str(tmp_path / "run"))
    clips = load_clips(tmp_path / "run")
    assert Counter(clip.role for _, clip in clips) == {"exact": 2, "kernel-floor": 2, "method": 2}
    for folder, clip in clips:
        frames, label = read_frames(folder / clip.raw)
        assert (frames.digest, frames.fps, label["prompt"]) == (clip.clip_hash, clip.fps, clip.prompt)
        assert (clip.steps, clip.dense_steps) == (4, 4 if clip.role == "exact" else 1)
        assert (clip.video, clip.player) == ("", "")
    table = attnbench.load_quality(tmp_path / "run")
    assert Counter(table["role"]) == ROWS
    assert set(table["status"]) == {"ok"}
    assert list(table.attrs["environments"]) == [clips[0][1].run_id]
    assert len(attnbench.load_results(tmp_path / "run")) == 0
    assert tuple(quality(tmp_path / "run")) == outcome.rows
    assert quiet.notes == ["no players: not here"]
    assert quiet.steps[-1][2] == 2 * (4 + 3 + 3)


def test_values_are_those_of_the_raw_frames(ask: Ask, tmp_path: Path, quiet: Any) -> None:
    session.start(ask(), tmp_path / "run", quiet)
    frames = {
        (clip.role, clip.seed): read_frames(folder / clip.raw)[0].frames.double().numpy()
        for folder, clip in load_clips(tmp_path / "run")
    }
    for row in quality(tmp_path / "run"):
        role = "exact" if row.role == "seed-floor" else row.role
        ours, theirs = frames[role, row.seed], frames["exact", row.reference_seed or 0]
        error = np.square(ours - theirs).mean(axis=(1, 2, 3))
        wanted = [100.0 if not e else min(100.0, 10 * math.log10(255**2 / e)) for e in error]
        if row.metric == "psnr":
            assert row.per_frame == pytest.approx(wanted, abs=1e-3)


def test_a_finished_run_has_nothing_left_to_do(ask: Ask, tmp_path: Path, quiet: Any, made: list[Shot]) -> None:
    session.start(ask(), tmp_path / "run", quiet)
    assert len(made) == CLIPS
    before = (tmp_path / "run" / JOURNAL).read_bytes()
    assert len(session.resume(tmp_path / "run", quiet).rows) == sum(ROWS.values())
    assert len(made) == CLIPS
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


@pytest.mark.parametrize("kept", range(1, 18, 3))
def test_a_run_goes_on_after_any_line(kept: int, ask: Ask, tmp_path: Path, quiet: Any, made: list[Shot]) -> None:
    session.start(ask(), tmp_path / "run", quiet)
    path = tmp_path / "run" / JOURNAL
    whole = records(tmp_path / "run")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]))
    there = sum(isinstance(record, ClipRow) for record in whole[:kept])
    made.clear()
    session.resume(tmp_path / "run", quiet)
    assert len(made) == CLIPS - there

    def told(found: list[JournalRecord]) -> list[Any]:
        return [record.model_copy(update={"seconds": 0}) if isinstance(record, ClipRow) else record for record in found]

    assert told(records(tmp_path / "run")) == told(whole)


def test_a_clip_whose_frames_are_gone_or_damaged_is_made_again(
    ask: Ask, tmp_path: Path, quiet: Any, made: list[Shot]
) -> None:
    session.start(ask(), tmp_path / "run", quiet)
    gone, damaged = (folder / clip.raw for folder, clip in load_clips(tmp_path / "run") if clip.role == "method")
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-5])
    rows = quality(tmp_path / "run")
    made.clear()
    session.resume(tmp_path / "run", quiet)
    assert [shot.role for shot in made] == ["method", "method"]
    assert gone.is_file()
    assert quality(tmp_path / "run") == rows


def test_an_interrupt_keeps_what_is_finished(
    ask: Ask, tmp_path: Path, quiet: Any, made: list[Shot], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = MiniMaker.make

    def interrupted(self: MiniMaker, shot: Shot, after_step: Any) -> Any:
        if len(made) == 4:
            raise KeyboardInterrupt
        return make(self, shot, after_step)

    with monkeypatch.context() as patch:
        patch.setattr(MiniMaker, "make", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.start(ask(), tmp_path / "run", quiet)
    assert sum(isinstance(record, ClipRow) for record in records(tmp_path / "run")) == 4
    assert quality(tmp_path / "run")
    session.resume(tmp_path / "run", quiet)
    assert len(made) == CLIPS
    assert Counter(row.role for row in quality(tmp_path / "run")) == ROWS


def test_a_skipped_metric_is_tried_again(ask: Ask, tmp_path: Path, quiet: Any, made: list[Shot]) -> None:
    request = ask(metrics=["psnr", "vmaf"])
    session.start(request, tmp_path / "run", quiet)
    skipped = [row for row in quality(tmp_path / "run") if row.status == "skipped"]
    assert {(row.metric, row.value) for row in skipped} == {("vmaf", None)}
    assert all("VMAF needs frames" in row.reason for row in skipped)
    before = len(records(tmp_path / "run"))
    session.resume(tmp_path / "run", quiet)
    assert len(records(tmp_path / "run")) == before, "the same reason is not written twice"
    assert len(made) == CLIPS


@pytest.mark.parametrize(
    "error",
    [
        Unsupported("engine 'x' cannot"),
        MemoryError(),
        BadInput("2 of 4 frames hold NaN"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_method_that_fails_costs_its_own_rows_only_and_is_tried_again(
    error: Exception, ask: Ask, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = MiniMaker.make

    def failing(self: MiniMaker, shot: Shot, after_step: Any) -> Any:
        if shot.method == "sta":
            raise error
        return make(self, shot, after_step)

    both = {"sta": {"tile": [1, 4, 4]}, "sliding-window": {"window": [0, 1, 1]}}
    with monkeypatch.context() as patch:
        patch.setattr(MiniMaker, "make", failing)
        outcome = session.start(ask(methods=both), tmp_path / "run", quiet)
    said = str(error) or type(error).__name__
    assert len(outcome.failed) == 2
    assert said in outcome.failed[0]
    assert any(said in note for note in quiet.notes)
    lost = [row for row in outcome.rows if row.method == "sta"]
    assert {(row.status, row.reason, row.clip_hash) for row in lost} == {("skipped", f"skipped: {said}", "")}
    assert {row.status for row in outcome.rows if row.method != "sta"} == {"ok"}
    again = session.resume(tmp_path / "run", quiet)
    assert again.failed == ()
    assert {row.status for row in again.rows} == {"ok"}
    assert set(attnbench.load_quality(tmp_path / "run")["status"]) == {"ok"}


def test_without_full_attention_there_is_nothing_to_compare_with(
    ask: Ask, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nan(*given: Any, **options: Any) -> torch.Tensor:
        return torch.full((1, 3, 4, 16, 16), math.nan)

    monkeypatch.setattr("attnbench.clips.mini.generate", nan)
    with pytest.raises(BadInput, match=r"full attention failed .* 4 of 4 frames hold NaN or Inf.* --resume") as error:
        session.start(ask(), tmp_path / "run", quiet)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_disk_that_fills_up_is_one_sentence_and_the_run_goes_on_later(
    ask: Ask, tmp_path: Path, quiet: Any, made: list[Shot], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, calls = os.replace, []

    def full(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(BadInput, match=r"No space left on device.*--resume") as error:
            session.start(ask(), tmp_path / "run", quiet)
    assert str(error.value).count("--resume") == 1
    raw = list((tmp_path / "run" / "raw").iterdir())
    assert len(raw) == 3, "no part of a file is left"
    session.resume(tmp_path / "run", quiet)
    assert len(made) == CLIPS + 1


def test_a_folder_that_is_deleted_while_clips_are_made_is_written_again(
    ask: Ask, tmp_path: Path, quiet: Any, made: list[Shot], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, make = tmp_path / "run", MiniMaker.make

    def deleting(self: MiniMaker, shot: Shot, after_step: Any) -> Any:
        if len(made) == 1:
            shutil.rmtree(folder)
        return make(self, shot, after_step)

    with monkeypatch.context() as patch:
        patch.setattr(MiniMaker, "make", deleting)
        with pytest.warns(BroughtBack):
            outcome = session.start(ask(), folder, quiet)
    assert tuple(quality(folder)) == outcome.rows
    assert len(list((folder / "raw").iterdir())) == CLIPS - 1
    assert session.resume(folder, quiet).rows == outcome.rows
    assert len(made) == CLIPS + 1, "the clip that was deleted is made again"


def test_a_folder_that_cannot_be_used_is_refused_before_anything_is_loaded(
    ask: Ask, tmp_path: Path, quiet: Any
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="not a writable folder"):
        session.start(ask(weights="missing.safetensors"), tmp_path / "file" / "run", quiet)


def test_nothing_is_written_for_weights_that_cannot_be_read(
    ask: Ask, tmp_path: Path, quiet: Any, weights: Path
) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(weights.read_bytes()[:-100])
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(b"\x80\x04" + bytes(100))
    for path, said in ((truncated, "truncated"), (pickled, "pickled"), (tmp_path / "missing", "cannot be read")):
        with pytest.raises(BadInput, match=said):
            session.start(ask(weights=str(path)), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_finished_with_other_weights_or_by_another_command(
    ask: Ask, tmp_path: Path, quiet: Any, weights: Path, other_weights: Path
) -> None:
    own = tmp_path / "own.safetensors"
    shutil.copy(weights, own)
    session.start(ask(weights=str(own)), tmp_path / "run", quiet)
    shutil.copy(other_weights, own)
    with pytest.raises(BadInput, match=r"content of weights \w{12} and this is content of weights \w{12}: one run"):
        session.resume(tmp_path / "run", quiet)
    with pytest.raises(BadInput, match="begun by attnbench clips"):
        resume_run(tmp_path / "run", quiet)
    with pytest.raises(BadInput, match="nothing to resume"):
        session.resume(tmp_path / "nowhere", quiet)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"packages": {"gone": "3"}}, "gone 3.* and this is .*gone absent"),
        ({"python": "2.7"}, "python 2.7 and this is python 3"),
        ({"threads": 64}, "threads 64 and this is threads 1"),
        ({"git_dirty": True, "git_changes": "0" * 64}, "uncommitted changes 0{12}"),
        ({"device": "another"}, "on 'another' and this is"),
    ],
)
def test_a_run_is_not_finished_under_other_conditions(
    changes: dict[str, Any], said: str, ask: Ask, tmp_path: Path, quiet: Any
) -> None:
    session.start(ask(), tmp_path / "run", quiet)
    path = tmp_path / "run" / JOURNAL
    first, *rest = path.read_text().splitlines(keepends=True)
    header = json.loads(first)
    header["environment"] |= changes
    text = "".join([json.dumps(header) + "\n", *rest])
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        session.resume(tmp_path / "run", quiet)
    assert path.read_text() == text


def test_players_show_three_abreast_and_videos_have_their_prompts(
    ask: Ask, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "can_encode", lambda: "")
    session.start(ask(seeds=2, floor_engine="none", players=1), tmp_path / "run", quiet)
    clips = [clip for _, clip in load_clips(tmp_path / "run")]
    assert [(bool(clip.video), bool(clip.player)) for clip in clips] == [
        (True, False),
        (True, True),
        *[(False, False)] * 2,
    ]
    videos = {clip.video for clip in clips if clip.video}
    assert {path.name for path in (tmp_path / "run" / "videos").glob("*.mp4")} == {Path(name).name for name in videos}
    prompts = json.loads((tmp_path / "run" / "videos" / "prompts.json").read_text())
    assert prompts == {Path(name).name: "3 moving north-east" for name in videos}
    import av

    (player,) = (folder / clip.player for folder, clip in load_clips(tmp_path / "run") if clip.player)
    with av.open(str(player)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape == (256, 3 * 256 + 2 * 8, 3)
    assert picture[:, 256:264].max() < 40, "a dark line between the panels"


@pytest.mark.parametrize("strict", [False, True])
def test_strict_clips_are_not_made_by_plain_torch_on_a_gpu(
    strict: bool, ask: Ask, tmp_path: Path, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbench.kernels.engines.is_plain_on_gpu", lambda name, device: name == "reference")
    monkeypatch.setattr("attnbench.kernels.engines._warn_once", lambda text: None)
    session.start(ask(seeds=1, floor_engine="none", strict=strict), tmp_path / "run", quiet)
    (clip,) = (clip for _, clip in load_clips(tmp_path / "run") if clip.role == "method")
    assert clip.status == ("failed" if strict else "ok")
    assert ("reference is plain torch, which a strict run does not take" in clip.reason) is strict
