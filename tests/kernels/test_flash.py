"""Engine flash4 on plans of blocks, with a stand-in for flash-attn-4 that reads what it is given as that package does.

The stand-in builds the mask from the lists of tiles and the element mask, and attends with whole matrices. What it
cannot show is that the package's kernels do the same.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import attnbench
from attnbench.kernels.engines import ENGINES, flash4, places
from attnbench.kernels.engines.base import Task
from attnbench.kernels.engines.flash4 import FLASH4
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal, window

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

TASK = Task(torch.device("cuda"), torch.bfloat16, 64, 4, 2, False, False)
TILE = 4


class TileTensors(NamedTuple):
    mask_block_cnt: Tensor
    mask_block_idx: Tensor
    full_block_cnt: Tensor | None = None
    full_block_idx: Tensor | None = None
    block_size: tuple[int, int] | None = None


def marked(counts: Tensor, lists: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which tiles the lists name, bool [B, H, rows, columns]; they must ascend, as the package needs at ragged ends."""
    chosen = torch.zeros(shape, dtype=torch.bool)
    counts, lists = counts.expand(shape[:3]), lists.expand(*shape[:3], -1)
    for index in torch.cartesian_prod(*map(torch.arange, shape[:3])).view(-1, 3).tolist():
        named = lists[tuple(index)][: int(counts[tuple(index)])].tolist()
        assert named == sorted(set(named))
        chosen[tuple(index)][named] = True
    return chosen


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, oracle: Helper) -> Iterator[list[dict[str, Any]]]:
    """Put the stand-in in the package's place; the calls it gets are listed."""
    calls: list[dict[str, Any]] = []

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
        calls.append(given)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        shape = (*q.shape[:2], q.shape[2], k.shape[2])
        mask = torch.ones(shape, dtype=torch.bool)
        if (sparse := given.get("block_sparse_tensors")) is not None:
            assert sparse.block_size == (TILE, TILE)
            assert (q.shape[2] % TILE, k.shape[2] % TILE) == (0, 0)
            tiles = (*q.shape[:2], q.shape[2] // TILE, k.shape[2] // TILE)
            full = marked(sparse.full_block_cnt, sparse.full_block_idx, tiles)
            partial = marked(sparse.mask_block_cnt, sparse.mask_block_idx, tiles)
            if (back := given.get("block_sparse_tensors_bwd")) is not None:
                turned = (*tiles[:2], tiles[3], tiles[2])
                assert torch.equal(marked(back.full_block_cnt, back.full_block_idx, turned).mT, full)
                assert torch.equal(marked(back.mask_block_cnt, back.mask_block_idx, turned).mT, partial)
            elements = torch.ones((), dtype=torch.bool)
            if given.get("mask_mod") is not None:
                assert all(x.dtype == torch.int32 for x in given["aux_tensors"])
                b, h, rows, columns = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
                elements = given["mask_mod"]((b,), (h,), (rows,), (columns,), None, given["aux_tensors"])
            else:
                assert not partial.any()

            def spread(chosen: Tensor) -> Tensor:
                return chosen.repeat_interleave(TILE, 2).repeat_interleave(TILE, 3)

            mask = spread(full) | (spread(partial) & elements)
        output, lse = oracle(q, k, v, mask, given["softmax_scale"])
        return output.transpose(1, 2), lse

    modules: dict[str, dict[str, Any]] = {
        "cutlass": {"Int32": None},
        "flash_attn": {},
        "flash_attn.cute": {},
        "flash_attn.cute.utils": {"scalar_to_ssa": lambda value, dtype: value},
        "flash_attn.cute.block_sparsity": {"BlockSparseTensorsTorch": TileTensors},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    masks = "attnbench.kernels.engines.cute_masks"
    monkeypatch.delitem(sys.modules, masks, raising=False)
    monkeypatch.setattr(flash4, "_flash_attn_func", lambda: flash_attn_func)
    monkeypatch.setattr(flash4, "TILE", TILE)
    flash4._without_sparse_tiles.cache_clear()
    yield calls
    sys.modules.pop(masks, None)
    flash4._without_sparse_tiles.cache_clear()


def runs(plan: Plan) -> bool:
    by_head = any(order is not None and order.dim() == 3 for order in (plan.q_order, plan.k_order))
    return isinstance(plan.pattern, BlockPattern) and not (by_head and plan.pattern.rule is not None)


def make_qkv(plan: Plan, kv_heads: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [
        torch.randn(plan.batch, heads, plan.layout.tokens, 8, generator=random, dtype=torch.float64, requires_grad=True)
        for heads in (plan.heads, kv_heads, kv_heads)
    ]


def test_plans_of_blocks_run_exactly_forward_and_backward(
    stand_in: list[dict[str, Any]], plan_cases: Helper, brute_force: Helper, oracle: Helper
) -> None:
    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    @given(plan_cases().filter(lambda case: runs(case.plan)))
    def check(case: Any) -> None:
        q, k, v = qkv = make_qkv(case.plan, case.kv_heads)
        output, lse = FLASH4.attend(q, k, v, case.plan, 0.3, True)
        expected, expected_lse = oracle(*qkv, brute_force(case), 0.3)
        torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(lse, expected_lse, atol=1e-12, rtol=0)
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for found, right in zip(
            torch.autograd.grad((output * weights).sum(), qkv),
            torch.autograd.grad((expected * weights).sum(), qkv),
            strict=True,
        ):
            torch.testing.assert_close(found, right, atol=1e-12, rtol=0)
        with torch.no_grad():
            again, no_lse = FLASH4.attend(q, k, v, case.plan, 0.3, False)
        assert no_lse is None
        assert torch.equal(again, output)
        assert "block_sparse_tensors_bwd" not in stand_in[-1], "lists that only the backward pass reads"

    check()
    assert {len(call.get("aux_tensors", ())) for call in stand_in} >= {1, 7}, "both element masks were seen"


def test_blocks_that_fill_their_tiles_need_no_element_mask(stand_in: list[dict[str, Any]], oracle: Helper) -> None:
    plan = block_plan([0, 8, 24])
    q, k, v = make_qkv(plan, 2)
    output, _ = FLASH4.attend(q, k, v, plan, 0.3, False)
    torch.testing.assert_close(output, oracle(q, k, v, plan.token_mask(), 0.3)[0], atol=1e-12, rtol=0)
    assert "mask_mod" not in stand_in[-1]
    assert FLASH4.executed_pairs(plan) == plan.pairs
    # A block of 3 tokens takes a tile of 4: three tiles of keys and of queries are kept, the rest repeats.
    assert FLASH4.executed_pairs(block_plan([0, 3, 24])) == 2 * 4 * (4 * 4 + 24 * 28)


def test_full_attention_moves_nothing(stand_in: list[dict[str, Any]]) -> None:
    plan = full_plan()
    q, k, v = make_qkv(plan, 2)
    FLASH4.attend(q, k, v, plan, 0.3, False)
    assert set(stand_in[-1]) == {"softmax_scale", "return_lse"}
    assert FLASH4.executed_pairs(plan) == plan.pairs


def block_plan(offsets: list[int]) -> Plan:
    at = torch.tensor(offsets)
    keep = torch.ones(len(at) - 1, len(at) - 1, dtype=torch.bool).tril()
    return Plan(Layout(Grid(2, 3, 4)), 2, 4, BlockPattern(at, at, keep[None, None]))


def full_plan() -> Plan:
    plan = block_plan([0, 24])
    return replace(plan, pattern=replace(plan.pattern, is_full=True))


@pytest.fixture
def hopper(stand_in: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))


@pytest.mark.usefixtures("hopper")
def test_sparse_plans_it_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = block_plan([0, 3, 24])
    assert FLASH4.supports(plan, TASK) is None
    assert FLASH4.supports(full_plan(), replace(TASK, head_dim=40)) is None
    assert FLASH4.supports(plan, replace(TASK, head_dim=40)) == "runs sparse plans of head_dim 64 and 128, not 40"
    routed = replace(plan, pattern=RoutedPattern(torch.tensor([0, 24]), torch.ones(1, 1, 24, 1, dtype=torch.bool)))
    assert "not routed ones" in str(FLASH4.supports(routed, TASK))
    ruled = replace(plan, pattern=replace(plan.pattern, rule=causal()))
    assert FLASH4.supports(ruled, TASK) is None
    by_head = replace(ruled, q_order=torch.rand(2, 4, 24).argsort(-1))
    assert (
        FLASH4.supports(by_head, TASK) == "runs an element rule, here causal, with one token order for all heads only"
    )
    assert FLASH4.supports(replace(plan, q_order=by_head.q_order), TASK) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (10, 0))
    assert "full attention only on this GPU" in str(FLASH4.supports(plan, TASK))
    assert FLASH4.supports(full_plan(), TASK) is None


@pytest.mark.usefixtures("hopper")
def test_rules_whose_coordinates_do_not_pack_into_32_bits_are_refused() -> None:
    long = Layout(Grid(1, 1, 2**12))
    offsets = torch.tensor([0, 2**11, 2**12])
    keep = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    plan = Plan(long, 1, 4, BlockPattern(offsets, offsets, keep, window(1, 1, 1)))
    assert FLASH4.supports(plan, TASK) is None
    wide = replace(plan, layout=Layout(Grid(2**7, 2**8, 2**8)))
    assert "pack into 32 bits" in str(FLASH4.supports(wide, TASK))


@pytest.mark.usefixtures("hopper")
def test_small_blocks_run_where_they_are_few_and_auto_passes_them_by(monkeypatch: pytest.MonkeyPatch) -> None:
    small = block_plan([*range(0, 24, 2), 24])
    assert FLASH4.supports(small, TASK) is None
    ruled = replace(small, pattern=replace(small.pattern, rule=window(1, 1, 1)))
    assert FLASH4.unsuitable(ruled, TASK) == (
        "would compute 4.0 times the kept pairs: the blocks fill its tiles of 4 tokens badly"
    )
    large = block_plan([0, 8, 24])
    assert FLASH4.unsuitable(replace(large, pattern=replace(large.pattern, rule=window(1, 1, 1))), TASK) is None
    assert "takes longer than our kernels" in str(FLASH4.unsuitable(large, replace(TASK, needs_grad=False)))
    assert torch.are_deterministic_algorithms_enabled()
    assert FLASH4.unsuitable(large, replace(TASK, needs_grad=True)) == (
        "gives gradients that differ in rounding from call to call, and torch is set to deterministic algorithms"
    )
    torch.use_deterministic_algorithms(False)
    assert FLASH4.unsuitable(large, replace(TASK, needs_grad=True)) is None
    assert FLASH4.unsuitable(full_plan(), TASK) is None
    monkeypatch.setattr(places, "MOST_PLACES", 32)
    assert FLASH4.supports(small, TASK) is None, "places are at most twice the tokens"
    single = block_plan([*range(25)])
    assert FLASH4.supports(single, TASK) == "would lay 24 tokens in small blocks out over 96 places of tiles"


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("settings", [{}, {"width": 300}])
def test_auto_leaves_element_rules_to_our_kernels_as_far_as_their_words_of_bits_go(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On an H200, windows take our kernels 3.77 ms where this engine takes 6.57, and dense attention 8.66.
    x = torch.zeros(1, 1, 8 * 16 * 24, 8)
    plan = attnbench.select(x, x, method="sliding-window", grid=(8, 16, 24), **settings)
    for needs_grad in (False, True):
        task = replace(TASK, needs_grad=needs_grad)
        assert "takes longer than our kernels for the element rule" in str(FLASH4.unsuitable(plan, task))
    monkeypatch.setattr("attnbench.kernels.gpu.blocked.MOST_WORDS", 0)
    assert FLASH4.unsuitable(plan, TASK) is None, "in raster order, long videos have too many words"


def test_plans_it_cannot_run_are_passed_by_without_reading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every call of "auto" asks. Placing the single queries of a routed plan took the CPU 35 to 50 ms of it, which an
    # H100 spent idle.
    def read(offsets: Tensor, tile: int) -> int:
        raise AssertionError("the offsets were read")

    monkeypatch.setattr(flash4, "number_of_places", read)
    routed = RoutedPattern(torch.tensor([0, 8, 24]), torch.ones(1, 4, 24, 2, dtype=torch.bool))
    plan = Plan(Layout(Grid(2, 3, 4)), 1, 4, routed)
    for needs_grad in (False, True):
        assert FLASH4.unsuitable(plan, replace(TASK, needs_grad=needs_grad)) is None


@pytest.mark.usefixtures("stand_in")
def test_versions_without_tiles_run_full_attention_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(NamedTuple):
        mask_block_cnt: Tensor

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(sys.modules["flash_attn.cute.block_sparsity"], "BlockSparseTensorsTorch", Older)
    assert "full attention only in this version" in str(FLASH4.supports(block_plan([0, 8, 24]), TASK))


@pytest.mark.parametrize(("name", "module"), [("flash2", "flash_attn"), ("flash3", "flash_attn_interface")])
def test_the_untested_engines_hand_tensors_over_as_their_packages_take_them(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch, oracle: Helper
) -> None:
    plan = full_plan()
    q, k, v = (x.detach() for x in make_qkv(plan, 2))
    expected, _ = oracle(q, k, v, torch.ones(2, 4, 24, 24, dtype=torch.bool), 0.3)

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float) -> Tensor:
        whole = torch.ones(2, 4, 24, 24, dtype=torch.bool)
        output: Tensor = oracle(*(x.transpose(1, 2) for x in (q, k, v)), whole, softmax_scale)[0]
        return output.transpose(1, 2)

    stub = ModuleType(module)
    vars(stub)["flash_attn_func"] = flash_attn_func
    monkeypatch.setitem(sys.modules, module, stub)
    engine = ENGINES[name]
    output, lse = engine.attend(q, k, v, plan, 0.3, False)
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
    assert lse is None
    assert not engine.tested
    assert engine.supports(plan, TASK) is None
    assert engine.supports(plan, replace(TASK, return_lse=True)) == "does not return the log-sum-exp"
    assert "full attention only" in str(engine.supports(block_plan([0, 8, 24]), TASK))


@pytest.mark.parametrize("name", ["flash4", "flash3", "flash2"])
def test_engines_whose_package_is_missing_say_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    assert "is not installed" in str(ENGINES[name].available())


@pytest.mark.parametrize(
    ("version", "right"),
    [("4.0.0b9", False), ("4.0.0b25", False), ("4.0.0b26", True), ("4.0.0b36", True), ("4.0.0", True)],
)
def test_versions_whose_gradients_may_be_wrong_are_refused(
    version: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash4, "_installed", lambda: True)
    monkeypatch.setattr(flash4, "_installed_version", lambda: version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    said = f"flash-attn-4 {version} is installed; 4.0.0b26 or newer is needed for right gradients"
    assert FLASH4.available() == (None if right else said)


def test_the_extra_installs_no_version_that_is_refused() -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert extras["optional-dependencies"]["flash"][0] == f"flash-attn-4>={flash4.OLDEST}"
