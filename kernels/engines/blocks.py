"""Convert a plan of whole blocks to masks on tiles of fixed size: which are empty, full, or kept in part.

The conversion keeps exactly the plan's pairs. It never waits for the device: the kept block pairs of a tile are counted
by differences of running sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.band import Band
from attnbench.kernels.engines.places import Places
from attnbench.kernels.plan import Plan

FAR = 2**40
"""A coordinate beyond all others and all bounds of rules, for the box of a tile without video tokens."""


@dataclass(frozen=True, eq=False)
class ElementRule:
    """The element rule of a plan by place, packed like ``PackedRule``; [M], or [B, H, M] if heads have their own
    orders.

    A pair is kept if ``(k_low[k] - q_packed[q]) & (q_high[q] - k_packed[k]) & guard == guard``, or if one is text.
    """

    q_packed: Tensor
    q_high: Tensor
    k_packed: Tensor
    k_low: Tensor
    q_text: Tensor
    k_text: Tensor
    guard: int


@dataclass(frozen=True, eq=False)
class TileMask:
    """A plan on tiles.

    Attributes:
        queries, keys: the places of the tokens.
        keep: the plan's kept blocks, bool [B or 1, H or 1, q blocks, k blocks].
        full: bool [B or 1, H or 1, q tiles, k tiles], tiles in which every pair is kept.
        partial: the same for tiles in which some pairs, but not all, may be kept. All other tiles are empty.
        rule: the plan's element rule by place, or None.
        band: the plan's band, or None. Its places are the arranged positions.
    """

    queries: Places
    keys: Places
    keep: Tensor
    full: Tensor
    partial: Tensor
    rule: ElementRule | None
    band: Band | None = None

    def executed_pairs(self, batch: int, heads: int) -> int:
        """Count all pairs in tiles that are not empty, including those beyond the last token."""
        shared = batch * heads // (self.full.shape[0] * self.full.shape[1])
        return int((self.full | self.partial).sum()) * self.queries.tile * self.keys.tile * shared


def convert(plan: Plan, queries: Places, keys: Places) -> TileMask:
    """Convert a plan with a BlockPattern whose tokens lie at these places; with a band, one after another."""
    pattern = plan.pattern
    some, every = _count(pattern.keep, queries, keys)
    rule = None
    if pattern.rule is not None:
        rule_some, rule_every = _classify(plan, queries, keys)
        some, every = some & rule_some, every & rule_every
        rule = _element_rule(plan, queries, keys)
    if pattern.band is not None:
        assert queries.real is None
        assert keys.real is None
        some, every = _in_band(pattern.band, pattern.keep, some, every, queries, keys)
    if keys.real is not None:
        # A repeated key must not be seen twice. The results of repeated queries are discarded.
        real = pad(keys.real, (0, -keys.size % keys.tile)).view(-1, keys.tile)
        every = every & real.all(-1)
    return TileMask(queries, keys, pattern.keep, some & every, some & ~every, rule, pattern.band)


def tile_lists(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """List the chosen tiles of each row of bool [..., rows, columns].

    Returns:
        Their counts, int32 [..., rows], and their columns in ascending order, int32 [..., rows, columns], followed by
        0.
    """
    columns = chosen.shape[-1]
    running = chosen.cumsum(-1)
    slot = torch.where(chosen, running - 1, columns)  # an extra last column takes those that were not chosen
    lists = torch.zeros(*chosen.shape[:-1], columns + 1, dtype=torch.int32, device=chosen.device)
    lists.scatter_(-1, slot, torch.arange(columns, dtype=torch.int32, device=chosen.device).expand_as(slot))
    return running[..., -1].to(torch.int32), lists[..., :columns].contiguous()


def element_mask(mask: TileMask) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return a function (batch item, head, query place, key place) -> whether the pair is kept, for partial tiles."""
    keep, q_block, k_block = mask.keep, mask.queries.block, mask.keys.block
    by_batch, by_head = int(keep.shape[0] > 1), int(keep.shape[1] > 1)

    def block_kept(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return keep[b * by_batch, h * by_head, q_block[q], k_block[k]]

    rule, band = mask.rule, mask.band
    if band is not None:
        return _band_mask(band, block_kept, q_block, k_block)
    if rule is None:
        return block_kept
    q_packed, q_high, q_text = rule.q_packed, rule.q_high, rule.q_text
    k_packed, k_low, k_text = rule.k_packed, rule.k_low, rule.k_text
    guard, q_own, k_own = rule.guard, q_packed.dim() == 3, k_packed.dim() == 3

    def rule_kept(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        at_q = (b, h, q) if q_own else (q,)
        at_k = (b, h, k) if k_own else (k,)
        inside = (k_low[at_k] - q_packed[at_q]) & (q_high[at_q] - k_packed[at_k]) & guard
        return block_kept(b, h, q, k) & ((inside == guard) | q_text[at_q] | k_text[at_k])

    return rule_kept


def _band_mask(
    band: Band, block_kept: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], q_block: Tensor, k_block: Tensor
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    low, high, whole = band.low, band.high, band.whole
    of_low, of_high = ((int(x.shape[0] > 1), int(x.shape[1] > 1)) for x in (low, high))

    def inside(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        above = k - q >= low[b * of_low[0], h * of_low[1]]
        return above & (k - q <= high[b * of_high[0], h * of_high[1]])

    if whole is None:
        return lambda b, h, q, k: block_kept(b, h, q, k) & inside(b, h, q, k)
    exempt, by_batch, by_head = whole, int(whole.shape[0] > 1), int(whole.shape[1] > 1)

    def kept(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        free = exempt[b * by_batch, h * by_head, q_block[q], k_block[k]]
        return block_kept(b, h, q, k) & (inside(b, h, q, k) | free)

    return kept


def _in_band(
    band: Band, keep: Tensor, some: Tensor, every: Tensor, queries: Places, keys: Places
) -> tuple[Tensor, Tensor]:
    """Return in which tiles a band may keep a pair, and in which it keeps all, of tiles that touch kept blocks."""
    (q_first, q_last), (k_first, k_last) = (_ends(places) for places in (queries, keys))
    low, high = band.low[..., None, None], band.high[..., None, None]
    least, most = k_first - q_last[:, None], k_last - q_first[:, None]
    some, every = some & (least <= high) & (most >= low), every & (least >= low) & (most <= high)
    if band.whole is None:
        return some, every
    free, all_free = _count(band.whole & keep, queries, keys)
    return some | free, every | all_free


def _ends(places: Places) -> tuple[Tensor, Tensor]:
    """Return the first and the last place of every tile."""
    first = torch.arange(0, places.size, places.tile, device=places.block.device)
    return first, (first + places.tile - 1).clamp(max=places.size - 1)


def expand_heads(x: Tensor, places: Places, heads: int) -> Tensor:
    """Give every query head its own keys if the orders of heads that share keys differ."""
    return x.repeat_interleave(heads // x.shape[1], 1) if places.by_head and x.shape[1] != heads else x


def _count(keep: Tensor, queries: Places, keys: Places) -> tuple[Tensor, Tensor]:
    """Return which tiles touch a kept pair of blocks, and in which tiles all pairs of blocks are kept."""
    if queries.first is queries.last and keys.first is keys.last:
        kept_blocks = keep[:, :, queries.first][..., keys.first]
        return kept_blocks, kept_blocks
    along_k = pad(keep.cumsum(3, dtype=torch.int32), (1, 0))
    columns = along_k[..., keys.last + 1] - along_k[..., keys.first]
    along_q = pad(columns.cumsum(2, dtype=torch.int32), (0, 0, 1, 0))
    kept = along_q[:, :, queries.last + 1] - along_q[:, :, queries.first]
    touched = (queries.last - queries.first + 1)[:, None] * (keys.last - keys.first + 1)
    return kept > 0, kept == touched


def _classify(plan: Plan, queries: Places, keys: Places) -> tuple[Tensor, Tensor]:
    """Return in which tiles the rule may keep a pair, and in which it keeps all, according to their bounding boxes."""
    rule = plan.pattern.rule
    assert rule is not None
    q_box, k_box = _boxes(plan, queries), _boxes(plan, keys)
    some, every = rule.classify(
        (q_box[0].unsqueeze(-2), q_box[1].unsqueeze(-2)), (k_box[0].unsqueeze(-3), k_box[1].unsqueeze(-3))
    )
    # Boxes hold video tokens; pairs with a text token are kept whatever the rule says.
    return some | q_box[2].unsqueeze(-1) | k_box[2].unsqueeze(-2), every


def _boxes(plan: Plan, places: Places) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lowest and highest coordinates of the video tokens of every tile, and which tiles hold text."""
    tiles = -(-places.size // places.tile)
    # Repeating the last token fills the last tile and changes no box.
    at = torch.arange(tiles * places.tile, device=plan.device).clamp(max=places.size - 1)
    tokens = at if places.tokens is None else places.tokens[..., at]
    where, text = plan.positions[tokens], plan.is_text[tokens]
    low = where.masked_fill(text[..., None], FAR).unflatten(-2, (tiles, places.tile)).amin(-2)
    high = where.masked_fill(text[..., None], -FAR).unflatten(-2, (tiles, places.tile)).amax(-2)
    return low, high, text.unflatten(-1, (tiles, places.tile)).any(-1)


def _element_rule(plan: Plan, queries: Places, keys: Places) -> ElementRule:
    packed, text = plan.packed_rule, plan.is_text
    q = slice(None) if queries.tokens is None else queries.tokens
    k = slice(None) if keys.tokens is None else keys.tokens
    return ElementRule(
        packed.packed[q], packed.to_high[q], packed.packed[k], packed.from_low[k], text[q], text[k], packed.guard
    )
