"""Verification against planted defects: what is wrong is found, what is right passes with room to spare."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.bench import verify
from attnbench.bench.selection import SelectionCheck, check_selection
from attnbench.bench.verify import TwinSpec, check_rows, check_twin, sample_rows
from attnbench.kernels import engines
from attnbench.kernels.engines import Engine
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.methods import get_method, make_settings

HALF = 0.5  # a correct engine stays under half of its tolerance
METHODS = ["full", "moba", "vmoba", "sliding-window", "sta"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

Output = tuple[Tensor, Tensor | None]


def run(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    return REFERENCE.attend(q, k, v, plan, scale, False)[0]


def drop_a_block(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Output:
    """Lose one key block for one query block; for routed plans, where each query is a block, for 16 queries."""
    pattern, n = plan.pattern, plan.layout.tokens
    if pattern.is_full:  # one block is all there is: split it into 4 × 4
        edges = torch.tensor([0, n // 4, n // 2, 3 * n // 4, n])
        pattern = BlockPattern(edges, edges, torch.ones(1, 1, 4, 4, dtype=torch.bool))
    keep = pattern.keep.clone()
    for chosen in keep.flatten(0, 1):
        several = (chosen.sum(1) > 1).nonzero().squeeze(1)  # a query that loses its only block is no fair test
        rows = several[len(several) // 2 :][: 1 if isinstance(pattern, BlockPattern) else 16]
        column = int(chosen[rows].sum(0).argmax())
        chosen[rows, column] = False
    return run(q, k, v, dataclasses.replace(plan, pattern=dataclasses.replace(pattern, keep=keep)), scale), None


def swap_heads(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Output:
    return run(q, k, v, plan, scale).flip(1), None


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Output:
    return run(q, k, v, plan, 1.05 * scale), None


def one_nan(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Output:
    output = run(q, k, v, plan, scale).clone()
    output[0, -1, q.shape[2] // 2, 3] = math.nan
    return output, None


def unwritten_row(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Output:
    output = run(q, k, v, plan, scale).clone()
    output[:, :, -1] = 0
    return output, None


def another_value_head(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Output:
    """With grouped heads: every query head reads the next KV head."""
    return run(q, k.roll(1, 1), v.roll(1, 1), plan, scale), None


class _Skewed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 1.05


def skewed(which: str) -> Callable[..., Output]:
    """A right output, and one gradient 5 % too large."""

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Output:
        tensors = {"dq": q, "dk": k, "dv": v}
        if torch.is_grad_enabled():
            tensors[which] = _Skewed.apply(tensors[which])  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return run(tensors["dq"], tensors["dk"], tensors["dv"], plan, scale), None

    return attend


def install(monkeypatch: pytest.MonkeyPatch, attend: Callable[..., Output]) -> None:
    faulty = dataclasses.replace(REFERENCE, name="faulty", attend=attend, dense=False)
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, "faulty": faulty})


def twin_spec(
    name: str, dtype: torch.dtype, engine: str, *, backward: bool = False, layer: int = 0, grid: str = "5x9x10",
    text: tuple[int, int] = (0, 0), heads: int = 2, kv_heads: int = 2, batch: int = 1, **given: Any,
) -> TwinSpec:  # fmt: skip
    method, layout = get_method(name), Layout(Grid.of(grid), text)
    return TwinSpec(
        method, method.resolve(make_settings(method, given), layout), layout, layer, None, batch, heads, kv_heads, 32,
        dtype, torch.device("cpu"), engine, backward, seed=1,
    )  # fmt: skip


FAULTS: dict[str, tuple[Callable[..., Output], dict[torch.dtype, float]]] = {
    # How many tolerances the defect must at least be, by dtype: coarse dtypes hide more.
    "dropped block": (drop_a_block, {torch.float32: 1e4, torch.float16: 30, torch.bfloat16: 4}),
    "swapped heads": (swap_heads, {torch.float32: 1e5, torch.float16: 400, torch.bfloat16: 50}),
    "wrong scale": (wrong_scale, {torch.float32: 1e4, torch.float16: 20, torch.bfloat16: 2.5}),
    "one NaN": (one_nan, dict.fromkeys(DTYPES, math.nan)),
    "unwritten row": (unwritten_row, {torch.float32: 1e4, torch.float16: 30, torch.bfloat16: 4}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("method", "layer"), [*((name, 0) for name in METHODS), ("vmoba", 1), ("vmoba", 2)])
def test_the_twin_finds_planted_defects(
    fault: str, method: str, layer: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend, least = FAULTS[fault]
    install(monkeypatch, attend)
    twin = check_twin(twin_spec(method, dtype, "faulty", layer=layer))
    assert twin.problem is not None
    assert "output by" in twin.problem
    assert math.isnan(twin.worst) if math.isnan(least[dtype]) else twin.worst > least[dtype]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize(("method", "layer"), [*((name, 0) for name in METHODS), ("vmoba", 1), ("vmoba", 2)])
def test_a_correct_engine_passes_forward_and_backward(method: str, layer: int, dtype: torch.dtype) -> None:
    shapes: list[dict[str, Any]] = [
        {},
        {"text": (3, 0), "heads": 4, "kv_heads": 2, "batch": 2},
        {"text": (0, 7), "heads": 6, "kv_heads": 1, "grid": "4x4x4"},
    ]
    for shape in shapes:
        twin = check_twin(twin_spec(method, dtype, "reference", backward=True, layer=layer, **shape))
        assert twin.problem is None
        assert set(twin.ratios) == {"output", "dq", "dk", "dv"}
        assert all(0 < ratio < HALF for ratio in twin.ratios.values()), twin.ratios


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("backward", [False, True])
def test_the_engine_of_another_library_passes(dtype: torch.dtype, backward: bool) -> None:
    for heads, kv_heads in ((2, 2), (4, 2)):
        twin = check_twin(twin_spec("full", dtype, "sdpa", backward=backward, heads=heads, kv_heads=kv_heads))
        assert max(twin.ratios.values()) < HALF


def test_a_window_of_the_query_alone_passes_backward() -> None:
    """dq and dk are then zero but for the rounding of dP - delta."""
    for dtype in DTYPES:
        twin = check_twin(twin_spec("sliding-window", dtype, "reference", backward=True, window=(0, 0, 0)))
        assert twin.worst < HALF, twin.ratios


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["dq", "dk", "dv"])
@pytest.mark.parametrize("method", ["full", "vmoba", "sta"])
def test_a_wrong_gradient_is_found_though_the_output_is_right(
    method: str, which: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, skewed(which))
    twin = check_twin(twin_spec(method, dtype, "faulty", backward=True))
    assert twin.ratios[which] > {torch.float32: 5000, torch.float16: 20, torch.bfloat16: 2.5}[dtype]
    assert all(ratio < HALF for name, ratio in twin.ratios.items() if name != which)
    assert twin.problem is not None
    assert f"{which} by " in twin.problem
    assert "output by" not in twin.problem


def test_a_gradient_that_never_comes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda q, k, v, plan, scale, lse: (run(q, k.detach(), v, plan, scale), None))
    twin = check_twin(twin_spec("sta", torch.float32, "faulty", backward=True))
    assert math.isnan(twin.ratios["dk"])
    assert twin.problem is not None
    assert "dk by nan times" in twin.problem


def test_an_engine_that_confuses_grouped_heads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, another_value_head)
    assert check_twin(twin_spec("moba", torch.bfloat16, "faulty", heads=8, kv_heads=4)).worst > 50


def test_the_twin_is_the_cell_but_for_its_size() -> None:
    spec = twin_spec("sta", torch.bfloat16, "reference", grid="21x45x80", text=(0, 256), heads=24, kv_heads=8, batch=3)
    arguments, q, k, v = verify.twin_tensors(spec)
    layout = verify.arguments_layout(arguments)
    assert layout.tokens == q.shape[2] < 2000
    assert 0 < layout.text[1] < 256
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16
    assert (q.shape[1] // k.shape[1], q.shape[3]) == (3, 32)
    assert q.shape[0] == k.shape[0] == 2
    for side, whole, tile in zip(layout.grid.shape, (21, 45, 80), arguments["tile"], strict=True):
        assert side < whole
        assert (side % tile == 0) == (whole % {21: 6, 45: 8, 80: 8}[whole] == 0), "a ragged axis stays ragged"


def test_a_method_without_a_twin_of_its_own_is_tried_on_a_part_of_the_grid() -> None:
    bare = dataclasses.replace(get_method("moba"), twin=None)
    spec = dataclasses.replace(twin_spec("moba", torch.float32, "reference", grid="9x20x30"), method=bare)
    twin = check_twin(spec)
    assert twin.layout.grid == Grid(5, 9, 13)
    assert twin.worst < HALF


# The sampled rows of the tensors that are timed.


@given(tokens=st.integers(1, 100_000), seed=st.integers(0, 2**31), count=st.integers(1, 80))
def test_sampled_rows_cover_the_sequence(tokens: int, seed: int, count: int) -> None:
    rows = sample_rows(tokens, seed, count)
    assert len(rows) == min(tokens, count)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert 0 <= int(rows[0]) <= int(rows[-1]) < tokens
    edges = [int(rows[0]), *rows.diff().tolist(), tokens - 1 - int(rows[-1])]
    assert max(edges) <= 2 * (tokens / len(rows)) + 1, "no long stretch without a sample"


def test_64_rows_a_head_are_sampled_and_other_seeds_sample_others() -> None:
    assert verify.ROWS == len(sample_rows(75_600, 0)) == 64
    assert not torch.equal(sample_rows(75_600, 0), sample_rows(75_600, 1))


def tensors(heads: int, kv_heads: int, tokens: int, dtype: torch.dtype, dim: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(1, h, tokens, dim, generator=generator) for h in (heads, kv_heads, kv_heads))
    return q.to(dtype), k.to(dtype), v.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_sampled_rows_find_planted_defects(fault: str, dtype: torch.dtype) -> None:
    attend, least = FAULTS[fault]
    q, k, v = tensors(2, 2, 60, dtype)
    plan = attnbench.select(q, k, method="moba", grid="3x4x5", block_size=7, topk=3)
    found = check_rows(q, k, v, attend(q, k, v, plan, 32**-0.5, False)[0], plan, 32**-0.5, seed=3)
    fine = check_rows(q, k, v, run(q, k, v, plan, 32**-0.5), plan, 32**-0.5, seed=3)
    assert fine.problem is None
    assert 0 < fine.error < HALF * fine.tolerance
    assert not found.error <= least[dtype] * fine.tolerance
    assert found.problem is not None
    assert f"{found.error:.2g}" in found.problem
    assert f"{found.tolerance:.2g}" in found.problem


def test_what_hides_in_two_heads_is_found() -> None:
    """A head of zeros is right whatever rounding explains, and must not hide the NaN of the next."""
    q, k, v = tensors(2, 2, 60, torch.float32)
    v[:, 0] = 0
    plan = attnbench.select(q, k, method="full", grid="3x4x5")
    output = run(q, k, v, plan, 0.2).clone()
    assert check_rows(q, k, v, output, plan, 0.2, seed=0).problem is None
    for bad in (math.nan, math.inf):
        output[0, 1] = bad
        assert check_rows(q, k, v, output, plan, 0.2, seed=0).problem is not None


def test_values_that_are_all_zero_pass() -> None:
    q, k, v = tensors(1, 1, 60, torch.float16)
    v.zero_()
    plan = attnbench.select(q, k, method="sta", grid="3x4x5", tile=(1, 2, 2))
    check = check_rows(q, k, v, run(q, k, v, plan, 0.2), plan, 0.2, seed=0)
    assert check.problem is None
    assert check.error == 0 < check.tolerance < math.inf


def test_a_long_sequence_with_grouped_heads_passes_and_one_lost_key_block_in_27_does_not() -> None:
    q, k, v = tensors(4, 2, 15 * 16 * 18, torch.bfloat16, dim=64)
    plan = attnbench.select(q, k, method="vmoba", grid="15x16x18", layer=2, threshold=0.6)
    scale = 64**-0.5
    fine = check_rows(q, k, v, run(q, k, v, plan, scale), plan, scale, seed=0)
    assert 0 < fine.error < HALF * fine.tolerance
    keep = plan.pattern.keep.clone()
    keep[..., 13] = False
    lost = dataclasses.replace(plan, pattern=dataclasses.replace(plan.pattern, keep=keep))
    assert check_rows(q, k, v, run(q, k, v, lost, scale), plan, scale, seed=0).error > 5 * fine.tolerance


def test_the_approximation_error_is_measured_against_full_attention() -> None:
    """Restated with dense masks; with 60 tokens every row is sampled."""
    q, k, v = tensors(4, 2, 60, torch.float64)
    plan = attnbench.select(q, k, method="moba", grid="3x4x5", block_size=8, topk=2)
    check = check_rows(q, k, v, run(q, k, v, plan, 0.3), plan, 0.3, seed=0)
    wide_k, wide_v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    scores = torch.einsum("bhid,bhjd->bhij", q, wide_k) * 0.3
    mask = plan.token_mask()
    full, kept = scores.softmax(-1), scores.masked_fill(~mask, -math.inf).softmax(-1)
    dense, sparse = full @ wide_v, kept @ wide_v
    assert check.approximation == pytest.approx(float((sparse - dense).norm() / dense.norm()))
    cosines = (sparse * dense).sum(-1) / sparse.norm(dim=-1) / dense.norm(dim=-1)
    assert check.cosine == pytest.approx(float(cosines.mean()))


def test_full_attention_has_no_approximation_error() -> None:
    q, k, v = tensors(1, 1, 60, torch.float32)
    plan = attnbench.select(q, k, method="full", grid="3x4x5")
    check = check_rows(q, k, v, run(q, k, v, plan, 0.2), plan, 0.2, seed=0)
    assert (check.approximation, check.cosine) == pytest.approx((0, 1), abs=1e-9)


def test_what_a_branch_makes_of_an_output_is_what_approximates_full_attention() -> None:
    q, k, v = tensors(1, 1, 60, torch.float32)
    plan = attnbench.select(q, k, method="moba", grid="3x4x5", block_size=8, topk=2)
    full = attnbench.select(q, k, method="full", grid="3x4x5")
    sparse, dense = run(q, k, v, plan, 0.2), run(q, k, v, full, 0.2)
    check = check_rows(q, k, v, sparse, plan, 0.2, seed=0, final=dense)
    assert check.problem is None
    assert check.approximation < 1e-6, "its own output counts, not that of the plan"


def test_the_engine_is_replaced_where_it_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would pass for a wrong reason if planted engines never ran."""
    calls: list[Engine] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Output:
        calls.append(REFERENCE)
        return run(q, k, v, plan, scale), None

    install(monkeypatch, attend)
    assert check_twin(twin_spec("sta", torch.float32, "faulty")).problem is None
    assert len(calls) == 1


def test_a_match_that_would_prove_nothing_is_said_to() -> None:
    grid = (2, 4, 8)
    q = 1000 * torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(3))
    v = torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(4))
    plan = attnbench.select(q, q, method="full", grid=grid)
    hot = check_rows(q, q, v, attnbench.attention(q, q, v, method="full", grid=grid), plan, 32**-0.5, 0)
    nothing = check_rows(v, v, 0 * v, 0 * v, plan, 32**-0.5, 0)
    usual = check_rows(v, v, v, attnbench.attention(v, v, v, method="full", grid=grid), plan, 32**-0.5, 0)
    assert "cannot be verified" in str(nothing.vacuous)
    assert usual.vacuous is None
    assert (hot.vacuous is None) == (hot.tolerance <= 0.1)


def test_rows_that_keep_no_key_must_be_exactly_0() -> None:
    v = torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(4))
    offsets = torch.tensor([0, 64])
    plan = Plan(Layout(Grid(2, 4, 8)), 1, 1, BlockPattern(offsets, offsets, torch.zeros(1, 1, 1, 1, dtype=torch.bool)))
    found = check_rows(v, v, v, 0 * v, plan, 32**-0.5, 0)
    assert (found.error, found.tolerance, found.vacuous, found.problem) == (0, 0, None, None)
    for wrong in (1e-30 * v, v * torch.nan):
        assert "differ from the exact attention" in str(check_rows(v, v, v, wrong, plan, 32**-0.5, 0).problem)


# The selection against the same method's in float64.

ROUTED: list[dict[str, Any]] = [
    {"method": "moba", "block_size": 7, "topk": 3},
    {"method": "moba", "block_size": 7, "topk": 3, "causal": True},
    {"method": "vmoba", "partition": (1, (2, 2), (2, 2, 2)), "layer": 1},
    {"method": "vmoba", "partition": (1, (2, 2), (2, 2, 2)), "layer": 2, "scope": "query"},
    {"method": "vmoba", "partition": (1, (2, 2), (2, 2, 2)), "layer": 2, "select": "topk"},
]


@pytest.mark.parametrize("arguments", ROUTED, ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_a_selection_is_that_of_float64(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    for heads, kv_heads, text in ((2, 2, (0, 0)), (4, 2, (3, 1))):
        where = arguments | {"grid": "3x4x5", "text": text}
        q, k, _ = tensors(heads, kv_heads, 60 + sum(text), dtype)
        plan = attnbench.select(q, k, **where)
        check = check_selection(q, k, plan, where)
        videos = plan.pattern.keep[:, :, :60].numel()
        assert check == SelectionCheck(0, videos)
        assert check.problem is None


@given(data=st.data())
def test_pairs_that_differ_are_counted_one_by_one(data: st.DataObject) -> None:
    where = ROUTED[2] | {"grid": "3x4x5", "text": (2, 0)}
    q, k, _ = (x.repeat(2, 1, 1, 1) for x in tensors(4, 2, 62, torch.float32))
    plan = attnbench.select(q, k, **where)
    keep = plan.pattern.keep.clone()
    places = data.draw(st.sets(st.integers(0, keep.numel() - 1), max_size=5))
    for place in places:
        keep.view(-1)[place] ^= True
    planted = dataclasses.replace(plan, pattern=dataclasses.replace(plan.pattern, keep=keep))
    check = check_selection(q, k, planted, where)
    assert check is not None
    assert check.differing == len(places)
    assert (check.problem is None) == (len(places) <= 2)
    if len(places) > 2:
        assert f" {len(places)} of 3,360 pairs" in str(check.problem)  # 2 items, 4 heads, 60 tokens, 6 + 1 blocks


def test_one_pair_in_a_hundred_thousand_may_differ() -> None:
    assert SelectionCheck(27, 2_700_000).problem is None
    assert "28 of 2,700,000 pairs; rounding explains 27" in str(SelectionCheck(28, 2_700_000).problem)


def test_in_a_small_cell_one_pair_may_be_exchanged_for_another() -> None:
    assert SelectionCheck(2, 100).problem is None
    assert "3 of 100 pairs; rounding explains 2" in str(SelectionCheck(3, 100).problem)


def test_a_selection_by_coarser_numbers_is_found() -> None:
    """A method that rounds the keys before it pools them selects other blocks."""
    real = get_method("moba")

    def rounded(settings: Any, q: Tensor, k: Tensor, call: Any) -> Plan:
        coarse = k if k.dtype == torch.float64 else k.to(torch.float8_e4m3fn).to(k.dtype)
        return real.plan(settings, q, coarse, call)

    rounding = dataclasses.replace(real, plan=rounded)
    where: dict[str, Any] = {"method": rounding, "grid": "6x8x10", "block_size": 30, "topk": 4}
    q, k, _ = tensors(2, 2, 480, torch.bfloat16)
    check = check_selection(q, k, attnbench.select(q, k, **where), where)
    assert check is not None
    assert check.differing > 50
    assert check.problem is not None


def test_plans_that_do_not_depend_on_q_and_k_have_no_selection_to_compare() -> None:
    q, k, _ = tensors(1, 1, 60, torch.float32)
    others: list[dict[str, Any]] = [
        {"method": "sta", "tile": (1, 2, 2)},
        {"method": "sliding-window"},
    ]
    for arguments in others:
        where = arguments | {"grid": "3x4x5"}
        assert check_selection(q, k, attnbench.select(q, k, **where), where) is None


def test_other_blocks_in_float64_are_compared_token_by_token() -> None:
    q, k, _ = tensors(1, 1, 60, torch.float32)
    plan = attnbench.select(q, k, method="moba", grid="3x4x5", block_size=7, topk=2)
    check = check_selection(q, k, plan, {"method": "moba", "grid": "3x4x5", "block_size": 8, "topk": 2})
    assert check is not None
    assert check.of_tokens
    assert check.problem is not None
    ordered = attnbench.select(q, k, method="vmoba", grid="3x4x5", partition=(1, (2, 5), (1, 2, 5)), layer=2)
    for layer in (0, 1):
        where: dict[str, Any] = {
            "method": "vmoba",
            "grid": "3x4x5",
            "partition": (1, (2, 5), (1, 2, 5)),
            "layer": layer,
        }
        other = check_selection(q, k, ordered, where)
        assert other is not None
        assert other.problem is not None
