"""Means and scores against float64, and the golden selections through the whole chain of kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import witness
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.gpu.selection import pooling
from attnbench.kernels.gpu.selection.cut_heads import Tuning, cut_threshold_head, cut_top_k_head
from attnbench.kernels.gpu.selection.cut_queries import cut_threshold_query, cut_top_k_query
from attnbench.kernels.gpu.selection.pooling import pool_means
from attnbench.kernels.gpu.selection.scoring import score
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.selection import pool_blocks, score_blocks
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CASES: list[dict[str, Any]] = [
    case for case in json.loads((GOLDEN / "index.json").read_text(encoding="utf-8")) if "selected" in case["keys"]
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
modest = settings(max_examples=draws(20), suppress_health_check=[HealthCheck.too_slow])


def strided(x: Tensor, kind: str) -> Tensor:
    """The same values in another memory layout: as given, or as made by a projection, [B, N, H, D]."""
    return x if kind == "plain" else x.transpose(1, 2).contiguous().transpose(1, 2)


@modest
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5, 64, 70, 200]), min_size=1, max_size=4),
    ordered=st.booleans(),
    dim=st.sampled_from([1, 16, 24]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["plain", "projected"]),
    seed=st.integers(0, 99),
)
def test_means_of_blocks(sizes: list[int], ordered: bool, dim: int, dtype: torch.dtype, layout: str, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    k = strided(torch.randn(2, 2, n, dim, generator=random).to(dtype), layout).to(DEVICE)
    order = torch.randperm(n, generator=random).to(DEVICE) if ordered else None
    offsets = torch.tensor([0, *sizes], device=DEVICE).cumsum(0)
    means = pool_means(k, order, offsets)
    assert means.dtype == torch.float32
    torch.testing.assert_close(means.double(), pool_blocks(k.double(), order, offsets), atol=3e-7, rtol=1e-6)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 32, 33, 64, 65])
def test_means_of_alike_blocks_and_a_longer_one(
    size: int, splits: bool, ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With few programs, several blocks share one, which divides. With many, several share a block.
    monkeypatch.setattr(pooling, "PROGRAMS", 10_000 if splits else 1)
    sizes = [size, size, 5 * size + 200, max(1, size - 1), size]
    random = torch.Generator().manual_seed(size)
    k = torch.randn(1, 2, sum(sizes), 12, generator=random).to(DEVICE)
    order = torch.randperm(sum(sizes), generator=random).to(DEVICE) if ordered else None
    offsets = torch.tensor([0, *sizes], device=DEVICE).cumsum(0)
    with witness.watching() as seen:
        means = pool_means(k, order, offsets)
    assert ("triton:means" in seen.kernels) == (splits and sum(sizes) >= 2 * 5 * pooling.MOST_ROWS)
    torch.testing.assert_close(means.double(), pool_blocks(k.double(), order, offsets), atol=3e-7, rtol=1e-6)


@modest
@given(
    n=st.integers(1, 150),
    blocks=st.sampled_from([1, 2, 16, 17, 40]),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    dim=st.sampled_from([8, 24, 32]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["plain", "projected"]),
    seed=st.integers(0, 99),
)
def test_scores_and_extremes(
    n: int, blocks: int, heads: tuple[int, int], dim: int, dtype: torch.dtype, layout: str, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    q = strided(torch.randn(2, heads[0], n, dim, generator=random).to(dtype), layout).to(DEVICE)
    means = torch.randn(2, heads[1], blocks, dim, generator=random).to(DEVICE)
    scores, extremes = score(q, means)
    expected = score_blocks(q, means.double())
    scale = score_blocks(q.abs(), means.double().abs())  # what the roundings of a dot product are relative to
    assert bool(((scores.double() - expected).abs() <= 2e-6 * scale).all())

    def ordered(x: Tensor) -> Tensor:
        """An int32 that sorts as the float32 does."""
        bits = x.view(torch.int32)
        return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

    flat = scores.flatten(2).flatten(0, 1)
    assert torch.equal(extremes, torch.stack([ordered(flat.amax(1)), ~ordered(flat.amin(1))], 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "blocks"), [(150, 40), (33, 7), (1, 1)])
def test_scores_that_lie_by_block_are_the_same_bits(dtype: torch.dtype, n: int, blocks: int) -> None:
    random = torch.Generator().manual_seed(n)
    q = torch.randn(2, 4, n, 24, generator=random).to(DEVICE, dtype)
    means = torch.randn(2, 2, blocks, 24, generator=random).to(DEVICE)
    scores, extremes = score(q, means, by_block=True)
    assert scores.mT.is_contiguous()
    assert extremes.shape == (0, 2)
    assert torch.equal(scores, score(q, means)[0])


def test_means_keep_all_bits_of_float32_in_scores_of_bfloat16_queries() -> None:
    # 1 + 2^-8 + 2^-23 needs three bfloat16 numbers; times a power of two it must come out whole.
    means = torch.zeros(1, 1, 2, 16, device=DEVICE)
    means[..., 0, 3], means[..., 1, 5] = 1 + 2**-8 + 2**-23, -(1 + 2**-15 + 2**-22)
    q = torch.zeros(1, 1, 16, 16, dtype=torch.bfloat16, device=DEVICE)
    q[..., 3], q[..., 5] = 0.5, 2.0
    scores, _ = score(q, means)
    assert torch.equal(scores, (q.double() @ means.double().transpose(-1, -2)).float())
    assert bool((scores.double() == q.double() @ means.double().transpose(-1, -2)).all())


def test_a_part_of_the_tokens_and_of_the_means_may_be_scored() -> None:
    random = torch.Generator().manual_seed(0)
    q, means = (
        torch.randn(1, 2, 40, 16, generator=random).to(DEVICE),
        torch.randn(1, 2, 6, 16, generator=random).to(DEVICE),
    )
    scores, _ = score(q[:, :, 3:-5], means[:, :, 1:-1])
    torch.testing.assert_close(scores, score_blocks(q, means)[:, :, 3:-5, 1:-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=[Path(case["file"]).stem for case in CASES])
def test_golden_selections(case: dict[str, Any]) -> None:
    with np.load(GOLDEN / case["file"], allow_pickle=False) as arrays:
        q, k, selected = (torch.from_numpy(arrays[name]) for name in ("q", "k", "selected"))
    given_settings = case["settings"]
    chunk, (t, h, w) = given_settings["chunk"], given_settings["grid"]
    chunk = [chunk] if isinstance(chunk, int) else chunk
    block = {1: (chunk[0], h, w), 2: (t, *chunk), 3: tuple(chunk)}[len(chunk)]
    partition = partition_cuboids(Layout(Grid(t, h, w)), block, DEVICE)
    own = partition.block_of_token()
    means = pool_means(k[None].to(DEVICE), partition.order, partition.offsets)
    scores, extremes = score(q[None].to(DEVICE), means)
    tuning = Tuning(tile=1024, levels=2, capacity=256, block=64)
    whole = given_settings["scope"] == "head_global"
    if given_settings["mode"] == "threshold":
        tau = given_settings["tau"]
        kept = (
            cut_threshold_head(scores, own, tau, extremes=extremes, tuning=tuning)
            if whole
            else cut_threshold_query(scores, own, tau)
        )
    else:
        k_blocks = given_settings["topk"]
        kept = (
            cut_top_k_head(scores, own, k_blocks, extremes=extremes, tuning=tuning)
            if whole
            else cut_top_k_query(scores, own, k_blocks)
        )
    assert torch.equal(kept[0].cpu(), selected)


def test_what_the_kernels_do_not_take_is_refused() -> None:
    offsets = torch.tensor([0, 2, 4], device=DEVICE)
    x = torch.zeros(1, 2, 4, 16, device=DEVICE)
    with pytest.raises(Unsupported, match="float64"):
        pool_means(x.double(), None, offsets)
    with pytest.raises(Unsupported, match="strides"):
        pool_means(torch.zeros(1, 2, 16, 4, device=DEVICE).transpose(2, 3), None, offsets)
    with pytest.raises(BadInput, match=r"\[1, 3, 2, 16\]"):
        score(x, torch.zeros(1, 3, 2, 16, device=DEVICE))
    with pytest.raises(Unsupported, match="bfloat16"):
        score(x, torch.zeros(1, 2, 2, 16, device=DEVICE, dtype=torch.bfloat16))
