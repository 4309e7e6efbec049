"""Block means and the mean cosine of a block's tokens, in one pass over the tokens.

The mean cosine of all ordered pairs is the squared length of the mean unit vector, so no pair is formed.

Predicted for 12 heads of 75,600 × 128 bfloat16 tokens on an H100: 232 MB read, 0.08 ms at 3 TB/s.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.widen import check_dtype, check_unit_stride, jit, power_of_2

ROWS = 32


def pool_similarity(x: Tensor, order: Tensor | None, offsets: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """Average the tokens of each block, and return the mean cosine of the pairs of its tokens.

    Args:
        x: float32, float16 or bfloat16 [B, H, N, D], any strides with the last 1.
        order: int64 [N], token at each arranged position, or None.
        offsets: int64 [blocks + 1], where each block begins in that order.
        centre: float32 [B, H, D], subtracted from every token first, or None.

    Returns:
        Means [B, H, blocks, D] and cosines [B, H, blocks], float32.

    Raises:
        BadInput: for a centre of another shape.
        Unsupported: for another dtype or stride.
    """
    check_dtype("x", x, torch.float32, torch.float16, torch.bfloat16)
    check_unit_stride("x", x)
    batch, heads, _, dim = x.shape
    if centre is not None:
        check_dtype("centre", centre, torch.float32)
        if centre.shape != (batch, heads, dim):
            raise BadInput(f"centre is {list(centre.shape)}; it must be [{batch}, {heads}, {dim}]")
        centre = centre.contiguous()
    blocks, rows = len(offsets) - 1, batch * heads
    means = x.new_empty(batch, heads, blocks, dim, dtype=torch.float32)
    cosines = x.new_empty(batch, heads, blocks, dtype=torch.float32)
    launch(
        _pool_units, (blocks, rows),
        (x, order if order is not None else offsets, offsets, means if centre is None else centre, means, cosines),
        (*x.stride()[:3], heads, dim), HAS_ORDER=order is not None, HAS_CENTRE=centre is not None, ROWS=ROWS,
        COLUMNS=power_of_2(dim), num_warps=4,
    )  # fmt: skip
    return means, cosines


@jit
def _pool_units(
    x: tl.tensor, order: tl.tensor, offsets: tl.tensor, centre: tl.tensor, means: tl.tensor, cosines: tl.tensor,
    stride_b: tl.tensor, stride_h: tl.tensor, stride_n: tl.tensor, heads: tl.tensor, dim: tl.tensor,
    HAS_ORDER: tl.constexpr, HAS_CENTRE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start, stop = tl.load(offsets + block), tl.load(offsets + block + 1)
    columns = tl.arange(0, COLUMNS)
    exists = columns < dim
    x += (row // heads) * stride_b + (row % heads) * stride_h
    middle = tl.zeros([COLUMNS], tl.float32)
    if HAS_CENTRE:
        middle = tl.load(centre + row * dim + columns, mask=exists, other=0.0)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    units = tl.zeros([ROWS, COLUMNS], tl.float32)
    for position in range(start, stop, ROWS):
        tokens = position + tl.arange(0, ROWS).to(tl.int64)
        inside = tokens < stop
        if HAS_ORDER:
            tokens = tl.load(order + tokens, mask=inside, other=0)
        mask = inside[:, None] & exists[None, :]
        token = tl.load(x + tokens[:, None] * stride_n + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        token = tl.where(mask, token - middle[None, :], 0.0)
        sums += token
        length = tl.sqrt_rn(tl.sum(token * token, 1))
        units += token / tl.where(length > 0, length, 1.0)[:, None]
    size = (stop - start).to(tl.float32)
    place = row * tl.num_programs(0) + block
    tl.store(means + place * dim + columns, tl.div_rn(tl.sum(sums, 0), size), mask=exists)
    unit = tl.div_rn(tl.sum(units, 0), size)
    tl.store(cosines + place, tl.sum(unit * unit, 0))
