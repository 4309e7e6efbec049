"""The files of clips: their names, and how they are written and read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from attnbench.clips.metrics.encode import h264_encoder
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.video import GAIN, abreast, difference_clip, read_frames, write_frames, write_mp4
from attnbench.clips.request import Shot
from attnbench.inputs.files import inside
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.results.files import write_whole

RAW, VIDEOS, PLAYERS = "raw", "videos", "players"
PROMPTS = "prompts.json"
"""File in the folder of videos that maps file names to prompts, as ``attnbench vbench run`` reads it."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one clip, relative to the folder of the run; empty where there is none."""

    raw: str
    video: str = ""
    player: str = ""


def stem_of(shot: Shot, number: int) -> str:
    """Return what the file names of a clip begin with: prompt, seed, method and, for full attention, the engine."""
    words = re.sub(r"[^a-z0-9]+", "-", shot.prompt.lower()).strip("-")[:40].strip("-")
    method = shot.method if shot.role == "method" else f"{shot.method}-{shot.engine}"
    method += f"-{shot.number + 1}" if shot.number else ""
    return f"{number:03d}-{words or 'prompt'}-seed{shot.seed}-{re.sub(r'[^A-Za-z0-9_-]+', '-', method)}"


def can_encode() -> str:
    """Return why H.264 cannot be written here and how to get it, or an empty string if it can."""
    try:
        h264_encoder()
    except Unsupported as error:
        return str(error)
    return ""


def write_take(folder: Path, stem: str, shot: Shot, clip: Clip, reference: Clip | None, *, encode: bool) -> Files:
    """Write the raw frames of a clip and, with ``encode``, its H.264 file and the player beside its reference.

    Args:
        folder: the folder of the run.
        stem: what the file names begin with.
        shot: the description of the clip, for the header of the raw frames.
        clip: the frames.
        reference: the exact clip; None if this is the exact clip.
        encode: whether H.264 can be written.

    Raises:
        BadInput: if a file cannot be written. No part of it is left behind.
    """
    for name in (RAW, *((VIDEOS, PLAYERS) if encode else ())):
        try:
            (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"cannot write clips to {str(folder / name)!r}: {error.strerror}") from error
    files = Files(f"{RAW}/{stem}.safetensors")
    label = {"prompt": shot.prompt, "seed": str(shot.seed), "method": shot.method, "engine": shot.engine}
    write_frames(folder / files.raw, clip, label)
    if not encode:
        return files
    files = Files(files.raw, f"{VIDEOS}/{stem}.mp4", f"{PLAYERS}/{stem}.mp4" if reference is not None else "")
    write_mp4(folder / files.video, clip)
    if reference is not None:
        write_mp4(folder / files.player, abreast([reference, clip, difference_clip(clip, reference, GAIN)]))
    return files


def read_take(folder: Path, raw: str, digest: str) -> Clip | None:
    """Return the clip in a file of raw frames, or None if it is not in the folder, damaged, or of another clip."""
    try:
        place = inside(folder, raw)
        clip = None if place is None else read_frames(place)[0]
    except BadInput:
        return None
    return clip if clip is not None and clip.digest == digest else None


def write_prompts(folder: Path, prompts: dict[str, str]) -> None:
    """Write the prompt of each video.

    Raises:
        BadInput: if it cannot be written.
    """
    if prompts:
        write_whole((json.dumps(prompts, indent=1, ensure_ascii=False) + "\n").encode(), folder / VIDEOS / PROMPTS)
