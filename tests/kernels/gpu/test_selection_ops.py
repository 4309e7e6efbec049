"""The operators of selection, running kernels: as torch wants operators to be, and equal to the rule in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels import selection
from attnbench.kernels import selection_ops as ops
from attnbench.kernels.cuts import Cut, route
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.gpu.selection import cut_heads as cut
from attnbench.kernels.gpu.selection import cut_queries as rows
from attnbench.kernels.gpu.selection import pooling, scoring
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import Partition, partition_cuboids, partition_ranges
from tests.kernels.gpu.draws import draws

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CASES: list[dict[str, Any]] = [
    case for case in json.loads((GOLDEN / "index.json").read_text(encoding="utf-8")) if "selected" in case["keys"]
]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
OPERATORS = [
    "pool_means", "score_blocks", "cut_threshold_head", "cut_top_k_head", "cut_threshold_query", "cut_top_k_query",
]  # fmt: skip
CUTS = [
    Cut("threshold", "head", 0.25),
    Cut("threshold", "query", 0.25),
    Cut("topk", "head", 2),
    Cut("topk", "query", 2),
    Cut("topk", "query", 3, causal=True),
    Cut("topk", "head", 3, causal=True),
]
modest = settings(max_examples=draws(6), suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the kernels' functions that ran, while kernels serve the CPU too."""
    ran: list[str] = []

    def noted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            ran.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for module, names in (
        (pooling, ["pool_means"]),
        (scoring, ["score"]),
        (cut, ["cut_threshold_head", "cut_top_k_head"]),
        (rows, ["cut_threshold_query", "cut_top_k_query"]),
    ):
        for name in names:
            noted(module, name)
    with ops.interpreted():
        yield ran


def draw(layout: Layout, heads: tuple[int, int], dtype: torch.dtype, seed: int = 0, dim: int = 16) -> list[Tensor]:
    """q and k in the memory layout of a projection, [B, N, H, D]."""
    random = torch.Generator().manual_seed(seed)
    made = [torch.randn(2, layout.tokens, count, dim, generator=random) for count in heads]
    return [x.to(DEVICE, dtype).transpose(1, 2) for x in made]


def exactly(q: Tensor, k: Tensor, layout: Layout, partition: Partition, wanted: Cut) -> Tensor:
    """The rule in float64, restated from the parts of ``selection``."""
    means = selection.pool_blocks(k.double(), partition.order, partition.offsets)[:, :, partition.video]
    scores = selection.score_blocks(q[:, :, layout.video].double(), means)
    own = partition.block_of_token()[layout.video] - partition.video.start
    if wanted.causal:
        scores[..., torch.arange(scores.shape[-1], device=own.device) > own[:, None]] = -torch.inf
    if wanted.select == "topk":
        by_number = selection.top_k_per_head if wanted.scope == "head" else selection.top_k_per_query
        return by_number(scores, own, int(wanted.amount))
    by_share = selection.threshold_per_head if wanted.scope == "head" else selection.threshold_per_query
    return by_share(scores, own, wanted.amount)


@pytest.mark.parametrize("wanted", CUTS, ids=str)
@modest
@given(
    sides=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
    text=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    ranges=st.booleans(),
    heads=st.sampled_from([(2, 2), (2, 1)]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_routes_by_kernels_are_those_of_the_rule_in_float64(
    wanted: Cut, sides: tuple[int, int, int], text: tuple[int, int], ranges: bool, heads: tuple[int, int],
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    layout = Layout(Grid(*sides), text)
    partition = partition_ranges(layout, 7, DEVICE) if ranges else partition_cuboids(layout, (2, 2, 3), DEVICE)
    q, k = draw(layout, heads, dtype, seed)
    with ops.interpreted():
        kept, flops = route(q, k, layout, partition, wanted)
    assert torch.equal(kept, exactly(q, k, layout, partition, wanted))
    assert flops == k.numel() + 2 * kept.numel() * q.shape[3]


@pytest.mark.parametrize("wanted", CUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_run_where_they_can(wanted: Cut, dtype: torch.dtype, launches: list[str]) -> None:
    layout = Layout(Grid(2, 3, 4))
    q, k = draw(layout, (2, 1), dtype)
    route(q, k, layout, partition_cuboids(layout, (1, 2, 2), DEVICE), wanted)
    name = {"threshold": "threshold", "topk": "top_k"}[wanted.select]
    assert launches == ["pool_means", "score", f"cut_{name}_{wanted.scope}"]


def test_float64_is_left_to_torch(launches: list[str]) -> None:
    layout = Layout(Grid(2, 3, 4))
    q, k = draw(layout, (2, 2), torch.float64)
    partition = partition_cuboids(layout, (1, 2, 2), DEVICE)
    for wanted in CUTS:
        assert torch.equal(route(q, k, layout, partition, wanted)[0], exactly(q, k, layout, partition, wanted))
    assert launches == []


def test_long_rows_and_many_channels_are_left_to_torch(launches: list[str]) -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 1, 2, ops.MOST_BLOCKS + 1, generator=random).to(DEVICE)
    own = torch.tensor([5, 0], device=DEVICE)
    assert torch.equal(ops.cut_top_k_query(scores, own, 9), selection.top_k_per_query(scores, own, 9))
    shares = ops.cut_threshold_query(scores, own, 0.3)
    assert torch.equal(shares, selection.threshold_per_query(scores, own, 0.3))
    q = torch.randn(1, 1, 5, ops.MOST_CHANNELS + 1, generator=random).to(DEVICE)
    torch.testing.assert_close(ops.score_blocks(q, q)[0], q @ q.transpose(-1, -2), atol=1e-4, rtol=1e-5)
    assert launches == []


@pytest.mark.skipif(HAS_GPU, reason="on a GPU kernels always run")
def test_without_the_switch_nothing_runs_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "pool_means", None)
    monkeypatch.setattr(scoring, "score", None)
    x = torch.randn(1, 1, 12, 8, generator=torch.Generator().manual_seed(0))
    plan = attnbench.select(x, x, method="vmoba", grid=(2, 2, 3))
    assert plan.density > 0
    with ops.interpreted(), pytest.raises(TypeError, match="not callable"):
        attnbench.select(x, x, method="vmoba", grid=(2, 2, 3))


def samples(dtype: torch.dtype) -> dict[str, tuple[Any, list[tuple[Any, ...]]]]:
    """Each operator with arguments to try it on."""
    random = torch.Generator().manual_seed(0)
    k = torch.randn(2, 2, 11, 16, generator=random).to(DEVICE, dtype)
    q = torch.randn(2, 9, 4, 16, generator=random).to(DEVICE, dtype).transpose(1, 2)
    order, offsets = torch.randperm(11, generator=random).to(DEVICE), torch.tensor([0, 4, 7, 11], device=DEVICE)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    means = torch.randn(2, 2, 3, 16, generator=random).to(DEVICE, wide)
    scores = torch.randn(2, 4, 9, 3, generator=random).to(DEVICE, wide)
    own = torch.randint(3, (9,), generator=random).to(DEVICE)
    by_block, extremes = scores.mT.contiguous().mT, selection.extremes_of(scores)
    space = torch.ops.attnbench
    return {
        "pool_means": (space.pool_means, [(k, None, offsets), (k, order, offsets)]),
        "score_blocks": (space.score_blocks, [(q, means), (q, means, True)]),
        "cut_threshold_head": (space.cut_threshold_head, [(scores, own, extremes, 0.3)]),
        "cut_top_k_head": (space.cut_top_k_head, [(scores, own, None, 2)]),
        "cut_threshold_query": (space.cut_threshold_query, [(scores, own, 0.3), (by_block, own, 0.3)]),
        "cut_top_k_query": (space.cut_top_k_query, [(scores, own, 2), (by_block, own, 2)]),
    }


QUICK = [("pool_means", True), ("score_blocks", False), ("cut_threshold_query", True), ("cut_top_k_query", False)]


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        pytest.param(name, kernels, marks=[pytest.mark.slow] * ((name, kernels) not in QUICK))
        for name in OPERATORS
        for kernels in (False, True)
    ],
)
def test_operators_are_as_torch_wants_them(name: str, kernels: bool) -> None:
    switch: Callable[[], AbstractContextManager[None]] = ops.interpreted if kernels else nullcontext
    operator, calls = samples(torch.bfloat16 if kernels else torch.float64)[name]
    for arguments in calls:
        with switch():
            torch.library.opcheck(operator.default, arguments)


def test_both_ways_give_the_same() -> None:
    tried = samples(torch.bfloat16)
    assert list(tried) == OPERATORS
    for name, (operator, calls) in tried.items():
        for arguments in calls:
            by_torch = operator(*arguments)
            with ops.interpreted():
                by_kernels = operator(*arguments)
            if name in ("pool_means", "score_blocks"):
                torch.testing.assert_close(by_kernels, by_torch, atol=1e-5, rtol=1e-5)
            else:
                assert torch.equal(by_kernels, by_torch)


def test_tensors_that_record_gradients_are_no_trouble() -> None:
    layout = Layout(Grid(2, 3, 4), (1, 0))
    partition = partition_cuboids(layout, (1, 2, 2), DEVICE)
    q, k = (x.detach().requires_grad_() for x in draw(layout, (2, 2), torch.bfloat16))
    for wanted in CUTS:
        with ops.interpreted():
            kept, _ = route(q, k, layout, partition, wanted)
        assert not kept.requires_grad
        assert torch.equal(kept, exactly(q.detach(), k.detach(), layout, partition, wanted))
    for name, (operator, calls) in samples(torch.bfloat16).items():
        first, *others = calls[0]
        kept = operator(first.requires_grad_(), *others)
        assert name in ("pool_means", "score_blocks") or not kept.requires_grad


@pytest.mark.parametrize("kernels", [False, True])
def test_torchs_counter_counts_the_flops_that_the_plan_states(kernels: bool) -> None:
    register_flops()
    from torch.utils.flop_counter import FlopCounterMode

    layout = Layout(Grid(2, 3, 4), (2, 1))
    q, k = draw(layout, (4, 2), torch.bfloat16)
    switch: Callable[[], AbstractContextManager[None]] = ops.interpreted if kernels else nullcontext
    for method in ("moba", "vmoba"):
        with switch(), FlopCounterMode(display=False) as counter:
            plan = attnbench.select(q, k, method=method, grid=layout.grid, text=layout.text)
        blocks, videos = plan.pattern.keep.shape[3] - 2, layout.grid.tokens  # without the two of text
        assert plan.selection_flops == k.numel() + 2 * q.shape[0] * q.shape[1] * videos * blocks * q.shape[3]
        assert counter.get_total_flops() == plan.selection_flops


@pytest.mark.parametrize("case", CASES, ids=[Path(case["file"]).stem for case in CASES])
def test_golden_selections_through_the_method(case: dict[str, Any], launches: list[str]) -> None:
    with np.load(GOLDEN / case["file"], allow_pickle=False) as arrays:
        q, k, selected = (torch.from_numpy(arrays[name]).to(DEVICE) for name in ("q", "k", "selected"))
    given_settings = case["settings"]
    chunk, (t, h, w) = given_settings["chunk"], given_settings["grid"]
    chunk = [chunk] if isinstance(chunk, int) else chunk
    layer = len(chunk) - 1
    block = ((chunk[0], h, w), (t, *chunk), tuple(chunk))[layer]
    plan = attnbench.select(
        q[None], k[None], method="vmoba", grid=(t, h, w), layer=layer, partition=(block[0], block[1:], block),
        select=given_settings["mode"], scope={"head_global": "head", "query_head": "query"}[given_settings["scope"]],
        threshold=given_settings["tau"] or 0.25, topk=given_settings["topk"],
    )  # fmt: skip
    assert torch.equal(plan.pattern.keep[0], selected)
    assert len(launches) == 3


@pytest.mark.skipif(not HAS_GPU, reason="nothing waits for a CPU")
@pytest.mark.parametrize("wanted", CUTS, ids=str)
def test_nothing_waits_for_the_device(wanted: Cut) -> None:
    layout = Layout(Grid(4, 6, 8), (3, 0))
    partition = partition_cuboids(layout, (2, 3, 4), DEVICE)
    q, k = draw(layout, (4, 2), torch.bfloat16, dim=64)
    expected, _ = route(q, k, layout, partition, wanted)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            kept, _ = route(q, k, layout, partition, wanted)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    kept.zero_()
    graph.replay()
    assert torch.equal(kept, expected)
