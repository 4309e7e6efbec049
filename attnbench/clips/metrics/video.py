"""Clips on disk: raw frames for metrics, H.264 for players, and clips of differences.

A player's file is lossy and may be scaled up, so no metric reads it. Each file is written under another name and
renamed when it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from attnbench.clips.metrics.encode import h264_encoder
from attnbench.clips.metrics.frames import Clip, require_alike
from attnbench.inputs.files import open_file
from attnbench.kernels.errors import BadInput
from attnbench.machine.safe_weights import save_tensors
from attnbench.results.files import replacing

PLAYER_SIDE = 256
"""Shorter side, in pixels, that players need. Smaller clips are scaled up by a whole number, to the nearest pixel."""

GAIN = 4.0
"""Factor that makes a difference visible. A difference of 64 or more of 255 is white."""

PANEL_SIDE = 512
"""Largest width of a panel in a player. Larger clips are averaged down, by whole pixels."""

_GUTTER = 8


def write_frames(path: Path, clip: Clip, label: dict[str, str] | None = None) -> None:
    """Write the frames without loss as safetensors: a tensor ``frames``, uint8 [T, H, W, 3], and fps in the header.

    Args:
        path: ending in .safetensors; its folder exists.
        clip: the frames.
        label: further entries of the header, such as method and prompt.

    Raises:
        BadInput: if the file cannot be written. No part of it is left behind.
    """
    words = {"format": "attnbench clip", "fps": repr(float(clip.fps)), "label": json.dumps(label or {})}
    _whole(path, lambda part: save_tensors({"frames": clip.frames}, part, words))


def read_frames(path: Path) -> tuple[Clip, dict[str, str]]:
    """Return the clip that ``write_frames`` wrote, and its label.

    Raises:
        BadInput: if the file is missing, truncated, of another format (pickles are never read), or holds no clip.
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_file(path).close()  # safetensors would wait for a named pipe
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

    Small clips are scaled up. The last row or column of an odd side is repeated, because yuv420p needs even sizes.

    Raises:
        BadInput: if the file cannot be written. No part of it is left behind.
        Unsupported: if neither PyAV nor an ffmpeg with libx264 is here.
    """
    encode = h264_encoder()
    frames, rate = for_players(clip.frames), Fraction(clip.fps).limit_denominator(1001)
    _whole(path, lambda part: encode(part, frames, rate))


def for_players(frames: Tensor) -> Tensor:
    """Return frames, uint8 [T, H, W, 3], scaled up to PLAYER_SIDE by whole pixels, with even sides."""
    factor = -(-PLAYER_SIDE // min(frames.shape[1:3]))
    if factor > 1:
        frames = frames.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    return _even(frames)


def _even(frames: Tensor) -> Tensor:
    odd_height, odd_width = (side % 2 for side in frames.shape[1:3])
    if not odd_height and not odd_width:
        return frames.contiguous()
    padded = pad(frames.permute(0, 3, 1, 2).float(), (0, odd_width, 0, odd_height), mode="replicate")
    return padded.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


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


def abreast(clips: Sequence[Clip]) -> Clip:
    """Return one clip that shows several side by side, in step. It is for ``write_mp4``, not for metrics.

    Raises:
        BadInput: if the clips differ in size or length, or there is none.
    """
    if not clips:
        raise BadInput("there are no clips to show side by side")
    for clip in clips[1:]:
        require_alike(clip, clips[0])
    panels = [_panel(clip.frames) for clip in clips]
    gutter = panels[0].new_zeros((*panels[0].shape[:2], _GUTTER, 3))
    parts = [part for panel in panels for part in (gutter, panel)][1:]
    return Clip(torch.cat(parts, dim=2), clips[0].fps)


def _panel(frames: Tensor) -> Tensor:
    shown = for_players(frames)
    factor = -(-shown.shape[2] // PANEL_SIDE)
    if factor == 1:
        return shown
    planes = avg_pool2d(shown.permute(0, 3, 1, 2).float(), factor, ceil_mode=True, count_include_pad=False)
    return _even(planes.round().to(torch.uint8).permute(0, 2, 3, 1))


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a temporary file beside ``path``, and rename it to ``path``; remove it if that fails."""
    try:
        with replacing(path) as part:
            write(part)
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # its class is known only where the package is installed
            raise
        raise BadInput(f"{str(path)!r} cannot be written: {error}") from error
