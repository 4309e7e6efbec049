"""Block means with the mean cosine of a block's tokens, against all pairs formed one by one in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity

from attnbench.kernels import selection_ops
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.gpu.selection import similarity as kernels
from attnbench.kernels.self_similarity import pool_similarity, similarity_flops
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def by_pairs(x: Tensor, order: Tensor | None, offsets: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    tokens = x.double() if centre is None else x.double() - centre.double()[:, :, None]
    if order is not None:
        tokens = tokens[:, :, order]
    blocks = [tokens[:, :, start:stop] for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    cosines = [cosine_similarity(each[:, :, :, None], each[:, :, None], dim=-1).mean((-2, -1)) for each in blocks]
    return torch.stack([each.mean(2) for each in blocks], 2), torch.stack(cosines, 2)


@pytest.mark.parametrize("by_kernels", [False, True])
@settings(max_examples=draws(20), suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5, 32, 70]), min_size=1, max_size=4),
    ordered=st.booleans(),
    centred=st.booleans(),
    dim=st.sampled_from([1, 16, 24]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_means_and_cosines(
    by_kernels: bool, sizes: list[int], ordered: bool, centred: bool, dim: int, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    x = (torch.randn(2, n, 3, dim, generator=random) + 0.5).to(DEVICE, dtype).transpose(1, 2)
    order = torch.randperm(n, generator=random).to(DEVICE) if ordered else None
    offsets = torch.tensor([0, *sizes], device=DEVICE).cumsum(0)
    centre = torch.randn(2, 3, dim, generator=random).to(DEVICE) if centred else None
    if by_kernels:
        with selection_ops.interpreted():
            means, cosines = pool_similarity(x, order, offsets, centre)
    else:
        means, cosines = pool_similarity(x, order, offsets, centre)
    assert means.dtype == cosines.dtype == torch.float32
    exact_means, exact_cosines = by_pairs(x, order, offsets, centre)
    torch.testing.assert_close(means.double(), exact_means, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(cosines.double(), exact_cosines, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("by_kernels", [False, True])
def test_tokens_without_direction_count_as_zero(by_kernels: bool) -> None:
    x = torch.zeros(1, 1, 6, 16, device=DEVICE)
    x[..., 3:, 2] = 2.0
    offsets = torch.tensor([0, 2, 4, 6], device=DEVICE)
    if by_kernels:
        with selection_ops.interpreted():
            _, cosines = pool_similarity(x, None, offsets, None)
    else:
        _, cosines = pool_similarity(x, None, offsets, None)
    assert cosines.flatten().tolist() == [0.0, 0.25, 1.0]


def test_what_the_kernel_does_not_take_is_refused() -> None:
    offsets = torch.tensor([0, 4], device=DEVICE)
    x = torch.zeros(1, 2, 4, 16, device=DEVICE)
    with pytest.raises(Unsupported, match="float64"):
        kernels.pool_similarity(x.double(), None, offsets, None)
    with pytest.raises(BadInput, match=r"centre is \[1, 2, 8\]; it must be \[1, 2, 16\]"):
        kernels.pool_similarity(x, None, offsets, torch.zeros(1, 2, 8, device=DEVICE))


def test_the_operator_is_as_torch_wants_it_and_states_its_flops() -> None:
    x = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    offsets, centre = torch.tensor([0, 2, 5], device=DEVICE), torch.zeros(1, 2, 8, device=DEVICE)
    operator = torch.ops.attnbench.pool_similarity.default
    torch.library.opcheck(operator, (x.double(), None, offsets, centre.double()))
    with selection_ops.interpreted():
        torch.library.opcheck(operator, (x, None, offsets, None))
    register_flops()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        pool_similarity(x, None, offsets, centre)
    assert counter.get_total_flops() == similarity_flops(x.shape) == 6 * x.numel()
