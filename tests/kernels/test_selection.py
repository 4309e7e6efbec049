"""The selection rules restated pair by pair in exact fractions.

Ties: among equal scores at a cut the pair that comes first, by query and then by block, is kept. Own blocks are outside
the competition: always kept, and counted first.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.cuts import Cut, route
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.selection import (
    extremes_of,
    pool_blocks,
    score_blocks,
    threshold_per_head,
    threshold_per_query,
    top_k_per_head,
    top_k_per_query,
)

Scores = list[list[float]]  # of one head, [N][blocks]
Pairs = set[tuple[int, int]]


@st.composite
def draw_scores(draw: st.DrawFn, infinite: bool = False) -> tuple[Tensor, Tensor]:
    """Scores float32 [2, 2, N, blocks], of few different values or of many, and each query's own block."""
    n, blocks = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    own = torch.randint(blocks, (n,), generator=random)
    kind = draw(st.sampled_from(["few", "many", "constant"]))
    scores = torch.randn(2, 2, n, blocks, generator=random)
    if kind == "few":
        scores = torch.randint(-2, 3, scores.shape, generator=random).float()
    elif kind == "constant":
        scores = torch.full_like(scores, -1.5)
    if infinite:
        scores[torch.rand(scores.shape, generator=random) < 0.3] = -torch.inf
    return scores, own


def ranked(pairs: Pairs, scores: Scores) -> list[tuple[int, int]]:
    """Best first; among equals the first query, then the first block."""
    return sorted(pairs, key=lambda pair: (-scores[pair[0]][pair[1]], pair))


def own_pairs(own: list[int]) -> Pairs:
    return set(enumerate(own))


def other_pairs(scores: Scores, own: list[int]) -> Pairs:
    return {(i, j) for i, row in enumerate(scores) for j in range(len(row))} - own_pairs(own)


def by_query(scores: Scores, own: list[int], k: int) -> Pairs:
    kept = own_pairs(own)
    for query in range(len(scores)):
        rivals = {pair for pair in other_pairs(scores, own) if pair[0] == query and scores[query][pair[1]] > -torch.inf}
        kept |= set(ranked(rivals, scores)[: k - 1])
    return kept


def by_head(scores: Scores, own: list[int], k: int) -> Pairs:
    rivals = {(i, j) for i, j in other_pairs(scores, own) if scores[i][j] > -torch.inf}
    return own_pairs(own) | set(ranked(rivals, scores)[: (k - 1) * len(scores)])


def until_threshold(scores: Scores, own: list[int], threshold: float, scope: Pairs) -> tuple[Pairs, bool]:
    """Kept pairs of one scope, and whether rounding could decide differently where the threshold is reached."""
    exact = {(i, j): Fraction(scores[i][j]) for i, j in scope}
    low, high = min(exact.values()), max(exact.values())
    normal = {pair: (score - low) / (high - low) if high > low else Fraction(1) for pair, score in exact.items()}
    share = {pair: value / sum(normal.values()) for pair, value in normal.items()}
    kept = own_pairs(own) & scope
    missing = Fraction(threshold) - sum(share[pair] for pair in kept)
    reached, close = Fraction(0), abs(missing) < 1e-5
    for place, pair in enumerate(ranked(scope - kept, scores)):
        if place > 0 and reached >= missing:
            break
        kept.add(pair)
        reached += share[pair]
        close |= abs(reached - missing) < 1e-5
    return kept, close


def rows_of(kept: Tensor) -> Pairs:
    return {(i, j) for i, j in kept.nonzero().tolist()}


@given(given_scores=draw_scores(infinite=True), k=st.integers(1, 8))
def test_top_k_of_each_query(given_scores: tuple[Tensor, Tensor], k: int) -> None:
    scores, own = given_scores
    kept = top_k_per_query(scores, own, k)
    for b in range(2):
        for h in range(2):
            assert rows_of(kept[b, h]) == by_query(scores[b, h].tolist(), own.tolist(), k)


@given(given_scores=draw_scores(infinite=True), k=st.integers(1, 8))
def test_top_k_of_a_whole_head(given_scores: tuple[Tensor, Tensor], k: int) -> None:
    scores, own = given_scores
    kept = top_k_per_head(scores, own, k)
    for b in range(2):
        for h in range(2):
            assert rows_of(kept[b, h]) == by_head(scores[b, h].tolist(), own.tolist(), k)


@settings(max_examples=75)
@given(given_scores=draw_scores(), threshold=st.integers(1, 96).map(lambda i: i / 97))
def test_threshold_of_each_query(given_scores: tuple[Tensor, Tensor], threshold: float) -> None:
    scores, own = given_scores
    kept = threshold_per_query(scores, own, threshold)
    for b in range(2):
        for h in range(2):
            rows = scores[b, h].tolist()
            for query in range(len(rows)):
                scope = {(query, block) for block in range(len(rows[0]))}
                expected, close = until_threshold(rows, own.tolist(), threshold, scope)
                if not close:
                    assert {pair for pair in rows_of(kept[b, h]) if pair[0] == query} == expected


@settings(max_examples=75)
@given(given_scores=draw_scores(), threshold=st.integers(1, 96).map(lambda i: i / 97))
def test_threshold_of_a_whole_head(given_scores: tuple[Tensor, Tensor], threshold: float) -> None:
    scores, own = given_scores
    kept = threshold_per_head(scores, own, threshold)
    for b in range(2):
        for h in range(2):
            rows = scores[b, h].tolist()
            scope = {(i, j) for i in range(len(rows)) for j in range(len(rows[0]))}
            expected, close = until_threshold(rows, own.tolist(), threshold, scope)
            assume(not close)
            assert rows_of(kept[b, h]) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_pair_that_reaches_the_threshold_is_kept_and_no_more(dtype: torch.dtype) -> None:
    # min-max: 1, 2/4, 1/4, 1/4, 0 of a sum of 2, so the shares are exactly 1/2, 1/4, 1/8, 1/8, 0
    scores, own = torch.tensor([[4.0, 2.0, 1.0, 1.0, 0.0]], dtype=dtype), torch.tensor([1])
    for cut in (threshold_per_query, threshold_per_head):
        for threshold, blocks in [
            (0.125, {0, 1}),  # the own share suffices, and one other is kept all the same
            (0.25, {0, 1}),
            (0.5, {0, 1}),
            (0.75, {0, 1}),  # reached exactly
            (0.76, {0, 1, 2}),
            (0.875, {0, 1, 2}),
            (0.88, {0, 1, 2, 3}),
            (1.0, {0, 1, 2, 3}),  # the last share is 0
        ]:
            assert rows_of(cut(scores, own, threshold)) == {(0, block) for block in blocks}


@given(given_scores=draw_scores())
def test_threshold_one_keeps_every_pair_with_a_share(given_scores: tuple[Tensor, Tensor]) -> None:
    scores, own = given_scores
    per_query, per_head = threshold_per_query(scores, own, 1.0), threshold_per_head(scores, own, 1.0)
    low_of_query, low_of_head = scores.amin(-1, keepdim=True), scores.amin((-2, -1), keepdim=True)
    constant = scores.amax(-1, keepdim=True) == low_of_query
    assert bool(per_query[(scores > low_of_query) | constant].all())
    constant = scores.amax((-2, -1), keepdim=True) == low_of_head
    assert bool(per_head[(scores > low_of_head) | constant].all())


def test_equal_scores_are_kept_in_order_of_query_and_block() -> None:
    scores, own = torch.zeros(3, 4), torch.tensor([0, 3, 1])
    assert rows_of(top_k_per_query(scores, own, 2)) == {(0, 0), (0, 1), (1, 3), (1, 0), (2, 1), (2, 0)}
    assert rows_of(top_k_per_head(scores, own, 2)) == {(0, 0), (1, 3), (2, 1), (0, 1), (0, 2), (0, 3)}
    # a share is 1/12: three own ones, and three more make 1/2
    assert rows_of(threshold_per_head(scores, own, 0.49)) == {(0, 0), (1, 3), (2, 1), (0, 1), (0, 2), (0, 3)}


@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
def test_a_single_block_is_everything(threshold: float) -> None:
    scores, own = torch.randn(2, 3, 5, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(5, dtype=torch.int64)
    for kept in (
        top_k_per_query(scores, own, 3),
        top_k_per_head(scores, own, 3),
        threshold_per_query(scores, own, threshold),
        threshold_per_head(scores, own, threshold),
    ):
        assert kept.shape == scores.shape
        assert bool(kept.all())


def test_more_than_all_blocks_is_all_blocks() -> None:
    scores, own = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    for k in (4, 5, 1000):
        assert bool(top_k_per_query(scores, own, k).all())
        assert bool(top_k_per_head(scores, own, k).all())


def test_the_scores_are_left_as_they_were() -> None:
    scores, own = torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    before = scores.clone()
    top_k_per_query(scores, own, 2), top_k_per_head(scores, own, 2)
    threshold_per_query(scores, own, 0.4), threshold_per_head(scores, own, 0.4)
    assert torch.equal(scores, before)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    ordered=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_means_of_blocks(sizes: list[int], ordered: bool, dtype: torch.dtype, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    x = torch.randn(2, 3, n, 4, generator=random, dtype=torch.float64).to(dtype)
    order = torch.randperm(n, generator=random) if ordered else None
    tokens = list(range(n)) if order is None else order.tolist()
    means = pool_blocks(x, order, torch.tensor([0, *sizes]).cumsum(0))
    assert means.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    start = 0
    for block, size in enumerate(sizes):
        members = tokens[start : start + size]
        by_hand = sum(x[:, :, token].double() for token in members) / size
        torch.testing.assert_close(means[:, :, block].double(), by_hand, atol=1e-6, rtol=0)
        start += size


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scores_are_plain_products_with_the_means_of_the_head_group(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 5, 4, generator=random, dtype=torch.float64).to(dtype)
    means = torch.randn(2, 3, 7, 4, generator=random, dtype=torch.float64)
    means = means if dtype == torch.float64 else means.float()
    scores = score_blocks(q, means)
    assert scores.dtype == means.dtype
    for b in range(2):
        for h in range(6):
            by_hand = [
                [sum(float(x * y) for x, y in zip(query, mean, strict=True)) for mean in means[b, h // 2]]
                for query in q[b, h].to(means.dtype)
            ]
            torch.testing.assert_close(scores[b, h].double(), torch.tensor(by_hand).double(), atol=1e-5, rtol=1e-5)


@given(given_scores=draw_scores(infinite=True))
def test_extremes_sort_as_the_scores_do(given_scores: tuple[Tensor, Tensor]) -> None:
    scores, _ = given_scores
    extremes = extremes_of(scores).reshape(2, 2, 2).tolist()
    for b in range(2):
        for h in range(2):
            high, low = scores[b, h].max().item(), scores[b, h].min().item()
            assert extremes[b][h] == [image(high), -image(low) - 1]


def image(x: float) -> int:
    """The bits of a float32 as an integer, those of negative numbers downwards from -1 (which would be -0)."""
    bits: int = struct.unpack("<i", struct.pack("<f", x or 0.0))[0]
    return bits if bits >= 0 else -(bits + 2**31) - 1


def test_images_are_in_the_order_of_the_numbers() -> None:
    numbers = [-torch.inf, -2.5, -1.0, -1e-40, 0.0, 1e-40, 1.0, 2.5, torch.inf]
    images = [int(extremes_of(torch.full((1, 1, 1, 1), x))[0, 0]) for x in numbers]
    assert images == sorted(set(images))
    assert int(extremes_of(torch.full((1, 1, 1, 1), -0.0))[0, 0]) == images[4]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("best", "head", 0.5), "cut by 'best' of a 'head'"),
        (("topk", "batch", 2), "cut by 'topk' of a 'batch'"),
        (("threshold", "head", 0.0), "threshold is 0.0"),
        (("threshold", "query", 1.5), "threshold is 1.5"),
        (("topk", "query", 0), "topk is 0"),
        (("topk", "query", 1.5), "topk is 1.5"),
        (("threshold", "head", 0.5, True), "causal"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Cut(*fields)


@settings(max_examples=20)
@given(
    data=st.data(),
    sides=st.tuples(*[st.integers(1, 4)] * 3),
    text=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    select=st.sampled_from(["threshold", "topk"]),
    scope=st.sampled_from(["head", "query"]),
    causal=st.booleans(),
)
def test_a_route_is_means_scores_and_a_cut_of_the_video(
    data: st.DataObject, sides: tuple[int, int, int], text: tuple[int, int], select: str, scope: str, causal: bool
) -> None:
    layout = Layout(Grid(*sides), text)
    block: Any = data.draw(st.tuples(*[st.integers(1, side) for side in sides]))
    amount = data.draw(st.sampled_from([0.2, 0.6])) if select == "threshold" else data.draw(st.integers(1, 4))
    causal = causal and select == "topk"
    partition = partition_cuboids(layout, block, torch.device("cpu"))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q = torch.randn(2, 2, layout.tokens, 3, generator=random, dtype=torch.float64)
    k = torch.randn(2, 1, layout.tokens, 3, generator=random, dtype=torch.float64)
    kept, flops = route(q, k, layout, partition, Cut(select, scope, amount, causal))
    own, blocks = partition.own.tolist(), partition.blocks - (text[0] > 0) - (text[1] > 0)
    n = layout.grid.tokens
    members = [[text[0] + i for i in range(n) if own[i] == j] for j in range(blocks)]
    assert flops == k.numel() + 2 * 2 * 2 * n * blocks * 3
    assert kept.shape == (2, 2, n, blocks)
    for b in range(2):
        means = [sum(k[b, 0, i] for i in group) / len(group) for group in members]
        for h in range(2):
            scores = [[float(q[b, h, text[0] + i] @ mean) for mean in means] for i in range(n)]
            if causal:
                scores = [[-torch.inf if j > own[i] else x for j, x in enumerate(row)] for i, row in enumerate(scores)]
            if select == "topk":
                expected = (by_head if scope == "head" else by_query)(scores, own, int(amount))
                assert rows_of(kept[b, h]) == expected
                continue
            queries = [range(n)] if scope == "head" else [range(i, i + 1) for i in range(n)]
            for some in queries:
                expected, close = until_threshold(scores, own, amount, {(i, j) for i in some for j in range(blocks)})
                assert close or {pair for pair in rows_of(kept[b, h]) if pair[0] in some} == expected
