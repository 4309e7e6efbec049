"""``scripts/time_host.py`` on a CPU: one row a layer, in a table, and functions if they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "time_host.py"
COMMAND = [sys.executable, str(SCRIPT), "--device", "cpu", "--grid", "2x4x4", "--heads", "2", "--method", "vmoba"]


def test_it_prints_a_row_for_each_layer_and_the_functions() -> None:
    printed = subprocess.run([*COMMAND, "--profile", "2"], capture_output=True, text=True, check=True).stdout
    lines = printed.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| 2x4x4")]
    assert [row[1:3] for row in rows] == [["full", "0"], ["vmoba", "0"], ["vmoba", "1"], ["vmoba", "2"]]
    assert all(float(row[6]) >= float(row[7]) > 0 for row in rows)  # host time, and the least of it
    assert [float(row[5]) for row in rows[:1]] == [1.0]
    assert sum("µs" in line for line in lines) == 2 * len(rows)
