"""Random plans, and what they keep and compute restated in plain loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import Rule, band, causal, window

RuleWords = tuple[str, tuple[int, ...]]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill what ``torch.empty`` returns with NaN and the largest integers: nothing may read it before it is written."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deterministic", category=UserWarning)
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def gradients_may_differ(poisoned_memory: None) -> None:
    """Leave the order of sums to the engines, as torch does unless told otherwise."""
    torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class Case:
    """A random plan, its rule in words, and a number of kv heads that divides its heads."""

    plan: Plan
    rule: RuleWords | None
    kv_heads: int


def make_rule(words: RuleWords | None) -> Rule | None:
    if words is None:
        return None
    name, numbers = words
    makers: dict[str, Callable[..., Rule]] = {"causal": causal, "window": window, "band": band}
    return makers[name](*numbers)


def rule_words(n: int) -> st.SearchStrategy[RuleWords]:
    """Rules for grids with sides up to 5 and ``n`` tokens: from zero widths to widths beyond the grid."""
    side = st.integers(0, 6)
    return st.one_of(
        st.just(("causal", ())),
        st.tuples(st.just("window"), st.tuples(side, side, side)),
        st.tuples(st.just("band"), st.tuples(st.integers(0, n + 2))),
    )


def allowed(words: RuleWords, grid: Grid, query: int, key: int) -> bool:
    """Whether a rule keeps a pair of video tokens, numbered in raster order."""
    name, numbers = words
    if name == "causal":
        return key <= query
    if name == "band":
        return abs(key - query) <= numbers[0]

    def place(token: int) -> tuple[int, int, int]:
        return token // (grid.h * grid.w), token // grid.w % grid.h, token % grid.w

    return all(abs(a - b) <= most for a, b, most in zip(place(query), place(key), numbers, strict=True))


@st.composite
def draw_cases(draw: st.DrawFn, most: tuple[int, int, int] = (3, 4, 5)) -> Case:
    """Plans with ragged blocks on either side, any token orders, with and without text, rules and empty rows."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    layout = Layout(Grid(*(draw(st.integers(1, side)) for side in most)), draw(st.tuples(*[st.integers(0, 2)] * 2)))
    n, batch, heads = layout.tokens, draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4]))

    def order() -> Tensor | None:
        kind = draw(st.sampled_from(["grid", "one for all", "one a head"]))
        if kind == "grid":
            return None
        if kind == "one for all":
            return torch.randperm(n, generator=random)
        return torch.rand(batch, heads, n, generator=random).argsort(-1)

    def offsets() -> Tensor:
        cuts = torch.randperm(n - 1, generator=random)[: draw(st.integers(0, 5))] + 1
        return torch.tensor([0, *sorted(cuts.tolist()), n])

    words = draw(st.none() | rule_words(layout.grid.tokens))
    k_offsets = offsets()
    q_offsets = offsets() if draw(st.booleans()) else None
    rows = n if q_offsets is None else len(q_offsets) - 1
    shape = (draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])), rows, len(k_offsets) - 1)
    keep = torch.rand(shape, generator=random) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    rule = make_rule(words)
    pattern = (
        RoutedPattern(k_offsets, keep, rule) if q_offsets is None else BlockPattern(q_offsets, k_offsets, keep, rule)
    )
    plan = Plan(layout, batch, heads, pattern, order(), order())
    return Case(plan, words, draw(st.sampled_from([g for g in (1, 2, 4) if heads % g == 0])))


def mask_by_loops(case: Case) -> Tensor:
    """Which pairs a plan keeps, bool [B, H, N, N], pair by pair."""
    plan, pattern = case.plan, case.plan.pattern
    n, before, grid = plan.layout.tokens, plan.layout.text[0], plan.layout.grid
    q_offsets = pattern.q_offsets.tolist() if isinstance(pattern, BlockPattern) else list(range(n + 1))

    def blocks(order: Tensor | None, offsets: list[int], b: int, h: int) -> list[int]:
        block = [0] * n
        for position in range(n):
            token = position if order is None else int(order[position] if order.dim() == 1 else order[b, h, position])
            block[token] = max(i for i, start in enumerate(offsets) if start <= position)
        return block

    def is_text(token: int) -> bool:
        return not before <= token < before + grid.tokens

    keep = pattern.keep.expand(plan.batch, plan.heads, -1, -1).tolist()
    mask = torch.zeros(plan.batch, plan.heads, n, n, dtype=torch.bool)
    for b in range(plan.batch):
        for h in range(plan.heads):
            q_block = blocks(plan.q_order, q_offsets, b, h)
            k_block = blocks(plan.k_order, pattern.k_offsets.tolist(), b, h)
            for query in range(n):
                for key in range(n):
                    if keep[b][h][q_block[query]][k_block[key]]:
                        if case.rule is None or is_text(query) or is_text(key):
                            mask[b, h, query, key] = True
                        else:
                            mask[b, h, query, key] = allowed(case.rule, grid, query - before, key - before)
    return mask


def exact_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention over the pairs of ``mask`` with whole N × N matrices in float64; output and log-sum-exp."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = (torch.einsum("bhqd,bhkd->bhqk", q, k) * scale).masked_fill(~mask, -torch.inf)
    top = scores.detach().amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    weights = (scores - top).exp()
    total = weights.sum(-1, keepdim=True)
    output = torch.einsum("bhqk,bhkd->bhqd", weights, v) / torch.where(total == 0, 1.0, total)
    return output, (total.log() + top).squeeze(-1)


@pytest.fixture(scope="session")
def plan_cases() -> Callable[..., st.SearchStrategy[Case]]:
    return draw_cases


@pytest.fixture(scope="session")
def brute_force() -> Callable[[Case], Tensor]:
    return mask_by_loops


@pytest.fixture(scope="session")
def oracle() -> Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    return exact_attention


@pytest.fixture(scope="session")
def rules() -> Callable[[int], st.SearchStrategy[RuleWords]]:
    return rule_words


@pytest.fixture(scope="session")
def rule_of() -> Callable[[RuleWords | None], Rule | None]:
    return make_rule


@pytest.fixture(scope="session")
def allowed_by_hand() -> Callable[[RuleWords, Grid, int, int], bool]:
    return allowed
