"""Keys and values that warps of the attention kernel itself arrange while the others attend.

Attention leaves HBM idle, and tiles come head by head, so the keys and values of a head are copied while the kernel
attends to earlier heads. Only the first head is arranged beforehand, by the whole GPU. Thread blocks take pieces of
rows by ticket and count the finished pieces of each head. The running thread blocks copy everything, so none waits for
a thread block that has not begun.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

WARPS = gl.constexpr(2)
ROWS_AT_ONCE = gl.constexpr(16)
"""Number of rows whose addresses are held at a time. With 32, addresses are spilled at 32 registers per thread."""


@gluon.jit
def arrange_rows(
    k, v, order, progress, k_rows, v_rows, buffer, tiles, all_heads, places, kv_heads, group, k_batch, k_head, k_token,
    v_batch, v_head, v_token, order_row, row_batch, row_head, KEYS: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    """Copy rows of k and v to where ``k_rows`` and ``v_rows`` point, KEYS of a head at a time, from head 1 on.

    ``all_heads`` is the number of arranged heads in the batch, ``kv_heads`` that of one item, and ``group`` that from
    each head of k and v.
    """
    pieces = (places + KEYS - 1) // KEYS
    total = gl.where(gl.load(tiles) > 0, (all_heads - 1) * pieces, 0)
    ticket = gl.atomic_add(progress, 1)
    while ticket < total:
        following = gl.atomic_add(progress, 1)  # long before it is needed
        head = 1 + ticket // pieces
        first = gl.minimum(ticket % pieces * KEYS, places - KEYS)  # the last piece repeats rows of the one before
        b, h = head // kv_heads, head % kv_heads
        row = b * row_batch + h * row_head + first
        tokens = order + head.to(gl.int64) * order_row + first
        source = k + b.to(gl.int64) * k_batch + (h // group).to(gl.int64) * k_head
        _gather(source, tokens, k_token, buffer, KEYS, D)
        tma.async_copy_shared_to_global(k_rows, [row, 0], buffer)
        tma.store_wait(0)
        gl.thread_barrier()
        source = v + b.to(gl.int64) * v_batch + (h // group).to(gl.int64) * v_head
        _gather(source, tokens, v_token, buffer, KEYS, D)
        tma.async_copy_shared_to_global(v_rows, [row, 0], buffer)
        _finish_stores(ticket)
        gl.thread_barrier()
        gl.atomic_add(progress + head, 1, sem="release", scope="gpu")
        ticket = following


@gluon.jit
def _gather(source, tokens, pitch, buffer, KEYS: gl.constexpr, D: gl.constexpr):
    """Copy KEYS rows to shared memory, from where TMA reads them."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [WARPS, 1], [1, 0])
    row = gl.arange(0, ROWS_AT_ONCE, gl.SliceLayout(1, LAYOUT))
    column = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, LAYOUT)), 0)
    for i in gl.static_range(KEYS // ROWS_AT_ONCE):
        token = gl.load(tokens + (i * ROWS_AT_ONCE + row))
        where = source + (gl.expand_dims(token * pitch, 1) + column)
        async_copy.async_copy_global_to_shared(buffer.slice(i * ROWS_AT_ONCE, ROWS_AT_ONCE), where)
    async_copy.commit_group()
    async_copy.wait_group(0)
    fence_async_shared()
    gl.thread_barrier()


@gluon.jit
def _finish_stores(number):
    """Wait until TMA has written what it stores, and publish it. ``store_wait`` only waits until it has been read."""
    gl.inline_asm_elementwise(
        "cp.async.bulk.wait_group 0; fence.proxy.async; fence.acq_rel.gpu; mov.u32 $0, $1;", "=r,r", [number], gl.int32,
        is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def wait_for_head(progress, head, before, places, KEYS: gl.constexpr):
    """Wait until TMA can read all rows of a head, unless it is the head of ``before``. Return the head."""
    if head != before:
        pieces = (places + KEYS - 1) // KEYS
        there = gl.atomic_add(progress + head, 0, sem="acquire", scope="gpu")
        while there < pieces:
            there = gl.atomic_add(progress + head, 0, sem="acquire", scope="gpu")
        gl.inline_asm_elementwise(
            "fence.proxy.async; mov.u32 $0, $1;", "=r,r", [there], gl.int32, is_pure=False, pack=1
        )
    return head
