"""Read the prompts of clips from a JSON object that maps file names to prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attnbench.inputs.files import read_named
from attnbench.kernels.errors import BadInput
from attnbench.kernels.named_once import named_once

_WANTED = 'a JSON object that maps file names to prompts, such as {"cat.mp4": "a cat on a sofa"}'


def read_prompts(path: Path, videos: Sequence[str]) -> dict[str, str]:
    """Return the prompt of each clip.

    Args:
        path: the JSON file; it may name more clips than there are.
        videos: file names of the clips.

    Raises:
        BadInput: if it cannot be read, is not such an object, or lacks a clip.
    """
    try:
        text = read_named(path).decode("utf-8-sig")  # without the mark that some editors put first
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "they are not text in UTF-8"
        raise BadInput(f"prompts {str(path)!r} cannot be read: {why}") from error
    if not text.strip():
        raise BadInput(f"prompts {str(path)!r} are empty; wanted: {_WANTED}")
    try:
        found = json.loads(text, object_pairs_hook=named_once)
    except (ValueError, RecursionError) as error:
        what = "are not JSON" if isinstance(error, (json.JSONDecodeError, RecursionError)) else "cannot be told apart"
        raise BadInput(f"prompts {str(path)!r} {what} ({error}); wanted: {_WANTED}") from error
    if not isinstance(found, dict) or not all(isinstance(prompt, str) for prompt in found.values()):
        raise BadInput(f"prompts {str(path)!r} are something else; wanted: {_WANTED}")
    missing = [video for video in videos if not found.get(video, "").strip()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"prompts {str(path)!r} have no prompt for clip {missing[0]!r}{others}")
    return {video: found[video] for video in videos}
