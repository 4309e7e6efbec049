"""What a method may do beside attention: see its plan, attend again, hand on a state, run dense at first."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench import BadInput
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.methods import BranchCall, Call, Finished, Method, get_method
from attnbench.methods.kit import Grid, Layout, Recipe, band, partition_ranges

GRID = (2, 3, 4)
N = 24


@dataclass(frozen=True)
class Settings(Recipe):
    width: int | tuple[int, ...] = 3


def banded(call: Call, q: Tensor, width: int) -> Plan:
    partition = partition_ranges(call.layout, 8, q.device)
    keep = torch.ones(1, 1, partition.blocks, partition.blocks, dtype=torch.bool)
    return Plan(
        call.layout, q.shape[0], q.shape[1], BlockPattern(partition.offsets, partition.offsets, keep, band(width))
    )


def plan(settings: Settings, q: Tensor, k: Tensor, call: Call) -> Plan:
    assert isinstance(settings.width, int)
    wide = banded(call, q, 2 * settings.width)
    return dataclasses.replace(banded(call, q, settings.width), kept={"wide": wide}, state=call.state, branch_flops=7)


def finish(settings: Settings, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Finished:
    """Half the window's output and half of the window of twice its width, joined by the log-sum-exps."""
    assert call.lse is not None
    wide, lse = call.attend(call.plan.kept["wide"])
    share = (call.lse - lse).exp()[..., None]
    return Finished((share * output + (1 - share) * wide).to(q.dtype), {"last": output})


METHOD = Method(
    "two-windows",
    "a window, and one of twice its width",
    get_method("full").source,
    Settings,
    plan,
    finish=finish,
    needs_lse=True,
    per_head=("width",),
    depends_on_qk=False,
)


def tensors(heads: int = 2, n: int = N) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, heads, n, 16, generator=generator) for _ in range(3)]


def dense(q: Tensor, k: Tensor, v: Tensor, width: int) -> tuple[Tensor, Tensor]:
    at = torch.arange(q.shape[2])
    scores = (q.double() @ k.double().mT / q.shape[3] ** 0.5).masked_fill((at[:, None] - at).abs() > width, -torch.inf)
    return scores.softmax(-1) @ v.double(), scores.logsumexp(-1)


def test_finish_sees_the_plan_and_the_log_sum_exp_and_attends_again() -> None:
    q, k, v = tensors()
    (near, near_lse), (wide, wide_lse) = dense(q, k, v, 3), dense(q, k, v, 6)
    share = (near_lse - wide_lse).exp()[..., None]
    out, made = attnbench.attention(q, k, v, method=METHOD, grid=GRID, return_plan=True)
    torch.testing.assert_close(out.double(), share * near + (1 - share) * wide, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.state["last"].double(), near, atol=1e-5, rtol=0)
    out_2, lse, _ = attnbench.attention(q, k, v, method=METHOD, grid=GRID, return_plan=True, return_lse=True)
    assert torch.equal(out, out_2)
    torch.testing.assert_close(lse.double(), near_lse, atol=1e-5, rtol=0)


def test_attending_again_takes_an_engine_that_can_where_that_of_the_call_cannot() -> None:
    def full_first(settings: Settings, q: Tensor, k: Tensor, call: Call) -> Plan:
        offsets, keep = torch.tensor([0, N]), torch.ones(1, 1, 1, 1, dtype=torch.bool)
        full = Plan(call.layout, 1, q.shape[1], BlockPattern(offsets, offsets, keep, is_full=True))
        return dataclasses.replace(full, kept=banded(call, q, 3))

    def only_the_window(
        settings: Settings, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor
    ) -> Tensor:
        return call.attend(call.plan.kept)[0]

    method = dataclasses.replace(METHOD, plan=full_first, finish=only_the_window, needs_lse=False)
    q, k, v = tensors()
    found = attnbench.attention(q, k, v, method=method, grid=GRID, engine="sdpa")
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, dense(q, k, v, 3)[0].float())
    with pytest.raises(attnbench.Unsupported, match="engine 'sdpa' does not return the log-sum-exp"):
        attnbench.attention(q, k, v, method=METHOD, grid=GRID, engine="sdpa")


def test_a_state_that_is_given_stays_as_it_is() -> None:
    q, k, v = tensors()
    state = {"last": torch.zeros(1, 2, N, 16)}
    _, made = attnbench.attention(q, k, v, method=METHOD, grid=GRID, state=state, return_plan=True)
    assert not state["last"].any()
    assert made.state["last"].any()
    assert attnbench.select(q, k, method=METHOD, grid=GRID, state=state).state is state


@pytest.mark.parametrize(("where", "is_dense"), [({"step": 1}, True), ({"layer": 2}, True),
                                                ({"step": 2, "layer": 3}, False),
                                                ({}, True), ({"layer": 3}, False)])  # fmt: skip
def test_dense_steps_and_layers_run_full_attention_alone(where: dict[str, int], is_dense: bool) -> None:
    q, k, v = tensors()
    state = {"kept": torch.ones(1, 2, 1)}
    arguments: dict[str, Any] = {"method": METHOD, "grid": GRID, "dense_steps": 2, "dense_layers": 3, "state": state}
    out, made = attnbench.attention(q, k, v, **arguments, **where, return_plan=True)
    assert made.pattern.is_full is is_dense
    if is_dense:
        full, _ = dense(q, k, v, N)
        torch.testing.assert_close(out.double(), full, atol=1e-5, rtol=0)
        assert made.state is state


def test_a_setting_of_one_value_a_head_must_have_as_many_as_there_are_heads() -> None:
    q, k, v = tensors(heads=2)
    with pytest.raises(BadInput, match=r"width has 3 values and q has 2 heads; give one value, or one for each head"):
        attnbench.attention(q, k, v, method=METHOD, grid=GRID, width=(1, 2, 3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dense_steps": -1}, "dense_steps is -1; it must be a whole number of at least 0"),
        ({"dense_layers": 1.5}, "dense_layers is 1.5; it must be a whole number of at least 0"),
        ({"text_dense": 0}, "text_dense is 0; it must be true or false"),
        ({"text_dense": False}, "text_dense is False; this method is published with dense text only"),
    ],
)
def test_what_every_recipe_refuses(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Settings(**given)


def test_a_method_that_selects_by_the_values_gets_them_and_refuses_to_do_without() -> None:
    seen: list[Tensor | None] = []

    def by_values(settings: Settings, q: Tensor, k: Tensor, call: Call) -> Plan:
        seen.append(call.v)
        return banded(call, q, 3)

    q, k, v = tensors()
    method = dataclasses.replace(METHOD, plan=by_values, finish=None, needs_v=True, depends_on_qk=True)
    attnbench.attention(q, k, v, method=method, grid=GRID)
    attnbench.select(q, k, v=v, method=method, grid=GRID)
    assert all(x is v for x in seen)
    with pytest.raises(BadInput, match="method 'two-windows' selects by the values too; pass v"):
        attnbench.select(q, k, method=method, grid=GRID)
    with pytest.raises(BadInput, match=r"v is float32 \[1, 2, 5, 16\] on cpu and k is"):
        attnbench.select(q, k, v=v[:, :, :5], method=method, grid=GRID)
    attnbench.select(q, k, v=v, method=METHOD, grid=GRID)


def test_a_method_without_a_gradient_is_not_trained() -> None:
    q, k, v = tensors()
    method = dataclasses.replace(METHOD, has_gradient=False)
    with pytest.raises(BadInput, match=r"method 'two-windows' has no gradient, .* or take another method to train"):
        attnbench.attention(q.requires_grad_(), k, v, method=method, grid=GRID)
    with torch.no_grad():
        attnbench.attention(q, k, v, method=method, grid=GRID)


def test_rows_that_keep_nothing_are_counted_and_give_zeros() -> None:
    q, k, v = tensors()
    offsets = torch.tensor([0, 5, 24])
    keep = torch.tensor([[False, False], [False, True]])[None, None]
    for rule, empty in ((None, 2 * 5), (band(0), 2 * 5)):
        made = Plan(Layout(Grid(*GRID)), 1, 2, BlockPattern(offsets, offsets, keep, rule))
        assert made.empty_rows == empty
        assert made.empty_rows == int((~made.token_mask().any(-1)).sum())
        method = dataclasses.replace(get_method("full"), name="some", plan=lambda s, q, k, call, made=made: made)  # type: ignore[misc]
        out, lse = attnbench.attention(q, k, v, method=method, grid=GRID, return_lse=True)
        assert not out[:, :, :5].any()
        assert bool((lse[:, :, :5] == -torch.inf).all())
        assert bool(lse[:, :, 5:].isfinite().all())
