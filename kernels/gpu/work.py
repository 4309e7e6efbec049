"""Work for the attention kernels: rows, keys, and the element rule, laid out for the device.

Every pattern becomes the same two lists. Forward and dQ walk ``Tiles``: query rows, gathered by an index, and the
segments of keys that all of them keep. dK and dV walk ``KeyTiles``: consecutive keys, and the segments of query places
that keep them. Keys are in the arranged order, so that a segment of them is contiguous. Queries are never moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 128
"""Largest number of query rows in a tile."""

KEYS = 128
"""Largest number of keys in a step and in a key tile."""

PLACES = 64
"""Query places in a step over key tiles. Each segment takes ⌈length / PLACES⌉ steps."""

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, eq=False)
class MaskWords:
    """What an element rule keeps of masked segments, a bit for each pair of a row and a column, axis by axis.

    A pair is kept if its bit is set on every axis. Blocks of columns are cut into chunks of 128.

    Attributes:
        words: int32 [lines, chunks, 4]: one line for each coordinate of a row on an axis. Bit 2·i + j of word w stands
            for column 8·i + 2·w + j of the chunk, which is how the tensor cores deal scores out to threads.
        rows_of: int32 [N, 3], the lines of each row, by axis. Rows of text have lines that keep every column.
        axes: number of axes in use, 1 to 3.
    """

    words: Tensor
    rows_of: Tensor
    axes: int


@dataclass(frozen=True, eq=False)
class Tiles:
    """Query rows and the segments of keys that they keep.

    Attributes:
        queries: int32 [places], the query token at each place; -1 where there is none.
        records: int32 [capacity, 8], one for each tile: row of heads (b · H + h), first place, first segment, start and
            end of that segment as in ``segments``, number of steps of ``keys`` keys, two unused.
        count: int32 [1], tiles in use, on the device.
        segments: int32 [segments + 1, 2], (start, end) in the arranged key order. The segments of a tile are
            consecutive. A negative end stands for -end and means that the element rule decides pair by pair. The last
            entry is read ahead but never used.
        rows: query rows in a tile, a power of two. The places of a tile are consecutive.
        keys: keys in a step, a power of two. Each segment takes ⌈length / keys⌉ steps.
        visible: int32 [segments + 1, 4], or None. In each segment, the first half of a tile's rows keeps the keys from
            the first number to before the second, and the second half those from the third to before the fourth.
        masks: what the rule keeps of masked segments, queries as rows, or None if the kernel asks the rule itself. Each
            masked segment is then one block.
        chunk_of: int32 [segments + 1], the first chunk of each segment, or None without ``masks``.
    """

    queries: Tensor
    records: Tensor
    count: Tensor
    segments: Tensor
    rows: int = ROWS
    keys: int = KEYS
    visible: Tensor | None = None
    masks: MaskWords | None = None
    chunk_of: Tensor | None = None

    def steps(self) -> Tensor:
        """Return the steps of all tiles in use, an int64 scalar on the device."""
        used = torch.arange(len(self.records), device=self.records.device) < self.count
        return torch.where(used, self.records[:, 5], 0).sum()


@dataclass(frozen=True, eq=False)
class KeyTiles:
    """Consecutive keys of one block and the segments of query places that keep them.

    Attributes:
        queries: int32 [places], as in ``Tiles``.
        records: int32 [B · H, tiles, 8]: start and end of the keys in the arranged order, first segment, number of
            segments, steps of ``PLACES`` places that they take, three unused. An unused tile has start = end. Records
            of the query heads that share a kv head have the same keys.
        segments: int32 [segments + 1, 2], (first, last + 1) of places; negative ends as in ``Tiles``.
        keys: largest number of keys in a tile, a power of two.
        masks: as in ``Tiles``, with keys in the arranged order as rows, and places in chunks of 128 as columns.
    """

    queries: Tensor
    records: Tensor
    segments: Tensor
    keys: int = KEYS
    masks: MaskWords | None = None


@dataclass(frozen=True, eq=False)
class RuleArrays:
    """What masked segments keep: the pairs whose differences both leave all guard bits set, and those with text.

    ``((k_low[key] - q_packed[query]) & (q_high[query] - k_packed[key]) & guard) == guard``, see ``PackedRule``.

    Attributes:
        q_packed, q_high: int32 or int64, by query token, [N], or [B · H, N] if every head has its own.
        k_packed, k_low: the same for keys at arranged positions, [N], or [B · H, N] if every head has its own order.
        q_text: int8 [N], by query token, 1 for text. k_text: int8, shaped like ``k_packed``.
        guard: the guard bits.
        ahead: if the rule says this and nothing else, how far ahead a query sees: token t keeps the keys at positions
            up to t + ahead. Positions are tokens too then, and the places of a tile hold tokens in ascending order.
        band: whether ``q_packed`` is the first position that a query keeps, and ``q_high`` the last plus ``guard``.
    """

    q_packed: Tensor
    q_high: Tensor
    k_packed: Tensor
    k_low: Tensor
    q_text: Tensor
    k_text: Tensor
    guard: int
    ahead: int | None = None
    band: bool = False
