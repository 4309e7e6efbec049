"""Triton finds what it compiled again, whatever else was compiled before or after."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

PRINT = "; from triton import knobs; print(knobs.cache.dir)"
INDUCTOR = (
    "; import os; from torch._inductor.runtime.cache_dir_utils import triton_cache_dir as place"
    "; os.environ.get('TRITON_CACHE_DIR') or os.environ.update(TRITON_CACHE_DIR=place(0))"
)  # what TorchInductor does before it runs a kernel
OURS = "import attnbench.kernels.gpu.widen"
FLEX = "from attnbench.kernels.engines import flex; flex._compiled()"


def place_after(code: str, home: Path, **variables: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_CACHE_DIR"}
    environment = inherited | {"TRITON_HOME": str(home)} | variables
    command = [sys.executable, "-c", code + PRINT]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_cache_stays_where_it_is(tmp_path: Path) -> None:
    own = place_after("import triton", tmp_path)
    assert own.startswith(str(tmp_path))
    assert place_after("import torch" + INDUCTOR, tmp_path) != own
    for first in (OURS, FLEX):
        assert place_after(first + INDUCTOR, tmp_path) == own


def test_a_cache_that_was_chosen_is_used(tmp_path: Path) -> None:
    chosen = str(tmp_path / "chosen")
    for first in (OURS, FLEX):
        assert place_after(first, tmp_path, TRITON_CACHE_DIR=chosen) == chosen
