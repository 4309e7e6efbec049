"""What the compiler makes of kernels that cut rows: a step keeps them in registers, also those of a multiple of 16.

No GPU is needed, as in ``test_card_builds``. python tests/gpu/test_row_builds.py BLOCKS prints a line for each build.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BYTES_OF_WARP = 64
"""Shared memory in which a warp says what it found, for all sums of a step."""


def main(blocks: int) -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    import torch
    from test_card_builds import CARDS, watch_builds

    made = watch_builds(CARDS["H100"])

    from attnbench.kernels.gpu.selection.cut_rows import cut_mass_row, cut_top_k_row

    rows = torch.rand(1, 2, 3, blocks)
    cut_top_k_row(rows, torch.tensor([2]))
    cut_mass_row(rows, torch.tensor([0.5], dtype=torch.float64), "past", 0)
    for kernel in made:
        print(kernel.name, kernel.metadata.num_warps, kernel.metadata.shared)


@pytest.mark.parametrize("blocks", [288, 624, 864, 1182, 1440, 2608])
def test_a_row_is_not_moved_through_shared_memory(blocks: int) -> None:
    # In a process of its own: here the kernels may have been imported for Triton's interpreter.
    command = [sys.executable, __file__, str(blocks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    built = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in built] == ["_top_k_rows", "_mass_rows"]
    for name, warps, shared in built:
        assert int(shared) <= (0 if warps == "1" else BYTES_OF_WARP * int(warps)), name


if __name__ == "__main__":
    main(int(sys.argv[1]))
