"""The committed results, without the runs that a checkout collects beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
OWN = ("runs", "latest")
"""What a checkout has of its own there."""

DEVICES = sorted(folder for folder in RESULTS.iterdir() if folder.is_dir() and folder.name not in OWN)


def copy_results(to: Path) -> Path:
    """Copy the committed results into a folder, and return it."""
    for device in DEVICES:
        shutil.copytree(device, to / device.name)
    return to
