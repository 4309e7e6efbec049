"""The cut of a head at a percentile: kernels and torch against sorting by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnbench.kernels import selection_ops
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.gpu.selection import cut_percentile as kernels
from attnbench.kernels.percentile import cut_percentile
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@settings(max_examples=draws(30), suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 50), st.integers(1, 60)),
    share=st.floats(0, 1),
    kind=st.sampled_from(["normal", "few", "close", "constant", "nan"]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("by_kernels", [False, True])
def test_keeps_what_is_at_least_the_value_of_that_rank(
    by_kernels: bool, shape: tuple[int, ...], share: float, kind: str, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    values = {
        "normal": torch.randn(shape, generator=random),
        "few": torch.randint(-2, 3, shape, generator=random).float(),
        "close": 1 + torch.randint(0, 9, shape, generator=random) * 2.0**-23,
        "constant": torch.full(shape, 0.25),
        "nan": torch.randn(shape, generator=random).masked_fill(torch.rand(shape, generator=random) < 0.2, math.nan),
    }[kind]
    pairs = shape[2] * shape[3]
    rank = int(share * pairs)
    expected = torch.ones(shape, dtype=torch.bool)
    if rank:
        for b in range(shape[0]):
            for h in range(shape[1]):
                ranked = sorted(values[b, h].nan_to_num(nan=-math.inf).flatten().tolist())
                expected[b, h] = (values[b, h] >= ranked[rank - 1]) | values[b, h].isnan()
    x = values.to(DEVICE)
    if by_kernels:
        with selection_ops.interpreted():
            kept = cut_percentile(x, rank)
    else:
        kept = cut_percentile(x.double(), rank)
    assert torch.equal(kept.cpu(), expected)
    assert int(kept[0, 0].sum()) >= pairs - rank + (rank > 0)


def test_several_programs_share_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "TILE", 16)
    monkeypatch.setattr(kernels, "PROGRAMS", 6)
    values = torch.randn(1, 2, 17, 13, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    kept = kernels.cut_percentile(values, 100)
    for h in range(2):
        assert torch.equal(kept[0, h], values[0, h] >= values[0, h].flatten().sort().values[99])


def test_what_cannot_be_cut_is_refused() -> None:
    values = torch.zeros(1, 1, 2, 3, device=DEVICE)
    for rank in (-1, 7):
        with pytest.raises(BadInput, match=f"rank is {rank}; it must be from 0 to 6"):
            cut_percentile(values, rank)
    with pytest.raises(Unsupported, match="float64"):
        kernels.cut_percentile(values.double(), 1)
    with pytest.raises(Unsupported, match="contiguous"):
        kernels.cut_percentile(values.transpose(2, 3), 1)


def test_the_operator_is_as_torch_wants_it() -> None:
    values = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(DEVICE)
    torch.library.opcheck(torch.ops.attnbench.cut_percentile.default, (values, 5))
    with selection_ops.interpreted():
        torch.library.opcheck(torch.ops.attnbench.cut_percentile.default, (values.float(), 5))
