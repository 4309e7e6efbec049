"""A plan: the token arrangement and the pattern of one attention call.

It says what is kept, whatever engine runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Layout
from attnbench.kernels.pattern import BlockPattern, Pattern, RoutedPattern
from attnbench.kernels.rule import PackedRule

MAX_MASK_PAIRS = 2**31
_TILE_PAIRS = 2**22
_MOST_SHOWN = 8192


@dataclass(frozen=True, slots=True)
class MeanSelection:
    """The selection of key blocks by their means: pool k, score every video query against every video block, and cut.

    Attributes:
        scope: what the cut ranked together: "head", all pairs of a head, or "query", those of each query separately.

    Raises:
        BadInput: for another scope.
    """

    scope: str

    def __post_init__(self) -> None:
        if self.scope not in ("head", "query"):
            raise BadInput(f"a selection by means has scope {self.scope!r}; it must be 'head' or 'query'")


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What one attention call keeps. Its ``repr`` is one line, which waits for the device on a GPU.

    Attributes:
        layout: the grid and text tokens; N is its number of tokens.
        batch: B.
        heads: H, query heads.
        pattern: which blocks are kept, in the arranged order.
        q_order: the query token at each arranged position, int64 [N] or [B, H, N]; None for grid order.
        k_order: the same for keys and values.
        selection_flops: floating-point operations spent on selection (pooling and scores, 2 per multiply-add).
        selection: how the pairs were chosen, which determines what the selection computes and moves in each phase; None
            if nothing was chosen by q and k, or if it was chosen in another way.
        branch_flops: floating-point operations of what the method adds to attention with ``finish``, forward.
        kept: what the method keeps of planning for ``finish``, such as indices or scores.
        state: what the method gets as ``state`` at its next call, such as a mask or centroids. It is made of
            dictionaries, tuples and tensors, whose first two sizes are those of the batch and the heads. The state that
            a plan was made from stays as it is.
    """

    layout: Layout
    batch: int
    heads: int
    pattern: Pattern
    q_order: Tensor | None = None
    k_order: Tensor | None = None
    selection_flops: int = 0
    selection: MeanSelection | None = None
    branch_flops: int = 0
    kept: Any = None
    state: Any = None

    def __post_init__(self) -> None:
        pattern = self.pattern
        for part in pattern.by_head:
            for name, size, full in (("batch", part.shape[0], self.batch), ("heads", part.shape[1], self.heads)):
                if size not in (1, full):
                    raise BadInput(f"the pattern's {name} size is {size}; it must be 1 (shared) or {full}")
        n = self.layout.tokens
        if isinstance(pattern, RoutedPattern) and pattern.keep.shape[2] != n:
            raise BadInput(f"the routed pattern has {pattern.keep.shape[2]} queries; it must have {n}, one a token")
        for side, order in (("query", self.q_order), ("key", self.k_order)):
            if order is not None and not _is_order(order, self.batch, self.heads, n):
                raise BadInput(
                    f"the {side} order has shape {list(order.shape)}; "
                    f"it must be [{n}] or [{self.batch}, {self.heads}, {n}]"
                )
        for tensor in self.tensors:
            if tensor.device != self.device:
                raise BadInput(
                    f"the kept blocks are on {self.device} and another tensor of the plan is on {tensor.device}; "
                    "all must be on one device"
                )

    def __repr__(self) -> str:
        pattern, text = self.pattern, self.layout.text
        blocks = pattern.keep.shape[2:]
        if pattern.is_full:
            kind = ["full"]
        elif isinstance(pattern, RoutedPattern):
            kind = ["routed", _counted(blocks[1], "block")]
        else:
            kind = ["blocks", f"{blocks[0]:,} × {blocks[1]:,} blocks"]
        density = self._shown_density()
        parts = [
            "×".join(str(side) for side in self.layout.grid.shape),
            *([f"text {text[0]}+{text[1]}"] if text != (0, 0) else []),
            *([f"batch {self.batch:,}"] if self.batch != 1 else []),
            _counted(self.heads, "head"),
            *([f"density {density}"] if density else []),
            *kind,
            *([pattern.rule.name] if pattern.rule is not None else []),
            *(["band"] if pattern.band is not None else []),
        ]
        return f"Plan {', '.join(parts)}"

    def _shown_density(self) -> str:
        """Return the density to three digits; empty if counting is impossible or would take long."""
        if "pairs_by_head" not in self.__dict__:
            pattern = self.pattern
            if type(pattern.keep) is not Tensor or self.device.type == "meta":
                return ""  # traced, or without data: there is nothing to count
            if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return ""
            if pattern.rule is not None and self.layout.tokens > _MOST_SHOWN and not self._counts_by_boxes():
                return ""  # every pair would have to be examined
        return f"{self.density:.3g}".removeprefix("0") or "0"

    def _counts_by_boxes(self) -> bool:
        """Return whether pairs under the rule are counted in closed form, block by block and equally for all heads."""
        orders = (self.q_order, self.k_order)
        if isinstance(self.pattern, RoutedPattern) or any(order is not None and order.dim() == 3 for order in orders):
            return False
        return self.boxes("q", 0, 0).filled and self.boxes("k", 0, 0).filled

    def check(self) -> None:
        """Check what construction does not check because it waits for the device: offsets, orders, fullness.

        Raises:
            BadInput: if offsets do not ascend from 0 to N without empty blocks, an order is not a permutation, or the
                one block of full attention is not kept.
        """
        n = self.layout.tokens
        if self.pattern.is_full and not bool(self.pattern.keep.all()):
            raise BadInput("the pattern is said to be full attention, and its block is not kept")
        for side, offsets in (("query", self.pattern.q_offsets), ("key", self.pattern.k_offsets)):
            ends, own = (offsets[..., 0], offsets[..., -1]), offsets.dim() == 3
            if bool((ends[0] != 0).any()) or bool((ends[1] != n).any()) or bool((offsets.diff() < 1 - own).any()):
                raise BadInput(
                    f"the {side} offsets must ascend from 0 to {n}, the number of tokens"
                    + ("" if own else ", without empty blocks")
                )
        near = self.pattern.near if isinstance(self.pattern, RoutedPattern) else None
        if near is not None and not torch.equal(near.sort().values, torch.arange(len(near), device=near.device)):
            raise BadInput(f"near must be a permutation of the blocks 0 to {len(near) - 1}")
        band = self.pattern.band
        if band is not None and bool((band.low > band.high).any()):
            raise BadInput("the band of a head keeps nothing: its low bound is above its high one")
        for side, order in (("query", self.q_order), ("key", self.k_order)):
            if order is not None and not torch.equal(
                order.sort(-1).values, torch.arange(n, device=order.device).expand_as(order)
            ):
                raise BadInput(f"the {side} order must be a permutation of 0 to {n - 1}")

    @property
    def device(self) -> torch.device:
        """The device of the pattern."""
        return self.pattern.keep.device

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The orders, offsets and kept blocks that the plan was made from."""
        orders = (order for order in (self.q_order, self.k_order) if order is not None)
        return (*orders, *self.pattern.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of orders, offsets and kept blocks."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def order_of(self, side: str, b: int, h: int) -> Tensor | None:
        """Return the order of one batch item and head, int64 [N]; ``side`` is "q" or "k"."""
        order = self.q_order if side == "q" else self.k_order
        return order if order is None or order.dim() == 1 else order[b, h]

    def offsets_of(self, side: str, b: int, h: int) -> Tensor:
        """Return where the blocks of one batch item and head begin, int64 [blocks + 1]; ``side`` is "q" or "k"."""
        offsets = self.pattern.q_offsets if side == "q" else self.pattern.k_offsets
        if offsets.dim() == 1:
            return offsets
        return offsets[min(b, offsets.shape[0] - 1), min(h, offsets.shape[1] - 1)]

    def keep_of(self, b: int, h: int) -> Tensor:
        """Return the kept blocks of one batch item and head, bool [q blocks, k blocks]."""
        keep = self.pattern.keep
        return keep[min(b, keep.shape[0] - 1), min(h, keep.shape[1] - 1)]

    @property
    def shared_by(self) -> tuple[bool, bool]:
        """Return whether the whole batch, and whether all heads, keep the same pairs."""
        orders = [order for order in (self.q_order, self.k_order) if order is not None and order.dim() == 3]
        parts = self.pattern.by_head
        return (
            not orders and all(part.shape[0] == 1 for part in parts),
            not orders and all(part.shape[1] == 1 for part in parts),
        )

    @cached_property
    def pairs_by_head(self) -> Tensor:
        """Return the number of kept (query, key) pairs of each batch item and head, int64 [B, H] on the CPU."""
        same_b, same_h = self.shared_by
        counts = torch.tensor(
            [
                [self._count(b, h) for h in range(1 if same_h else self.heads)]
                for b in range(1 if same_b else self.batch)
            ]
        )
        return counts.expand(self.batch, self.heads)

    @property
    def pairs(self) -> int:
        """Number of kept (query, key) pairs, over all batch items and heads."""
        return int(self.pairs_by_head.sum())

    @property
    def density(self) -> float:
        """The fraction of (query, key) pairs kept, counted exactly."""
        return self.pairs / (self.batch * self.heads * self.layout.tokens**2)

    @cached_property
    def empty_rows(self) -> int:
        """Number of queries that keep no key, over all batch items and heads.

        Their output is 0 unless the method's ``finish`` puts another one there, as a copy from another query.
        """
        same_b, same_h = self.shared_by
        heads, items = 1 if same_h else self.heads, 1 if same_b else self.batch
        counted = sum(self._count_empty(b, h) for b in range(items) for h in range(heads))
        return counted * (self.batch // items) * (self.heads // heads)

    def key_mask(self, queries: Tensor) -> Tensor:
        """Return which keys the given query tokens keep.

        Args:
            queries: int64 [R], tokens in grid order.

        Returns:
            bool [B, H, R, N], keys in grid order.
        """
        rows = [[self.key_mask_of(b, h, queries) for h in range(self.heads)] for b in range(self.batch)]
        return torch.stack([torch.stack(heads) for heads in rows])

    def token_mask(self) -> Tensor:
        """Return which keys every query keeps, bool [B, H, N, N], both in grid order. This is for small sizes.

        Raises:
            BadInput: if the mask would have more than 2^31 elements.
        """
        n = self.layout.tokens
        if self.batch * self.heads * n * n > MAX_MASK_PAIRS:
            raise BadInput(
                f"a token mask of {n} tokens would take {self.batch * self.heads * n * n >> 30} GiB; use key_mask"
            )
        return self.key_mask(torch.arange(n, device=self.device))

    def key_mask_of(self, b: int, h: int, queries: Tensor) -> Tensor:
        """Return which keys the given query tokens of one batch item and head keep, bool [R, N], in grid order."""
        pattern, n = self.pattern, self.layout.tokens
        position = _inverse(self.order_of("q", b, h), queries)
        block = torch.searchsorted(self.offsets_of("q", b, h), position, right=True) - 1
        sizes = self.offsets_of("k", b, h).diff()
        kept = self.keep_of(b, h)[block].repeat_interleave(sizes, dim=1)
        if pattern.band is not None:
            inside = pattern.band.allowed(b, h, position[:, None], torch.arange(n, device=position.device))
            whole = pattern.band.whole_of(b, h)
            kept &= inside if whole is None else inside | whole[block].repeat_interleave(sizes, dim=1)
        order = self.order_of("k", b, h)
        if order is not None:
            kept = torch.empty_like(kept).scatter_(1, order.expand(len(queries), n), kept)
        if pattern.rule is None:
            return kept
        where, text = self.positions, self.is_text
        allowed = pattern.rule.allowed(where[queries][:, None], where[None])
        return kept & (allowed | text[queries][:, None] | text[None])

    def pair_mask_of(self, b: int, h: int, keys: Tensor) -> Tensor:
        """Return which of the given keys each query token of one head keeps, bool [N, K], queries in grid order."""
        pattern, n = self.pattern, self.layout.tokens
        queries = torch.arange(n, device=keys.device)
        (q_at, q_block), (k_at, k_block) = (
            (at, torch.searchsorted(self.offsets_of(side, b, h), at, right=True) - 1)
            for side, at in (
                (side, _inverse(self.order_of(side, b, h), tokens)) for side, tokens in (("q", queries), ("k", keys))
            )
        )
        kept = self.keep_of(b, h)[:, k_block][q_block]
        if pattern.band is not None:
            inside = pattern.band.allowed(b, h, q_at[:, None], k_at)
            whole = pattern.band.whole_of(b, h)
            kept &= inside if whole is None else inside | whole[:, k_block][q_block]
        if pattern.rule is None:
            return kept
        where, text = self.positions, self.is_text
        return kept & (pattern.rule.allowed(where[:, None], where[keys][None]) | text[:, None] | text[keys][None])

    @cached_property
    def is_text(self) -> Tensor:
        """Which tokens are text, bool [N]."""
        text = torch.ones(self.layout.tokens, dtype=torch.bool, device=self.device)
        text[self.layout.video] = False
        return text

    @cached_property
    def positions(self) -> Tensor:
        """The coordinates of every token under the pattern's rule, int64 [N, axes], tokens in grid order."""
        assert self.pattern.rule is not None
        return self.pattern.rule.positions(self.layout, self.device)

    @cached_property
    def packed_rule(self) -> PackedRule:
        """The pattern's rule, packed for testing many pairs."""
        assert self.pattern.rule is not None
        return self.pattern.rule.pack(self.layout, self.device)

    def _count(self, b: int, h: int) -> int:
        pattern, keep = self.pattern, self.keep_of(b, h)
        q_offsets, k_offsets = self.offsets_of("q", b, h), self.offsets_of("k", b, h)
        q_sizes, k_sizes = q_offsets.diff(), k_offsets.diff()
        if pattern.band is not None:
            return int((pattern.band.count(q_offsets, k_offsets, b, h) * keep).sum())
        if pattern.rule is None:
            return int(((keep * k_sizes).sum(1) * q_sizes).sum())
        queries = torch.arange(self.layout.tokens, device=self.device)
        q_boxes = self.boxes("q", b, h)
        k_boxes = self.boxes("k", b, h)
        if not (q_boxes.filled and k_boxes.filled):
            step = max(1, _TILE_PAIRS // self.layout.tokens)
            return sum(int(self.key_mask_of(b, h, rows).sum()) for rows in queries.split(step))
        total = 0
        for rows in torch.arange(keep.shape[0], device=self.device).split(max(1, _TILE_PAIRS // keep.shape[1])):
            counts = pattern.rule.count(
                (q_boxes.low[rows][:, None], q_boxes.high[rows][:, None]), (k_boxes.low[None], k_boxes.high[None])
            )
            either_text = q_boxes.text[rows][:, None] | k_boxes.text[None]
            counts = torch.where(either_text, q_sizes[rows][:, None] * k_sizes[None], counts)
            total += int((counts * keep[rows]).sum())
        return total

    def _count_empty(self, b: int, h: int) -> int:
        pattern, keep = self.pattern, self.keep_of(b, h)
        q_offsets, k_offsets = self.offsets_of("q", b, h), self.offsets_of("k", b, h)
        q_sizes, k_sizes = q_offsets.diff(), k_offsets.diff()
        empty = ~(keep & (k_sizes > 0)).any(1)
        count = int(q_sizes[empty].sum())
        if pattern.rule is None and pattern.band is None:
            return count
        queries = torch.arange(self.layout.tokens, device=self.device)
        position = _inverse(self.order_of("q", b, h), queries)
        block = torch.searchsorted(q_offsets, position, right=True) - 1
        open_ = ~empty[block]
        if pattern.rule is not None and pattern.rule.keeps_own:
            own = torch.searchsorted(k_offsets, _inverse(self.order_of("k", b, h), queries), right=True) - 1
            open_ &= ~keep[block, own]  # nothing more to look at where the own key's block is kept
        elif pattern.band is not None:  # or where that of the key at the same position is
            same = torch.searchsorted(k_offsets, position, right=True) - 1
            low, high = pattern.band.bounds_of(b, h)
            open_ &= ~(keep[block, same] & (low <= 0) & (high >= 0))
        rest = queries[open_]
        step = max(1, _TILE_PAIRS // self.layout.tokens)
        return count + sum(int((~self.key_mask_of(b, h, rows).any(1)).sum()) for rows in rest.split(step))

    def boxes(self, side: str, b: int, h: int) -> Boxes:
        """Return the bounding box of every block of one side ("q" or "k") under the pattern's rule."""
        assert self.pattern.rule is not None
        order = self.order_of(side, b, h)
        offsets = self.pattern.q_offsets if side == "q" else self.pattern.k_offsets
        where = self.positions if order is None else self.positions[order]
        text = self.is_text if order is None else self.is_text[order]
        return bounding_boxes(where, text, offsets)


def plain(plan: Plan) -> Plan:
    """Return the same plan by the classes of this package: nothing that a subclass says of itself, nothing counted yet.

    Raises:
        BadInput: if the parts do not fit each other.
    """
    pattern = plan.pattern
    made: Pattern
    if isinstance(pattern, RoutedPattern):
        made = RoutedPattern(pattern.k_offsets, pattern.keep, pattern.rule, pattern.near)
    else:
        made = BlockPattern(
            pattern.q_offsets, pattern.k_offsets, pattern.keep, pattern.rule, pattern.is_full, pattern.band
        )
    return Plan(
        plan.layout, plan.batch, plan.heads, made, plan.q_order, plan.k_order, plan.selection_flops, plan.selection,
        plan.branch_flops, plan.kept, plan.state,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Boxes:
    """Bounding boxes of blocks.

    They hold the lowest and highest coordinates int64 [blocks, axes], which blocks hold text (bool [blocks]), and
    whether every video block fills its box, so that pairs can be counted in closed form.
    """

    low: Tensor
    high: Tensor
    text: Tensor
    filled: bool


def bounding_boxes(where: Tensor, text: Tensor, offsets: Tensor) -> Boxes:
    """Return the boxes of the blocks given by ``offsets``, of tokens at coordinates ``where`` [N, axes].

    No block may be empty.
    """
    sizes = offsets.diff()
    block = torch.repeat_interleave(sizes)[:, None].expand_as(where)
    shape = (len(sizes), where.shape[1])
    low = where.new_zeros(shape).scatter_reduce_(0, block, where, "amin", include_self=False)
    high = where.new_zeros(shape).scatter_reduce_(0, block, where, "amax", include_self=False)
    holds_text = torch.zeros(len(sizes), dtype=torch.bool, device=where.device)
    holds_text[block[:, 0][text]] = True
    mixed = holds_text[block[:, 0]] & ~text
    filled = ((high - low + 1).prod(-1) == sizes) | holds_text
    return Boxes(low, high, holds_text, bool(filled.all()) and not bool(mixed.any()))


def _is_order(order: Tensor, batch: int, heads: int, n: int) -> bool:
    # One by one, because torch.compile cannot tell whether a tuple of sizes is in a collection.
    if order.dim() == 1:
        return order.shape[0] == n
    return order.dim() == 3 and order.shape[0] == batch and order.shape[1] == heads and order.shape[2] == n


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _inverse(order: Tensor | None, tokens: Tensor) -> Tensor:
    """Return the arranged position of each of ``tokens``."""
    if order is None:
        return tokens
    position = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return position[tokens]
