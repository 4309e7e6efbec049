from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter

import pytest
import torch

import attnbench
from attnbench.cost.roofline import least_bytes, phase_traffic
from attnbench.kernels.errors import BadInput
from attnbench.kernels.gpu import blocked
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import MeanSelection, Plan

RandomPlan = Callable[..., Plan]


def tiny_routed(order: bool = True) -> Plan:
    """Two heads of 6 tokens, blocks of 4 and 2 keys; three queries keep the first, two both, one the second."""
    keep = torch.tensor([[1, 0], [1, 0], [1, 0], [1, 1], [1, 1], [0, 1]]).bool().expand(1, 2, 6, 2).contiguous()
    pattern = RoutedPattern(torch.tensor([0, 4, 6]), keep)
    return Plan(Layout(Grid(1, 2, 3)), 1, 2, pattern, None, torch.tensor([5, 4, 3, 2, 1, 0]) if order else None)


def test_a_routed_plan_counted_by_hand() -> None:
    # head_dim 64, bfloat16: a row of q, k, v or output takes 128 bytes, of 6 tokens and 2 heads 1,536.
    found = phase_traffic(tiny_routed(), 64, 2, "triton")
    assert list(found) == ["permute", "index", "attend", "merge"]

    order = 6 * 8
    assert found["permute"].min_bytes == 2 * 1536 + order + 2 * 1536
    assert found["permute"].modelled_bytes == 2 * 1536 + 2 * 2 * order + 2 * 1536  # the order for k, v, and each head

    # A head has two lists, of 5 and 3 queries: a tile each, of 128 places, and 8 partial results.
    places, records, slots = 4 * 128 * 4, 4 * 24, 2 * 6 * 2 * 4
    assert found["index"].min_bytes == 2 * 6 * 2 + places + records + slots
    bits, counts, entries = 2 * 2 * 1 * 4, 2 * 2 * 1 * 1 * 4, 16 * 4
    assert found["index"].modelled_bytes == (
        2 * 6 * 2 + 3 * bits + 2 * counts + 2 * places + 2 * 4 * 16 + records + slots + entries
    )

    # Each tile takes one step: 128 keys and values asked for, whatever the block holds; all 128 rows are written.
    assert found["attend"].min_bytes == 1536 + 2 * 1536 + 16 * (128 + 4)
    assert found["attend"].modelled_bytes == (4 * 128 * 4 + 4 * 24 + 16 * 128 + 4 * 128 * 2 * 128 + 4 * 128 * (128 + 4))
    merged = slots + 16 * (128 + 4) + 1536 + 2 * 6 * 4
    assert (found["merge"].min_bytes, found["merge"].modelled_bytes) == (merged, merged)


def test_a_plan_of_whole_blocks_counted_by_hand() -> None:
    # 40 tokens: 2 query blocks of 20 make tiles of 32 rows; 4 key blocks of 10 make steps of 16 keys.
    keep = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0]]).bool()[None, None]
    pattern = BlockPattern(torch.tensor([0, 20, 40]), torch.tensor([0, 10, 20, 30, 40]), keep)
    plan = Plan(Layout(Grid(1, 1, 40)), 1, 3, pattern)
    found = phase_traffic(plan, 48, 2, "triton")
    assert list(found) == ["permute", "index", "attend"]

    q, arranged = 3 * 40 * 48 * 2, 3 * 40 * 64 * 2  # k and v get 64 columns: zeros, and then a copy
    assert found["permute"].min_bytes == 2 * q + 2 * arranged
    assert found["permute"].modelled_bytes == 2 * arranged + 2 * (q + q)

    # Three heads share a list of 3 runs and 2 tiles a head; a record each.
    places, segments, records = 2 * 32 * 4, 3 * 8, 6 * 24
    assert found["index"].min_bytes == 8 + places + segments + records
    assert found["index"].modelled_bytes == 8 + places + segments + 2 * 8 + 3 * 2 * 2 * 4 + records

    # The runs of 20, 10 and 10 keys take 2, 1 and 1 steps of 16.
    rows_out = 3 * 40 * (48 * 2 + 4)
    assert found["attend"].min_bytes == q + 2 * arranged + rows_out
    assert found["attend"].modelled_bytes == (6 * 32 * 4 + 6 * 24 + q + 3 * (2 + 1 + 1) * 16 * 2 * 64 * 2 + rows_out)


def test_where_attention_arranges_keys_itself_only_the_first_head_is_permuted(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = torch.randn(2, 1, 3, 8 * 16 * 8, 64)
    plan = attnbench.select(q, k, method="sta", grid=(8, 16, 8), tile=(4, 8, 8), window=(1, 1, 1))
    apart = phase_traffic(plan, 64, 2, "triton")
    monkeypatch.setattr(blocked, "is_hopper", lambda device: True)
    together = phase_traffic(plan, 64, 2, "triton")
    assert apart.keys() == together.keys()
    assert together["permute"].min_bytes == apart["permute"].min_bytes // 3
    assert together["permute"].modelled_bytes == (apart["permute"].modelled_bytes or 0) // 3
    for count in (attrgetter("min_bytes"), attrgetter("modelled_bytes")):
        assert sum(map(count, together.values())) == sum(map(count, apart.values()))
    assert phase_traffic(plan, 64, 4, "triton")["attend"].min_bytes == 2 * apart["attend"].min_bytes - 3 * 1024 * 4


def test_keys_whose_blocks_the_kernels_take_in_another_order_are_arranged() -> None:
    offsets, keep = torch.arange(14) * 8, torch.ones(1, 1, 104, 13, dtype=torch.bool)
    near = torch.arange(13).flip(0)
    plain, other = (Plan(Layout(Grid(104, 1, 1)), 1, 1, RoutedPattern(offsets, keep, near=x)) for x in (None, near))
    assert "permute" not in phase_traffic(plain, 64, 2, "triton")
    assert "permute" in phase_traffic(other, 64, 2, "triton")


def test_a_selection_counted_by_hand() -> None:
    # 4 query heads share 2 kv heads of 20 video tokens, and 3 of text behind them; 5 video blocks of 4, and text's.
    q, k = torch.randn(1, 4, 23, 32), torch.randn(1, 2, 23, 32)
    plan = attnbench.select(q, k, method="moba", grid=(1, 4, 5), text=(0, 3), block_size=4, topk=2)
    found = phase_traffic(plan, 32, 4, "triton", kv_heads=2)
    keys, means, video_means = 2 * 23 * 32 * 4, 2 * 6 * 32 * 4, 2 * 5 * 32 * 4
    assert found["pool"].min_bytes == keys + means
    assert found["pool"].modelled_bytes == keys + means  # each block in one part

    queries, scores = 4 * 20 * 32 * 4, 4 * 20 * 5 * 4
    assert found["score"].min_bytes == queries + video_means + scores
    assert found["score"].modelled_bytes == queries + 4 * 1 * 5 * 32 * 4 + scores  # one program of 32 queries a head

    video_keep, keep = 4 * 20 * 5, 4 * 23 * 6
    assert found["select"].min_bytes == scores + keep
    own = 4 * 20 * 8
    assert found["select"].modelled_bytes == scores + own + video_keep + video_keep + keep
    whole_head = phase_traffic(replace(plan, selection=MeanSelection("head")), 32, 4, "triton", kv_heads=2)
    assert whole_head["select"].modelled_bytes == found["select"].modelled_bytes + 3 * (scores + own)


def test_parts_of_blocks_are_written_and_added_up() -> None:
    # 2 blocks of 130 tokens are cut into 2 parts of at least 64.
    q = torch.randn(1, 1, 260, 8)
    plan = attnbench.select(q, q, method="moba", grid=(2, 10, 13), block_size=130, topk=1)
    means = 2 * 8 * 4
    assert phase_traffic(plan, 8, 4, "triton")["pool"].modelled_bytes == 260 * 8 * 4 + 2 * 2 * means + means


def test_a_causal_selection_also_strikes_out_the_later_blocks() -> None:
    q, k = torch.randn(2, 1, 2, 24, 32)
    where = {"method": "moba", "grid": (2, 3, 4), "block_size": 6, "topk": 2}
    both = [
        phase_traffic(attnbench.select(q, k, **where, causal=causal), 32, 4, "triton")["select"]
        for causal in (False, True)
    ]
    assert both[0].min_bytes == both[1].min_bytes
    assert both[1].modelled_bytes == (both[0].modelled_bytes or 0) + 2 * (2 * 24 * 4 * 4)


def test_a_selection_of_another_kind_has_no_bytes_rather_than_wrong_ones() -> None:
    q, k = torch.randn(2, 1, 2, 24, 32)
    plan = attnbench.select(q, k, method="moba", grid=(2, 3, 4), block_size=6, topk=2)
    selection = {"pool", "score", "select"}
    assert selection <= set(phase_traffic(plan, 32, 4, "triton"))
    other = replace(plan, selection_flops=plan.selection_flops + 1)
    assert not selection & set(phase_traffic(other, 32, 4, "triton"))
    assert not selection & set(phase_traffic(replace(plan, selection=None), 32, 4, "triton"))


def test_what_a_selection_ranks_together_is_a_head_or_a_query() -> None:
    with pytest.raises(BadInput, match="scope 'heads'; it must be 'head' or 'query'"):
        MeanSelection("heads")


@pytest.mark.parametrize("scope", ["head", "query"])
def test_a_method_says_in_its_plan_what_its_selection_ranked_together(scope: str) -> None:
    q, k = torch.randn(2, 1, 2, 24, 32)
    assert attnbench.select(q, k, method="vmoba", grid=(2, 3, 4), scope=scope).selection == MeanSelection(scope)
    assert attnbench.select(q, k, method="moba", grid=(2, 3, 4)).selection == MeanSelection("query")
    assert attnbench.select(q, k, method="full", grid=(2, 3, 4)).selection is None


def test_of_other_engines_only_the_minimum_is_known() -> None:
    q, k = torch.randn(2, 1, 2, 24, 32)
    plan = attnbench.select(q, k, method="vmoba", grid=(2, 3, 4))
    found = phase_traffic(plan, 32, 4, "reference")
    assert list(found) == ["pool", "score", "select", "attend"]
    assert {phase.modelled_bytes for phase in found.values()} == {None}
    assert found["attend"].min_bytes == least_bytes(plan, 32, 4) == 4 * 2 * 24 * 32 * 4
    ours = phase_traffic(plan, 32, 4, "triton")
    assert {phase: ours[phase].min_bytes for phase in ("pool", "score", "select")} == {
        phase: found[phase].min_bytes for phase in ("pool", "score", "select")
    }


@pytest.mark.parametrize("seed", range(40))
def test_the_minimum_is_never_above_the_model(seed: int, random_plan: RandomPlan) -> None:
    plan = random_plan(seed)
    for kv_heads in {1, plan.heads}:
        for phase, found in phase_traffic(plan, 24, 2, "triton", kv_heads=kv_heads).items():
            assert found.modelled_bytes is not None
            assert 0 <= found.min_bytes <= found.modelled_bytes, phase


@pytest.mark.parametrize("seed", range(30))
def test_a_plan_that_keeps_more_never_has_less_to_move(seed: int, random_plan: RandomPlan) -> None:
    # What is asked for may fall: queries that keep the same share tiles, and neighbouring blocks share steps.
    plan = random_plan(seed)
    more = replace(plan, pattern=replace(plan.pattern, keep=torch.ones_like(plan.pattern.keep)))
    before, after = (phase_traffic(each, 64, 2, "triton") for each in (plan, more))
    assert before.keys() == after.keys()
    for phase in before.keys() - {"index"}:
        assert before[phase].min_bytes <= after[phase].min_bytes, phase


@pytest.mark.parametrize("seed", range(20))
def test_twice_the_batch_moves_twice_the_tokens(seed: int, random_plan: RandomPlan) -> None:
    plan = random_plan(seed)
    orders = [None if o is None or o.dim() == 1 else o.repeat(2, 1, 1) for o in (plan.q_order, plan.k_order)]
    one_for_all = [o if o is not None and o.dim() == 1 else None for o in (plan.q_order, plan.k_order)]
    q_order, k_order = (shared if shared is not None else own for own, shared in zip(orders, one_for_all, strict=True))
    keep = plan.pattern.keep if plan.pattern.keep.shape[0] == 1 else plan.pattern.keep.repeat(2, 1, 1, 1)
    pattern = replace(plan.pattern, keep=keep)
    twice = replace(plan, batch=2 * plan.batch, pattern=pattern, q_order=q_order, k_order=k_order)
    before, after = (phase_traffic(each, 64, 2, "triton") for each in (plan, twice))
    for phase in before.keys() - {"index"}:  # lists and orders may be shared
        assert after[phase].modelled_bytes == 2 * (before[phase].modelled_bytes or 0)
    assert after["attend"].min_bytes == 2 * before["attend"].min_bytes


def test_an_order_that_all_heads_share_is_stored_once() -> None:
    plan = tiny_routed()
    assert plan.k_order is not None
    shared = replace(plan, k_order=plan.k_order.expand(1, 2, 6))
    own = replace(plan, k_order=plan.k_order.repeat(1, 2, 1))
    counted = [phase_traffic(each, 64, 2, "triton")["permute"].min_bytes for each in (plan, shared, own)]
    assert counted[0] == counted[1] == counted[2] - 6 * 8


def test_full_attention_in_grid_order_has_nothing_to_permute_or_merge() -> None:
    q, k = torch.randn(2, 1, 1, 300, 64)
    plan = attnbench.select(q, k, method="full", grid=(3, 10, 10))
    found = phase_traffic(plan, 64, 2, "triton")
    assert list(found) == ["index", "attend"]
    # Three tiles of 128 queries, each with three steps of 128 keys.
    assert found["attend"].modelled_bytes == 3 * 128 * 4 + 3 * 24 + 300 * 128 + 9 * 128 * 2 * 128 + 300 * (128 + 4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"engine": "trition"}, "unknown engine 'trition': did you mean 'triton'"),
        ({"itemsize": 8}, "itemsize is 8"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"kv_heads": 3}, "kv_heads is 3; it must divide 2"),
        ({"kv_heads": 0}, "kv_heads is 0"),
    ],
)
def test_wrong_arguments_are_quoted(wrong: dict[str, object], says: str) -> None:
    given: dict[str, object] = {"head_dim": 64, "itemsize": 2, "engine": "triton"} | wrong
    call: Callable[..., object] = phase_traffic
    with pytest.raises(BadInput, match=says):
        call(tiny_routed(), **given)
