"""Ask git about a folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set by a hook: they point to another checkout


def git(folder: Path, *arguments: str, seconds: float = 20) -> bytes | None:
    """Return what git prints, or None if it is missing, says no, or takes more than so many ``seconds``."""
    inherited = {name: value for name, value in os.environ.items() if name not in _HOOK_VARIABLES}
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=True, env=inherited).stdout
    except (OSError, subprocess.SubprocessError):
        return None
