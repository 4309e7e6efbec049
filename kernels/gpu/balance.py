"""Equal shares of tiles for thread blocks that take every n-th tile of a list.

Such a list is a table with a row of n tiles for each round. Within a row, tiles may change places without leaving the
order of heads, so the longest tile of a row goes to the thread block with the least work. The last row comes first,
because it may not be full: its tiles belong to the first thread blocks.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import ceil_div, jit, power_of_2
from attnbench.kernels.witness import launched

STEPS_OF_A_TILE = 2
"""Steps that take as long as a tile in addition to its own: 3.0 µs of 1.49 µs each."""


def even_out(records: Tensor, count: Tensor, programs: int) -> Tensor:
    """Return the records of tiles in an order in which thread blocks have equal shares of the steps.

    Args:
        records: int32 [capacity, 8], as in ``work.Tiles``.
        count: int32 [1], tiles in use.
        programs: number of thread blocks, of which number i takes tiles i, i + programs, and so on.
    """
    place = torch.arange(len(records), device=records.device)
    launched("triton:even_out")
    width = max(2, power_of_2(programs))
    _even_out[(1,)](records, count, place, programs, STEPS=STEPS_OF_A_TILE, WIDTH=width, num_warps=4)
    return torch.empty_like(records).index_copy_(0, place, records)


@jit
def _even_out(
    records: tl.tensor, count: tl.tensor, place: tl.tensor, programs: tl.tensor, STEPS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Write where each tile goes."""
    lane = tl.arange(0, WIDTH)
    far = tl.full([WIDTH], 1 << 50, tl.int64)
    # The work of each thread block, the least first, with the number of the thread block in the last digits.
    work = lane + tl.where(lane < programs, 0, far)
    total = tl.load(count)
    rounds = (total + programs - 1) // programs
    for back in range(rounds):
        first = (rounds - 1 - back) * programs
        real = (lane < programs) & (first + lane < total)
        steps = tl.load(records + (first + lane).to(tl.int64) * 8 + 5, mask=real, other=0) + STEPS
        longest = tl.sort(lane + tl.where(real, (1 << 32) - steps.to(tl.int64) * WIDTH, far))
        steps = tl.where(longest < (1 << 33), ((1 << 32) - longest + WIDTH - 1) // WIDTH, 0)
        place_of = place + first + longest % WIDTH
        tl.store(place_of, first + work % WIDTH, mask=longest < (1 << 33))
        work = tl.sort(work + steps * WIDTH)


def rounded_up(capacity: int, programs: int | None) -> int:
    """Return the room for key tiles of a head: with ``programs``, that of whole rounds."""
    return capacity if programs is None else ceil_div(capacity, programs) * programs


def share_out(records: Tensor, kv_group: int, programs: int) -> Tensor:
    """Return the records of key tiles in an order in which thread blocks have equal shares of the steps.

    Args:
        records: int32 [B · H, tiles, 8], as in ``work.KeyTiles``, long tiles first. Tiles are a multiple of
            ``programs``.
        kv_group: number of query heads that share a kv head. They stay alike.
        programs: number of thread blocks, of which number i takes tiles i, i + programs, and so on.
    """
    rows, capacity = records.shape[:2]
    place = torch.empty(rows // kv_group, capacity, dtype=torch.int64, device=records.device)
    launch(
        _share_out, (1,), (records, place), (rows // kv_group, capacity, kv_group, programs),
        STEPS=STEPS_OF_A_TILE, WIDTH=max(2, power_of_2(programs)), num_warps=4,
    )  # fmt: skip
    place = place if kv_group == 1 else place.repeat_interleave(kv_group, 0)
    return torch.empty_like(records).scatter_(1, place[..., None].expand_as(records), records)


@jit
def _share_out(
    records: tl.tensor, place: tl.tensor, rows: tl.tensor, capacity: tl.tensor, group: tl.tensor, programs: tl.tensor,
    STEPS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Write where each tile of a kv head goes: within a round, the next one to the thread block with the least work."""
    lane = tl.arange(0, WIDTH)
    inside = lane < programs
    # The work of each thread block, the least first, with the number of the thread block in the last digits.
    work = lane + tl.where(inside, 0, tl.full([WIDTH], 1 << 50, tl.int64))
    rounds = capacity // programs
    for i in range(rows * rounds):
        row = (i // rounds).to(tl.int64)
        tile = i % rounds * programs + lane
        steps = tl.zeros([WIDTH], tl.int32)
        used = inside
        for head in range(group):
            record = records + ((row * group + head) * capacity + tile) * 8
            used = inside & (tl.load(record, mask=inside, other=0) < tl.load(record + 1, mask=inside, other=0))
            steps += tl.load(record + 4, mask=inside, other=0)
        tl.store(place + row * capacity + tile, tile - lane + work % WIDTH, mask=inside)
        work = tl.sort(work + tl.where(used, steps + STEPS, 0).to(tl.int64) * WIDTH)
