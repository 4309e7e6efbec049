"""Cut a plan into rectangles of query tokens × key tokens, for engines that process them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan

# 512 queries × 4096 keys in float32 are 8 MiB of scores. On two AVX-512 cores, tiles of 0.5 to 8 MiB run at 207 to 268
# GFLOP/s, within 15 % of one another, so the size is chosen for few Python steps.
ROWS = 512
COLUMNS = 4096


@dataclass(frozen=True, eq=False)
class Tile:
    """Query tokens int64 [rows] and key tokens int64 [columns].

    ``masked`` if a rule must be applied, or a band: then ``at`` are the positions of both, and the head.
    """

    queries: Tensor
    keys: Tensor
    masked: bool
    at: tuple[Tensor, Tensor, int, int] | None = None


def tiles(plan: Plan, b: int, h: int) -> Iterator[Tile]:
    """Yield the tiles of one batch item and head. Every kept pair lies in exactly one of them."""
    if plan.pattern.band is not None:
        yield from _in_band(plan, b, h)
        return
    parts = _block_parts(plan, b, h) if isinstance(plan.pattern, BlockPattern) else _routed_parts(plan, b, h)
    for queries, keys in parts:
        if plan.pattern.rule is None:
            # Keys in the outer loop: all tiles of a chunk of keys follow one another and can share gathered rows.
            for columns in keys.split(COLUMNS):
                for rows in queries.split(ROWS):
                    yield Tile(rows, columns, False)
        else:
            for rows in queries.split(ROWS):
                for kept, masked in _by_rule(plan, rows, keys):
                    for columns in kept.split(COLUMNS):
                        yield Tile(rows, columns, masked)


def tile_mask(plan: Plan, tile: Tile) -> Tensor | None:
    """Return which pairs of a tile are kept, bool [rows, columns], or None if all are."""
    if not tile.masked:
        return None
    if tile.at is not None:
        assert plan.pattern.band is not None
        queries, keys, b, h = tile.at
        return plan.pattern.band.allowed(b, h, queries[:, None], keys)
    mask = plan.packed_rule.allowed(tile.queries, tile.keys)
    if plan.layout.text != (0, 0):
        mask |= plan.is_text[tile.queries][:, None] | plan.is_text[tile.keys]
    return mask


def executed_pairs(plan: Plan) -> int:
    """Count the pairs in all tiles, including those that a rule discards afterwards."""
    if plan.pattern.rule is None and plan.pattern.band is None:
        return plan.pairs  # tiles hold nothing else
    same_b, same_h = plan.shared_by
    total = 0
    for b in range(1 if same_b else plan.batch):
        for h in range(1 if same_h else plan.heads):
            total += sum(len(tile.queries) * len(tile.keys) for tile in tiles(plan, b, h))
    return total * (plan.batch if same_b else 1) * (plan.heads if same_h else 1)


def _block_parts(plan: Plan, b: int, h: int) -> Iterator[tuple[Tensor, Tensor]]:
    keep = plan.keep_of(b, h)
    queries = _blocks(plan, "q", b, h)
    positions = torch.repeat_interleave(plan.offsets_of("k", b, h).diff())
    order = plan.order_of("k", b, h)
    for block, row in zip(queries, keep, strict=True):
        if not len(block):
            continue
        kept = row[positions].nonzero().squeeze(1)
        if len(kept):
            yield block, kept if order is None else order[kept]


def _routed_parts(plan: Plan, b: int, h: int) -> Iterator[tuple[Tensor, Tensor]]:
    order = plan.order_of("q", b, h)
    for block, column in zip(_blocks(plan, "k", b, h), plan.keep_of(b, h).T.contiguous(), strict=True):
        routed = column.nonzero().squeeze(1)
        if len(routed):
            yield routed if order is None else order[routed], block


def _blocks(plan: Plan, side: str, b: int, h: int) -> tuple[Tensor, ...]:
    order = plan.order_of(side, b, h)
    tokens = torch.arange(plan.layout.tokens, device=plan.device) if order is None else order
    return torch.split(tokens, plan.offsets_of(side, b, h).diff().tolist())


def _in_band(plan: Plan, b: int, h: int) -> Iterator[Tile]:
    """Yield the tiles of a head with a band: keys that all queries of a tile keep apart from those that some may."""
    pattern, keep = plan.pattern, plan.keep_of(b, h)
    band = pattern.band
    assert band is not None
    q_offsets, k_offsets = plan.offsets_of("q", b, h), plan.offsets_of("k", b, h)
    some, every = band.classify(q_offsets, k_offsets, b, h)
    block_of = torch.repeat_interleave(k_offsets.diff())
    q_order, k_order = plan.order_of("q", b, h), plan.order_of("k", b, h)
    edges = q_offsets.tolist()
    for line, (start, end) in enumerate(pairwise(edges)):
        for chosen, masked in ((every[line], False), (some[line] & ~every[line], True)):
            places = (keep[line] & chosen)[block_of].nonzero().squeeze(1)
            for columns in places.split(COLUMNS) if len(places) and end > start else ():
                for rows in torch.arange(start, end, device=plan.device).split(ROWS):
                    queries, keys = (
                        x if order is None else order[x] for order, x in ((q_order, rows), (k_order, columns))
                    )
                    yield Tile(queries, keys, masked, (rows, columns, b, h))


def _by_rule(plan: Plan, queries: Tensor, keys: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """Split keys into those that all queries keep and those that only some may keep, and drop the rest."""
    rule = plan.pattern.rule
    assert rule is not None
    where, text = plan.positions, plan.is_text
    rows = where[queries]
    some, every = rule.classify((rows.amin(0), rows.amax(0)), (where[keys], where[keys]))
    if bool(text[queries].any()):
        every, some = text[queries].all() | text[keys], torch.ones_like(some)
    every, some = every | text[keys], some | text[keys]
    for chosen, masked in ((every, False), (some & ~every, True)):
        if bool(chosen.any()):
            yield keys[chosen], masked
