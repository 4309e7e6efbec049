"""Rows that TMA reads, followed by index arithmetic on the CPU, against the arranged tensors."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.gpu.key_rows import Runs, key_rows, runs_of
from attnbench.kernels.gpu.work import KEYS


@given(
    batch=st.integers(1, 3), heads=st.integers(1, 3), runs=st.integers(1, 20), run=st.sampled_from([8, 16, 24, 128]),
    layout=st.sampled_from(["heads first", "tokens first", "a slice of both"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_rows_of_runs_are_the_arranged_tokens(
    batch: int, heads: int, runs: int, run: int, layout: str, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    n, d = runs * run, 8
    order = (torch.randperm(runs, generator=random)[:, None] * run + torch.arange(run)).flatten()
    found = runs_of(order, run)
    assert found is not None
    assert found.starts is not None
    assert run % found.length == 0
    if layout == "heads first":
        k, v = torch.randn(2, batch, heads, n, d, generator=random)
    elif layout == "tokens first":
        k, v = torch.randn(2, batch, n, heads, d, generator=random).transpose(2, 3)
    else:
        k, v = torch.randn(batch, n, 3, heads, d, generator=random).permute(2, 0, 3, 1, 4)[1:]
    rows = key_rows(k, v, found)
    assert rows is not None
    place = torch.arange(n)
    token = found.starts[place // found.length].long() + place % found.length
    for b in range(batch):
        for h in range(heads):
            at, column = b * rows.batch + h * rows.head, h * rows.column
            assert torch.equal(rows.k[at + token, column : column + d], k[b, h, order])
            assert torch.equal(rows.v[at + token, column : column + d], v[b, h, order])
    assert len(found.starts) * found.length >= n + KEYS, "the last step may begin at the last run"


def test_short_runs_and_orders_of_each_head_are_left_to_a_copy() -> None:
    assert runs_of(torch.arange(12), 12) is None
    assert runs_of(torch.arange(32).expand(1, 2, 32), 32) is None
    nothing = runs_of(None, 1)
    assert nothing is not None
    assert (nothing.length, nothing.starts) == (0, None)


def test_k_and_v_of_different_strides_are_not_rows() -> None:
    k, v = torch.randn(2, 3, 16, 8), torch.randn(2, 16, 3, 8).transpose(1, 2)
    assert key_rows(k, v, Runs(0, None)) is None
    odd = torch.randn(2, 3 * (16 * 8 + 4)).as_strided((2, 3, 16, 8), (396, 132, 8, 1))
    assert key_rows(odd, odd, Runs(0, None)) is None
