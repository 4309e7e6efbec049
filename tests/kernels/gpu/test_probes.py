"""Probes of attention against whole matrices in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import selection_ops
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.gpu.selection import probes as kernels
from attnbench.kernels.probes import band_flops, band_shares, in_mask_rows, masked_flops, masked_outputs
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def draw_tensors(rows: int, n: int, dim: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = [(2, rows, 4), (2, n, 2), (2, n, 2)]
    return [torch.randn(*shape, dim, generator=random).to(DEVICE, dtype).transpose(1, 2) for shape in shapes]


def weights_of(q: Tensor, k: Tensor) -> Tensor:
    scores = q.double() @ k.double().repeat_interleave(q.shape[1] // k.shape[1], 1).mT * 0.3
    return scores.exp()


@pytest.mark.parametrize("by_kernels", [False, True])
@settings(max_examples=draws(6), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.sampled_from([1, 3, 70]),
    n=st.sampled_from([1, 65, 2100]),
    dim=st.sampled_from([8, 24]),
    masks=st.integers(0, 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_masked_outputs(
    by_kernels: bool, rows: int, n: int, dim: int, masks: int, dtype: torch.dtype, seed: int
) -> None:
    q, k, v = draw_tensors(rows, n, dim, dtype, seed)
    kept = torch.rand(masks, rows, n, generator=torch.Generator().manual_seed(seed)) < 0.3
    kept[:, 0] = False  # the first query keeps nothing
    kept = kept.to(DEVICE)
    with selection_ops.interpreted() if by_kernels else torch.no_grad():
        outputs = masked_outputs(q, k, v, kept, 0.3)
    assert outputs.shape == (masks + 1, *q.shape)
    assert outputs.dtype == torch.float32
    weights, values = weights_of(q, k), v.double().repeat_interleave(2, 1)
    for found, mask in zip(outputs, [torch.ones_like(kept[0]) if masks else None, *kept], strict=True):
        mine = weights if mask is None else weights * mask
        total = mine.sum(-1, keepdim=True)
        torch.testing.assert_close(
            found.double(), mine @ values / torch.where(total > 0, total, 1), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("kept", ["contiguous", "in rows", "a part of the rows", "by key"])
def test_masks_that_lie_otherwise_in_memory(kept: str) -> None:
    q, k, v = draw_tensors(5, 70, 8, torch.bfloat16, 0)
    masks = (torch.rand(2, 5, 70, generator=torch.Generator().manual_seed(0)) < 0.5).to(DEVICE)
    rows = in_mask_rows(masks)
    assert in_mask_rows(rows) is rows
    assert torch.equal(rows, masks)
    assert rows.stride() == (5 * 128, 128, 1)
    part = torch.ones(2, 5, 160, dtype=torch.bool, device=DEVICE)[..., -70:]
    other = {"in rows": rows, "a part of the rows": part.copy_(masks), "by key": masks.mT.contiguous().mT}
    with selection_ops.interpreted():
        expected = masked_outputs(q, k, v, masks, 0.3)
        assert torch.equal(masked_outputs(q, k, v, other.get(kept, masks), 0.3), expected)
    assert in_mask_rows(part) is not part  # there is no room behind its last row


def test_masks_that_are_gigabytes_apart() -> None:
    q, k, v = draw_tensors(1, 64, 8, torch.float32, 0)
    apart = torch.empty(2**31 + 64, dtype=torch.bool, device=DEVICE).as_strided((3, 1, 64), (2**30, 64, 1))
    masks = (torch.rand(3, 1, 64, generator=torch.Generator().manual_seed(0)) < 0.5).to(DEVICE)
    assert in_mask_rows(apart.copy_(masks)) is apart
    with selection_ops.interpreted():
        assert torch.equal(masked_outputs(q, k, v, apart, 0.3), masked_outputs(q, k, v, masks, 0.3))


@pytest.mark.parametrize("by_kernels", [False, True])
@settings(max_examples=draws(12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.sampled_from([1, 64, 130]),
    reach=st.sampled_from([0, 1, 40, 500]),
    dim=st.sampled_from([8, 24]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_shares_in_a_band(by_kernels: bool, n: int, reach: int, dim: int, dtype: torch.dtype, seed: int) -> None:
    q, k, _ = draw_tensors(n, n, dim, dtype, seed)
    with selection_ops.interpreted() if by_kernels else torch.no_grad():
        shares = band_shares(q, k, reach, 0.3)
    weights = weights_of(q, k)
    inside = torch.tensor([[abs(i - j) <= reach for j in range(n)] for i in range(n)], device=DEVICE)
    torch.testing.assert_close(shares.double(), (weights * inside).sum(-1) / weights.sum(-1), atol=1e-5, rtol=1e-5)


def test_what_the_kernels_do_not_take_is_refused() -> None:
    q, k, v = draw_tensors(3, 5, 8, torch.float64, 0)
    with pytest.raises(Unsupported, match="float64"):
        kernels.masked_outputs(q, k, v, torch.ones(1, 3, 5, dtype=torch.bool, device=DEVICE), 1.0)
    with pytest.raises(Unsupported, match="float64"):
        kernels.band_shares(q, k, 1, 1.0)


def test_the_operators_are_as_torch_wants_them_and_state_their_flops() -> None:
    q, k, v = draw_tensors(5, 5, 8, torch.float32, 0)
    masks = torch.ones(2, 5, 5, dtype=torch.bool, device=DEVICE)
    torch.library.opcheck(torch.ops.attnbench.masked_outputs.default, (q, k, v, masks, 0.5))
    with selection_ops.interpreted():
        torch.library.opcheck(torch.ops.attnbench.band_shares.default, (q, k, 2, 0.5))
    register_flops()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        masked_outputs(q, k, v, masks, 0.5)
        band_shares(q, k, 2, 0.5)
    assert counter.get_total_flops() == masked_flops(q.shape, 5, 2) + band_flops(q.shape) == 10 * q.numel() * 5
