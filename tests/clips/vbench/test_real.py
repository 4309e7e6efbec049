"""VBench itself, where its environment was set up.

Run it by ``ATTNBENCH_VBENCH_ENV=FOLDER pytest tests/clips/vbench/test_real.py``.

Weights are random ones of the real architectures, placed as the real ones would be: this shows that the code runs, and
nothing about the values. ``ATTNBENCH_VBENCH_STAND_INS`` may name a folder that keeps them from one run to the next.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from importlib import resources
from pathlib import Path

import av
import numpy as np
import pytest

from attnbench.clips.vbench import worker
from attnbench.clips.vbench.dimensions import DIMENSIONS, PAPER_DIMENSIONS, choose
from attnbench.clips.vbench.environment import FOLDER_VARIABLE, child_environ, find
from attnbench.clips.vbench.evaluation import evaluate
from attnbench.clips.vbench.records import Evaluation
from attnbench.clips.vbench.videos import read_folder
from attnbench.clips.vbench.weights_layout import look_all

pytestmark = pytest.mark.skipif(FOLDER_VARIABLE not in os.environ, reason=f"{FOLDER_VARIABLE} names no environment")


def cut(path: Path, *, start: int, frames: int = 16, height: int = 144, width: int = 256, fps: int = 16) -> None:
    """Write frames of the clip that ships with attnbench as a smaller H.264 clip."""
    source = resources.files("attnbench.inputs.data").joinpath("big_buck_bunny.mp4")
    with resources.as_file(source) as real, av.open(str(real)) as reader, av.open(str(path), "w") as writer:
        stream = writer.add_stream("libx264", rate=Fraction(fps), options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number, frame in enumerate(reader.decode(video=0)):
            if start <= number < start + frames:
                picture = frame.reformat(width, height, "yuv420p")
                picture.pts, picture.time_base = number - start, Fraction(1, fps)
                writer.mux(stream.encode(picture))
        writer.mux(stream.encode(None))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    cut(folder / "bunny a.mp4", start=0)
    cut(folder / "bunny-1.mp4", start=40)
    (folder / "preview.png").write_bytes(b"no clip")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    kept = os.environ.get("ATTNBENCH_VBENCH_STAND_INS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("weights")
    lacking = [name for name, one in DIMENSIONS.items() if not all(it.usable for it in look_all(one, folder))]
    script, python = Path(__file__).with_name("standins.py"), find(Path(os.environ[FOLDER_VARIABLE])).python
    scratch = tmp_path_factory.mktemp("scratch")
    environ = child_environ({"VBENCH_CACHE_DIR": str(scratch / "cache"), "TORCH_HOME": str(scratch / "torch")})
    words = [str(python), "-W", "ignore", "-P", str(script), str(worker.__file__), str(folder), *lacking]
    if lacking:
        subprocess.run(words, env=environ, check=True)
    yield folder
    if not kept:  # 1.7 GB, which pytest would keep for three runs
        for path in folder.rglob("*.pt*"):
            path.unlink()


def judge(clips: Path, weights: Path, out: Path, *names: str) -> Evaluation:
    described = read_folder(clips, 16)
    prompts = {clip.name: "a rabbit wakes up" for clip in described}
    environment = find(Path(os.environ[FOLDER_VARIABLE]))
    return evaluate(clips, described, choose(names), environment, weights=weights, out=out, prompts=prompts)


def flickering(path: Path) -> float:
    """Compute it from its definition, frames decoded by PyAV rather than OpenCV."""
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]).astype(np.float64)
    return float(1 - np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).mean() / 255)


def test_temporal_flickering_of_a_real_clip(clips: Path, tmp_path: Path) -> None:
    made = judge(clips, tmp_path / "no weights", tmp_path / "out")
    assert [(score.status, score.stand_in) for score in made.scores] == [("ok", False)] * 2
    for score in made.scores:
        assert score.value == pytest.approx(flickering(clips / score.video), abs=1e-3)
        assert score.value == pytest.approx(0.988, abs=0.01)


def test_without_weights_nothing_else_is_started(clips: Path, tmp_path: Path) -> None:
    made = judge(clips, tmp_path / "no weights", tmp_path / "out", *PAPER_DIMENSIONS)
    for run in made.runs[:-1]:
        assert (run.status, run.seconds) == ("skipped", 0)
        assert "get it from https://" in run.reason
    assert made.runs[-1].status == "ok"


@pytest.mark.parametrize("name", [name for name, one in DIMENSIONS.items() if one.weights])
def test_a_dimension_runs_end_to_end_on_stand_ins(name: str, clips: Path, weights: Path, tmp_path: Path) -> None:
    made = judge(clips, weights, tmp_path / "out", name)
    scores = [score for score in made.scores if score.dimension == name]
    assert [(score.video, score.status) for score in scores] == [("bunny a.mp4", "ok"), ("bunny-1.mp4", "ok")]
    assert all(score.stand_in for score in scores)
    assert all(score.value is not None and -1.0 <= score.value <= 1.0 for score in scores)
    log = (tmp_path / "out" / "logs" / f"{name}.log").read_text()
    assert "Evaluation results saved" in log
    written = json.loads((tmp_path / "out" / "vbench.json").read_text())
    assert written["runs"][0]["versions"]["vbench"] == "0.1.5"
