"""How much shared memory a thread block may use, and whether tiles of 128 rows fit into it."""

from __future__ import annotations

from functools import cache

import torch

from attnbench.kernels.tracing import constant

LARGE_TILES = 229_920
"""Bytes that the kernels use for tiles of 128 rows with 128 columns on compute capability 10.0, and 229,376 on 9.0."""

SMALL_TILES = 90_112
"""The same for tiles of 64 rows. GeForce and workstation GPUs of compute capability 8.6, 8.9 and 12.0 have 101,376."""


def takes_large_tiles(device: torch.device) -> bool:
    """Return whether this GPU takes tiles of 128 rows.

    All others take tiles of 64, A100 too. There, 128 rows would fit, but ptxas gives some of the kernels 32 registers
    and spills up to 11 KB a thread.
    """
    return device.type != "cuda" or shared_memory(device.index) >= LARGE_TILES


@constant
def shared_memory(device: int | None) -> int:
    """Return the bytes of shared memory of a thread block on a GPU, None for the current one."""
    return _most_shared_memory(torch.cuda.current_device() if device is None else device)


@cache  # the driver takes 1.1 ms to answer; torch.compile accepts the mark above on plain functions only
def _most_shared_memory(index: int) -> int:
    from triton.runtime import driver

    return int(driver.active.utils.get_device_properties(index)["max_shared_mem"])
