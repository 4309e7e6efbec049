"""Clips on disk: raw frames for metrics, H.264 for players, and a clip of what differs.

A player's file is lossy and may be scaled up: no metric reads it. Each file is written beside its place and moved there
when it is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.quality.frames import Clip, require_alike

PLAYER_SIDE = 256
"""A clip whose shorter side is smaller is scaled up for players, by a whole number, nearest pixel."""

GAIN = 4.0
"""What a difference is multiplied by, so that it can be seen: from 64 of 255 on it is white."""

_X264 = {"crf": "18", "preset": "medium", "threads": "1"}  # one thread: the same clip gives the same file
_BT709 = 1  # the number of BT.709 in H.264's tables of colour


def write_frames(path: Path, clip: Clip, label: dict[str, str] | None = None) -> None:
    """Write the frames without loss as safetensors: a tensor ``frames``, uint8 [T, H, W, 3], and fps in the header.

    Args:
        path: ending in .safetensors; its folder exists.
        clip: the frames.
        label: further words for the header, as method or prompt.

    Raises:
        BadInput: if the file cannot be written; nothing is left of it then.
        Unsupported: if safetensors is not installed.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise Unsupported("raw frames need safetensors: pip install attnbench[quality]") from error
    words = {"format": "attnbench clip", "fps": repr(float(clip.fps)), "label": json.dumps(label or {})}
    _whole(path, lambda part: save_file({"frames": clip.frames}, str(part), metadata=words))


def read_frames(path: Path) -> tuple[Clip, dict[str, str]]:
    """Return the clip that ``write_frames`` wrote, and its label.

    Raises:
        BadInput: if the file is missing, truncated, of another format (pickles are never read), or holds no clip.
        Unsupported: if safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise Unsupported("raw frames need safetensors: pip install attnbench[quality]") from error
    try:
        with safe_open(str(path), framework="pt") as file:
            words = file.metadata() or {}
            if words.get("format") != "attnbench clip" or "frames" not in file.keys():  # noqa: SIM118 (no container)
                raise BadInput(f"{str(path)!r} holds no clip: give a file of frames that attnbench wrote")
            frames = file.get_tensor("frames")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"clip {str(path)!r} cannot be read: missing, truncated, or not a safetensors file") from error
    try:
        return Clip(frames, float(words["fps"])), dict(json.loads(words["label"]))
    except (KeyError, ValueError) as error:
        raise BadInput(f"clip {str(path)!r} has a damaged header or frames: {error}") from error


def write_mp4(path: Path, clip: Clip) -> None:
    """Write a clip for players: H.264, yuv420p, BT.709, the index in front, its fps kept.

    Small clips are scaled up, and an odd side gets its last row or column twice, as yuv420p needs even sizes.

    Raises:
        BadInput: if the file cannot be written; nothing is left of it then.
        Unsupported: if av has no libx264.
    """
    if "libx264" not in av.codecs_available:
        raise Unsupported("writing .mp4 needs an av package with libx264: pip install av")
    frames = for_players(clip.frames)

    def write(part: Path) -> None:
        with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            rate = Fraction(clip.fps).limit_denominator(1001)
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

    _whole(path, write)


def for_players(frames: Tensor) -> Tensor:
    """Return frames, uint8 [T, H, W, 3], scaled up to PLAYER_SIDE by whole pixels, and with even sides."""
    factor = -(-PLAYER_SIDE // min(frames.shape[1:3]))
    if factor > 1:
        frames = frames.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    odd_height, odd_width = (side % 2 for side in frames.shape[1:3])
    planes = frames.permute(0, 3, 1, 2)
    if odd_height or odd_width:
        planes = pad(planes.float(), (0, odd_width, 0, odd_height), mode="replicate").to(torch.uint8)
    return planes.permute(0, 2, 3, 1).contiguous()


def difference_clip(clip: Clip, reference: Clip, gain: float = GAIN) -> Clip:
    """Return |clip - reference| · gain as a clip, channel by channel: black where nothing differs.

    Raises:
        BadInput: if the clips differ in size or length, or the gain is not above 0.
    """
    require_alike(clip, reference)
    if not gain > 0:
        raise BadInput(f"gain {gain!r} must be a number above 0")
    between = torch.maximum(clip.frames, reference.frames) - torch.minimum(clip.frames, reference.frames)
    bright = torch.arange(256, dtype=torch.float32).mul(gain).round().clamp(max=255).to(torch.uint8)
    return Clip(bright[between.int()], clip.fps)


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file beside ``path`` and move it there; remove it if that fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    except (OSError, av.FFmpegError) as error:
        raise BadInput(f"{str(path)!r} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # its class is known only where the package is installed
            raise
        raise BadInput(f"{str(path)!r} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
