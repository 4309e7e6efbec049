"""Write H.264 with PyAV or, where PyAV lacks libx264, with an ffmpeg that has it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from attnbench.clips.metrics.ffmpeg import feed, listed, programs
from attnbench.kernels.errors import BadInput, Unsupported

GET_IT = "pip install av, or install an ffmpeg that has libx264"

Encode = Callable[[Path, Tensor, Fraction], None]
"""(file, frames uint8 [T, H, W, 3] with even sides, frames a second) -> None. Writes an mp4 to the file."""

_X264 = {"crf": "18", "preset": "medium", "threads": "1"}  # one thread: the same clip gives the same file
_BT709 = 1  # the number of BT.709 in H.264's tables of colour


@lru_cache(maxsize=1)
def h264_encoder() -> Encode:
    """Return a function that writes H.264 on this machine: yuv420p, BT.709, the index in front.

    Raises:
        Unsupported: if neither PyAV nor an ffmpeg with libx264 is available. The message says how to get one.
    """
    try:
        import av
    except ImportError:
        pass
    else:
        if "libx264" in av.codecs_available:
            return _by_av
    for program in programs():
        if "libx264" in listed(program, "-encoders"):
            return lambda path, frames, rate: _by_ffmpeg(program, path, frames, rate)
    raise Unsupported(f"writing .mp4 needs PyAV or ffmpeg with libx264, and neither is here: {GET_IT}")


def _by_av(path: Path, frames: Tensor, rate: Fraction) -> None:
    import av

    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options=_X264)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = 1  # 16 … 235
            for number, picture in enumerate(frames):
                rgb = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
                frame = rgb.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=1)
                frame.pts = number
                frame.time_base = 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise BadInput(f"{str(path)!r} cannot be written: {error}") from error


def _by_ffmpeg(program: str, path: Path, frames: Tensor, rate: Fraction) -> None:
    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "pipe:0"]
    colours = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    x264 = ["-c:v", "libx264", *(word for name, value in _X264.items() for word in (f"-{name}", value))]
    to_yuv = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"]
    target = ["-movflags", "+faststart", "-f", "mp4", "-y", str(path)]
    command = [program, "-hide_banner", "-nostdin", "-v", "error", *raw, *to_yuv, *x264, *colours, *target]
    problem = feed(command, (picture.numpy().tobytes() for picture in frames))
    if problem:
        raise BadInput(f"{str(path)!r} cannot be written: ffmpeg gave {problem}")
