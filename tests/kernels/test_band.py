"""Bands on arranged positions, and blocks of single heads: plans, counts, tiles and the reference engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from attnbench.kernels import engines
from attnbench.kernels.band import Band
from attnbench.kernels.engines import ENGINES, Task, choose_engine, flex, triton_engine
from attnbench.kernels.engines.blocks import element_mask
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan, plain
from attnbench.kernels.rule import causal
from attnbench.kernels.tiles import tile_mask, tiles

B, H, N = 2, 3, 37
LAYOUT = Layout(Grid(1, 5, 7), (2, 0))


def cut(generator: torch.Generator, blocks: int) -> Tensor:
    """Offsets of every head of every batch item, with empty blocks among them."""
    inner = torch.randint(0, N + 1, (B, H, blocks - 1), generator=generator).sort(-1).values
    return torch.cat([torch.zeros(B, H, 1), inner, torch.full((B, H, 1), N)], -1).long()


def made(seed: int, *, band: bool, own: bool, orders: bool) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    q_blocks, k_blocks = (5, 7) if own else (4, 6)
    q_offsets, k_offsets = (
        (cut(generator, q_blocks), cut(generator, k_blocks))
        if own
        else (torch.tensor([0, 3, 20, 21, N]), torch.tensor([0, 9, 10, 11, 30, 36, N]))
    )
    keep = torch.rand(B, H, q_blocks, k_blocks, generator=generator) < 0.6
    bounds = torch.randint(0, 12, (2, 1, H), generator=generator)
    whole = torch.rand(1, H, q_blocks, k_blocks, generator=generator) < 0.2
    order = torch.rand(2, B, H, N, generator=generator).argsort(-1)
    return Plan(
        LAYOUT, B, H,
        BlockPattern(q_offsets, k_offsets, keep, band=Band(-bounds[0], bounds[1] - 3, whole) if band else None),
        order[0] if orders else None, order[1] if orders else None,
    )  # fmt: skip


def brute(plan: Plan) -> Tensor:
    """The kept pairs, one by one."""
    mask = torch.zeros(B, H, N, N, dtype=torch.bool)
    pattern = plan.pattern
    for b in range(B):
        for h in range(H):
            qo, ko = (x[b, h] if x.dim() == 3 else x for x in (pattern.q_offsets, pattern.k_offsets))
            for i in range(N):
                for j in range(N):
                    line = max(x for x in range(len(qo) - 1) if qo[x] <= i < qo[x + 1])
                    column = max(x for x in range(len(ko) - 1) if ko[x] <= j < ko[x + 1])
                    kept = bool(pattern.keep[b, h, line, column])
                    if pattern.band is not None and not bool(pattern.band.whole[0, h, line, column]):  # type: ignore[index]  # always given here
                        low, high = int(pattern.band.low[0, h]), int(pattern.band.high[0, h])
                        kept = kept and low <= j - i <= high
                    q = i if plan.q_order is None else int(plan.q_order[b, h, i])
                    k = j if plan.k_order is None else int(plan.k_order[b, h, j])
                    mask[b, h, q, k] = kept
    return mask


KINDS = [
    {"band": band, "own": own, "orders": orders}
    for band in (True, False) for own in (True, False) for orders in (True, False) if band or own
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(name for name, on in kind.items() if on))
def test_masks_counts_tiles_and_attention(kind: dict[str, Any]) -> None:
    plan = made(7, **kind)
    plan.check()
    mask = brute(plan)
    assert torch.equal(plan.token_mask(), mask)
    assert torch.equal(plan.pairs_by_head, mask.sum((-1, -2)))
    assert plan.empty_rows == int((~mask.any(-1)).sum())
    assert not any(plan.shared_by)
    keys = torch.tensor([0, 5, 36, 17])
    assert torch.equal(plan.pair_mask_of(1, 2, keys), mask[1, 2][:, keys])
    from_tiles = torch.zeros(B, H, N, N, dtype=torch.int64)
    for b in range(B):
        for h in range(H):
            for tile in tiles(plan, b, h):
                part = tile_mask(plan, tile)
                ones = torch.ones(len(tile.queries), len(tile.keys), dtype=torch.int64) if part is None else part.long()
                from_tiles[b, h, tile.queries[:, None], tile.keys] += ones
    assert torch.equal(from_tiles, mask.long()), "every pair is in one tile"
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(B, H, N, 8, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3))
    out, lse = REFERENCE.attend(q, k, v, plan, 0.3, True)
    scores = (0.3 * q @ k.mT).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).nan_to_num(0.0)
    torch.testing.assert_close(out, weights @ v)
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    d = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(out, (q, k, v), d),
        torch.autograd.grad((scores.softmax(-1).masked_fill(~mask.any(-1, keepdim=True), 0.0)) @ v, (q, k, v), d),
    )


def test_a_plain_plan_keeps_its_band_and_its_offsets() -> None:
    plan = made(3, band=True, own=True, orders=True)
    again = plain(plan)
    assert again.pattern.band is plan.pattern.band  # type: ignore[union-attr]  # both are block patterns
    assert torch.equal(again.token_mask(), plan.token_mask())
    assert set(map(id, plan.pattern.tensors)) <= set(map(id, plan.tensors))
    assert "band" in repr(plan)


def test_engines_refuse_what_they_cannot_run_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(B, H, N, 8)
    for kind, words in (
        ({"band": True, "own": False}, "runs no band"),
        ({"band": False, "own": True}, "blocks that all"),
    ):
        plan = made(3, **kind, orders=False)
        assert choose_engine("auto", plan, Task.of(x, x, x)).name == "reference"
        for engine in ENGINES.values():
            why = engine.lacks(plan, Task.of(x, x, x))
            able = engine.bands if kind["band"] else engine.own_offsets
            assert (why is None or words not in why) if able else (why is not None and words in why)
        with (
            monkeypatch.context() as patched
        ):  # engines of a GPU are asked nothing about patterns that they do not know
            patched.setattr(engines, "_unavailable", lambda name: None)
            patched.setattr(engines, "ENGINES", {name: engine for name, engine in ENGINES.items() if name != "flex"})
            assert choose_engine("auto", plan, Task.of(x, x, x)).name == "reference"
        with pytest.raises(Unsupported, match=words):
            choose_engine("unfused", plan, Task.of(x, x, x))


def test_auto_takes_our_kernels_for_bands_before_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"flex", "triton", "reference"}
    monkeypatch.setattr(engines, "_unavailable", lambda name: None if name in here else "is not here")
    monkeypatch.setattr(triton_engine, "_lacks_memory", lambda task: None)
    plan = made(3, band=True, own=False, orders=True)
    task = Task(torch.device("cuda"), torch.bfloat16, 64, H, 1, False, False)
    assert choose_engine("auto", plan, task).name == "triton"
    monkeypatch.setattr(triton_engine, "_lacks_memory", lambda task: "needs more")
    assert choose_engine("auto", plan, task).name == "flex"


def test_what_does_not_fit() -> None:
    offsets, keep = torch.tensor([0, 5, N]), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    one = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(BadInput, match=r"the band's low is torch.int64 \[1\]; it must be int64"):
        Band(one[0], one)
    with pytest.raises(BadInput, match=r"the band's whole blocks are \[1, 2\]; the pattern has \[2, 2\]"):
        BlockPattern(offsets, offsets, keep, band=Band(one, one, keep[:, :, :1]))
    with pytest.raises(BadInput, match="has the rule 'causal', which goes with no band"):
        BlockPattern(offsets, offsets, keep, causal(), band=Band(one, one))
    with pytest.raises(BadInput, match="the pattern's heads size is 2; it must be 1"):
        Plan(LAYOUT, B, H, BlockPattern(offsets, offsets, keep, band=Band(one.expand(1, 2), one)))
    with pytest.raises(BadInput, match="its low bound is above its high one"):
        Plan(LAYOUT, B, H, BlockPattern(offsets, offsets, keep, band=Band(one + 1, one))).check()
    with pytest.raises(BadInput, match="must ascend from 0 to 37, the number of tokens, without empty blocks"):
        Plan(LAYOUT, B, H, BlockPattern(torch.tensor([0, 0, N]), offsets, keep)).check()
    own = torch.tensor([0, N, N - 1]).expand(B, H, 3)
    with pytest.raises(BadInput, match=r"must ascend from 0 to 37, the number of tokens$"):
        Plan(LAYOUT, B, H, BlockPattern(own, offsets, keep)).check()
    dataclasses.replace(made(1, band=False, own=True, orders=False)).check()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("orders", [True, False])
@pytest.mark.parametrize("seed", [3, 8])
def test_flex_attention_runs_bands(orders: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "TILE", 8)
    plan = made(seed, band=True, own=False, orders=orders)
    mask = flex.tiles_of(plan)
    kept = element_mask(mask)
    b, h, i, j = (torch.arange(size) for size in (B, H, N, N))
    pairs = kept(b[:, None, None, None], h[:, None, None], i[:, None], j)
    tokens = plan.token_mask()
    arranged = tokens
    if plan.q_order is not None and plan.k_order is not None:
        by_query = tokens.gather(2, plan.q_order[..., None].expand_as(tokens))
        arranged = by_query.gather(3, plan.k_order[:, :, None].expand_as(tokens))
    assert torch.equal(pairs, arranged)
    for t in range(5):
        for s in range(5):
            part = arranged[:, :, 8 * t : 8 * t + 8, 8 * s : 8 * s + 8].flatten(2)
            full, partial = mask.full[:, :, t, s], mask.partial[:, :, t, s]
            assert bool((part.all(-1) | ~full).all()), "a full tile keeps every pair"
            assert bool((~part.any(-1) | full | partial).all()), "a tile that keeps a pair is listed"
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(B, H, N, 16, generator=generator) for _ in range(3))
    out, _ = flex.attend_with(flex_attention, q, k, v, plan, 0.3, False)
    exact, _ = REFERENCE.attend(q, k, v, plan, 0.3, False)
    torch.testing.assert_close(out.nan_to_num(0.0), exact, atol=1e-5, rtol=0)
