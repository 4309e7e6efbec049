from __future__ import annotations

import cmath

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.inputs.rope import frequencies, rotate, rotations
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid


@pytest.mark.parametrize(("head_dim", "pairs"), [(128, (22, 21, 21)), (64, (12, 10, 10)), (2, (1, 0, 0))])
def test_pairs_are_split_over_the_axes_as_in_wan(head_dim: int, pairs: tuple[int, int, int]) -> None:
    assert tuple(len(axis) for axis in frequencies(head_dim)) == pairs


def test_one_token_turns_as_written_out_by_hand() -> None:
    grid, token = Grid(3, 4, 5), (2 * 4 + 3) * 5 + 1  # (t, h, w) = (2, 3, 1)
    x = torch.arange(1.0, 13.0)  # 6 pairs: 2 turn with t, 2 with h, 2 with w
    turned = rotate(x.expand(grid.tokens, 12), rotations(grid, 12))[token]
    angles = [2 * 1, 2 * 0.01, 3 * 1, 3 * 0.01, 1 * 1, 1 * 0.01]
    for pair, angle in enumerate(angles):
        expected = complex(2 * pair + 1, 2 * pair + 2) * cmath.exp(1j * angle)
        assert complex(*turned[2 * pair : 2 * pair + 2].tolist()) == pytest.approx(expected, abs=1e-5)


@given(head_dim=st.sampled_from([2, 6, 16, 64]), seed=st.integers(0, 9))
def test_products_depend_on_the_distance_only(head_dim: int, seed: int) -> None:
    grid = Grid(4, 5, 6)
    q, k = torch.randn(2, head_dim, generator=torch.Generator().manual_seed(seed))
    turns = rotations(grid, head_dim)
    rotated_q, rotated_k = (rotate(x.expand(grid.tokens, head_dim), turns).reshape(4, 5, 6, -1) for x in (q, k))
    near_origin = (rotated_q[0, 1, 0] * rotated_k[1, 0, 3]).sum()
    elsewhere = (rotated_q[2, 4, 2] * rotated_k[3, 3, 5]).sum()
    torch.testing.assert_close(near_origin, elsewhere, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rotated_q.norm(dim=-1), q.norm().expand(4, 5, 6))


def test_an_odd_head_dim_is_refused() -> None:
    with pytest.raises(BadInput, match="head_dim 65 must be even"):
        frequencies(65)
