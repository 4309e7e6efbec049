"""The kernel that scores block pairs by their cells, against torch in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnbench.kernels import cell_scores as operators
from attnbench.kernels import selection_ops as ops
from attnbench.kernels.gpu.selection import cells as kernels
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_ranges
from tests.kernels.gpu.draws import draws

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")


@settings(max_examples=draws(20), suppress_health_check=[HealthCheck.too_slow])
@given(
    cells=st.tuples(st.integers(1, 300), st.integers(1, 300)), per_block=st.tuples(st.integers(1, 4), st.integers(1,
    5)), dim=st.sampled_from([4, 16, 20]), seed=st.integers(0, 99), large=st.booleans(),
)  # fmt: skip
def test_scores(cells: tuple[int, int], per_block: tuple[int, int], dim: int, seed: int, large: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    queries = torch.randn(2, cells[0], 2, dim, generator=random).to(DEVICE).transpose(1, 2) * (30 if large else 1)
    keys = torch.randn(2, 1, cells[1], dim, generator=random).to(DEVICE)
    scores = kernels.cell_scores(queries, keys, *per_block, 0.3)
    exact = operators.cell_scores(queries.double(), keys.double(), *per_block, 0.3)
    torch.testing.assert_close(scores.double(), exact, atol=1e-5 * float(exact.abs().max() + 1), rtol=0)


@pytest.mark.parametrize("per_block", [(4, 4), (2, 2), (1, 2), (3, 8), (2, 16), (1, 1), (4, 1), (2, 3), (1, 32)])
@pytest.mark.parametrize("short", [0, 1])
def test_blocks_of_every_number_of_cells(per_block: tuple[int, int], short: int) -> None:
    # More blocks than a program takes, the last of them whole, or shorter by a cell.
    random = torch.Generator().manual_seed(sum(per_block))
    rows, columns = 65 * per_block[0], (128 // per_block[1] + 1) * per_block[1]
    queries = torch.randn(1, 2, rows - short, 20, generator=random).to(DEVICE)
    keys = torch.randn(1, 1, columns - short, 20, generator=random).to(DEVICE)
    scores = kernels.cell_scores(queries, keys, *per_block, 0.3)
    exact = operators.cell_scores(queries.double(), keys.double(), *per_block, 0.3)
    assert bool(scores.isfinite().all())
    torch.testing.assert_close(scores.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("per_block", [(4, 4), (2, 2), (1, 1), (2, 3), (1, 8), (2, 16)])
def test_a_cell_of_minus_infinity_leaves_the_others_of_its_block(per_block: tuple[int, int]) -> None:
    keys = torch.randn(1, 1, 48, 20, generator=torch.Generator().manual_seed(0))
    keys[0, 0, 5, 7] = -torch.inf
    keys = keys.to(DEVICE)
    queries = torch.ones(1, 1, 12, 20, device=DEVICE)
    scores = kernels.cell_scores(queries, keys, *per_block, 0.3)
    exact = operators.cell_scores(queries.double(), keys.double(), *per_block, 0.3)
    torch.testing.assert_close(scores.double(), exact, atol=1e-5, rtol=1e-5)


def test_means_are_split_without_loss() -> None:
    # 10 of 23 bits stay, rounded to the nearest and away from 0 between two, and nothing is lost.
    unit = 2.0**-10
    means = torch.tensor([0.0, -0.0, 1.0, 1 + unit / 2, -1 - unit / 2, 1 + unit / 2 - 2.0**-23, -3e38, 2.0**-126])
    means = torch.cat([means, torch.randn(92, generator=torch.Generator().manual_seed(0))]).to(DEVICE)
    large, small = kernels._tf32_parts(means.view(1, 1, 5, 20))
    expected = torch.tensor([0.0, 0.0, 1.0, 1 + unit, -1 - unit, 1.0], device=DEVICE)
    assert torch.equal(large.flatten()[:6], expected)
    assert torch.equal((large.double() + small.double())[..., :20].flatten(), means.double())
    assert not (large.view(torch.int32) & 0x1FFF).any()
    assert not large[..., 20:].any()
    assert not small[..., 20:].any()


@pytest.mark.parametrize("kernel", [False, True])
def test_the_operator_is_as_torch_wants_it(kernel: bool) -> None:
    random = torch.Generator().manual_seed(0)
    dtype = torch.float32 if kernel else torch.float64
    x = torch.randn(1, 2, 9, 8, generator=random).to(DEVICE, dtype)
    if kernel:
        with ops.interpreted():
            torch.library.opcheck(torch.ops.attnbench.cell_scores.default, (x, x, 4, 2, 0.5))
    else:
        torch.library.opcheck(torch.ops.attnbench.cell_scores.default, (x, x, 4, 2, 0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tokens_of_any_dtype(dtype: torch.dtype) -> None:
    layout, random = Layout(Grid(150, 1, 1), (3, 2)), torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, layout.tokens, 16, generator=random).to(DEVICE, dtype) for _ in range(2))
    parts = [partition_ranges(layout, size, DEVICE) for size in (4, 8)]
    with ops.interpreted():
        scores, _ = operators.score_cells(q, k, parts[0], parts[1], (4, 2), 0.25)
    exact, _ = operators.score_cells(q.double(), k.double(), parts[0], parts[1], (4, 2), 0.25)
    torch.testing.assert_close(scores.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not HAS_GPU, reason="nothing waits for a CPU")
def test_nothing_waits_for_the_device() -> None:
    layout, random = Layout(Grid(4, 16, 20)), torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, layout.tokens, 64, generator=random).to(DEVICE, torch.bfloat16)
    part = partition_ranges(layout, 16, DEVICE)
    expected, _ = operators.score_cells(q, q, part, part, (4, 4), 0.125)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.graph(graph):
            scores, _ = operators.score_cells(q, q, part, part, (4, 4), 0.125)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    scores.zero_()
    graph.replay()
    assert torch.equal(scores, expected)
