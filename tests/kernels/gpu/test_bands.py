"""Bands on arranged positions on the GPU path, against whole float64 matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.kernels import witness
from attnbench.kernels.band import Band
from attnbench.kernels.engines.base import Task
from attnbench.kernels.engines.triton_engine import TRITON
from attnbench.kernels.gpu.blocked import attend_blocks, backward_blocks, executed_pairs
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
TOLERANCE = 3e-2 if DEVICE.type == "cuda" else 2e-5
Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

B, H, N = 2, 2, 45


def of_head(x: Tensor, b: int, h: int) -> Tensor:
    return x[min(b, len(x) - 1), min(h, x.shape[1] - 1)]


def mask_of(plan: Plan) -> Tensor:
    """Which pairs are kept, pair by pair in the arranged order, then in grid order."""
    pattern, mask = plan.pattern, torch.zeros(B, H, N, N, dtype=torch.bool, device=DEVICE)
    band = pattern.band
    assert isinstance(pattern, BlockPattern)
    assert band is not None
    place = torch.arange(N, device=DEVICE)
    for b in range(B):
        for h in range(H):
            q_at, k_at = (x if x.dim() == 1 else of_head(x, b, h) for x in (pattern.q_offsets, pattern.k_offsets))
            line, column = (torch.repeat_interleave(x.diff()) for x in (q_at, k_at))
            apart = place - place[:, None]
            kept = (apart >= of_head(band.low, b, h)) & (apart <= of_head(band.high, b, h))
            if band.whole is not None:
                kept |= of_head(band.whole, b, h)[line][:, column]
            kept &= of_head(pattern.keep, b, h)[line][:, column]
            q, k = (place if x is None else x if x.dim() == 1 else x[b, h] for x in (plan.q_order, plan.k_order))
            mask[b, h, q[:, None], k] = kept
    return mask


def make(seed: int, *, own: bool, orders: str, bounds: str, whole: bool) -> Plan:
    random = torch.Generator().manual_seed(seed)

    def draw(most: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(most, shape, generator=random)

    q_offsets, k_offsets = torch.tensor([0, 3, 30, 31, N]), torch.tensor([0, 9, 10, 11, 41, N])
    if own:  # some clusters are empty
        cuts = draw(N + 1, (B, H, 5)).sort(-1).values
        q_offsets = torch.cat([torch.zeros(B, H, 1, dtype=torch.int64), cuts, torch.full((B, H, 1), N)], -1)
    lines, columns = q_offsets.shape[-1] - 1, k_offsets.shape[-1] - 1
    sizes = {"shared": ((1, 1), (1, 1)), "by head": ((1, H), (B, H)), "high by head": ((1, 1), (1, H))}[bounds]
    low, high = -draw(14, sizes[0]), draw(9, sizes[1]) + 1
    shape = (1, 1, lines, columns) if bounds == "shared" else (B, H, lines, columns)
    free = torch.rand((shape[0], 1, *shape[2:]), generator=random) < 0.2 if whole else None
    pattern = BlockPattern(q_offsets, k_offsets, torch.rand(shape, generator=random) < 0.8, band=Band(low, high, free))
    order: dict[str, Callable[[], Tensor | None]] = {
        "grid": lambda: None,
        "one for all": lambda: torch.randperm(N, generator=random),
        "by head": lambda: torch.rand(B, H, N, generator=random).argsort(-1),
    }
    return moved(Plan(Layout(Grid(N, 1, 1)), B, H, pattern, order[orders](), order[orders]()))


def moved(plan: Plan) -> Plan:
    def there(x: Any) -> Any:
        return x.to(DEVICE) if isinstance(x, Tensor) else x

    pattern, band = plan.pattern, plan.pattern.band
    assert isinstance(pattern, BlockPattern)
    assert band is not None
    band = Band(there(band.low), there(band.high), there(band.whole))
    pattern = replace(
        pattern,
        q_offsets=there(pattern.q_offsets),
        k_offsets=there(pattern.k_offsets),
        keep=there(pattern.keep),
        band=band,
    )
    return replace(plan, pattern=pattern, q_order=there(plan.q_order), k_order=there(plan.k_order))


CASES: list[dict[str, Any]] = [
    {"own": False, "orders": "by head", "bounds": "shared", "whole": True},  # as svg1
    {"own": False, "orders": "one for all", "bounds": "by head", "whole": True},
    {"own": True, "orders": "grid", "bounds": "high by head", "whole": False},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_output_and_gradients_equal_whole_matrices(case: dict[str, Any], oracle: Oracle) -> None:
    plan, random = make(5, **case), torch.Generator().manual_seed(1)
    plan.check()
    mask = mask_of(plan)
    assert torch.equal(mask, plan.token_mask())
    assert 0.1 < mask.double().mean() < 0.9
    q, k, v, d_output = (torch.randn(B, x, N, 24, generator=random).to(DEVICE, DTYPE) for x in (H, 1, 1, H))
    assert TRITON.lacks(plan, Task.of(q, k, v)) is None
    output, lse = attend_blocks(q, k, v, plan, 0.3)
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    wanted, wanted_lse = oracle(*leaves, mask, 0.3)
    torch.testing.assert_close(output.double(), wanted.detach(), atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(lse.double(), wanted_lse.detach(), atol=TOLERANCE, rtol=TOLERANCE)
    gradients = backward_blocks(q, k, v, plan, 0.3, output, lse, d_output, None)
    for found, exact in zip(gradients, torch.autograd.grad(wanted, leaves, d_output.double()), strict=True):
        torch.testing.assert_close(found.double(), exact, atol=4 * TOLERANCE, rtol=4 * TOLERANCE)
    assert executed_pairs(plan) >= int(mask.sum())


@pytest.mark.parametrize(("low", "high"), [(-(2**40), 2**40), (-1, 2**40), (2**40, 2**41), (0, 0)])
def test_bounds_may_lie_beyond_all_positions(low: int, high: int, oracle: Oracle) -> None:
    bound = torch.tensor([[low]]), torch.tensor([[high]])
    offsets = torch.tensor([0, 20, N])
    keep = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    plan = moved(Plan(Layout(Grid(N, 1, 1)), B, H, BlockPattern(offsets, offsets, keep, band=Band(*bound))))
    q, k, v = torch.randn(3, B, H, N, 16, generator=torch.Generator().manual_seed(2)).to(DEVICE, DTYPE)
    output, lse = attend_blocks(q, k, v, plan, 0.3)
    wanted, wanted_lse = oracle(q, k, v, mask_of(plan), 0.3)
    torch.testing.assert_close(output.double(), wanted, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(lse.double(), wanted_lse, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("method", "settings"), [("svg1", {"temporal": (True, False)}), ("rainfusion", {"bandwidth": 0.9})]
)
def test_methods_with_bands_run_on_the_engine(method: str, settings: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 3 * 9 * 16 + 3, 16, generator=random).to(DEVICE, DTYPE) for _ in range(3))
    where: dict[str, Any] = {"method": method, "grid": (3, 9, 16), "text": (0, 3), **settings}
    with witness.watching() as seen:
        output = attnbench.attention(q, k, v, engine="triton", **where)
    exact = attnbench.attention(q.double(), k.double(), v.double(), engine="reference", **where)
    torch.testing.assert_close(output.double(), exact, atol=TOLERANCE, rtol=TOLERANCE)
    assert "triton:classify_band" in seen.kernels
