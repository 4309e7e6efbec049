"""The cuts against the rules of ``selection`` and, where rounding matters, against exact fractions.

Sizes are small so that one head takes several programs and several tiles, and tunings are drawn so that brackets are
settled at once, after several levels, or never (then the last step works on the scores themselves).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import selection
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.gpu.selection.cut_heads import Tuning, cut_threshold_head, cut_top_k_head
from attnbench.kernels.gpu.selection.cut_queries import cut_threshold_query, cut_top_k_query
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TUNINGS = [
    Tuning(tile=16, programs=4, capacity=64, levels=2, log_bins=5, block=32, stride=1, room=1),
    Tuning(tile=32, programs=3, capacity=4, levels=3, log_bins=5, block=16, stride=3, room=2),
    Tuning(tile=16, programs=1, capacity=1, levels=1, log_bins=6, block=16, stride=2, margin=0.2, room=1),
    Tuning(tile=16, programs=2, capacity=2, levels=3, log_bins=5, block=16, stride=5, margin=0.0),
]
PLAIN = TUNINGS[0]
Cut = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Scores:
    """float32 [B, H, N, blocks], own block int64 [N], and whether weights of these scores carry no rounding."""

    values: Tensor
    own: Tensor
    exact: bool


@st.composite
def draw_scores(draw: st.DrawFn, infinite: bool = False) -> Scores:
    batch, heads, n, blocks = (draw(st.integers(1, most)) for most in (2, 2, 9, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    kind = draw(st.sampled_from(["few", "many", "constant", "outlier", "tiny", "steps"]))
    shape = (batch, heads, n, blocks)
    values = torch.randn(shape, generator=random)
    if kind == "few":
        values = torch.randint(-2, 3, shape, generator=random).float()
    elif kind == "constant":
        values = torch.full(shape, -1.5)
    elif kind == "steps":  # weights at the very edges of bins
        values = torch.randint(0, 17, shape, generator=random).float()
        values[..., 0, 0], values[..., -1, -1] = 0.0, 16.0
    elif kind == "outlier":
        values[..., -1, -1] = 1e4
    elif kind == "tiny":
        values = torch.randint(-2, 3, shape, generator=random) * 2.0**-140
    if infinite:
        values[torch.rand(shape, generator=random) < 0.3] = -torch.inf
    own = torch.randint(blocks, (n,), generator=random)
    return Scores(values.to(DEVICE), own.to(DEVICE), kind not in ("many", "outlier"))


def cut_exactly(values: Tensor, own: Tensor, threshold: float, exact: bool) -> Tensor | None:
    """Cut one scope, float32 [n, blocks], in fractions; None if the weights' rounding may decide otherwise."""
    pairs = {(i, j): Fraction(float(x)) for i, row in enumerate(values) for j, x in enumerate(row)}
    low = min(pairs.values())
    weights = (
        {pair: x - low for pair, x in pairs.items()} if max(pairs.values()) > low else dict.fromkeys(pairs, Fraction(1))
    )
    total = sum(weights.values())
    kept = torch.zeros(values.shape, dtype=torch.bool)
    mine = set(enumerate(own.tolist()))
    missing = max(Fraction(threshold) * total - sum(weights[pair] for pair in mine), Fraction(0))
    slack = total * (Fraction(1, 10**12) if exact else Fraction(1, 10**6))
    reached, clear = Fraction(0), True
    for place, pair in enumerate(sorted(pairs.keys() - mine, key=lambda pair: (-pairs[pair], pair))):
        if place > 0 and reached >= missing:
            break
        kept[pair] = True
        reached += weights[pair]
        gap = abs(reached - missing)
        clear &= gap >= slack or (exact and gap == 0)
    for pair in mine:
        kept[pair] = True
    return kept if clear else None


thresholds = st.one_of(st.integers(1, 96).map(lambda i: i / 97), st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0]))
modest = settings(max_examples=draws(30), suppress_health_check=[HealthCheck.too_slow])


@modest
@given(scores=draw_scores(), threshold=thresholds, tuning=st.sampled_from(TUNINGS))
def test_threshold_of_a_whole_head(scores: Scores, threshold: float, tuning: Tuning) -> None:
    kept = cut_threshold_head(scores.values, scores.own, threshold, tuning=tuning)
    for head, found in zip(scores.values.flatten(0, 1), kept.flatten(0, 1), strict=True):
        expected = cut_exactly(head, scores.own, threshold, scores.exact)
        if expected is not None:
            assert torch.equal(found.cpu(), expected)


@modest
@given(scores=draw_scores(), threshold=thresholds)
def test_threshold_of_each_query(scores: Scores, threshold: float) -> None:
    kept = cut_threshold_query(scores.values, scores.own, threshold)
    assert kept.shape == scores.values.shape
    for head, found in zip(scores.values.flatten(0, 1), kept.flatten(0, 1), strict=True):
        for query in range(len(scores.own)):
            row = slice(query, query + 1)
            expected = cut_exactly(head[row], scores.own[row], threshold, scores.exact)
            if expected is not None:
                assert torch.equal(found[row].cpu(), expected)


@modest
@given(scores=draw_scores(infinite=True), k=st.integers(0, 8), tuning=st.sampled_from(TUNINGS))
def test_top_k_of_a_whole_head(scores: Scores, k: int, tuning: Tuning) -> None:
    kept = cut_top_k_head(scores.values, scores.own, k, tuning=tuning)
    assert torch.equal(kept, selection.top_k_per_head(scores.values, scores.own, k))


@settings(max_examples=draws(100))
@given(scores=draw_scores(infinite=True), k=st.integers(0, 8))
def test_top_k_of_each_query(scores: Scores, k: int) -> None:
    kept = cut_top_k_query(scores.values, scores.own, k)
    assert torch.equal(kept, selection.top_k_per_query(scores.values, scores.own, k))


@settings(max_examples=draws(30))
@given(scores=draw_scores(infinite=True), k=st.integers(0, 8))
def test_scores_that_lie_by_block_are_cut_in_place(scores: Scores, k: int) -> None:
    by_block = scores.values.mT.contiguous().mT
    kept = cut_top_k_query(by_block, scores.own, k)
    assert kept.mT.is_contiguous()
    assert torch.equal(kept, selection.top_k_per_query(scores.values, scores.own, k))


@pytest.mark.parametrize("k", [1, 2, 7, 20, 33, 41, 50])
def test_scores_that_are_nearly_equal_are_told_apart(k: int) -> None:
    # An outlier on either side, so that halving the range does not separate the others: they differ in their last bit.
    random = torch.Generator().manual_seed(k)
    close = torch.stack([torch.randperm(39, generator=random) // 2 for _ in range(40)]) * 2.0**-23 + 1
    scores = torch.cat([close, torch.full((40, 1), 1e30), torch.full((40, 1), -1e30)], 1)[None, None]
    scores[..., :20, :] = torch.randn(20, 41, generator=random)  # rows that settle beside rows that do not
    scores, own = scores.to(DEVICE), torch.arange(40, device=DEVICE)
    assert torch.equal(cut_top_k_query(scores, own, k), selection.top_k_per_query(scores, own, k))


def test_infinite_scores_are_the_best() -> None:
    scores = torch.tensor([[[[1.0, torch.inf, 0.0, torch.inf, -torch.inf, 2.0]]]], device=DEVICE)
    own = torch.tensor([2], device=DEVICE)
    for k in range(1, 8):
        assert torch.equal(cut_top_k_query(scores, own, k), selection.top_k_per_query(scores, own, k))


def cut_head_in_steps(scores: Tensor, own: Tensor, threshold: float) -> Tensor:
    return cut_threshold_head(scores, own, threshold, tuning=Tuning(tile=128, capacity=64, levels=3, block=64))


HEAD, QUERY = (cut_head_in_steps, selection.threshold_per_head), (cut_threshold_query, selection.threshold_per_query)


@pytest.mark.parametrize(("cut", "rule"), [HEAD, QUERY], ids=["head", "query"])
@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.7])
def test_thresholds_agree_with_the_rule_in_float64(cut: Cut, rule: Cut, threshold: float) -> None:
    random = torch.Generator().manual_seed(int(threshold * 100))
    scores = torch.randn(1, 2, 150, 13, generator=random).to(DEVICE)
    own = torch.randint(13, (150,), generator=random).to(DEVICE)
    assert torch.equal(cut(scores, own, threshold), rule(scores.double(), own, threshold))


def test_many_blocks() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 1, 3, 700, generator=random).to(DEVICE)
    own = torch.tensor([699, 0, 350], device=DEVICE)
    assert torch.equal(cut_top_k_query(scores, own, 40), selection.top_k_per_query(scores, own, 40))
    assert torch.equal(cut_threshold_query(scores, own, 0.3), selection.threshold_per_query(scores.double(), own, 0.3))


@pytest.mark.parametrize("tuning", TUNINGS)
def test_equal_scores_are_kept_in_order_of_query_and_block(tuning: Tuning) -> None:
    scores, own = torch.zeros(1, 1, 3, 4, device=DEVICE), torch.tensor([0, 3, 1], device=DEVICE)
    scores[0, 0, 0, 1] = -0.0  # equal to 0
    expected = [[True, True, True, True], [False, False, False, True], [False, True, False, False]]
    assert cut_top_k_head(scores, own, 2, tuning=tuning)[0, 0].tolist() == expected
    assert cut_threshold_head(scores, own, 0.49, tuning=tuning)[0, 0].tolist() == expected
    each = [[True, True, False, False], [True, False, False, True], [True, True, False, False]]
    assert cut_top_k_query(scores, own, 2)[0, 0].tolist() == each
    assert cut_threshold_query(scores, own, 0.49)[0, 0].tolist() == each


def test_equal_scores_have_equal_shares() -> None:
    scores, own = torch.full((1, 1, 1, 6), 3.0, device=DEVICE), torch.tensor([0], device=DEVICE)
    for threshold, number in [(0.1, 2), (0.3, 2), (0.4, 3), (0.6, 4), (0.7, 5), (1.0, 6)]:
        expected = [block < number for block in range(6)]
        assert cut_threshold_head(scores, own, threshold, tuning=PLAIN)[0, 0, 0].tolist() == expected
        assert cut_threshold_query(scores, own, threshold)[0, 0, 0].tolist() == expected


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_pair_that_reaches_the_threshold_is_kept_and_no_more(tuning: Tuning) -> None:
    # weights 4, 2, 1, 1, 0 of 8; the own block has 2 of them
    scores, own = torch.tensor([[[[4.0, 2.0, 1.0, 1.0, 0.0]]]], device=DEVICE), torch.tensor([1], device=DEVICE)
    for threshold, number in [(0.125, 2), (0.25, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.88, 4), (1.0, 4)]:
        expected = [block < number for block in range(5)]
        assert cut_threshold_head(scores, own, threshold, tuning=tuning)[0, 0, 0].tolist() == expected
        assert cut_threshold_query(scores, own, threshold)[0, 0, 0].tolist() == expected


def test_pairs_at_the_lower_edge_of_a_bin_are_above_the_bins_below() -> None:
    # Weights are 0 to 32 in 32 bins of 2, so the 16s lie at an edge. The others must reach 130: 32 + 3 · 16 + 4 · 15.
    values = [0.0, 32.0] + [16.0] * 3 + [15.0] * 6 + [14.0] * 6
    scores, own = torch.tensor([[[values]]], device=DEVICE), torch.tensor([0], device=DEVICE)
    for tuning in TUNINGS:
        kept = cut_threshold_head(scores, own, 130 / 254, tuning=tuning)
        assert kept[0, 0, 0].tolist() == [block < 9 for block in range(17)]


@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
def test_a_single_block_is_everything(threshold: float) -> None:
    scores, own = torch.randn(2, 1, 5, 1, device=DEVICE), torch.zeros(5, dtype=torch.int64, device=DEVICE)
    for kept in (
        cut_threshold_head(scores, own, threshold, tuning=PLAIN),
        cut_threshold_query(scores, own, threshold),
        cut_top_k_head(scores, own, 3, tuning=PLAIN),
        cut_top_k_query(scores, own, 3),
    ):
        assert kept.shape == scores.shape
        assert bool(kept.all())


def test_nothing_but_own_pairs_above_minus_infinity() -> None:
    scores, own = torch.full((1, 1, 4, 3), -torch.inf, device=DEVICE), torch.tensor([0, 1, 2, 0], device=DEVICE)
    expected = selection.is_own(own, 3)
    assert torch.equal(cut_top_k_head(scores, own, 3, tuning=PLAIN)[0, 0], expected)
    assert torch.equal(cut_top_k_query(scores, own, 3)[0, 0], expected)


@settings(max_examples=draws(5))
@given(scores=draw_scores(), threshold=thresholds)
def test_tunings_do_not_change_the_result(scores: Scores, threshold: float) -> None:
    assume(scores.values.shape[2] > 2)
    kept = [cut_threshold_head(scores.values, scores.own, threshold, tuning=tuning) for tuning in TUNINGS]
    assert all(torch.equal(kept[0], other) for other in kept[1:])


def test_what_the_kernels_do_not_take_is_refused() -> None:
    scores, own = torch.zeros(1, 1, 4, 3, device=DEVICE), torch.zeros(4, dtype=torch.int64, device=DEVICE)
    for threshold in (0.0, 1.5, -1.0):
        with pytest.raises(BadInput, match=str(threshold)):
            cut_threshold_head(scores, own, threshold)
        with pytest.raises(BadInput, match=str(threshold)):
            cut_threshold_query(scores, own, threshold)
    with pytest.raises(Unsupported, match="float64"):
        cut_top_k_head(scores.double(), own, 2)
    with pytest.raises(Unsupported, match="contiguous"):
        cut_top_k_head(scores.transpose(0, 1).expand(2, 1, 4, 3), own, 2)
    with pytest.raises(BadInput, match=r"\[5\]"):
        cut_top_k_head(scores, torch.zeros(5, dtype=torch.int64, device=DEVICE), 2)
