"""Keys and values where they are: rows that TMA reads in the arranged order, so that nothing is copied beforehand.

TMA copies boxes of neighbouring rows. Where the arranged order consists of runs of neighbouring tokens, each at least
as long as the eight rows of a swizzled box, a step of keys is a handful of boxes; where there is no order it is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.kernels.gpu.hopper import fits
from attnbench.kernels.gpu.work import KEYS

LONGEST, SHORTEST = 64, 8
"""Tokens of a box of a run."""


@dataclass(frozen=True, eq=False)
class Runs:
    """An order as runs of neighbouring tokens.

    Attributes:
        length: tokens of a run, a power of two; 0 where every token is at its place.
        starts: int32, the first token of each run, and zeros for the runs that the last step may read beyond the end;
            None with length 0.
    """

    length: int
    starts: Tensor | None


@dataclass(frozen=True, eq=False)
class KeyRows:
    """Keys and values as rows: that of token n of batch item b and kv head h is b · batch + h · head + n.

    Attributes:
        k, v: [rows, columns], the columns of head h from h · column on; unit last stride.
        batch, head, column: see above.
        kv_heads: kv heads of a batch item.
        runs: the arranged order.
    """

    k: Tensor
    v: Tensor
    batch: int
    head: int
    column: int
    kv_heads: int
    runs: Runs


def runs_of(order: Tensor | None, run: int) -> Runs | None:
    """Return an order as runs, or None if they are too short for a box.

    Args:
        order: int64 [N] or [B, H, N], the token at each place; None means that every token is at its place.
        run: every so many places from 0 on hold consecutive tokens.
    """
    if order is None:
        return Runs(0, None)
    length = min(run & -run, LONGEST)
    if order.dim() > 1 or length < SHORTEST:
        return None
    count = len(order) // length
    starts = torch.zeros(count + KEYS // length, dtype=torch.int32, device=order.device)
    starts[:count] = order[::length]
    return Runs(length, starts)


def fits_in_place(q: Tensor, k: Tensor, v: Tensor, scale: float, rule: object, rows: int, keys: int) -> bool:
    """Whether the Gluon kernel can read k and v where they are, but for their order: see ``runs_of``.

    Args:
        q, k, v, scale: as the caller has them.
        rule: the element rule, or None.
        rows, keys: of a tile, of a step.
    """
    return scale > 0 and fits((q,), (k, v), rule, rows, keys) and key_rows(k, v, Runs(0, None)) is not None


def key_rows(k: Tensor, v: Tensor, runs: Runs) -> KeyRows | None:
    """Return k and v [B, KV heads, N, D] as rows, or None if their strides do not allow it."""
    keys, values = _rows(k), _rows(v)
    if keys is None or values is None or keys[1:] != values[1:]:
        return None
    return KeyRows(keys[0], values[0], *keys[1:], k.shape[1], runs)


def _rows(x: Tensor) -> tuple[Tensor, int, int, int] | None:
    """View x as rows; also return what ``KeyRows`` calls batch, head and column."""
    b, h, n, d = x.shape
    pitch = x.stride(2)
    to_batch, to_head = (stride if size > 1 else 0 for size, stride in ((b, x.stride(0)), (h, x.stride(1))))
    if pitch < d or to_batch % pitch or (to_head % pitch and (h - 1) * to_head + d > pitch):
        return None
    batch = to_batch // pitch
    head, column = (0, to_head) if to_head % pitch else (to_head // pitch, 0)
    shape = ((b - 1) * batch + (h - 1) * head + n, (h - 1) * column + d)
    return x.as_strided(shape, (pitch, 1)), batch, head, column
