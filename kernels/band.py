"""A band on arranged positions: an element rule that may differ by head, and blocks that are exempt from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.rule import pairs_up_to


@dataclass(frozen=True, eq=False)
class Band:
    """Keep a pair of a kept block iff ``low <= key - query <= high``, both counted in the arranged order.

    Unlike a ``Rule`` it knows no text and no grid: blocks that text or a sink keep whole are named in ``whole``.

    Attributes:
        low, high: int64 [B or 1, H or 1], the bounds of each head. None of them may be empty: low <= high.
        whole: bool [B or 1, H or 1, q blocks, k blocks], the kept blocks that keep every pair; None for none.

    Raises:
        BadInput: if the shapes do not fit each other.
    """

    low: Tensor
    high: Tensor
    whole: Tensor | None = None

    def __post_init__(self) -> None:
        for name, bound in (("low", self.low), ("high", self.high)):
            if bound.dtype != torch.int64 or bound.dim() != 2:
                raise BadInput(
                    f"the band's {name} is {bound.dtype} {list(bound.shape)}; it must be int64 [B or 1, H or 1]"
                )
        if self.whole is not None and (self.whole.dtype != torch.bool or self.whole.dim() != 4):
            raise BadInput(
                f"the band's whole is {self.whole.dtype} {list(self.whole.shape)}; "
                "it must be bool [B or 1, H or 1, q blocks, k blocks]"
            )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The bounds, and the whole blocks where there are any."""
        return (self.low, self.high, *([] if self.whole is None else [self.whole]))

    @property
    def shared(self) -> tuple[bool, bool]:
        """Return whether the whole batch, and whether all heads, have the same band."""
        return all(x.shape[0] == 1 for x in self.tensors), all(x.shape[1] == 1 for x in self.tensors)

    def bounds_of(self, b: int, h: int) -> tuple[Tensor, Tensor]:
        """Return the bounds of one batch item and head, int64 []."""
        return _of(self.low, b, h), _of(self.high, b, h)

    def whole_of(self, b: int, h: int) -> Tensor | None:
        """Return the whole blocks of one batch item and head, bool [q blocks, k blocks]."""
        return None if self.whole is None else _of(self.whole, b, h)

    def allowed(self, b: int, h: int, queries: Tensor, keys: Tensor) -> Tensor:
        """Return which pairs of positions the bounds keep, the broadcast of both, whole blocks aside."""
        low, high = self.bounds_of(b, h)
        delta = keys - queries
        return (delta >= low) & (delta <= high)

    def classify(self, q_offsets: Tensor, k_offsets: Tensor, b: int, h: int) -> tuple[Tensor, Tensor]:
        """Return for all blocks of a head whether some pair, and whether every pair is kept, bool [q blocks, k blocks].

        Empty blocks keep every pair and no pair.
        """
        low, high = self.bounds_of(b, h)
        q_first, q_last = q_offsets[:-1, None], q_offsets[1:, None] - 1
        k_first, k_last = k_offsets[None, :-1], k_offsets[None, 1:] - 1
        some = (k_first - q_last <= high) & (k_last - q_first >= low) & (q_first <= q_last) & (k_first <= k_last)
        every = (k_first - q_last >= low) & (k_last - q_first <= high)
        whole = self.whole_of(b, h)
        return (some, every) if whole is None else (some | whole, every | whole)

    def count(self, q_offsets: Tensor, k_offsets: Tensor, b: int, h: int) -> Tensor:
        """Return how many pairs of all blocks of a head are kept, int64 [q blocks, k blocks]."""
        low, high = (int(bound) for bound in self.bounds_of(b, h))
        q_range, k_range = (q_offsets[:-1, None], q_offsets[1:, None]), (k_offsets[None, :-1], k_offsets[None, 1:])
        counts = pairs_up_to(q_range, k_range, high) - pairs_up_to(q_range, k_range, low - 1)
        whole = self.whole_of(b, h)
        if whole is None:
            return counts
        return torch.where(whole, q_offsets.diff()[:, None] * k_offsets.diff()[None], counts)


def _of(x: Tensor, b: int, h: int) -> Tensor:
    return x[min(b, x.shape[0] - 1), min(h, x.shape[1] - 1)]
