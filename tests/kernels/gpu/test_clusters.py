"""The steps of k-means against distances, lists and means restated in float64, empty and equal clusters included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import selection_ops
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.gpu.selection import clusters as kernels
from attnbench.kernels.kmeans import (
    cluster,
    cluster_flops,
    group_labels,
    group_means,
    means_flops,
    nearest_centroid,
    nearest_flops,
)
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def lloyd(x: Tensor, centroids: Tensor, steps: int) -> tuple[list[int], Tensor, list[list[int]]]:
    """Return labels, centroids and groups of the tokens [N, D] of one head, in float64."""
    x, centroids = x.double(), centroids.double()
    for _ in range(steps):
        squared = (x[:, None] - centroids).square().sum(-1)
        labels = [int(row.argmin()) for row in squared]
        groups = [[i for i, label in enumerate(labels) if label == c] for c in range(len(centroids))]
        centroids = torch.stack([x[each].mean(0) if each else old for each, old in zip(groups, centroids, strict=True)])
    return labels, centroids, groups


@pytest.mark.parametrize("by_kernels", [False, True])
@settings(max_examples=draws(12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.sampled_from([1, 7, 130]),
    count=st.sampled_from([1, 3, 33]),
    dim=st.sampled_from([1, 16, 24]),
    steps=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_steps_equal_their_definition(
    by_kernels: bool, n: int, count: int, dim: int, steps: int, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n + 2, 2, dim, generator=random).to(DEVICE, dtype).transpose(1, 2)[:, :, 2:]
    begin = torch.randn(1, 2, count, dim, generator=random).to(DEVICE)
    begin[:, :, count // 2] = 90.0  # far from all tokens
    with selection_ops.interpreted() if by_kernels else torch.no_grad():
        found = cluster(x, begin, steps)
    for h in range(2):
        labels, centroids, groups = lloyd(x[0, h].cpu(), begin[0, h].cpu(), steps)
        squared = (
            (x[0, h].cpu().double()[:, None] - lloyd(x[0, h].cpu(), begin[0, h].cpu(), steps - 1)[1]).square()
            if steps > 1
            else (x[0, h].cpu().double()[:, None] - begin[0, h].cpu().double()).square()
        )
        best = squared.sum(-1).sort(-1).values
        if count > 1 and float((best[:, 1] - best[:, 0]).min()) < 1e-4:
            continue  # rounding may decide
        assert found.order[0, h].tolist() == [i for group in groups for i in group]
        assert found.sizes[0, h].tolist() == [len(group) for group in groups]
        torch.testing.assert_close(found.centroids[0, h].cpu().double(), centroids, atol=1e-5, rtol=1e-5)
        assert sorted(labels) == [c for c, size in enumerate(found.sizes[0, h].tolist()) for _ in range(size)]


@pytest.mark.parametrize("by_kernels", [False, True])
def test_the_first_of_equal_centroids_wins(by_kernels: bool) -> None:
    x = torch.zeros(1, 1, 5, 16, device=DEVICE)
    centroids = torch.ones(1, 1, 70, 16, device=DEVICE)
    with selection_ops.interpreted() if by_kernels else torch.no_grad():
        assert nearest_centroid(x, centroids).flatten().tolist() == [0] * 5
        centroids[0, 0, 40:] = 0.5
        assert nearest_centroid(x, centroids).flatten().tolist() == [40] * 5


@pytest.mark.parametrize("by_kernels", [False, True])
def test_groups_list_equal_labels_in_order_however_many_there_are(by_kernels: bool) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 515, 4, generator=random).to(DEVICE)
    for labels in (torch.randint(3, (2, 1, 515), generator=random), torch.full((2, 1, 515), 2)):
        with selection_ops.interpreted() if by_kernels else torch.no_grad():
            order, offsets = group_labels(labels.to(DEVICE), 4, x)
        assert torch.equal(order.cpu(), labels.argsort(dim=-1, stable=True))
        for b in range(2):
            assert offsets[b, 0].tolist() == [0, *torch.bincount(labels[b, 0], minlength=4).cumsum(0).tolist()]


def test_what_the_kernels_do_not_take_is_refused() -> None:
    x, centroids = torch.zeros(1, 1, 4, 16, device=DEVICE), torch.zeros(1, 1, 2, 16, device=DEVICE)
    with pytest.raises(Unsupported, match="float64"):
        kernels.nearest_centroid(x.double(), centroids)
    with pytest.raises(Unsupported, match="centroids is float64"):
        kernels.nearest_centroid(x, centroids.double())
    with pytest.raises(Unsupported, match="strides"):
        kernels.nearest_centroid(x.mT.contiguous().mT, centroids)


def test_the_operators_are_as_torch_wants_them_and_state_their_flops() -> None:
    x = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    centroids = x[:, :, :3].clone()
    order, offsets = group_labels(nearest_centroid(x, centroids), 3, x)
    ops = torch.ops.attnbench
    with selection_ops.interpreted():
        torch.library.opcheck(ops.nearest_centroid.default, (x, centroids))
        torch.library.opcheck(ops.group_labels.default, (nearest_centroid(x, centroids), 3, x))
        torch.library.opcheck(ops.group_means.default, (x, order, offsets, centroids))
    register_flops()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        cluster(x, centroids, 2)
        group_means(x, order, offsets, centroids)
    total = cluster_flops(x.shape, 3, 2) + means_flops(x.shape)
    assert counter.get_total_flops() == total == 2 * nearest_flops(x.shape, 3) + 3 * means_flops(x.shape)
