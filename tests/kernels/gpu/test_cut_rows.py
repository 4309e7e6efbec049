"""Kernels that cut rows of block pairs, against the rules of ``row_cuts`` in float64 and with ties in numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import row_cuts, row_ops
from attnbench.kernels import selection_ops as ops
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.gpu.selection import cut_rows
from tests.kernels.gpu.draws import draws

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
modest = settings(max_examples=draws(30), suppress_health_check=[HealthCheck.too_slow])


@st.composite
def draw_scores(draw: st.DrawFn) -> Tensor:
    """float32 [B, 2, rows, blocks], of few different values or of many, some -inf."""
    shape = (draw(st.integers(1, 2)), 2, draw(st.integers(1, 5)), draw(st.integers(1, 40)))
    random = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    kind = draw(st.sampled_from(["few", "many", "constant", "zeros"]))
    scores = torch.randn(shape, generator=random)
    if kind == "few":
        scores = torch.randint(-2, 3, shape, generator=random).float()
    elif kind == "constant":
        scores = torch.full(shape, -1.5)
    elif kind == "zeros":
        scores = torch.randint(-1, 2, shape, generator=random) * 0.0
    if draw(st.booleans()):
        scores[torch.rand(shape, generator=random) < 0.3] = -torch.inf
    return scores.to(DEVICE)


def numbers(values: Any, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values if isinstance(values, tuple) else (values,), dtype=dtype, device=DEVICE)


@modest
@given(scores=draw_scores(), k=st.one_of(st.integers(0, 41), st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_top_k(scores: Tensor, k: int | tuple[int, int]) -> None:
    counts = numbers(k, torch.int64)
    kept = cut_rows.cut_top_k_row(scores, counts)
    assert torch.equal(kept, row_cuts.top_k_of_rows(scores.double(), counts))


@modest
@given(
    scores=draw_scores(),
    mass=st.one_of(st.integers(0, 97), st.tuples(st.integers(0, 97), st.integers(0, 97))),
    crossing=st.sampled_from(["in", "past", "out"]),
    least=st.integers(0, 4),
)
def test_mass(scores: Tensor, mass: Any, crossing: str, least: int) -> None:
    masses = numbers(tuple(m / 97 for m in mass) if isinstance(mass, tuple) else mass / 97, torch.float64)
    shares = cut_rows.row_shares(scores, 1.0, None)
    kept = cut_rows.cut_mass_row(shares, masses, crossing, least)
    assert torch.equal(kept, row_cuts.mass_of_rows(shares.double(), masses, crossing, least))


@pytest.mark.parametrize("crossing", ["in", "past", "out"])
@pytest.mark.parametrize("mass", [0.25, 0.5, 0.75])
def test_masses_that_are_reached_exactly(crossing: str, mass: float) -> None:
    rows = torch.tensor([[0.25] * 4 + [0.0] * 3, [0.5, 0.125, 0.25, 0.125, 0.0, 0.0, 0.0]], device=DEVICE)[None, None]
    masses = numbers(mass, torch.float64)
    kept = cut_rows.cut_mass_row(rows, masses, crossing, 0)
    assert torch.equal(kept, row_cuts.mass_of_rows(rows, masses, crossing, 0))


@modest
@given(scores=draw_scores(), scale=st.sampled_from([1.0, 0.25]), sized=st.sampled_from(["no", "blocks", "heads"]))
def test_shares(scores: Tensor, scale: float, sized: str) -> None:
    random = torch.Generator().manual_seed(1)
    shape = {"no": (0,), "blocks": scores.shape[3:], "heads": (*scores.shape[:2], scores.shape[3])}[sized]
    sizes = None if sized == "no" else torch.randint(0, 4, shape, generator=random).to(DEVICE)
    shares = cut_rows.row_shares(scores, scale, sizes)
    exact = row_cuts.row_shares(scores.double(), scale, sizes)
    torch.testing.assert_close(shares.double(), exact, atol=1e-6, rtol=1e-5)


@modest
@given(scores=draw_scores(), tau=st.sampled_from([-0.5, 0.3, 1.0]), given_spread=st.booleans(), near=st.integers(0, 2))
def test_above_the_mean(scores: Tensor, tau: float, given_spread: bool, near: int) -> None:
    scores = scores.nan_to_num(neginf=-2.5)
    variances = scores.square().mean(-1) if given_spread else None
    kept = cut_rows.cut_above_mean_row(scores, 0.7, tau, variances, near)
    exact = row_cuts.above_mean_of_rows(scores.double(), 0.7, tau, variances, near)
    mean = scores.double().mean(-1, keepdim=True)
    spread = (scores.double() - mean).square().mean(-1) * 0.49 if variances is None else variances.double()
    limit = 0.7 * mean + tau * (spread + row_cuts.LEAST_VARIANCE).sqrt()[..., None]
    close = (0.7 * scores.double() - limit).abs() < 1e-5
    assert torch.equal(kept & ~close, exact & ~close)


# Below, at and above the two parts that a row is held in, and the warps that hold it.
at_edges = pytest.mark.parametrize("blocks", [1, 2, 31, 32, 33, 511, 512, 513, 1024, 1260, 2049, 4096])


def rows_of_three_kinds(blocks: int) -> Tensor:
    """float32 [1, 1, 3, blocks], a row each: many values and some -inf, few values and zeros of both signs, near 0."""
    random = torch.Generator().manual_seed(blocks)
    scores = torch.randn(1, 1, 3, blocks, generator=random)
    scores[..., 0, :][..., torch.rand(blocks, generator=random) < 0.3] = -torch.inf
    signs = torch.randint(-1, 2, (2, blocks), generator=random).float()
    scores[..., 1, :] = signs[0] * signs[1]
    scores[..., 2, :] *= 1e-40
    return scores.to(DEVICE)


@at_edges
def test_numbers_at_the_edges_of_parts(blocks: int) -> None:
    scores = rows_of_three_kinds(blocks)
    for count in (1, blocks // 4, blocks - 1, blocks + 1):
        counts = numbers(count, torch.int64)
        kept = cut_rows.cut_top_k_row(scores, counts)
        assert torch.equal(kept, row_cuts.top_k_of_rows(scores.double(), counts)), count


@pytest.mark.parametrize("blocks", [1, 32, 33, 1024, 1025, 32768, 32769, 10**6])
def test_a_row_of_any_length_fits_a_thread_block(blocks: int) -> None:
    main, rest, warps = cut_rows._parts_of(blocks)
    assert main >= rest
    assert blocks <= main + rest < 2 * max(blocks, 64)
    assert 1 <= warps <= 32


@at_edges
def test_masses_at_the_edges_of_parts(blocks: int) -> None:
    shares = cut_rows.row_shares(rows_of_three_kinds(blocks), 3.0, None)
    for crossing, mass, least in [("in", 0.4, 0), ("past", 0.93, 0), ("out", 0.7, 3), ("in", 0.2, 5000)]:
        masses = numbers(mass, torch.float64)
        kept = cut_rows.cut_mass_row(shares, masses, crossing, least)
        assert torch.equal(kept, row_cuts.mass_of_rows(shares.double(), masses, crossing, least)), (crossing, mass)


@pytest.mark.parametrize("crossing", ["in", "past", "out"])
@pytest.mark.parametrize("blocks", [32, 64, 512, 1024])
def test_equal_shares_that_reach_a_mass_exactly_on_both_sides_of_a_part(blocks: int, crossing: str) -> None:
    shares = torch.full((1, 1, 1, blocks), 1 / blocks, device=DEVICE)
    for kept_blocks in (1, blocks // 2 - 1, blocks // 2, blocks // 2 + 1, blocks - 1):
        masses = numbers(kept_blocks / blocks, torch.float64)
        kept = cut_rows.cut_mass_row(shares, masses, crossing, 0)
        more = crossing == "past"
        assert torch.equal(kept.flatten().cpu(), torch.arange(blocks) < kept_blocks + more)


@pytest.mark.parametrize("blocks", [5, 40, 600])
@pytest.mark.parametrize("high", [math.inf, math.nan, -math.nan])
def test_nan_and_infinity_are_kept_first(blocks: int, high: float) -> None:
    scores = torch.randn(1, 2, 3, blocks, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    scores[..., 1::3], scores[..., -1] = high, -math.inf
    few, wild = max(1, blocks // 4), torch.zeros(blocks, dtype=torch.bool, device=DEVICE)
    wild[1:-1:3] = True
    kept = cut_rows.cut_top_k_row(scores, numbers((few, blocks), torch.int64))
    assert torch.equal(kept, row_cuts.top_k_of_rows(scores, numbers((few, blocks), torch.int64)))
    assert torch.equal(kept[0, 0], (wild & (wild.cumsum(0) <= few)).expand(3, -1))
    assert torch.equal(kept[0, 1], (scores[0, 1] != -math.inf))
    expected = torch.where(wild, math.nan, 0.0).expand(scores.shape)
    for sizes in (None, torch.arange(blocks, device=DEVICE)):
        for shares in (cut_rows.row_shares(scores, 0.5, sizes), row_cuts.row_shares(scores, 0.5, sizes)):
            torch.testing.assert_close(shares, expected, rtol=0, atol=0, equal_nan=True)
    none = torch.zeros(blocks, device=DEVICE)
    assert not row_cuts.row_shares(scores, 0.5, none).any()
    assert not cut_rows.row_shares(scores, 0.5, none).any()
    scores[..., -1] = 0.0
    kept = row_cuts.above_mean_of_rows(scores, 1.0, 1.0, None, 0)
    assert kept[..., wild].all()
    if math.isnan(high):  # numpy warns about inf - inf in Triton's interpreter
        assert torch.equal(kept, cut_rows.cut_above_mean_row(scores, 1.0, 1.0, None, 0))


@pytest.mark.parametrize("blocks", [5, 40, 600])
@pytest.mark.parametrize("crossing", row_cuts.CROSSINGS)
@pytest.mark.parametrize("least", [0, 2])
def test_nan_among_shares_is_kept_first_and_adds_nothing(blocks: int, crossing: str, least: int) -> None:
    shares = torch.rand(1, 3, 4, blocks, generator=torch.Generator().manual_seed(0))
    shares /= shares.sum(-1, keepdim=True)
    shares[:, :, 0], shares[:, :, 1], shares[:, :, 1, 3], shares[:, :, 2, ::2] = math.nan, 0, math.nan, -math.nan
    shares, masses = shares.to(DEVICE), numbers((0.1, 0.5, 0.9), torch.float64)
    kept = cut_rows.cut_mass_row(shares, masses, crossing, least)
    assert kept[shares.isnan()].all()
    assert torch.equal(kept, row_cuts.mass_of_rows(shares, masses, crossing, least))
    others = shares.nan_to_num(nan=0.0)[:, :, 2:]
    more = row_cuts.mass_of_rows(others, masses, crossing, 0) & (others > 0)
    assert torch.equal(kept[:, :, 2:] & (others > 0), more) or least > 0


def test_a_head_takes_its_own_number_and_mass() -> None:
    scores = torch.randn(2, 2, 3, 1500, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    counts, masses = numbers((150, 1), torch.int64), numbers((0.9, 0.1), torch.float64)
    assert torch.equal(cut_rows.cut_top_k_row(scores, counts), row_cuts.top_k_of_rows(scores, counts))
    shares = cut_rows.row_shares(scores, 0.5, None)
    kept = cut_rows.cut_mass_row(shares, masses, "past", 4)
    assert torch.equal(kept, row_cuts.mass_of_rows(shares.double(), masses, "past", 4))


def test_the_operators_run_the_kernels_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    for name in ("row_shares", "cut_top_k_row", "cut_mass_row"):
        real = getattr(cut_rows, name)
        monkeypatch.setattr(cut_rows, name, lambda *a, name=name, real=real: ran.append(name) or real(*a))
    scores = torch.randn(1, 2, 3, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def all_three(x: Tensor) -> None:
        row_ops.cut_top_k_row(x, 2)
        row_ops.cut_mass_row(row_ops.row_shares(x), 0.5)

    with ops.interpreted():
        all_three(scores)
        assert ran == ["cut_top_k_row", "row_shares", "cut_mass_row"]
        all_three(scores.double())
        all_three(torch.zeros(1, 1, 1, ops.MOST_BLOCKS + 1, device=DEVICE))
    assert len(ran) == 3


@pytest.mark.parametrize("kernels", [False, True])
def test_operators_are_as_torch_wants_them(kernels: bool) -> None:
    scores = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    if not kernels:
        scores = scores.double()
    space = torch.ops.attnbench
    sizes = torch.arange(5, device=DEVICE)
    calls = [
        (space.row_shares, (scores, 0.5, sizes)),
        (space.cut_top_k_row, (scores, numbers((1, 2), torch.int64))),
        (space.cut_mass_row, (scores.softmax(-1), numbers(0.5, torch.float64), "in", 1)),
        (space.cut_above_mean_row, (scores, 0.5, 1.0, None, 1)),
    ]
    for operator, arguments in calls:
        if kernels:
            with ops.interpreted():
                torch.library.opcheck(operator.default, arguments)
        else:
            torch.library.opcheck(operator.default, arguments)


def test_scores_with_strides_are_refused() -> None:
    with pytest.raises(Unsupported, match="contiguous"):
        cut_rows.cut_top_k_row(torch.zeros(1, 1, 3, 6, device=DEVICE)[..., ::2], numbers(1, torch.int64))


@pytest.mark.skipif(not HAS_GPU, reason="nothing waits for a CPU")
def test_nothing_waits_for_the_device() -> None:
    scores = torch.randn(1, 4, 100, 300, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def keep() -> Tensor:
        mass = row_ops.cut_mass_row(row_ops.row_shares(scores, 0.3), (0.5, 0.6, 0.7, 0.8), crossing="out", least=2)
        return mass ^ row_ops.cut_top_k_row(scores, 30) ^ row_ops.cut_above_mean_row(scores, 1.0)

    expected = keep()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            kept = keep()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    kept.zero_()
    graph.replay()
    assert torch.equal(kept, expected)
