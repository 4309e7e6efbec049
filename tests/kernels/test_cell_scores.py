"""Scores of block pairs by their cells, restated with single cells in float64."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.cell_scores import score_cells
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_ranges


@given(
    tokens=st.integers(1, 40), text=st.tuples(st.integers(0, 3), st.integers(0, 3)), size=st.sampled_from([1, 2, 3]),
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 99),
)  # fmt: skip
def test_scores(tokens: int, text: tuple[int, int], size: int, cells: tuple[int, int], seed: int) -> None:
    layout, random = Layout(Grid(tokens, 1, 1), text), torch.Generator().manual_seed(seed)
    q = torch.randn(1, 2, layout.tokens, 4, generator=random, dtype=torch.float64)
    k = torch.randn(1, 1, layout.tokens, 4, generator=random, dtype=torch.float64)
    part = partition_ranges(layout, size, q.device)
    scores, flops = score_cells(q, k, part, part, cells, 0.5)
    ranges = [range(text[0] + i, text[0] + min(i + size, tokens)) for i in range(0, tokens, size)]
    for h in range(2):
        means = [[sum(x[t] for t in cell) / len(cell) for cell in ranges] for x in (q[0, h], k[0, 0])]
        for i in range(-(-len(ranges) // cells[0])):
            for j in range(-(-len(ranges) // cells[1])):
                mine = means[0][i * cells[0] : (i + 1) * cells[0]]
                theirs = means[1][j * cells[1] : (j + 1) * cells[1]]
                exact = math.log(sum(math.exp(0.5 * float(a @ b)) for a in mine for b in theirs))
                assert math.isclose(float(scores[0, h, i, j]), exact, abs_tol=1e-9)
    assert flops == q.numel() + k.numel() + 2 * 2 * len(ranges) ** 2 * 4


def test_large_scores_do_not_overflow() -> None:
    layout = Layout(Grid(8, 1, 1))
    x = torch.full((1, 1, 8, 4), 40.0)
    part = partition_ranges(layout, 1, x.device)
    scores, _ = score_cells(x, x, part, part, (2, 2), 1.0)
    torch.testing.assert_close(scores, torch.full((1, 1, 4, 4), 6400 + math.log(4)))
