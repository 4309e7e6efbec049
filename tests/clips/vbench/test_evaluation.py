"""Scoring a folder: what VBench is given, what comes back, and what happens when it fails."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attnbench.clips.vbench.dimensions import choose
from attnbench.clips.vbench.evaluation import evaluate
from attnbench.clips.vbench.records import Evaluation
from attnbench.clips.vbench.videos import read_folder
from attnbench.kernels.errors import BadInput
from attnbench.machine.signals import Stopped, ending_as_interrupts

Judge = Callable[..., Evaluation]


@pytest.fixture
def folder(tmp_path: Path, make_clip: Callable[..., Path]) -> Path:
    """Three clips with names that need care, and a picture that is no clip."""
    for name in ("b 2.mp4", "a-1.MP4", "c.mp4"):
        make_clip(tmp_path / "clips" / name)
    (tmp_path / "clips" / "preview.png").write_bytes(b"no clip")
    return tmp_path / "clips"


@pytest.fixture
def judge(folder: Path, fake: Any, weights: Path, tmp_path: Path) -> Judge:
    def call(*names: str, **options: Any) -> Evaluation:
        given = {"weights": weights, "out": tmp_path / "out", **options}
        return evaluate(folder, read_folder(folder), choose(names), fake.environment, **given)

    return call


def values(made: Evaluation, dimension: str) -> dict[str, float | None]:
    return {score.video: score.value for score in made.scores if score.dimension == dimension}


def reasons(made: Evaluation, dimension: str) -> set[str]:
    found = [score for score in made.scores if score.dimension == dimension]
    assert [score.status for score in found] == ["skipped"] * 3
    return {score.reason for score in found}


def test_each_value_belongs_to_its_clip(judge: Judge, fake: Any, folder: Path) -> None:
    fake.tell(temporal_flickering={"values": [0.1, 0.2, 0.3]})
    made = judge()
    assert values(made, "temporal_flickering") == {"a-1.MP4": 0.1, "b 2.mp4": 0.2, "c.mp4": 0.3}
    (run,) = made.runs
    assert (run.status, run.mean, run.stand_in) == ("ok", pytest.approx(0.2), False)
    (call,) = fake.calls()
    assert sorted(call["videos"].values()) == sorted(str(folder / name) for name in ("a-1.MP4", "b 2.mp4", "c.mp4"))
    assert all(name.endswith(".mp4") for name in call["videos"])


def test_vbench_is_called_for_clips_of_ones_own_and_with_local_weights(judge: Judge, fake: Any) -> None:
    judge(device="cuda")
    (call,) = fake.calls()
    assert (call["mode"], call["local"], call["device"]) == ("custom_input", True, "device cuda")
    assert call["others"] == {"imaging_quality_preprocessing_mode": "longer"}


def test_temporal_flickering_is_run_whatever_is_asked_for(judge: Judge, fake: Any) -> None:
    made = judge("motion_smoothness")
    assert [run.dimension for run in made.runs] == ["motion_smoothness", "temporal_flickering"]
    assert [call["dimension"] for call in fake.calls()] == ["motion_smoothness", "temporal_flickering"]


def test_prompts_go_with_their_clips(judge: Judge, fake: Any) -> None:
    prompts = {"a-1.MP4": "one", "b 2.mp4": "two", "c.mp4": "three"}
    judge("overall_consistency", prompts=prompts)
    call = fake.calls()[0]
    by_clip = {Path(call["videos"][name]).name: prompt for name, prompt in call["prompts"].items()}
    assert by_clip == prompts


def test_without_prompts_the_dimension_that_needs_them_is_skipped(judge: Judge, fake: Any) -> None:
    made = judge("overall_consistency")
    assert reasons(made, "overall_consistency") == {
        "overall_consistency compares clips with prompts; give them with --prompts"
    }
    assert [call["dimension"] for call in fake.calls()] == ["temporal_flickering"]


def test_values_come_on_one_scale(judge: Judge, fake: Any) -> None:
    fake.tell(imaging_quality={"values": [50.0, 60.0, 70.0]}, dynamic_degree={"values": [True, False, True]})
    made = judge("imaging_quality", "dynamic_degree")
    assert list(values(made, "imaging_quality").values()) == pytest.approx([0.5, 0.6, 0.7])
    assert list(values(made, "dynamic_degree").values()) == [1.0, 0.0, 1.0]


def test_missing_weights_skip_their_dimension_before_it_starts(judge: Judge, fake: Any, weights: Path) -> None:
    (weights / "raft_model/models/raft-things.pth").unlink()
    made = judge("dynamic_degree")
    (reason,) = reasons(made, "dynamic_degree")
    assert "'raft_model/models/raft-things.pth' (about 21 MB)" in reason
    assert "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip" in reason
    assert [call["dimension"] for call in fake.calls()] == ["temporal_flickering"]
    assert values(made, "temporal_flickering") == {"a-1.MP4": 0.5, "b 2.mp4": 0.5, "c.mp4": 0.5}


def test_weights_with_another_checksum_are_refused_unless_marked(judge: Judge, weights: Path) -> None:
    (weights / "clip_model/ViT-B-32.pt.stand-in").unlink()
    (reason,) = reasons(judge("background_consistency"), "background_consistency")
    assert "truncated or another file" in reason
    assert "40d36571…" in reason


def test_stand_ins_mark_every_value(judge: Judge) -> None:
    made = judge("subject_consistency")
    assert {score.dimension: score.stand_in for score in made.scores} == {
        "subject_consistency": True,
        "temporal_flickering": False,
    }


def test_dino_finds_its_checkpoint_where_torch_hub_looks_too(judge: Judge, fake: Any, weights: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in weights.rglob("*")}
    judge("subject_consistency")
    call = fake.calls()[0]
    name = "dino_model/dino_vitbase16_pretrain.pth"
    assert call["torch home"] == {"hub/checkpoints/dino_vitbase16_pretrain.pth": f"random numbers of {name}"}
    assert call["cache"][name] == f"random numbers of {name}"
    assert {path: path.stat().st_mtime_ns for path in weights.rglob("*")} == before


def test_the_vocabulary_of_clip_is_not_downloaded(judge: Judge, fake: Any) -> None:
    judge()
    assert fake.calls()[0]["cache"] == {"ViCLIP/bpe_simple_vocab_16e6.txt.gz": "vocabulary"}


def test_the_users_pythonpath_does_not_reach_the_environment(
    judge: Judge, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    judge()
    assert fake.calls()[0]["pythonpath"] == str(Path(__file__).with_name("stubs"))


def test_pickles_are_allowed_only_on_request(judge: Judge, fake: Any, tmp_path: Path) -> None:
    judge()
    judge(out=tmp_path / "other", allow_pickle=True)
    assert [call["pickle"] for call in fake.calls()] == [None, "1"]


def test_weights_that_are_more_than_tensors_are_told_apart(judge: Judge, fake: Any) -> None:
    fake.tell(motion_smoothness={"raise": "Weights only load failed. In PyTorch 2.6, we changed the default"})
    (reason,) = reasons(judge("motion_smoothness"), "motion_smoothness")
    assert reason == "the weights of motion_smoothness hold more than tensors; --allow-pickle loads them anyway"


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ({"raise": "no such layer\nand more"}, "motion_smoothness failed: RuntimeError: no such layer"),
        (
            {"kill": True},
            "motion_smoothness ended with signal 9, perhaps because memory ran out; see motion_smoothness.log",
        ),
        ({"values": [float("nan")] * 3}, "VBench gave nan"),
        ({"values": []}, "VBench left the clip out"),
        ({"text": "{"}, "VBench's result cannot be read: JSONDecodeError"),
        ({"text": '{"other": 1}'}, "VBench's result cannot be read: KeyError: 'motion_smoothness'"),
    ],
)
def test_a_dimension_that_fails_costs_only_itself(
    does: dict[str, Any], reason: str, judge: Judge, fake: Any, tmp_path: Path
) -> None:
    fake.tell(motion_smoothness=does)
    made = judge("motion_smoothness")
    (said,) = reasons(made, "motion_smoothness")
    assert said.startswith(reason)
    assert made.runs[0].reason == said
    assert None not in values(made, "temporal_flickering").values()
    assert "scoring motion_smoothness" in (tmp_path / "out" / "logs" / "motion_smoothness.log").read_text()


def test_a_clip_that_vbench_left_out_costs_only_itself(judge: Judge, fake: Any) -> None:
    fake.tell(temporal_flickering={"values": [0.25, 0.75]})
    made = judge()
    assert values(made, "temporal_flickering") == {"a-1.MP4": 0.25, "b 2.mp4": 0.75, "c.mp4": None}
    assert made.runs[0].mean == 0.5


def test_what_takes_too_long_is_stopped_with_all_it_started(
    judge: Judge, fake: Any, tmp_path: Path, waiting: ModuleType
) -> None:
    child = tmp_path / "child"
    fake.tell(motion_smoothness={"hang": str(child)})
    for seconds in (1, 10, 100):  # on a busy machine it may take long until it has started anything
        made = judge("motion_smoothness", timeout=seconds, out=tmp_path / f"out{seconds}")
        (reason,) = reasons(made, "motion_smoothness")
        assert reason == f"motion_smoothness took longer than {seconds} s and was stopped; allow more with --timeout"
        if child.exists() and (process := child.read_text()):
            break
    waiting.until_gone(int(process))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_worker_with_all_it_started(
    number: int, judge: Judge, fake: Any, tmp_path: Path, waiting: ModuleType
) -> None:
    child = tmp_path / "child"
    fake.tell(motion_smoothness={"hang": str(child)})

    def send() -> None:
        waiting.until(lambda: child.exists() and child.read_text(), "the start of a child")
        os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        with pytest.raises(Stopped), ending_as_interrupts():
            judge("motion_smoothness", timeout=600)
    finally:
        signal.signal(number, before)
    waiting.until_gone(int(child.read_text()))
    assert not (tmp_path / "out" / "vbench.json").exists()


def test_the_record_says_what_was_scored_and_with_what(judge: Judge, fake: Any, tmp_path: Path) -> None:
    made = judge()
    written = json.loads((tmp_path / "out" / "vbench.json").read_text())
    assert written == json.loads(json.dumps(made.to_dict()))
    clip = written["clips"][0]
    assert (clip["fps"], clip["codec"], clip["pixel_format"]) == ("16", "h264", "yuv420p")
    assert (clip["frames"], clip["height"], clip["width"]) == (4, 48, 64)
    assert written["lock"] == fake.environment.lock
    assert written["runs"][0]["versions"]["device"] == "cpu"


def test_a_folder_with_something_in_it_is_not_written_to(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(BadInput, match="exists and is not empty; choose another folder with --out"):
        judge()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_evaluation_that_was_interrupted_can_be_repeated_into_its_folder(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "out" / "logs").mkdir(parents=True)
    (tmp_path / "out" / "logs" / "temporal_flickering.log").write_text("interrupted")
    assert judge().runs[0].status == "ok"


def test_two_evaluations_do_not_share_a_folder(judge: Judge, tmp_path: Path) -> None:
    refused: list[str] = []

    def meanwhile(line: str) -> None:
        with pytest.raises(BadInput) as error:
            judge()
        refused.append(str(error.value))

    assert judge(say=meanwhile).runs[0].status == "ok"
    assert refused == [f"another process is writing scores to {str(tmp_path / 'out')!r}; wait for it to end"]


def test_a_python_that_does_not_start_is_said_of_each_dimension(judge: Judge, fake: Any) -> None:
    fake.environment.python.write_text("#!/nowhere/sh\n")
    (reason,) = reasons(judge(), "temporal_flickering")
    assert reason.startswith("the Python of the VBench environment does not start: ")


def test_a_full_disk_is_one_sentence_and_leaves_no_record(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(*paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(BadInput, match=r"cannot be written to .*: the disk is full$"):
        judge()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["logs"]
