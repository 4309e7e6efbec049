"""Strided antidiagonal scores, reduced to block masses on the way: the scores are never in memory as a whole.

The scores of all groups are one matrix product: row g holds the tokens of query group g in reverse, column h those of
key group h, each ``stride`` · D long. Its epilogue reduces each row to the log-sum-exp of every key block, one number
for ``block`` / ``stride`` scores. On Hopper, ``strided_hopper`` does this where groups are rows of a matrix. A second
kernel adds these up to the log-sum-exp of the row, and to the masses of the blocks. Blocks of padding alone score 0 and
are added without being computed.

Predicted for 12 heads of 75,600 × 128 bfloat16 tokens, stride 8, blocks of 128 on an H100: 2.2 TFLOP, 3.7 ms at 600
TFLOP/s; 268 MB written and read twice, 0.3 ms.
"""

from __future__ import annotations

import math

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.gpu.hopper import is_hopper
from attnbench.kernels.gpu.key_rows import rows_of
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import INTERPRETED, ceil_div, check_queries_and_keys, jit

TILE_HALF = 128
TILE_FLOAT32 = 64
"""Groups of a tile's side: for bfloat16 and float16, and for float32."""

COLUMNS = 64


def strided_mass(q: Tensor, k: Tensor, stride: int, block: int, padded: int) -> Tensor:
    """Return the masses of block pairs; see ``kernels.strided.strided_mass``.

    Args:
        q: float32, float16 or bfloat16 [B, H, N, D], any strides with the last 1.
        k: [B, KV heads, N, D], likewise; KV heads divides H.
        stride: tokens of a group.
        block: tokens of a block, ``stride`` times a power of two.
        padded: length with padding, a multiple of ``block``.

    Returns:
        float32 [B, H, ⌈N / block⌉, padded / block].

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype or stride.
    """
    check_queries_and_keys(q, k)
    (batch, heads, n), each = q.shape[:3], block // stride
    if each & (each - 1):
        raise BadInput(f"a block of {block} tokens has {each} groups of {stride}; it must be a power of two")
    groups, blocks = ceil_div(n, stride), ceil_div(n, block)
    sums = q.new_empty(batch * heads, groups, blocks, dtype=torch.float32)
    if not _score_on_hopper(q, k, sums, stride, each):
        _score(q, k, sums, stride, each)
    mass = q.new_empty(batch, heads, blocks, padded // block, dtype=torch.float32)
    launch(
        _add_rows, (blocks, batch * heads), (sums, mass), (groups, blocks, padded // block - blocks), EACH=each,
        COLUMNS=COLUMNS, num_warps=4,
    )  # fmt: skip
    return mass


def _score(q: Tensor, k: Tensor, sums: Tensor, stride: int, each: int) -> None:
    """Write the log-sum-exp of each group of queries and block of keys."""
    (batch, heads, n, dim), (groups, blocks) = q.shape, sums.shape[1:]
    tile = max(each, TILE_FLOAT32 if q.dtype == torch.float32 else TILE_HALF)
    # The largest step that divides head_dim: steps of 64 would multiply 128 channels for a head_dim of 72, and their
    # loads, which cannot be copied asynchronously there, spill 1,304 bytes a thread on an A100.
    depth = min(64, max(16, dim & -dim))
    launch(
        _group_scores, (ceil_div(groups, tile), ceil_div(groups, tile), batch * heads), (q, k, sums),
        (*q.stride()[:3], *k.stride()[:3], heads, heads // k.shape[1], n, groups, blocks, dim,
         1 / (math.sqrt(dim) * stride)),
        STRIDE=stride, EACH=each, TILE=tile, DEPTH=depth, WIDE=INTERPRETED,
        num_warps=8, num_stages=3,
    )  # fmt: skip


def _score_on_hopper(q: Tensor, k: Tensor, sums: Tensor, stride: int, each: int) -> bool:
    """Do what ``_score`` does by ``strided_hopper``, if this is Hopper and groups are rows of a matrix.

    Returns:
        Whether it could.
    """
    if not is_hopper(q.device) or q.dtype == torch.float32 or each == 1:  # there, blocks of single groups spill
        return False
    from attnbench.kernels.gpu.selection.strided_hopper import DEPTH, score_groups

    dim = q.shape[3]
    if dim % DEPTH:
        return False
    queries, keys = (_rows_of_groups(x, stride) for x in (q, k))
    if queries is None or keys is None:
        return False
    (q_rows, *q_places), (k_rows, *k_places) = queries, keys
    scale = 1 / (math.sqrt(dim) * stride)
    heads = (q.shape[1], q.shape[1] // k.shape[1])
    score_groups(q_rows, k_rows, (*q_places, *k_places, *heads), sums, stride, each, dim, scale)
    return True


def _rows_of_groups(x: Tensor, stride: int) -> tuple[Tensor, int, int, int, int] | None:
    """View x [B, H, N, D] as rows of ``stride`` tokens each, or return None.

    Returns:
        The rows; those of a batch item and of a head; the columns of a head and of a token.
    """
    found = rows_of(x) if x.data_ptr() % 16 == 0 else None
    if found is None:
        return None
    rows, batch, head, column = found
    pitch, (n, dim) = rows.stride(0), x.shape[2:]
    if n % stride or batch % stride or head % stride or (pitch | column) * x.element_size() % 16:
        return None
    shape = (len(rows) // stride, (stride - 1) * pitch + (x.shape[1] - 1) * column + dim)
    return rows.as_strided(shape, (stride * pitch, 1)), batch // stride, head // stride, column, pitch


@jit
def _group_scores(
    q: tl.tensor, k: tl.tensor, sums: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qn: tl.tensor,
    stride_kb: tl.tensor, stride_kh: tl.tensor, stride_kn: tl.tensor,
    heads: tl.tensor, group: tl.tensor, n: tl.tensor, groups: tl.tensor, blocks: tl.tensor, dim: tl.tensor,
    scale: tl.tensor, STRIDE: tl.constexpr, EACH: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply a tile of query groups by a tile of key groups; write the log-sum-exp of each row and key block."""
    head = tl.program_id(2).to(tl.int64)
    q += (head // heads) * stride_qb + (head % heads) * stride_qh
    k += (head // heads) * stride_kb + (head % heads) // group * stride_kh
    q_group = tl.program_id(1) * TILE + tl.arange(0, TILE).to(tl.int64)
    k_group = tl.program_id(0) * TILE + tl.arange(0, TILE).to(tl.int64)
    channel = tl.arange(0, DEPTH)
    total = tl.zeros([TILE, TILE], tl.float32)
    for token in range(STRIDE):
        q_token = q_group * STRIDE + (STRIDE - 1 - token)
        k_token = k_group * STRIDE + token
        for first in range(0, dim, DEPTH):
            d = first + channel
            x = tl.load(
                q + q_token[:, None] * stride_qn + d[None, :], mask=(q_token < n)[:, None] & (d < dim)[None, :],
                other=0.0,
            )  # fmt: skip
            y = tl.load(
                k + k_token[None, :] * stride_kn + d[:, None], mask=(k_token < n)[None, :] & (d < dim)[:, None],
                other=0.0,
            )  # fmt: skip
            if WIDE:
                total = tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision="ieee")
            else:
                total = tl.dot(x, y, total, input_precision="ieee")
    _reduce(total * scale, sums, head, q_group, groups, blocks, TILE, EACH)


@jit
def _reduce(
    scores: tl.tensor, sums: tl.tensor, head: tl.tensor, q_group: tl.tensor, groups: tl.tensor, blocks: tl.tensor,
    TILE: tl.constexpr, EACH: tl.constexpr,
) -> None:  # fmt: skip
    """Write the log-sum-exp of each row and key block of a tile of scores."""
    scores = tl.reshape(scores, [TILE, TILE // EACH, EACH])
    highest = tl.max(scores, 2)
    value = highest + tl.log(tl.sum(tl.exp(scores - highest[:, :, None]), 2))
    column = tl.program_id(0) * (TILE // EACH) + tl.arange(0, TILE // EACH)
    mask = (q_group < groups)[:, None] & (column < blocks)[None, :]
    tl.store(sums + (head * groups + q_group[:, None]) * blocks + column[None, :], value, mask=mask)


@jit
def _add_rows(
    sums: tl.tensor, mass: tl.tensor, groups: tl.tensor, blocks: tl.tensor, empty: tl.tensor, EACH: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Add up the shares of a query block's groups for every key block; ``empty`` blocks of padding follow them."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    group = block * EACH + tl.arange(0, EACH)
    exists = group < groups
    rows = sums + (head * groups + group.to(tl.int64)) * blocks
    width = blocks + empty
    total = tl.zeros([EACH], tl.float32) + empty * EACH
    highest = tl.where(total > 0, 0.0, -float("inf"))
    for first in range(0, blocks, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        mask = exists[:, None] & (column < blocks)[None, :]
        x = tl.load(rows[:, None] + column[None, :], mask=mask, other=-float("inf"))
        higher = tl.maximum(highest, tl.max(x, 1))
        kept = tl.where(higher > -float("inf"), higher, 0.0)
        total = total * tl.exp(highest - kept) + tl.sum(tl.exp(x - kept[:, None]), 1)
        highest = higher
    kept = tl.where(highest > -float("inf"), highest, 0.0)
    whole = kept + tl.log(tl.where(total > 0, total, 1.0))
    mass += (head * tl.num_programs(0) + block) * width
    for first in range(0, blocks, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        mask = exists[:, None] & (column < blocks)[None, :]
        x = tl.load(rows[:, None] + column[None, :], mask=mask, other=-float("inf"))
        tl.store(mass + column, tl.sum(tl.exp(x - whole[:, None]), 0), mask=column < blocks)
    padding = tl.sum(tl.where(exists, EACH * tl.exp(-whole), 0.0), 0)
    for first in range(0, empty, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        tl.store(mass + blocks + column, tl.zeros([COLUMNS], tl.float32) + padding, mask=column < empty)
