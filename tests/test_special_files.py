"""Whatever reads a file that it found in a folder refuses a named pipe, a socket or a device at once."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbench.bench.suite import read_suite
from attnbench.bench.sweep.session import read_sweep
from attnbench.clips.gallery import LOOK, write_gallery
from attnbench.clips.metrics.video import read_frames
from attnbench.clips.prompts import read_prompts as read_lines
from attnbench.clips.vbench.prompt_file import read_prompts
from attnbench.clips.vbench_rows import RECORD, read_scores
from attnbench.inputs.capture import read_capture
from attnbench.inputs.clip import read_frames as video_frames
from attnbench.inputs.shapes import resolve_shape
from attnbench.kernels.errors import BadInput
from attnbench.machine.safe_weights import check_safetensors
from attnbench.methods.ditfastattn import read_schedule
from attnbench.mini.begin import WEIGHTS, read_config
from attnbench.mini.checkpoint import CHECKPOINT
from attnbench.mini.stored import read_card, read_tensors
from attnbench.results.conditions import content_digest
from attnbench.results.files import write_whole
from attnbench.results.find import NOISE, find_results
from attnbench.results.journal import JOURNAL, TRAINING_LOG, Journal, read_journal
from attnbench.results.noise import read_noise
from attnbench.results.plans import SWEEP
from attnbench.results.training import CARD, CONFIG, read_log, read_training

SHAPE = resolve_shape(grid="2x2x2", heads=1, head_dim=8)

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "journal": (JOURNAL, lambda folder: list(read_journal(folder / JOURNAL))),
    "journals below": (JOURNAL, find_results),
    "resumed journal": (JOURNAL, Journal.resume),
    "training log": (TRAINING_LOG, read_log),
    "packed training log": (f"{TRAINING_LOG}.gz", read_log),
    "configuration": (CONFIG, read_config),
    "configuration of a log": (CONFIG, read_training),
    "card of a log": (CARD, read_training),
    "card of weights": (CARD, lambda folder: read_card(folder / WEIGHTS)),
    "checkpoint": (CHECKPOINT, lambda folder: read_tensors(folder / CHECKPOINT, "mini-checkpoint")),
    "weights": (WEIGHTS, lambda folder: check_safetensors(folder / WEIGHTS)),
    "sweep": (SWEEP, read_sweep),
    "scores": (RECORD, read_scores),
    "look": (LOOK, lambda folder: write_gallery(folder / "made.png", [folder])),
    "frames": ("a.safetensors", lambda folder: read_frames(folder / "a.safetensors")),
    "video": ("a.mp4", lambda folder: next(video_frames(folder / "a.mp4", 1, 4, 4))),
    "captured inputs": ("a.safetensors", lambda folder: read_capture(folder / "a.safetensors", SHAPE)),
    "schedule": ("a.json", lambda folder: read_schedule(str(folder / "a.json"))),
    "inputs": ("a.mp4", lambda folder: content_digest(folder / "a.mp4")),
    "noise": (NOISE, lambda folder: read_noise(folder / NOISE)),
}
"""The file that each reads, and how it is called with the file's folder."""


def refusal_of(call: Callable[[], Any]) -> BaseException | None:
    """Return what a call raises; fail if it is still waiting after half a minute."""
    raised: list[BaseException | None] = []

    def go() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(30)
    assert raised, "it waits"
    return raised[0]


@pytest.mark.parametrize("kind", ["pipe", "linked pipe", "socket", "device"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, kind: str
) -> None:
    name, read = READERS[reader]
    if reader == "card of a log":
        (tmp_path / CONFIG).write_text("{}")
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "linked pipe":
        os.mkfifo("pipe")
        os.symlink("pipe", name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    else:
        os.symlink("/dev/zero", name)
    error = refusal_of(lambda: read(tmp_path))
    assert isinstance(error, BadInput), error
    assert name in str(error)


def test_what_is_written_to_a_device_or_a_pipe_replaces_neither(tmp_path: Path) -> None:
    device, pipe = tmp_path / "null", tmp_path / "pipe"
    device.symlink_to("/dev/null")
    os.mkfifo(pipe)
    write_whole(b"gone", device)
    assert device.is_symlink()
    assert isinstance(refusal_of(lambda: write_whole(b"nobody reads", pipe)), BadInput)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(b"read", pipe)
    assert os.read(reader, 9) == b"read"
    os.close(reader)
    with pytest.raises(BadInput, match=r"cannot write '/dev/full': No space left on device$"):
        write_whole(b"page", Path("/dev/full"), "")
    assert {each.name for each in tmp_path.iterdir()} == {"null", "pipe"}


NAMED: dict[str, Callable[[Path], Any]] = {
    "suite": lambda path: read_suite(path, {}, "run", Path("out")),
    "prompts of clips": read_lines,
    "prompts of videos": lambda path: read_prompts(path, ["a.mp4"]),
}


@pytest.mark.parametrize("kind", NAMED)
def test_what_somebody_names_may_be_any_stream_and_has_a_largest_size(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbench.inputs.files.MOST_BYTES", 1000)
    error = refusal_of(lambda: NAMED[kind](Path("/dev/zero")))
    assert isinstance(error, BadInput), error
    assert "'/dev/zero' cannot be read: it holds more than" in str(error)
    error = refusal_of(lambda: NAMED[kind](Path("/dev/null")))
    assert error is None or "'/dev/null'" in str(error)
