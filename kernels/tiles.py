"""Cut a plan into rectangles of query tokens × key tokens, for engines that process them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """Query tokens int64 [rows] and key tokens int64 [columns]; ``masked`` if a rule must be applied."""

    queries: Tensor
    keys: Tensor
    masked: bool


def tiles(plan: Plan, b: int, h: int) -> Iterator[Tile]:
    """Yield the tiles of one batch item and head. Every kept pair lies in exactly one of them."""
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
    mask = plan.packed_rule.allowed(tile.queries, tile.keys)
    if plan.layout.text != (0, 0):
        mask |= plan.is_text[tile.queries][:, None] | plan.is_text[tile.keys]
    return mask


def executed_pairs(plan: Plan) -> int:
    """Count the pairs in all tiles, including those that a rule discards afterwards."""
    same_b, same_h = plan.shared_by
    total = 0
    for b in range(1 if same_b else plan.batch):
        for h in range(1 if same_h else plan.heads):
            total += sum(len(tile.queries) * len(tile.keys) for tile in tiles(plan, b, h))
    return total * (plan.batch if same_b else 1) * (plan.heads if same_h else 1)


def _block_parts(plan: Plan, b: int, h: int) -> Iterator[tuple[Tensor, Tensor]]:
    pattern, keep = plan.pattern, plan.keep_of(b, h)
    queries = _blocks(plan, "q", b, h)
    positions = torch.repeat_interleave(pattern.k_offsets.diff())
    order = plan.order_of("k", b, h)
    for block, row in zip(queries, keep, strict=True):
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
    offsets = plan.pattern.q_offsets if side == "q" else plan.pattern.k_offsets
    tokens = torch.arange(plan.layout.tokens, device=plan.device) if order is None else order
    return torch.split(tokens, offsets.diff().tolist())


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
