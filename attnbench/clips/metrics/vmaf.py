"""VMAF by ffmpeg's libvmaf. Both clips go through one pipe of raw pixels, so no codec is involved.

VMAF (Netflix, model v0.6.1) predicts how viewers rate compressed films at 1080p. It knows nothing about generated
video: it rates a clip that diverged like one that is badly damaged.
"""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path

from attnbench.clips.metrics.ffmpeg import feed, listed, programs, version
from attnbench.clips.metrics.frames import Clip, require_alike
from attnbench.clips.metrics.measured import Measured, Skipped, mean_of

GET_IT = "pip install attnbench[quality], or install an ffmpeg that has the libvmaf filter"
MODEL = "vmaf_v0.6.1"
MIN_SIDE = 32
"""The smallest side that works; libvmaf 3 crashes at 16."""

_TO_YUV = "scale=out_color_matrix=bt709:out_range=tv,format=yuv444p"  # 4:4:4 takes odd sizes; VMAF reads luma only


def vmaf(clip: Clip, reference: Clip) -> Measured:
    """Return the mean over frames of VMAF, 0 to 100. Equal clips get about 97 to 100, not always 100.

    Raises:
        BadInput: if the clips differ in size or length.
        Skipped: if there is no ffmpeg with libvmaf, a side is under 32 pixels, or ffmpeg fails.
    """
    require_alike(clip, reference)
    if min(clip.height, clip.width) < MIN_SIDE:
        raise Skipped(f"VMAF needs frames of at least {MIN_SIDE}x{MIN_SIDE}, and these are {clip.height}x{clip.width}")
    program, its_version = find_ffmpeg()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vmaf.json"
        both = zip(clip.frames, reference.frames, strict=True)
        pieces = (ours.numpy().tobytes() + theirs.numpy().tobytes() for ours, theirs in both)
        problem = feed(_command(program, clip, log.name), pieces, Path(folder))
        if problem or not log.is_file():
            raise Skipped(f"ffmpeg's libvmaf failed: {problem or 'it wrote no log'}")
        found = json.loads(log.read_text())
    values = [float(frame["metrics"]["vmaf"]) for frame in found["frames"]]
    if len(values) != clip.length:
        raise Skipped(f"ffmpeg's libvmaf gave {len(values)} values for {clip.length} frames")
    return mean_of(values, f"{MODEL}, libvmaf {found['version']}, ffmpeg {its_version}")


@lru_cache(maxsize=1)
def find_ffmpeg() -> tuple[str, str]:
    """Return path and version of an ffmpeg with libvmaf: the one of imageio-ffmpeg, else the one on the PATH.

    Raises:
        Skipped: if neither has libvmaf.
    """
    for program in programs():
        if "libvmaf" in listed(program, "-filters"):
            return program, version(program)
    raise Skipped(f"VMAF needs an ffmpeg with libvmaf, and none is here: {GET_IT}")


def _command(program: str, clip: Clip, log: str) -> list[str]:
    """Return the command line. Each frame has the clip in its upper half and the reference in its lower half."""
    height, width = clip.height, clip.width
    graph = (
        f"[0:v]split[up][down];[up]crop={width}:{height}:0:0,{_TO_YUV}[main];"
        f"[down]crop={width}:{height}:0:{height},{_TO_YUV}[ref];"
        f"[main][ref]libvmaf=model=version={MODEL}:log_fmt=json:log_path={log}:n_threads=1"
    )
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{2 * height}", "-r", "25", "-i", "pipe:0"]
    return [program, "-hide_banner", "-nostdin", "-v", "error", *raw, "-filter_complex", graph, "-f", "null", "-"]
