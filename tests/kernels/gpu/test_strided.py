"""Block masses from strided antidiagonals, against scores formed token by token in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import selection_ops
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.gpu.selection import strided as kernels
from attnbench.kernels.strided import block_mass, strided_flops, strided_mass
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def by_tokens(q: Tensor, k: Tensor, stride: int, block: int, padded: int) -> Tensor:
    """The mass of every pair of blocks of one head, q and k [N, D], in plain loops over groups."""
    n, dim = q.shape
    zeros = q.new_zeros(padded - n, dim).double()
    q, k = torch.cat([q.double(), zeros]), torch.cat([k.double(), zeros])
    groups = padded // stride
    scores = torch.zeros(groups, groups, dtype=torch.float64)
    for g in range(groups):
        for h in range(groups):
            for i in range(stride):
                scores[g, h] += q[g * stride + stride - 1 - i] @ k[h * stride + i]
    shares = (scores / (dim**0.5 * stride)).softmax(-1)
    mass = torch.zeros(-(-n // block), padded // block, dtype=torch.float64)
    for g in range(-(-n // stride)):
        for h in range(groups):
            mass[g * stride // block, h * stride // block] += shares[g, h]
    return mass


@pytest.mark.parametrize("by_kernels", [False, True])
@settings(max_examples=draws(15), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    n=st.integers(1, 60),
    sizes=st.sampled_from([(1, 4), (2, 8), (4, 8), (4, 4), (8, 16)]),
    more=st.integers(0, 3),
    heads=st.sampled_from([(2, 2), (2, 1)]),
    dim=st.sampled_from([3, 16, 80]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_masses(
    by_kernels: bool, n: int, sizes: tuple[int, int], more: int, heads: tuple[int, int], dim: int, dtype: torch.dtype,
    seed: int,
) -> None:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    q, k = ((3 * torch.randn(1, n, count, dim, generator=random)).to(DEVICE, dtype).transpose(1, 2) for count in heads)
    stride, block = sizes
    padded = (-(-n // block) + more) * block
    if by_kernels:
        with selection_ops.interpreted():
            mass = strided_mass(q, k, stride, block, padded)
    else:
        mass = strided_mass(q, k, stride, block, padded)
    assert mass.dtype == torch.float32
    for h in range(heads[0]):
        expected = by_tokens(q[0, h].cpu(), k[0, h * heads[1] // heads[0]].cpu(), stride, block, padded)
        torch.testing.assert_close(mass[0, h].cpu().double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_tiles_and_rows_of_large_scores(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    q, k = (20 * torch.randn(1, 2, 600, 16, generator=random).to(DEVICE, dtype) for _ in range(2))
    with selection_ops.interpreted():
        mass = strided_mass(q, k, 4, 16, 640)
    torch.testing.assert_close(mass.double(), block_mass(q.double(), k.double(), 4, 16, 640), atol=2e-5, rtol=1e-4)
    groups = torch.tensor([4.0] * 37 + [2.0], device=DEVICE)
    torch.testing.assert_close(mass.sum(-1), groups.expand(1, 2, -1), atol=1e-4, rtol=0)


STRIDE = 4


@st.composite
def draw_q_and_k(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """q and k in half precision, of a head_dim that TMA reads, heads or tokens first, of whole groups or not."""
    tokens_first, batch, dim = draw(st.booleans()), draw(st.integers(1, 2)), draw(st.sampled_from([64, 128, 192]))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float16]))
    groups, over = draw(st.integers(1, 600 if DEVICE.type == "cuda" else 70)), draw(st.sampled_from([0, 0, 1, 3]))
    random, n = torch.Generator().manual_seed(draw(st.integers(0, 99))), STRIDE * groups - over
    made = []
    for count in draw(st.sampled_from([(1, 1), (4, 2)])):
        shape = (batch, n, count, dim) if tokens_first else (batch, count, n, dim)
        x = torch.randn(*shape, generator=random).to(DEVICE, dtype)
        made.append(x.transpose(1, 2) if tokens_first else x)
    return made[0], made[1]


@settings(max_examples=draws(12), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(q_and_k=draw_q_and_k(), each=st.sampled_from([1, 2, 8, 16, 128]))
def test_whole_groups_of_half_precision_are_scored_by_tma_on_hopper(q_and_k: tuple[Tensor, Tensor], each: int) -> None:
    q, k = q_and_k
    n, block = q.shape[2], STRIDE * each
    padded = -(-n // block) * block
    with pytest.MonkeyPatch.context() as patch, selection_ops.interpreted():
        if n % STRIDE == 0 and each > 1 and kernels.is_hopper(DEVICE):
            patch.setattr(kernels, "_score", None)
        mass = strided_mass(q, k, STRIDE, block, padded)
    keys = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    torch.testing.assert_close(mass.double(), block_mass(q.double(), keys, STRIDE, block, padded), atol=2e-5, rtol=1e-4)


@given(q_and_k=draw_q_and_k())
def test_whole_groups_are_rows_of_a_matrix(q_and_k: tuple[Tensor, Tensor]) -> None:
    for x in q_and_k:
        found = kernels._rows_of_groups(x, STRIDE)
        groups, rest = divmod(x.shape[2], STRIDE)
        assert (found is None) == (rest > 0)
        if found is not None:
            rows, of_item, of_head, of_column, of_token = found
            for b, h, i in itertools.product(range(x.shape[0]), range(x.shape[1]), range(STRIDE)):
                first, at = b * of_item + h * of_head, h * of_column + i * of_token
                assert rows[first : first + groups, at : at + x.shape[3]].equal(x[b, h, i::STRIDE])


def test_groups_that_are_no_power_of_two_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "strided_mass", None)
    x = torch.randn(1, 1, 13, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with selection_ops.interpreted():
        mass = strided_mass(x, x, 2, 6, 18)
    torch.testing.assert_close(mass[0, 0].cpu().double(), by_tokens(x[0, 0].cpu(), x[0, 0].cpu(), 2, 6, 18))


def test_sizes_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(1, 2, 9, 16, device=DEVICE)
    for stride, block, padded in ((3, 8, 16), (2, 8, 12), (2, 8, 8), (0, 8, 16)):
        with pytest.raises(BadInput, match=f"stride is {stride}, block {block} and padded {padded}"):
            strided_mass(x, x, stride, block, padded)
    with pytest.raises(Unsupported, match="float64"):
        kernels.strided_mass(x.double(), x.double(), 2, 8, 16)
    with pytest.raises(BadInput, match="6 groups"):
        kernels.strided_mass(x, x, 1, 6, 12)


def test_the_operator_is_as_torch_wants_it_and_states_its_flops() -> None:
    x = torch.randn(1, 2, 9, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    operator = torch.ops.attnbench.strided_mass.default
    torch.library.opcheck(operator, (x.double(), x.double(), 2, 4, 16))
    with selection_ops.interpreted():
        torch.library.opcheck(operator, (x, x[:, :1], 2, 4, 16))
    register_flops()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        strided_mass(x, x, 2, 4, 16)
    assert counter.get_total_flops() == strided_flops(x.shape, 2) == 2 * 2 * 5 * 5 * 2 * 16
