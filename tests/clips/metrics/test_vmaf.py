"""VMAF: what ffmpeg is given and how its answer is read, by a stand-in; and the real one where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attnbench.clips.metrics import vmaf as module
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measured import Skipped
from attnbench.clips.metrics.vmaf import find_ffmpeg, vmaf
from attnbench.kernels.errors import BadInput

MakeClip = Callable[..., Clip]

# A stand-in for ffmpeg: it reads the frames as it was told to and gives the mean of the upper half less that of the
# lower half as the VMAF of each.
STAND_IN = """#!{python}
import json, sys
arguments = sys.argv[1:]
if "-version" in arguments:
    print("ffmpeg version 9.9-stand-in built by nobody")
elif "-filters" in arguments:
    print(" .. libx       VV->V  something else\\n {filter}    VV->V      Calculate the VMAF between two streams.")
else:
    {fail}
    width, height = map(int, arguments[arguments.index("-s") + 1].split("x"))
    graph = arguments[arguments.index("-filter_complex") + 1]
    log = graph.split("log_path=")[1].split(":")[0]
    assert f"crop={{width}}:{{height // 2}}:0:0" in graph, graph
    frames = []
    half = width * height * 3 // 2
    while frame := sys.stdin.buffer.read(2 * half):
        frames.append({{"metrics": {{"vmaf": (sum(frame[:half]) - sum(frame[half:])) / half}}}})
    json.dump({{"version": "stand-in", "frames": frames{cut}}}, open(log, "w"))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Place a stand-in called ffmpeg on the PATH and hide imageio-ffmpeg."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    def place(*, filter_line: str = ".. libvmaf", fail: str = "pass", cut: str = "") -> None:
        path = tmp_path / "ffmpeg"
        path.write_text(STAND_IN.format(python=sys.executable, filter=filter_line, fail=fail, cut=cut))
        path.chmod(0o755)
        find_ffmpeg.cache_clear()

    find_ffmpeg.cache_clear()
    return place


def flat(*values: int) -> Clip:
    return Clip(torch.tensor(values, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 33, 40, 3).clone())


def test_every_frame_reaches_ffmpeg_with_the_clip_above_its_reference(stand_in: Callable[..., None]) -> None:
    stand_in()
    found = vmaf(flat(90, 60, 200), flat(10, 20, 30))
    assert found.per_frame == (80, 40, 170)
    assert found.value == pytest.approx(290 / 3)
    assert found.made_by == "vmaf_v0.6.1, libvmaf stand-in, ffmpeg 9.9-stand-in"


def test_without_any_ffmpeg_it_is_skipped_with_how_to_get_one(stand_in: Callable[..., None]) -> None:
    with pytest.raises(Skipped, match=r"pip install attnbench\[quality\]"):
        vmaf(flat(1), flat(1))


def test_an_ffmpeg_without_libvmaf_does_not_serve(stand_in: Callable[..., None]) -> None:
    stand_in(filter_line=".. libvmaf_cuda")
    with pytest.raises(Skipped, match="none is here"):
        vmaf(flat(1), flat(1))


def test_an_ffmpeg_that_fails_before_it_reads_is_a_reason(stand_in: Callable[..., None]) -> None:
    stand_in(fail="sys.exit('no such model')")
    clip = Clip(torch.zeros(40, 64, 64, 3, dtype=torch.uint8))  # more than a pipe holds
    with pytest.raises(Skipped, match="exit code 1 no such model"):
        vmaf(clip, clip)


def test_an_ffmpeg_that_writes_no_log_is_a_reason(stand_in: Callable[..., None]) -> None:
    stand_in(fail="sys.stdin.buffer.read(), sys.exit(0)")
    with pytest.raises(Skipped, match="it wrote no log"):
        vmaf(flat(1), flat(1))


def test_a_missing_frame_is_a_reason_not_a_mean_over_fewer(stand_in: Callable[..., None]) -> None:
    stand_in(cut="[1:]")
    with pytest.raises(Skipped, match="gave 2 values for 3 frames"):
        vmaf(flat(1, 2, 3), flat(1, 2, 3))


def test_frames_that_crash_libvmaf_are_skipped(make_clip: MakeClip) -> None:
    clip = make_clip(height=31, width=64)
    with pytest.raises(Skipped, match="32x32, and these are 31x64"):
        vmaf(clip, clip)


def test_clips_that_do_not_match_are_refused(make_clip: MakeClip) -> None:
    with pytest.raises(BadInput, match="size and length"):
        vmaf(make_clip(length=2), make_clip(length=3))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47)])
def test_the_real_vmaf_falls_with_noise(height: int, width: int, make_clip: MakeClip) -> None:
    module.find_ffmpeg.cache_clear()
    try:
        find_ffmpeg()
    except Skipped as error:
        pytest.skip(str(error))
    clip = make_clip(height=height, width=width, noise=0)
    values = [vmaf(make_clip(height=height, width=width, noise=noise), clip).value for noise in (0, 6, 40)]
    assert values[0] > 90
    assert values == sorted(set(values), reverse=True)
