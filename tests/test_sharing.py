from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import sharing as module
from tests.sharing import sharing
from tests.waiting import until

OTHER = """
import runpy, sys, time
from pathlib import Path
folder = Path(sys.argv[2])
with runpy.run_path(sys.argv[1])["sharing"](folder, alone=sys.argv[3] == "True"):
    (folder / "began").touch()
    time.sleep(1)
    (folder / "ended").touch()
"""


def test_tests_that_need_the_gpu_alone_come_last() -> None:
    folder = Path(__file__).with_name("gpu")
    command = [sys.executable, "-m", "pytest", "--collect-only", str(folder)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder.parent.parent).stdout
    names = [line for line in listed.splitlines() if "::" in line]
    alone = [name for name in names if "test_timers" in name or "twenty_seconds" in name]
    assert names[-len(alone) :] == alone
    assert len(names) > len(alone) > 1


@pytest.mark.parametrize(
    ("first", "second", "waits"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_test_that_needs_the_gpu_alone_has_it_alone(first: bool, second: bool, waits: bool, tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(module.__file__), str(tmp_path), str(first)])
    until(lambda: (tmp_path / "began").exists() or other.poll() is not None, "the start of the other")
    with sharing(tmp_path, alone=second):
        assert (tmp_path / "ended").exists() == waits
    assert other.wait() == 0
