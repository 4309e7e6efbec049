"""Read, describe and check the clips before VBench scores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.inputs.clip import video_in
from attnbench.inputs.files import visible
from attnbench.kernels.errors import BadInput

LEAST_FRAMES = 2


@dataclass(frozen=True, slots=True)
class Clip:
    """One mp4 file.

    Attributes:
        name: file name.
        frames: number of frames in the file.
        height: pixels.
        width: pixels.
        fps: frames a second as a fraction, such as "16" or "30000/1001".
        codec: FFmpeg's name for the codec.
        pixel_format: FFmpeg's name for the pixel format.
        bytes: size of the file.
    """

    name: str
    frames: int
    height: int
    width: int
    fps: str
    codec: str
    pixel_format: str
    bytes: int


def read_clip(path: Path) -> Clip:
    """Describe one mp4 file. Frames are counted by their packets, without decoding.

    Raises:
        BadInput: if it is not a video, or has only one frame.
    """
    import av

    try:
        with video_in(path) as (container, stream):
            context, rate = stream.codec_context, stream.average_rate
            height, width, codec = context.height, context.width, context.name
            pixel_format = context.pix_fmt or ""
            frames = sum(packet.size > 0 for packet in container.demux(stream))
    except (av.FFmpegError, OSError, MemoryError) as error:
        raise BadInput(f"clip {str(path)!r} cannot be read as a video: {error}") from error
    if frames < LEAST_FRAMES:
        raise BadInput(f"clip {str(path)!r} has {frames} frame(s); VBench compares frames and needs {LEAST_FRAMES}")
    if not rate:
        raise BadInput(f"clip {str(path)!r} does not say how many frames a second it has")
    return Clip(path.name, frames, height, width, str(rate), codec, pixel_format, path.stat().st_size)


def read_folder(folder: Path, fps: float | None = None) -> tuple[Clip, ...]:
    """Describe the mp4 files of a folder, sorted by name; other files and names that begin with a dot are ignored.

    The fps and the codec influence VBench's scores (``dynamic_degree`` chooses frames by the fps), so all clips must
    agree in them.

    Args:
        folder: the folder of the clips; its subfolders are not read.
        fps: frames a second that the clips must have; None for any that they share.

    Raises:
        BadInput: if there are no clips, one cannot be read, or they differ.
    """
    if not folder.is_dir():
        raise BadInput(f"{str(folder)!r} is not a folder; give the folder that holds the clips as mp4 files")
    paths = sorted(path for path in visible(folder.iterdir()) if path.suffix.lower() == ".mp4" and path.is_file())
    if not paths:
        raise BadInput(f"there is no mp4 file in {str(folder)!r}")
    clips = tuple(read_clip(path) for path in paths)
    _check_alike(clips)
    if fps is not None and not abs(_number(clips[0].fps) - fps) <= 0.01:
        raise BadInput(f"the clips in {str(folder)!r} have {clips[0].fps} frames a second, and --fps asks for {fps:g}")
    return clips


def _check_alike(clips: Sequence[Clip]) -> None:
    first = clips[0]
    for clip in clips[1:]:
        for what, mine, theirs in (
            ("frames a second", first.fps, clip.fps),
            ("codec", first.codec, clip.codec),
            ("pixel format", first.pixel_format, clip.pixel_format),
        ):
            if mine != theirs:
                raise BadInput(
                    f"clips differ in {what}, which changes their scores: {first.name!r} has {mine}, "
                    f"{clip.name!r} has {theirs}; encode all clips in the same way"
                )


def _number(fps: str) -> float:
    over, _, under = fps.partition("/")
    return int(over) / int(under or 1)
