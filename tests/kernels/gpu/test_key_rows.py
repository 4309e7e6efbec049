"""Rows that TMA reads, followed by index arithmetic on the CPU, against k and v."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.gpu.key_rows import key_rows, source_of
from attnbench.kernels.gpu.work import KEYS


def laid_out(layout: str, batch: int, heads: int, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return k and v [batch, heads, n, 8]."""
    if layout == "heads first":
        k, v = torch.randn(2, batch, heads, n, 8, generator=random)
    elif layout == "tokens first":
        k, v = torch.randn(2, batch, n, heads, 8, generator=random).transpose(2, 3)
    else:
        k, v = torch.randn(batch, n, 3, heads, 8, generator=random).permute(2, 0, 3, 1, 4)[1:]
    return k, v


@given(
    batch=st.integers(1, 3), heads=st.integers(1, 3), n=st.integers(1, 200), seed=st.integers(0, 99),
    layout=st.sampled_from(["heads first", "tokens first", "a slice of both"]),
)  # fmt: skip
def test_rows_are_the_tokens(batch: int, heads: int, n: int, layout: str, seed: int) -> None:
    k, v = laid_out(layout, batch, heads, n, torch.Generator().manual_seed(seed))
    rows = key_rows(k, v)
    assert rows is not None
    for b in range(batch):
        for h in range(heads):
            at, column = b * rows.batch + h * rows.head, h * rows.column
            assert torch.equal(rows.k[at : at + n, column : column + 8], k[b, h])
            assert torch.equal(rows.v[at : at + n, column : column + 8], v[b, h])


@pytest.mark.parametrize("own_orders", [False, True])
@pytest.mark.parametrize("layout", ["heads first", "tokens first", "a slice of both"])
def test_the_first_head_is_there_at_once_and_the_others_on_demand(
    own_orders: bool, layout: str, device: torch.device
) -> None:
    random = torch.Generator().manual_seed(0)
    k, v = (x.to(device) for x in laid_out(layout, 2, 2, 150, random))
    orders = torch.rand((2, 4, 150) if own_orders else (150,), generator=random).argsort(-1).to(device)
    source = source_of(k, v, orders)
    assert source is not None
    keys, values = source.begin()
    at = orders.expand(2, source.heads, 150)[..., None].expand(-1, -1, -1, 8)
    wanted = [x.repeat_interleave(source.heads // 2, 1).gather(2, at) for x in (k, v)]
    assert torch.equal(keys[0, 0], wanted[0][0, 0])
    assert torch.equal(values[0, 0], wanted[1][0, 0])
    source.fill(keys, values, torch.ones(1, dtype=torch.int32, device=device))
    assert torch.equal(keys, wanted[0])
    assert torch.equal(values, wanted[1])


def test_nothing_is_left_to_the_kernel_without_an_order_or_with_less_than_a_step() -> None:
    k, v = torch.randn(2, 1, 1, KEYS - 1, 8)
    assert source_of(k, v, None) is None
    assert source_of(k, v, torch.arange(KEYS - 1)) is None


def test_k_and_v_of_different_strides_are_not_rows() -> None:
    k, v = torch.randn(2, 3, 16, 8), torch.randn(2, 16, 3, 8).transpose(1, 2)
    assert key_rows(k, v) is None
    odd = torch.randn(2, 3 * (16 * 8 + 4)).as_strided((2, 3, 16, 8), (396, 132, 8, 1))
    assert key_rows(odd, odd) is None
