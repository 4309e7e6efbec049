"""What no test of results shows: that ptxas lets the tensor cores of Hopper run ahead, and spills nothing in loops."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "compile_hopper.py"


def test_no_product_is_serialised_and_no_loop_spills() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bytes spilled") == 21
