from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from tests.sharing import sharing


def _note(folder: Path, name: str, alone: bool, seconds: float) -> None:
    with sharing(folder, alone=alone):
        (folder / f"{name}.began").touch()
        time.sleep(seconds)
        (folder / f"{name}.ended").touch()


@pytest.mark.parametrize(
    ("first", "second", "waits"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_test_that_needs_the_gpu_alone_has_it_alone(first: bool, second: bool, waits: bool, tmp_path: Path) -> None:
    start = multiprocessing.get_context("spawn").Process
    one = start(target=_note, args=(tmp_path, "one", first, 1.0))
    one.start()
    while not (tmp_path / "one.began").exists():
        time.sleep(0.01)
    with sharing(tmp_path, alone=second):
        assert (tmp_path / "one.ended").exists() == waits
    one.join()
    assert one.exitcode == 0
