"""Engine cudnn-bsa, with a stand-in for cuDNN's front end that reads what it is given as that package does.

The stand-in builds the mask from the lists of tiles and the sizes of key tiles, and attends with whole matrices. What
it cannot show is that the package's kernels do the same.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from attnbench.kernels import engines
from attnbench.kernels.engines import choose_engine, cudnn_bsa, get_engine, places
from attnbench.kernels.engines.base import Task
from attnbench.kernels.engines.cudnn_bsa import CUDNN_BSA
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

TASK = Task(torch.device("cuda"), torch.bfloat16, 128, 4, 2, False, False)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, oracle: Helper) -> list[dict[str, Any]]:
    """Put the stand-in in the package's place, with tiles of 4 and 8; the calls it gets are listed."""
    calls: list[dict[str, Any]] = []

    def mask_of(q: Tensor, k: Tensor, given: dict[str, Any]) -> Tensor:
        tile, index, counts, sizes = (
            given[name] for name in ("sparse_block_size", "q2k_block_index", "q2k_block_nums", "block_sizes")
        )
        assert (q.shape[2] % tile, k.shape[2] % tile) == (0, 0)
        assert index.dtype == counts.dtype == torch.int32
        assert index.shape[:3] == counts.shape == (*q.shape[:2], q.shape[2] // tile)
        if sizes is not None:
            assert (sizes.dtype, sizes.shape) == (torch.int32, (k.shape[2] // tile,))
        mask = torch.zeros(*q.shape[:3], k.shape[2], dtype=torch.bool)
        for b, h, row in torch.cartesian_prod(*map(torch.arange, counts.shape)).view(-1, 3).tolist():
            for column in index[b, h, row, : counts[b, h, row]].tolist():
                size = tile if sizes is None else int(sizes[column])
                rows, begin = slice(row * tile, (row + 1) * tile), column * tile
                assert not mask[b, h, rows, begin : begin + size].any(), "a tile that is listed twice counts twice"
                mask[b, h, rows, begin : begin + size] = True
        return mask

    def forward(q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, **arguments: Any) -> dict[str, Tensor]:
        calls.append(arguments)
        assert arguments.pop("allow_empty_block_nums")
        output, lse = oracle(q, k, v, mask_of(q, k, arguments), softmax_scale)
        return {"o_tensor": output, "lse_tensor": lse}

    def backward(
        do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, *, softmax_scale: float, **arguments: Any
    ) -> dict[str, Tensor]:
        assert q.shape[1] == k.shape[1], "its backward pass has no shared keys"
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            again, again_lse = oracle(*leaves, mask_of(q, k, arguments), softmax_scale)
        torch.testing.assert_close((o, lse), (again.detach(), again_lse.detach()))
        names = ("dq_tensor", "dk_tensor", "dv_tensor")
        return dict(zip(names, torch.autograd.grad(again, leaves, do), strict=True))

    package, module = ModuleType("cudnn"), ModuleType("cudnn.block_sparse_attention")
    vars(module)["BSA"] = SimpleNamespace(
        block_sparse_attention_forward=forward, block_sparse_attention_backward=backward
    )
    monkeypatch.setitem(sys.modules, "cudnn", package)
    monkeypatch.setitem(sys.modules, "cudnn.block_sparse_attention", module)
    monkeypatch.setattr(cudnn_bsa, "TILES", (8, 4))
    return calls


def runs(plan: Plan) -> bool:
    return isinstance(plan.pattern, BlockPattern) and plan.pattern.rule is None


def test_plans_of_blocks_run_exactly_forward_and_backward(
    stand_in: list[dict[str, Any]], plan_cases: Helper, brute_force: Helper, oracle: Helper
) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(plan_cases().filter(lambda case: runs(case.plan)))
    def check(case: Any) -> None:
        plan, random = case.plan, torch.Generator().manual_seed(0)
        shapes = [(plan.batch, heads, plan.layout.tokens, 8) for heads in (plan.heads, case.kv_heads, case.kv_heads)]
        leaves = [torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True) for shape in shapes]
        output, lse = CUDNN_BSA.attend(*leaves, plan, 0.3, True)
        expected, expected_lse = oracle(*leaves, brute_force(case), 0.3)
        torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(lse, expected_lse.detach(), atol=1e-12, rtol=0)
        weights = torch.randn(output.shape, generator=random, dtype=torch.float64)
        got, wanted = (torch.autograd.grad((x * weights).sum(), leaves) for x in (output, expected))
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
        with torch.no_grad():
            shared, nothing = CUDNN_BSA.attend(*leaves, plan, 0.3, False)
        assert nothing is None
        torch.testing.assert_close(shared, output.detach(), atol=1e-12, rtol=0)

    check()
    sizes = [call["block_sizes"] for call in stand_in]
    assert any(each is None for each in sizes)
    assert any(each is not None for each in sizes)


@pytest.mark.parametrize(("sizes", "tile"), [((8, 16, 8), 8), ((8, 12, 8), 4), ((5, 8), 8), ((5, 3, 8), 4)])
def test_the_tiles_are_those_that_compute_fewer_pairs(
    sizes: tuple[int, ...], tile: int, stand_in: list[dict[str, Any]], oracle: Helper
) -> None:
    plan = blocks(*sizes)
    q, k, v = (torch.randn(1, 4, plan.layout.tokens, 8, dtype=torch.float64) for _ in range(3))
    output, _ = CUDNN_BSA.attend(q, k, v, plan, 0.3, False)
    expected, _ = oracle(q, k, v, torch.ones(()).bool(), 0.3)
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
    assert stand_in[0]["sparse_block_size"] == tile
    assert CUDNN_BSA.executed_pairs(plan) == 4 * sum(-(-size // tile) * tile for size in sizes) ** 2


def block_plan(q_sizes: tuple[int, ...], k_sizes: tuple[int, ...], batch: int = 1, heads: int = 4) -> Plan:
    q_offsets, k_offsets = (torch.tensor([0, *sizes]).cumsum(0) for sizes in (q_sizes, k_sizes))
    keep = torch.ones(1, 1, len(q_sizes), len(k_sizes), dtype=torch.bool)
    return Plan(Layout(Grid(1, 1, int(q_offsets[-1]))), batch, heads, BlockPattern(q_offsets, k_offsets, keep))


def blocks(*sizes: int) -> Plan:
    return block_plan(sizes, sizes)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({}, None), ({"head_dim": 96}, None), ({"head_dim": 64, "dtype": torch.float16}, None),
        ({"needs_grad": True}, None),
        ({"device": torch.device("cpu")}, "runs on NVIDIA GPUs, not on cpu"),
        ({"dtype": torch.float32}, "runs bfloat16 and float16, not torch.float32"),
        ({"head_dim": 72}, "runs head_dim 64, 96 and 128, not 72"),
        ({"needs_grad": True, "return_lse": True}, "does not differentiate the log-sum-exp"),
        ({"needs_grad": True, "dtype": torch.float16}, "differentiates bfloat16 only, not torch.float16"),
        ({"needs_grad": True, "head_dim": 64}, "differentiates head_dim 128 only, not 64"),
    ],
)  # fmt: skip
def test_it_says_what_it_cannot_run(task: dict[str, Any], why: str | None) -> None:
    assert CUDNN_BSA.supports(blocks(128, 256), replace(TASK, **task)) == why


def test_patterns_of_other_kinds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = blocks(128, 256)
    ruled = replace(plan, pattern=replace(plan.pattern, rule=causal()))
    assert CUDNN_BSA.supports(ruled, TASK) == "runs whole blocks only, and this plan has the element rule causal"
    keep = torch.ones(1, 1, 384, 2, dtype=torch.bool)
    routed = replace(plan, pattern=RoutedPattern(plan.pattern.k_offsets, keep))
    assert CUDNN_BSA.supports(routed, TASK) == "runs plans of whole blocks, not routed ones (as of moba and vmoba)"
    monkeypatch.setattr(places, "MOST_PLACES", 32)
    small = CUDNN_BSA.supports(blocks(*(2,) * 10), TASK)
    assert small == "would lay 20 tokens in small blocks out over 640 places of tiles"


SHORT = "keeps the CPU busy for longer than other engines, and was slower below 1e+10 pairs"
SIZE = "suits blocks of 51 to 80 keys in the mean, not {}"
PLACES = "would take {} places for each {} in tiles of 64 tokens, more than {}"
NOT_COMPARED = "was compared with other engines in bfloat16, for head_dim 128, own keys of each head and all queries"
SAME = "gives gradients that differ in rounding from call to call, and torch is set to deterministic algorithms"
OWN = replace(TASK, kv_heads=4)


WHOLE = block_plan((64,) * 800, (64,) * 800)


@pytest.mark.parametrize(
    ("q_sizes", "k_sizes", "needs_grad", "why"),
    [
        ((64,) * 800, (64,) * 800, False, None),
        ((64,) * 780, (64,) * 780, False, SHORT),
        ((128,) * 400, (128,) * 400, False, SIZE.format(128)),
        ((64, 128) * 267, (64, 128) * 267, False, SIZE.format(96)),
        ((82,) * 624, (82,) * 624, False, SIZE.format(82)),
        ((50,) * 1040, (50,) * 1040, True, SIZE.format(50)),
        ((1,) * 51200, (1,) * 51200, False, SIZE.format(1)),
        ((128,) * 400, (64,) * 800, False, None),
        ((64,) * 800, (64,) * 796 + (256,), False, None),
        ((78,) * 656, (78,) * 656, False, PLACES.format(1.64, "query", 1.2).replace("64 tokens", "128 tokens")),
        ((64,) * 812 + (32,), (52,) * 1000, False, PLACES.format(1.23, "key", 1.2)),
        ((64,) * 812 + (32,), (52,) * 1000, True, None),
        ((52,) * 1000, (64,) * 812 + (32,), False, PLACES.format(1.23, "query", 1.2)),
        ((52,) * 1000, (52,) * 1000, True, None),
        ((72,) * 720, (64,) * 810, False, PLACES.format(1.78, "query", 1.2)),
        ((26,) * 2000, (52,) * 1000, False, None),
        ((16,) * 3200, (64,) * 800, False, PLACES.format("4.00", "query", 2.5)),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("gradients_may_differ")
def test_auto_takes_it_where_it_was_measured_to_be_faster(
    q_sizes: tuple[int, ...], k_sizes: tuple[int, ...], needs_grad: bool, why: str | None
) -> None:
    assert CUDNN_BSA.unsuitable(block_plan(q_sizes, k_sizes), replace(OWN, needs_grad=needs_grad)) == why


@pytest.mark.parametrize(
    "task", [{"dtype": torch.float16}, {"dtype": torch.float32}, {"head_dim": 64}, {"kv_heads": 2}, {"shard": True}]
)
def test_auto_leaves_to_others_what_was_not_compared(task: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn_bsa, "number_of_places", None)
    assert CUDNN_BSA.unsuitable(WHOLE, replace(OWN, **task)) == NOT_COMPARED


@pytest.mark.parametrize(
    ("tokens", "batch", "heads"), [(25600, 1, 12), (25600, 12, 1), (25600, 2, 7), (25600, 2, 8), (25600, 16, 1)]
)
def test_pairs_of_all_heads_and_of_the_batch_count(tokens: int, batch: int, heads: int) -> None:
    plan = block_plan(*[(64,) * (tokens // 64)] * 2, batch=batch, heads=heads)
    expected = None if batch * heads * tokens**2 >= 10**10 else SHORT
    assert CUDNN_BSA.unsuitable(plan, replace(OWN, heads=heads, kv_heads=heads)) == expected


def test_plans_of_short_sequences_and_of_small_blocks_are_passed_by_without_reading_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cudnn_bsa, "number_of_places", None)
    assert CUDNN_BSA.unsuitable(blocks(64, 64), OWN) == SHORT
    assert CUDNN_BSA.unsuitable(block_plan((1,) * 51200, (1,) * 51200), OWN) == SIZE.format(1)


def test_auto_leaves_it_where_gradients_must_repeat() -> None:
    assert torch.are_deterministic_algorithms_enabled()
    assert CUDNN_BSA.unsuitable(WHOLE, OWN) is None
    assert CUDNN_BSA.unsuitable(WHOLE, replace(OWN, needs_grad=True)) == SAME


@pytest.mark.parametrize("kind", ["rule", "routed"])
def test_plans_that_it_cannot_run_get_the_reason_of_supports(kind: str) -> None:
    short = blocks(64, 64)
    plan = replace(short, pattern=replace(short.pattern, rule=causal()))
    if kind == "routed":
        plan = replace(short, pattern=RoutedPattern(short.pattern.k_offsets, torch.ones(1, 1, 128, 2).bool()))
    assert CUDNN_BSA.unsuitable(plan, OWN) is None
    assert CUDNN_BSA.supports(plan, OWN) is not None


def test_auto_prefers_it_to_our_kernels_where_it_suits(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {name: replace(engine, supports=lambda plan, task: None) for name, engine in engines.ENGINES.items()}
    monkeypatch.setattr(engines, "ENGINES", here)
    monkeypatch.setattr(engines, "_unavailable", lambda name: None if name in ("cudnn-bsa", "triton") else "not here")
    assert choose_engine("auto", WHOLE, OWN).name == "cudnn-bsa"
    assert choose_engine("auto", WHOLE, replace(OWN, shard=True)).name == "triton"
    assert choose_engine("auto", blocks(64, 64), OWN).name == "triton"


@pytest.mark.parametrize(
    ("version", "capability", "why"),
    [
        (None, (9, 0), "nvidia-cudnn-frontend is not installed: pip install 'attnbench[cudnn]'"),
        ("1.9.0", (9, 0), "nvidia-cudnn-frontend 1.9.0 is installed; 1.32.0 or newer is needed"),
        ("1.32.0", (8, 0), "it needs an NVIDIA GPU of compute capability 9.0 (Hopper)"),
        ("1.32.0", (9, 0), None), ("1.40.1", (9, 0), None),
    ],
)  # fmt: skip
def test_it_says_where_it_is_available(
    version: str | None, capability: tuple[int, int], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cudnn_bsa, "_installed_version", lambda: version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert CUDNN_BSA.available() == why
    if why is not None:
        monkeypatch.undo()
        monkeypatch.setattr(cudnn_bsa, "_installed_version", lambda: None)
        with pytest.raises(Unsupported, match="engine 'cudnn-bsa' is not available: nvidia-cudnn-frontend is not"):
            get_engine("cudnn-bsa")


def test_the_extra_installs_the_version_that_is_needed() -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert extras["optional-dependencies"]["cudnn"] == [f"nvidia-cudnn-frontend>={cudnn_bsa.OLDEST.removesuffix('.0')}"]
