"""Rules for blocks at one density: against brute force, and against the cuts that methods use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnbench.analysis.cuts import RULES, keep

SIZES = torch.tensor([4, 4, 4, 4, 2, 2])


def scores(m: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(m, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def density_of(kept: Tensor) -> float:
    return float((kept * SIZES).sum() / (len(kept) * SIZES.sum()))


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("density", [0.0, 0.13, 0.25, 0.5, 0.77, 1.0])
def test_a_rule_keeps_the_density_to_within_half_a_block(rule: str, density: float) -> None:
    kept = keep(RULES[rule], scores(), SIZES, [density])[0]
    assert abs(density_of(kept) - density) <= 2.001 / (20 * 20)


@pytest.mark.parametrize("rule", list(RULES))
def test_a_query_keeps_its_best_blocks(rule: str) -> None:
    given = scores()
    kept = keep(RULES[rule], given, SIZES, [0.4])[0]
    for row, mask in zip(given, kept, strict=True):
        assert not mask.any() or mask.all() or float(row[mask].min()) > float(row[~mask].max())


def test_the_fixed_budget_gives_every_query_as_many_blocks_up_to_one() -> None:
    sizes = torch.full((6,), 3)
    for density, wanted in ((1 / 3, {2}), (0.4, {2, 3})):
        counts = keep(RULES["topk_query"], scores(50), sizes, [density])[0].sum(1)
        assert set(counts.tolist()) == wanted
    halves = counts.view(2, 25).double().mean(1)  # who gets one more is spread over the queries
    assert float((halves[0] - halves[1]).abs()) < 0.1


def test_the_best_pairs_of_the_head_are_those_with_the_highest_scores() -> None:
    given = scores()
    kept = keep(RULES["minmax_head"], given, torch.full((6,), 5), [0.3])[0]
    count = int(kept.sum())
    assert count == round(0.3 * given.numel())
    assert float(given[kept].min()) > float(given[~kept].max())


def test_a_threshold_of_each_query_is_one_threshold_for_all() -> None:
    given = scores()
    for rule, shares in (("softmax_query", given.softmax(1)), ("minmax_query", _minmax(given))):
        kept = keep(RULES[rule], given, SIZES, [0.5])[0]
        ordered = shares.sort(dim=1, descending=True).values
        before = ordered.cumsum(1) - ordered
        counts = kept.sum(1)
        reached = [float(row[int(n) - 1]) for row, n in zip(before, counts, strict=True) if n > 0]
        missed = [float(row[int(n)]) for row, n in zip(before, counts, strict=True) if n < 6]
        assert max(reached) <= min(missed) + 1e-12, rule


def _minmax(given: Tensor) -> Tensor:
    raised = given - given.amin(1, keepdim=True)
    return raised / raised.sum(1, keepdim=True)


def test_the_global_rule_keeps_what_a_threshold_of_vmoba_keeps() -> None:
    given = scores(40)
    shares = (given - given.min()) / (given - given.min()).sum()
    order = shares.flatten().sort(descending=True)
    for threshold in (0.25, 0.6):
        wanted = int((order.values.cumsum(0) < threshold).sum()) + 1  # the pair that reaches it is kept
        kept = keep(RULES["minmax_head"], given, torch.ones(6), [wanted / given.numel()])[0]
        assert set(kept.flatten().nonzero().flatten().tolist()) == set(order.indices[:wanted].tolist())


@pytest.mark.parametrize("rule", list(RULES))
def test_equal_scores_are_no_trouble(rule: str) -> None:
    kept = keep(RULES[rule], torch.zeros(10, 6), SIZES, [0.5])[0]
    assert abs(density_of(kept) - 0.5) <= 2.001 / (10 * 20)
