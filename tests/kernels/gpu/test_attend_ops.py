"""Attention by our kernels as operators: through the public call, under autograd, torch.compile and FLOP counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import attnbench
from attnbench.kernels.attend_ops import _apart, attend_by_kernels
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import Call, get_method

Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

LAYOUT = Layout(Grid(2, 5, 6), (1, 2))
SMALL = Layout(Grid(2, 3, 4), (1, 0))  # still several blocks, and ragged ones, for every method
CHECKS = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("full", {}),
    ("vmoba", {"partition": (1, (2, 3), (2, 3, 3))}),
    ("moba", {"block_size": 20, "topk": 2, "causal": True}),
    ("sta", {"tile": (1, 3, 3), "window": (1, 1, 3)}),
    ("sliding-window", {"window": (1, 1, 2)}),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def draw(device: torch.device, heads: int = 2, kv_heads: int = 1, layout: Layout = LAYOUT) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shapes = [(1, layout.tokens, h, 16) for h in (heads, kv_heads, kv_heads, heads)]
    return [torch.randn(shape, generator=random).to(device, dtype).transpose(1, 2) for shape in shapes]


def call(method: str, settings: dict[str, Any], layout: Layout = LAYOUT) -> dict[str, Any]:
    return {"method": method, "grid": layout.grid, "text": layout.text, "layer": 2, "engine": "triton", **settings}


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_attention_and_its_gradients(
    method: str, settings: dict[str, Any], oracle: Oracle, device: torch.device
) -> None:
    q, k, v, d_output = draw(device)
    arguments = call(method, settings)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    output, lse = attnbench.attention(*leaves, **arguments, return_lse=True)
    d_lse = torch.linspace(-1, 1, lse.numel(), device=device).view(lse.shape)
    got = torch.autograd.grad((output * d_output).sum() + (lse * d_lse).sum(), leaves)
    del arguments["engine"]
    mask = attnbench.select(q, k, **arguments).token_mask()
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected, expected_lse = oracle(*wide, mask, 16**-0.5)
    wanted = torch.autograd.grad((expected * d_output).sum() + (expected_lse * d_lse).sum(), wide)
    tolerance = 3e-2 if device.type == "cuda" else 1e-5
    for ours, theirs in zip((output, lse, *got), (expected, expected_lse, *wanted), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=tolerance * float(theirs.detach().abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("method", "settings"), [METHODS[1], *(pytest.param(*each, marks=pytest.mark.slow) for each in METHODS[2:4])]
)
def test_the_operators_are_as_torch_wants_them(method: str, settings: dict[str, Any], device: torch.device) -> None:
    q, k, v, d_output = draw(device, layout=SMALL)  # each operator runs a dozen times
    arguments = call(method, settings, SMALL)
    del arguments["engine"]
    plan = _apart(attnbench.select(q, k, **arguments))
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    # What does not depend on the plan is checked with one of them.
    checks = CHECKS if method == "vmoba" else CHECKS[:2]
    torch.library.opcheck(torch.ops.attnbench.attend, (*leaves, *plan, 0.25), test_utils=checks)
    output, lse = torch.ops.attnbench.attend(q, k, v, *plan, 0.25)
    for d_lse in (torch.ones_like(lse), None)[: 2 if method == "vmoba" else 1]:
        given = (q, k, v, output, lse, d_output, d_lse, *plan, 0.25)
        torch.library.opcheck(
            torch.ops.attnbench.attend_backward, given, test_utils=CHECKS[:2] if d_lse is None else checks
        )


@pytest.mark.parametrize(
    ("method", "settings", "return_lse"),
    [
        (*METHODS[1], True),
        *(pytest.param(*method, False, marks=pytest.mark.slow) for method in METHODS),
    ],
)
def test_attention_is_compiled_whole(
    method: str, settings: dict[str, Any], return_lse: bool, device: torch.device
) -> None:
    q, k, v, d_output = draw(device)
    arguments = call(method, settings)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if return_lse:
            return attnbench.attention(q, k, v, **arguments, return_lse=True)
        return (attnbench.attention(q, k, v, **arguments),)

    results = []
    for run in (attend, torch.compile(attend, backend="aot_eager", fullgraph=True)):
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        found = run(*leaves)
        slopes = (d_output, d_output.float().mean(-1))[: len(found)]
        results.append((*found, *torch.autograd.grad(found, leaves, slopes)))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *(pytest.param(*METHODS[place], marks=pytest.mark.slow) for place in (1, 3)),
        ("sliding-window", {"width": 7}),
    ],
)
def test_compiled_attention_follows_grid_layer_and_scale(
    method: str, settings: dict[str, Any], device: torch.device
) -> None:
    """What the compiler has seen change it leaves open where it can; a layer of the same kind compiles nothing anew."""
    graphs = CompileCounterWithBackend("aot_eager")

    def attend(q: Tensor, k: Tensor, v: Tensor, grid: Any, layer: int, scale: float | None) -> Tensor:
        where: dict[str, Any] = {"grid": grid, "text": SMALL.text, "layer": layer, "scale": scale}
        return attnbench.attention(q, k, v, method=method, engine="triton", **where, **settings)

    compiled = torch.compile(attend, backend=graphs, fullgraph=True)
    q, k, v, _ = draw(device, heads=1, layout=SMALL)
    for grid, scale in (("2x3x4", None), ((3, 4, 2), 0.25), (Grid(4, 2, 3), 0.5)):
        expected = attend(q, k, v, grid, 0, scale)
        torch.testing.assert_close(compiled(q, k, v, grid, 0, scale), expected, atol=0, rtol=0)
    for layer in range(6):
        expected = attend(q, k, v, (2, 3, 4), layer, None)
        torch.testing.assert_close(compiled(q, k, v, (2, 3, 4), layer, None), expected, atol=0, rtol=0)
        if layer == 3:
            count = graphs.frame_count
    assert graphs.frame_count == count


def test_a_method_of_ones_own_is_compiled_whole(device: torch.device) -> None:
    def finish(settings: object, call: Call, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
        finished: Tensor = output + call.params * call.layer
        return finished

    q, k, v, _ = draw(device)
    method = replace(get_method("sta"), finish=finish)
    arguments = call(*METHODS[3]) | {"method": method, "params": torch.ones((), device=device, dtype=q.dtype)}

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attnbench.attention(q, k, v, **arguments)

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)(q, k, v)
    torch.testing.assert_close(compiled, attend(q, k, v), atol=0, rtol=0)
    plain = attnbench.attention(q, k, v, **call(*METHODS[3]))
    torch.testing.assert_close(compiled, plain + 2, atol=0, rtol=0)


def test_torchs_counter_counts_the_kept_pairs(device: torch.device) -> None:
    register_flops()
    from torch.utils.flop_counter import FlopCounterMode

    q, k, v, d_output = draw(device)
    arguments = call(*METHODS[1])
    plan = attnbench.select(q, k, **{name: value for name, value in arguments.items() if name != "engine"})
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    with FlopCounterMode(display=False) as counter:
        attnbench.attention(*leaves, **arguments).backward(d_output)
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    assert counts["attnbench.attend"] == 4 * 16 * plan.pairs
    assert counts["attnbench.attend_backward"] == 10 * 16 * plan.pairs
    assert counter.get_total_flops() == 14 * 16 * plan.pairs + plan.selection_flops


def test_an_unused_log_sum_exp_or_output_has_no_gradient(device: torch.device) -> None:
    q, k, v, _ = draw(device)
    arguments = call(*METHODS[1])
    del arguments["engine"]
    plan = attnbench.select(q, k, **arguments)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    output, lse = attend_by_kernels(*leaves, plan, 0.25)
    assert torch.equal(output, attend_by_kernels(q, k, v, plan, 0.25)[0])
    dq, dk, dv = torch.autograd.grad(lse.sum(), leaves)
    assert bool(dq.any())
    assert bool(dk.any())
    assert not bool(dv.any())
