"""Keys and values in place: rows that TMA reads, and the order in which the kernel must arrange them first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from attnbench.kernels.gpu.arrange import arrange_both
from attnbench.kernels.gpu.hopper import fits
from attnbench.kernels.gpu.work import KEYS


@dataclass(frozen=True, eq=False)
class RawKeys:
    """Keys and values that the attention kernel arranges during attention.

    Attributes:
        k, v: [B, KV heads, N, D], with rows as ``fits_in_place`` requires.
        order: int64 [places] or [B, H, places], contiguous: the token at each place. At least a step of places.
    """

    k: Tensor
    v: Tensor
    order: Tensor

    @property
    def heads(self) -> int:
        """Return the heads of the arranged keys and values."""
        return self.order.shape[1] if self.order.dim() == 3 else self.k.shape[1]

    def begin(self) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, heads, places, D], with only the first head of the first item filled."""
        shape = (len(self.k), self.heads, self.order.shape[-1], self.k.shape[3])
        keys, values = (torch.empty(shape, dtype=x.dtype, device=x.device) for x in (self.k, self.v))
        first = self.order[:1, :1] if self.order.dim() == 3 else self.order
        arrange_both(self.k[:1, :1], self.v[:1, :1], first, out=(keys[:1, :1], values[:1, :1]))
        return keys, values

    def fill(self, keys: Tensor, values: Tensor, users: Tensor) -> None:
        """Fill what ``begin`` returned, unless ``users`` is 0 on the device."""
        arrange_both(self.k, self.v, self.order, users=users, out=(keys, values))


@dataclass(frozen=True, eq=False)
class KeyRows:
    """Keys and values as rows. The row of token n in batch item b and kv head h is b · batch + h · head + n.

    Attributes:
        k, v: [rows, columns] with unit last stride. The columns of head h begin at h · column.
        batch, head, column: see above.
        kv_heads: number of kv heads of a batch item.
    """

    k: Tensor
    v: Tensor
    batch: int
    head: int
    column: int
    kv_heads: int


def can_arrange(order: Tensor | None) -> TypeGuard[Tensor]:
    """Return whether there is an order, of at least one step, in which the kernel can arrange keys."""
    return order is not None and order.shape[-1] >= KEYS


def source_of(k: Tensor, v: Tensor, order: Tensor | None) -> RawKeys | None:
    """Return keys and values for the kernel to arrange, or None if it cannot."""
    return RawKeys(k, v, order.contiguous()) if can_arrange(order) else None


def fits_in_place(q: Tensor, k: Tensor, v: Tensor, scale: float, rule: object, rows: int, keys: int) -> bool:
    """Return whether the Gluon kernel can read k and v in place, apart from their order.

    Args:
        q, k, v, scale: the caller's.
        rule: the element rule, or None.
        rows, keys: rows in a tile, and keys in a step.
    """
    return scale > 0 and fits((q,), (k, v), rule, rows, keys) and key_rows(k, v) is not None


def key_rows(k: Tensor, v: Tensor) -> KeyRows | None:
    """Return k and v [B, KV heads, N, D] as rows, or None if their strides do not allow it."""
    keys, values = rows_of(k), rows_of(v)
    if keys is None or values is None or keys[1:] != values[1:]:
        return None
    return KeyRows(keys[0], values[0], *keys[1:], k.shape[1])


def rows_of(x: Tensor) -> tuple[Tensor, int, int, int] | None:
    """View x [B, H, N, D] as rows, if its strides allow it. Also return batch, head and column of ``KeyRows``."""
    b, h, n, d = x.shape
    if x.is_contiguous():
        return x.view(-1, d), h * n * (b > 1), n * (h > 1), 0
    pitch = x.stride(2)
    to_batch, to_head = (stride if size > 1 else 0 for size, stride in ((b, x.stride(0)), (h, x.stride(1))))
    if pitch < d or to_batch % pitch or (to_head % pitch and (h - 1) * to_head + d > pitch):
        return None
    batch = to_batch // pitch
    head, column = (0, to_head) if to_head % pitch else (to_head // pitch, 0)
    shape = ((b - 1) * batch + (h - 1) * head + n, (h - 1) * column + d)
    return x.as_strided(shape, (pitch, 1)), batch, head, column
