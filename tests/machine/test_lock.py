"""One process at a time holds a device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from attnbench.machine.lock import hold_gpu, holding

HOLD = (
    "import sys; from pathlib import Path; from attnbench.machine.lock import holding\n"
    "with holding(Path(sys.argv[1]), print):\n    print('held', flush=True)\n    sys.stdin.read()"
)


def holder(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_process_says_that_it_waits_and_gets_the_lock_when_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "gpu.lock"
    with holder(path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        said: list[str] = []

        def note(text: str) -> None:
            said.append(text)
            first.kill()

        with holding(path, note):
            assert said == ["waiting for the GPU: another process of attnbench measures on it"]


def test_what_nobody_holds_is_held_at_once_and_again_later(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        with holding(tmp_path / "gpu.lock", said.append):
            pass
    assert said == []


def test_a_place_that_cannot_be_locked_and_a_cpu_hinder_nobody(tmp_path: Path) -> None:
    with holding(tmp_path / "no" / "such" / "folder", print), hold_gpu("cpu", print):
        pass
