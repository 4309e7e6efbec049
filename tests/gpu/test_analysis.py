"""Analysis on a GPU: the figures of a CPU, and all measures of 75,600 tokens in 20 seconds."""

from __future__ import annotations

import time

import pytest
import torch

import attnbench
from attnbench.analysis.call import AttentionCall, How, see
from attnbench.analysis.session import measurers_of
from attnbench.kernels.grid import Grid, Layout

pytestmark = pytest.mark.gpu

SECONDS = 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_figures_of_a_cpu(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 4 * 9 * 14 + 5, 64, generator=generator).to(dtype) for _ in range(3))
    wanted = attnbench.analyze(q, k, v, grid=(4, 9, 14), text=(2, 3))
    found = attnbench.analyze(q.cuda(), k.cuda(), v.cuda(), grid=(4, 9, 14), text=(2, 3))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(
            found[name], values, rtol=1e-4, atol=1e-6, msg=lambda told, name=name: f"{name}: {told}"
        )


@pytest.mark.alone
def test_all_measures_of_twelve_heads_of_720p_take_less_than_twenty_seconds() -> None:
    grid = Grid(21, 45, 80)
    generator = torch.Generator(device="cuda").manual_seed(0)
    q, k, v = (
        torch.randn(1, 12, grid.tokens, 128, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(3)
    )
    small = AttentionCall(*(x[:, :1, : 4 * 8 * 16] for x in (q, k, v)), Layout(Grid(4, 8, 16)), 0, 0)
    for measure in measurers_of(How()):  # loads what is loaded once
        list(measure(see(small, How())))
    torch.cuda.synchronize()
    began = time.perf_counter()
    call = AttentionCall(q, k, v, Layout(grid), 0, 0)
    seen = see(call, How())
    found = [finding for measure in measurers_of(How()) for finding in measure(seen)]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    assert seen.exact
    assert len([each for each in found if each.measure == "entropy"]) == 12
    print(f"{seconds:.1f} s for 12 heads of {grid.tokens:,} tokens on {torch.cuda.get_device_name()}")
    assert seconds < SECONDS
