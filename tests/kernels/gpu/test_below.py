"""Counts of attention weights below a threshold, against the whole matrix of weights in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import selection_ops
from attnbench.kernels.below import below_flops, count_below
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.gpu.selection import below as kernels
from attnbench.kernels.grid import Grid, Layout
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def by_weights(q: Tensor, k: Tensor, layout: Layout, block: int, threshold: float) -> tuple[Tensor, Tensor]:
    """The counts of one head, q and k [N, D], and how many weights are so near that rounding may decide."""
    weights = (q.double() @ k.double().T / q.shape[1] ** 0.5).softmax(-1)[layout.video, layout.video]
    blocks = -(-layout.grid.tokens // block)
    counts, near = torch.zeros(2, blocks, blocks, dtype=torch.int64)
    for i in range(blocks):
        for j in range(blocks):
            part = weights[i * block : (i + 1) * block, j * block : (j + 1) * block]
            counts[i, j] = (part < threshold).sum()
            near[i, j] = ((part / threshold - 1).abs() < 1e-4).sum()
    return counts, near


@pytest.mark.parametrize("by_kernels", [False, True])
@settings(max_examples=draws(15), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    sides=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6)),
    text=st.tuples(st.integers(0, 3), st.integers(0, 5)),
    block=st.sampled_from([5, 16, 40]),
    heads=st.sampled_from([(2, 2), (2, 1)]),
    dim=st.sampled_from([3, 16]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    factor=st.sampled_from([0.1, 0.5, 1.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_counts(
    by_kernels: bool, sides: tuple[int, int, int], text: tuple[int, int], block: int, heads: tuple[int, int], dim: int,
    dtype: torch.dtype, factor: float, seed: int,
) -> None:  # fmt: skip
    layout, random = Layout(Grid(*sides), text), torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, layout.tokens, count, dim, generator=random).transpose(1, 2) for count in heads)
    q, k = q.to(DEVICE, dtype), k.to(DEVICE, dtype)
    threshold = factor / layout.tokens
    if by_kernels:
        with selection_ops.interpreted():
            counts = count_below(q, k, layout, block, threshold, dim**-0.5)
    else:
        counts = count_below(q, k, layout, block, threshold, dim**-0.5)
    assert counts.dtype == torch.int32
    for h in range(heads[0]):
        expected, near = by_weights(q[0, h].cpu(), k[0, h * heads[1] // heads[0]].cpu(), layout, block, threshold)
        assert bool(((counts[0, h].cpu() - expected).abs() <= near).all())


def test_blocks_that_the_kernel_does_not_take_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "count_below", None)
    x = torch.randn(1, 1, 150, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    layout = Layout(Grid(1, 1, 150))
    with selection_ops.interpreted():
        counts = count_below(x, x, layout, 129, 0.01, 0.5)
    assert counts.shape == (1, 1, 2, 2)
    assert 0 < int(counts.sum()) < 150**2


def test_what_cannot_be_counted_is_refused() -> None:
    x = torch.zeros(1, 2, 6, 16, device=DEVICE)
    with pytest.raises(BadInput, match="threshold is 0 and block 2"):
        count_below(x, x, Layout(Grid(1, 2, 3)), 2, 0, 1.0)
    with pytest.raises(Unsupported, match="float64"):
        kernels.count_below(x.double(), x.double(), 0, 6, 2, 0.1, 1.0)
    with pytest.raises(BadInput, match=r"\[1, KV heads, 6, 16\]"):
        kernels.count_below(x, x[:, :, :5], 0, 6, 2, 0.1, 1.0)


def test_the_operator_is_as_torch_wants_it_and_states_its_flops() -> None:
    x = torch.randn(1, 2, 9, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    operator = torch.ops.attnbench.count_below.default
    torch.library.opcheck(operator, (x.double(), x.double(), 1, 6, 4, 0.1, 0.25))
    with selection_ops.interpreted():
        torch.library.opcheck(operator, (x, x[:, :1], 1, 6, 4, 0.1, 0.25))
    register_flops()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        count_below(x, x, Layout(Grid(1, 2, 3), (1, 2)), 4, 0.1, 0.25)
    assert counter.get_total_flops() == below_flops(x.shape, 6) == 2 * 2 * 6 * (9 + 6) * 16
