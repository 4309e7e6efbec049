"""The cuts of rows restated pair by pair in exact fractions; nothing is kept that was not chosen."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import row_ops, selection
from attnbench.kernels.cuts import score_block_pairs
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids, partition_ranges


@st.composite
def draw_scores(draw: st.DrawFn, infinite: bool = True) -> Tensor:
    """Scores [2, 3, rows, blocks], of few different values or of many."""
    rows, blocks = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    random = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    scores = torch.randn(2, 3, rows, blocks, generator=random)
    if draw(st.booleans()):
        scores = torch.randint(-2, 3, scores.shape, generator=random).float()
    if infinite:
        scores[torch.rand(scores.shape, generator=random) < 0.2] = -torch.inf
    return scores.to(draw(st.sampled_from([torch.float32, torch.float64])))


def rows_of(x: Tensor) -> list[tuple[int, list[float]]]:
    """Every row with its head."""
    return [(h, x[b, h, i].tolist()) for b in range(x.shape[0]) for h in range(x.shape[1]) for i in range(x.shape[2])]


def ranked(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda j: (-row[j], j))


@given(scores=draw_scores(), k=st.one_of(st.integers(0, 10), st.tuples(*[st.integers(0, 10)] * 3)))
def test_top_k(scores: Tensor, k: int | tuple[int, ...]) -> None:
    keep = row_ops.cut_top_k_row(scores, k)
    assert keep.dtype == torch.bool
    assert keep.shape == scores.shape
    for (head, row), (_, kept) in zip(rows_of(scores), rows_of(keep), strict=True):
        count = k if isinstance(k, int) else k[head]
        best = [j for j in ranked(row) if row[j] > -math.inf][:count]
        assert [j for j, each in enumerate(kept) if each] == sorted(best)


@given(
    scores=draw_scores(infinite=False),
    mass=st.one_of(st.integers(0, 96), st.tuples(*[st.integers(0, 96)] * 3)),
    crossing=st.sampled_from(["in", "past", "out"]),
    least=st.integers(0, 3),
)
def test_mass(scores: Tensor, mass: int | tuple[int, ...], crossing: str, least: int) -> None:
    shares = row_ops.row_shares(scores)
    masses = mass / 97 if isinstance(mass, int) else tuple(each / 97 for each in mass)
    keep = row_ops.cut_mass_row(shares, masses, crossing=crossing, least=least)
    for (head, row), (_, kept) in zip(rows_of(shares), rows_of(keep), strict=True):
        limit = Fraction(masses if isinstance(masses, float) else masses[head])
        expected, total, close = [], Fraction(0), False
        for rank, j in enumerate(ranked(row)):
            after = total + Fraction(row[j])
            reached = {"in": total < limit, "past": total <= limit, "out": after <= limit}[crossing]
            close |= rank > 0 and abs((after if crossing == "out" else total) - limit) < Fraction(1, 10**12)
            if reached or rank < least:
                expected.append(j)
            total = after
        assume(not close)
        assert [j for j, each in enumerate(kept) if each] == sorted(expected)


@pytest.mark.parametrize(
    ("crossing", "expected"), [("in", [0, 1]), ("past", [0, 1, 2]), ("out", [0, 1])], ids=["in", "past", "out"]
)
def test_a_mass_that_is_reached_exactly(crossing: str, expected: list[int]) -> None:
    shares = torch.tensor([0.25, 0.25, 0.25, 0.25])[None, None, None]
    keep = row_ops.cut_mass_row(shares, 0.5, crossing=crossing)
    assert keep[0, 0, 0].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("crossing", ["in", "past", "out"])
def test_a_mass_of_1_keeps_every_block_and_of_0_none(crossing: str) -> None:
    shares = row_ops.row_shares(torch.randn(1, 2, 5, 70, generator=torch.Generator().manual_seed(0)) * 9)
    assert row_ops.cut_mass_row(shares, 1.0, crossing=crossing).all()
    kept = row_ops.cut_mass_row(shares, 0.0, crossing=crossing).sum(-1)
    assert (kept == (1 if crossing == "past" else 0)).all()


@given(scores=draw_scores(), scale=st.sampled_from([1.0, 0.25]), sized=st.sampled_from(["no", "blocks", "heads"]))
def test_shares(scores: Tensor, scale: float, sized: str) -> None:
    blocks = scores.shape[-1]
    random = torch.Generator().manual_seed(1)
    sizes = {
        "no": None,
        "blocks": torch.randint(0, 4, (blocks,), generator=random),
        "heads": torch.randint(0, 4, (2, 3, blocks), generator=random),
    }[sized]
    shares = row_ops.row_shares(scores, scale, sizes)
    assert shares.dtype == scores.dtype
    every = torch.ones(2, 3, blocks) if sizes is None else sizes.expand(2, 3, blocks)
    for b in range(2):
        for h in range(3):
            for row, got in zip(scores[b, h].tolist(), shares[b, h].tolist(), strict=True):
                powers = [float(n) * math.exp(scale * x) for x, n in zip(row, every[b, h].tolist(), strict=True)]
                total = sum(powers)
                assert got == pytest.approx([x / total if total else 0.0 for x in powers], abs=1e-6)


@given(scores=draw_scores(infinite=False), tau=st.sampled_from([-0.7, 0.3, 1.1]), near=st.integers(0, 2))
def test_above_the_mean(scores: Tensor, tau: float, near: int) -> None:
    scores = scores.double()
    given_spread = torch.rand(scores.shape[:3], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for variances in (None, given_spread):
        keep = row_ops.cut_above_mean_row(scores, tau, scale=0.5, variances=variances, near=near)
        for b in range(2):
            for h in range(3):
                for i, row in enumerate((0.5 * scores[b, h]).tolist()):
                    mean = sum(row) / len(row)
                    spread = sum((x - mean) ** 2 for x in row) / len(row)
                    spread = spread if variances is None else float(variances[b, h, i])
                    limit = mean + tau * math.sqrt(spread + 1e-6 * math.log(2) ** 2)
                    kept = [x > limit or abs(i - j) <= near for j, x in enumerate(row)]
                    assume(all(abs(x - limit) > 1e-9 for x in row))
                    assert keep[b, h, i].tolist() == kept


def test_shares_of_large_scores_do_not_overflow() -> None:
    shares = row_ops.row_shares(torch.tensor([3e4, 3e4 - 1, -3e4])[None, None, None])
    assert shares[0, 0, 0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0])


def test_scores_of_block_pairs_leave_text_out() -> None:
    layout = Layout(Grid(3, 4, 5), (2, 3))
    random = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, layout.tokens, 8, generator=random)
    k = torch.randn(2, 2, layout.tokens, 8, generator=random)
    rows, columns = partition_ranges(layout, 7, q.device), partition_cuboids(layout, (2, 3, 2), q.device)
    scores, flops = score_block_pairs(q, k, rows, columns)
    means = [
        selection.pool_blocks(x.double(), part.order, part.offsets)[:, :, part.video]
        for x, part in ((q, rows), (k, columns))
    ]
    exact = means[0] @ means[1].repeat_interleave(2, 1).transpose(-1, -2)
    torch.testing.assert_close(scores.double(), exact, atol=1e-5, rtol=1e-5)
    assert flops == q.numel() + k.numel() + 2 * scores.numel() * 8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: row_ops.cut_top_k_row(x, -1), "k is -1"),
        (lambda x: row_ops.cut_top_k_row(x, (1, 2)), r"k is \(1, 2\); it must be one whole number .* or 3"),
        (lambda x: row_ops.cut_mass_row(x, (0.1, 0.2)), r"mass is \(0.1, 0.2\)"),
        (lambda x: row_ops.cut_mass_row(x, 0.5, crossing="over"), "crossing is 'over'"),
        (lambda x: row_ops.cut_mass_row(x, 0.5, least=-2), "least is -2"),
    ],
    ids=["negative", "heads", "masses", "word", "least"],
)
def test_refusals(call: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call(torch.zeros(1, 3, 2, 4))  # type: ignore[operator]  # the parameters are of several types
