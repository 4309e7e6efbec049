"""The three counts of a cell: against the mask, torch's counter on what really runs, our operators, and fvcore."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count

import attnbench
from attnbench.cost.flops import Counts, WanConfig, attention_counts, counts_of, flops_per_pair, forward_flops
from attnbench.kernels.attend_ops import _apart
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.errors import BadInput
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.plan import Plan

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("full", {}),
    ("vmoba", {"partition": (1, (2, 3), (2, 3, 3))}),
    ("moba", {"block_size": 20, "topk": 2, "causal": True}),
    ("sta", {"tile": (1, 3, 3), "window": (1, 1, 3)}),
    ("sliding-window", {"window": (1, 1, 2)}),
]
LAYOUT = Layout(Grid(2, 5, 6), (1, 2))
DIM = 16


def draw(layout: Layout, batch: int = 1, heads: int = 2) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return list(torch.randn(3, batch, heads, layout.tokens, DIM, generator=random))


def plan_of(method: str, settings: dict[str, Any], layout: Layout = LAYOUT, batch: int = 1, layer: int = 2) -> Plan:
    q, k, _ = draw(layout, batch)
    return attnbench.select(q, k, method=method, grid=layout.grid, text=layout.text, layer=layer, **settings)


@given(
    st.sampled_from(METHODS), st.tuples(*[st.integers(1, 5)] * 3), st.tuples(*[st.integers(0, 2)] * 2),
    st.integers(0, 2), st.integers(1, 2),
)  # fmt: skip
def test_kept_pairs_are_those_of_the_mask(
    method: tuple[str, dict[str, Any]], grid: tuple[int, int, int], text: tuple[int, int], layer: int, batch: int
) -> None:
    plan = plan_of(*method, layout=Layout(Grid(*grid), text), batch=batch, layer=layer)
    mask = plan.token_mask()
    counts = counts_of(plan, head_dim=DIM, executed_pairs=REFERENCE.executed_pairs(plan))
    assert counts.dense == 2 * 2 * DIM * mask.numel()
    assert counts.algorithmic == 2 * 2 * DIM * int(mask.sum())
    assert counts.algorithmic <= counts.executed - counts.selection <= counts.dense


@pytest.mark.parametrize("direction", ["fwd", "fwdbwd"])
@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_what_is_executed_is_what_torch_counts_while_it_runs(
    method: str, settings: dict[str, Any], direction: str
) -> None:
    register_flops()
    plan = plan_of(method, settings)
    leaves = [x.requires_grad_() for x in draw(LAYOUT)]
    with FlopCounterMode(display=False) as counter:
        output = attnbench.attention(
            *leaves, method=method, grid=LAYOUT.grid, text=LAYOUT.text, layer=2, engine="reference", **settings
        )
        if direction == "fwdbwd":
            output.sum().backward()
    executed = REFERENCE.executed_pairs(plan)
    counts = counts_of(plan, head_dim=DIM, executed_pairs=executed, direction=direction)
    assert counter.get_total_flops() == counts.executed
    assert (counts.selection > 0) == (method in ("vmoba", "moba"))


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_our_operators_state_the_kept_pairs(method: str, settings: dict[str, Any]) -> None:
    register_flops()
    plan = plan_of(method, settings)
    q, k, v = draw(LAYOUT)
    lse, taken = torch.empty(q.shape[:3]), _apart(plan)
    forward = flop_registry[torch.ops.attnbench.attend](q, k, v, *taken, 0.25, out_val=None)
    backward = flop_registry[torch.ops.attnbench.attend_backward](q, k, v, q, lse, q, None, *taken, 0.25, out_val=None)
    assert forward == counts_of(plan, head_dim=DIM, executed_pairs=0).algorithmic
    assert forward + backward == counts_of(plan, head_dim=DIM, executed_pairs=0, direction="fwdbwd").algorithmic


def test_under_fake_tensors_our_operator_counts_dense() -> None:
    register_flops()
    plan = plan_of(*METHODS[1])
    with FakeTensorMode() as mode, FlopCounterMode(display=False) as counter:
        taken = [mode.from_tensor(x) if isinstance(x, Tensor) else x for x in _apart(plan)]
        q, k, v = (mode.from_tensor(x) for x in draw(LAYOUT))
        torch.ops.attnbench.attend(q, k, v, *taken, 0.25)
    assert counter.get_total_flops() == counts_of(plan, head_dim=DIM, executed_pairs=0).dense


def test_dense_is_what_torch_counts_for_its_own_attention() -> None:
    """On the meta device, where attention is made of products; for the CPU's operator torch 2.13 counts nothing."""
    q, k, v = (x.to("meta") for x in draw(LAYOUT, batch=3))
    with FlopCounterMode(display=False) as counter:
        scaled_dot_product_attention(q, k, v)
    pairs = 3 * 2 * LAYOUT.tokens**2
    shared: dict[str, Any] = {
        "head_dim": DIM,
        "dense_pairs": pairs,
        "pairs": 0,
        "executed_pairs": 0,
        "selection_flops": 0,
    }
    assert counter.get_total_flops() == attention_counts(**shared).dense
    backward = sdpa_backward_flop_count(q.shape, q.shape, k.shape, v.shape)
    assert counter.get_total_flops() + backward == attention_counts(**shared, direction="fwdbwd").dense


class SelfAttention(nn.Module):
    """The self-attention of a Wan block, as far as products go."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.projections = nn.ModuleList(nn.Linear(heads * dim, heads * dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in list(self.projections)[:3])
        output: Tensor = self.projections[3](scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        return output


def multiply_adds(inputs: list[Any], outputs: list[Any]) -> int:
    """The multiply-adds of attention, for fvcore, which knows no operator for it."""
    q, k = (value.type().sizes() for value in inputs[:2])
    return int(2 * q[0] * q[1] * q[2] * q[3] * k[2])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fvcore traces by TorchScript
def test_fvcore_finds_half_as_many_multiply_adds() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis
    heads, grid = 3, Grid(2, 3, 4)
    module, x = SelfAttention(heads, DIM), torch.randn(2, grid.tokens, heads * DIM)
    analysis = FlopCountAnalysis(module, (x,)).set_op_handle("aten::scaled_dot_product_attention", multiply_adds)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    config = WanConfig("one layer", layers=1, heads=heads, head_dim=DIM, ffn_dim=1, source="")
    expected = forward_flops(config, grid, batch=2)
    by_operator = analysis.by_operator()
    assert 2 * by_operator["linear"] == expected.self_projections
    assert 2 * by_operator["scaled_dot_product_attention"] == expected.self_pairs
    pairs = 2 * heads * grid.tokens**2
    assert expected.self_pairs == flops_per_pair(DIM) * pairs
    assert 2 * analysis.total() == expected.self_projections + expected.self_pairs


def test_counts_of_many_alike_calls_add_up() -> None:
    assert Counts(7, 5, 3, 2).times(4) == Counts(28, 20, 12, 8)


def test_selection_counts_once_in_either_direction() -> None:
    call: dict[str, Any] = {"head_dim": 8, "dense_pairs": 100, "pairs": 10, "executed_pairs": 20, "selection_flops": 5}
    assert attention_counts(**call) == Counts(3200, 320, 5, 645)
    assert attention_counts(**call, direction="fwdbwd") == Counts(11200, 1120, 5, 2245)


def test_a_direction_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="direction 'bwd' must be fwd or fwdbwd"):
        flops_per_pair(8, "bwd")
