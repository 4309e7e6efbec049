"""Attention over tiles: gathered queries, and the segments of keys that all queries of a tile keep.

A tile's record is 8 int32: row of heads (b · H + h), place of its first query in ``queries`` and of its first output
row, first segment, start and end of that segment, number of steps of 128 keys, and two unused. Segments are (start,
end) pairs of positions in the arranged order; a tile's segments follow one another. The Triton kernel here
runs everywhere; ``attend_hopper`` reads the same records and is faster, but not trusted yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.widen import INTERPRETED, jit

ROWS = 128
KEYS = 128
LOG2_E = 1.4426950408889634


@dataclass(frozen=True, eq=False)
class Tiles:
    """Work for ``attend_tiles``.

    Attributes:
        queries: int32 [capacity · 128], query tokens; -1 fills a tile.
        records: int32 [capacity, 8].
        count: int32 [1], tiles in use, on the device.
        segments: int32 [segments + 1, 2]; the last pair is never used, only read ahead.
    """

    queries: Tensor
    records: Tensor
    count: Tensor
    segments: Tensor


def attend_tiles(
    q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, scale: float, *, hopper: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend to each tile's segments.

    Args:
        q: [B, H, N, D], unit last stride. k, v: [B, KV heads, N, D] in the arranged order, contiguous. D is 64 or 128.
        scale: factor of the scores.
        hopper: run the Gluon kernel; only for trying it (see NOTES.md).

    Returns:
        Normalised output rows [capacity · 128, D] in q's dtype, and log2-sum-exp2 float32 [capacity · 128]. Rows of
        places that hold no query, and those behind the last tile, are undefined.
    """
    places = len(tiles.queries)
    partial = torch.empty(places, q.shape[3], dtype=q.dtype, device=q.device)
    partial_lse = torch.empty(places, dtype=torch.float32, device=q.device)
    arguments = (
        q, tiles.queries, tiles.records, tiles.count, tiles.segments, partial, partial_lse, q.stride(0), q.stride(1),
        q.stride(2), q.shape[1], q.shape[1] // k.shape[1], k.shape[2], scale * LOG2_E,
    )  # fmt: skip
    if hopper:
        _on_hopper(k, v, arguments)
    else:
        programs = 4 if INTERPRETED else 2 * torch.cuda.get_device_properties(q.device).multi_processor_count
        _attend_tiles[(programs,)](
            k, v, *arguments, ROWS=ROWS, KEYS=KEYS, D=q.shape[3], WIDEN=INTERPRETED, num_warps=8, num_stages=2
        )
    return partial, partial_lse


def _on_hopper(k: Tensor, v: Tensor, arguments: tuple[object, ...]) -> None:
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from attnbench.kernels.gpu import attend_hopper as hopper

    d = k.shape[3]
    layout = gl.NVMMASharedLayout.get_default_for([KEYS, d], gl.bfloat16 if k.dtype == torch.bfloat16 else gl.float16)
    k_rows, v_rows = (TensorDescriptor.from_tensor(x.view(-1, d), [KEYS, d], layout) for x in (k, v))
    programs = torch.cuda.get_device_properties(k.device).multi_processor_count
    hopper.attend_tiles[(programs,)](
        k_rows, v_rows, *arguments, ROWS=ROWS, KEYS=KEYS, D=d, STAGES=hopper.STAGES, REGISTERS=hopper.REGISTERS,
        num_warps=4,
    )  # fmt: skip


@jit
def _attend_tiles(
    k: tl.tensor, v: tl.tensor, q: tl.tensor, queries: tl.tensor, records: tl.tensor, tiles: tl.tensor,
    segments: tl.tensor, partial: tl.tensor, partial_lse: tl.tensor, q_batch: tl.tensor, q_head: tl.tensor,
    q_token: tl.tensor, heads: tl.tensor, kv_group: tl.tensor, tokens: tl.tensor, scale: tl.tensor,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    count_tiles = tl.load(tiles)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, D)
    for tile in range(tl.program_id(0), count_tiles, tl.num_programs(0)):
        record = records + tile * 8
        head = tl.load(record)
        place = tl.load(record + 1)
        segment = tl.load(record + 2)
        start = tl.load(record + 3)
        end = tl.load(record + 4)
        count = tl.load(record + 5)
        token = tl.load(queries + place + row)
        base = (head // heads).to(tl.int64) * q_batch + (head % heads).to(tl.int64) * q_head
        where = q + base + token.to(tl.int64)[:, None] * q_token + column[None]
        rows = tl.load(where, mask=token[:, None] >= 0, other=0.0)
        keys_base = (head // kv_group).to(tl.int64) * tokens * D
        top = tl.full([ROWS], -float("inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, D], tl.float32)
        if WIDEN:
            rows = rows.to(tl.float32)
        for _ in range(count):
            key = start + tl.arange(0, KEYS)
            inside = key < end
            at = keys_base + key.to(tl.int64)[:, None] * D + column[None]
            keys = tl.load(k + at, mask=inside[:, None], other=0.0)
            values = tl.load(v + at, mask=inside[:, None], other=0.0)
            if WIDEN:
                keys, values = keys.to(tl.float32), values.to(tl.float32)
            s = tl.where(inside[None], tl.dot(rows, tl.trans(keys)) * scale, -float("inf"))
            new = tl.maximum(top, tl.max(s, 1))
            p = tl.exp2(s - new[:, None])
            decay = tl.exp2(top - new)
            total = total * decay + tl.sum(p, 1)
            acc = tl.dot(p.to(values.dtype), values, acc * decay[:, None])
            top = new
            start += KEYS
            if start >= end:
                segment += 1
                start = tl.load(segments + segment * 2)
                end = tl.load(segments + segment * 2 + 1)
        place_row = (place + row).to(tl.int64)
        tl.store(partial + place_row[:, None] * D + column[None], (acc / total[:, None]).to(partial.dtype.element_ty))
        tl.store(partial_lse + place_row, top + tl.log2(total))
