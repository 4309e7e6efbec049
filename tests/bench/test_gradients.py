"""Gradients at full size are compared where rounding explains little, whatever the mean of keys and values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.bench.gradients import Passed, check_gradients
from attnbench.kernels.plan import Plan

SCALE = 16**-0.5


def passed(mean: float) -> tuple[Passed, Plan]:
    """Return a training call of torch's dense attention in bfloat16, 1,024 tokens, and its plan."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, d_output = (torch.randn(1, 2, 1024, 16, generator=generator) for _ in range(4))
    leaves = [x.bfloat16().requires_grad_() for x in (q, k + mean, v + mean)]
    output = torch.nn.functional.scaled_dot_product_attention(*leaves)
    output.backward(d_output.bfloat16())
    q, k, v = (x.detach() for x in leaves)
    plan = attnbench.select(q, k, method="full", grid="4x16x16")
    gradients = [x.grad for x in leaves if x.grad is not None]
    return Passed(q, k, v, d_output.bfloat16(), output.detach(), None, *gradients), plan


def ratios(call: Passed, plan: Plan) -> dict[str, float]:
    return check_gradients(call, plan, SCALE, seed=0).ratios


@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_torchs_kernel_passes_and_five_percent_of_any_gradient_do_not(mean: float) -> None:
    call, plan = passed(mean)
    assert max(ratios(call, plan).values()) < 1
    for name in ("dq", "dk", "dv"):
        wrong: Tensor = getattr(call, name) * 1.05
        found = ratios(replace(call, **{name: wrong}), plan)
        assert found[name] > 1, (name, found)
        assert all(ratio < 1 for other, ratio in found.items() if other != name)


def test_nan_beside_the_mean_of_the_keys_is_found() -> None:
    call, plan = passed(2.0)
    assert not ratios(replace(call, dq=torch.full_like(call.dq, float("nan"))), plan)["dq"] <= 1
