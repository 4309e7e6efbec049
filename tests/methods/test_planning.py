"""Plans that do not depend on q and k are made once, and never for another call than those they are right for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.kernels import remember
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, Method, get_method, planning
from attnbench.methods.registry import BUILT_IN

Made = Callable[..., int]


@dataclass(frozen=True)
class Reach:
    """Settings: keys up to so many blocks away, and something that may be of any type."""

    blocks: int = 1
    any: Any = None


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    planning.forget_plans()
    yield
    planning.forget_plans()


def banded(calls: list[Call], **changes: Any) -> Method:
    """A static method over blocks of one token each that notes every plan it makes."""

    def plan(settings: Reach, q: Tensor, k: Tensor, call: Call) -> Plan:
        calls.append(call)
        n = call.layout.tokens
        place = torch.arange(n, device=q.device)
        keep = (place[:, None] - place).abs() <= settings.blocks
        offsets = torch.arange(n + 1, device=q.device)
        return Plan(call.layout, q.shape[0], q.shape[1], BlockPattern(offsets, offsets, keep[None, None]))

    method = replace(get_method("full"), name="banded", settings=Reach, plan=plan, twin=None, depends_on_qk=False)
    return replace(method, **changes)


def tensors(batch: int = 1, heads: int = 2, kv: int = 2, n: int = 24, d: int = 8, **where: Any) -> list[Tensor]:
    return [torch.randn(batch, count, n, d, **where) for count in (heads, kv)]


WHERE: dict[str, Any] = {"grid": (2, 3, 4)}


def test_a_static_plan_is_made_once_for_calls_that_are_alike() -> None:
    calls: list[Call] = []
    method = banded(calls)
    plans = [attnbench.select(*tensors(), method=method, **WHERE) for _ in range(3)]
    assert len(calls) == 1
    assert all(plan is plans[0] for plan in plans)
    attnbench.select(*tensors(dtype=torch.float64), method=method, **WHERE)
    for layer, step in ((1, None), (5, 2)):
        attnbench.select(*tensors(), method=method, layer=layer, step=step, state=object(), **WHERE)
    assert len(calls) == 1, "neither the dtype nor what is never read makes another plan"


@pytest.mark.parametrize(
    "other",
    [
        lambda: (tensors(batch=2), {}),
        lambda: (tensors(heads=4), {}),
        lambda: (tensors(kv=1), {}),
        lambda: (tensors(d=4), {}),
        lambda: (tensors(device="meta"), {}),
        lambda: (tensors(), {"grid": (2, 4, 3)}),
        lambda: (tensors(), {"grid": (2, 3, 3), "text": (6, 0)}),
        lambda: (tensors(), {"grid": (2, 3, 3), "text": (0, 6)}),
        lambda: (tensors(), {"blocks": 2}),
        lambda: (tensors(), {"any": [1, 2]}),
        lambda: (tensors(), {"any": (1, 2)}),
        lambda: (tensors(), {"any": True}),
        lambda: (tensors(), {"any": 1}),
        lambda: (tensors(), {"any": 1.0}),
        lambda: (tensors(), {"any": 0.0}),
        lambda: (tensors(), {"any": -0.0}),
        lambda: (tensors(), {"any": {"a": [1]}}),
    ],
)
def test_whatever_differs_has_a_plan_of_its_own(other: Callable[[], tuple[list[Tensor], dict[str, Any]]]) -> None:
    calls: list[Call] = []
    method = banded(calls)
    for common in (WHERE, WHERE | {"any": 2}, WHERE | {"text": (0, 0)}):
        planning.make_plan(method, Reach(any=common.get("any")), *tensors(), Call(layout_of(common)))
    assert len(calls) == 2
    changed, arguments = other()
    settings = Reach(**{name: value for name, value in arguments.items() if name in ("blocks", "any")})
    for _ in range(2):
        plan = planning.make_plan(method, settings, *changed, Call(layout_of(WHERE | arguments)))
        assert (plan.batch, plan.heads) == tuple(changed[0].shape[:2])
        assert plan.layout == layout_of(WHERE | arguments)
        assert plan.device == changed[0].device
    assert len(calls) == 3


def layout_of(arguments: dict[str, Any]) -> Any:
    x = torch.zeros(1, 1, 24, 2)
    return attnbench.select(x, x, method="full", grid=arguments["grid"], text=arguments.get("text", (0, 0))).layout


def test_a_setting_changed_in_place_has_a_plan_of_its_own() -> None:
    calls: list[Call] = []
    method, inside = banded(calls), {"a": [1]}
    for item in (1, 2, 2):
        inside["a"][0] = item
        planning.make_plan(method, Reach(any=inside), *tensors(), Call(layout_of(WHERE)))
    assert len(calls) == 2


def test_two_methods_with_the_same_settings_are_told_apart() -> None:
    calls: list[Call] = []
    x = tensors()
    one, other = (attnbench.select(*x, method=banded(calls), **WHERE) for _ in range(2))
    assert one is not other


def reading(calls: list[Call]) -> Method:
    """A method that is full at step 0, and otherwise looks at the layer too."""
    inner = banded(calls)

    def plan(settings: Reach, q: Tensor, k: Tensor, call: Call) -> Plan:
        reach = 99 if call.step == 0 else call.layer
        return inner.plan(Reach(reach), q, k, call)

    return replace(inner, plan=plan)


def test_what_a_method_reads_of_the_call_tells_its_plans_apart() -> None:
    calls: list[Call] = []
    method, x = reading(calls), tensors()

    def density(layer: int, step: int | None) -> float:
        return attnbench.select(*x, method=method, layer=layer, step=step, **WHERE).density

    for _ in range(2):
        assert [density(layer, 0) for layer in range(4)] == [1.0] * 4
        assert density(0, 1) == 24 / 24**2
        assert density(1, 1) == (24 + 2 * 23) / 24**2
        assert density(1, None) == (24 + 2 * 23) / 24**2
    assert len(calls) == 4, "one of step 0 whatever the layer, and one of each other pair"


def test_a_plan_made_from_state_is_not_remembered() -> None:
    calls: list[Call] = []
    inner = banded(calls)

    def plan(settings: Reach, q: Tensor, k: Tensor, call: Call) -> Plan:
        return inner.plan(Reach(call.state[0] if call.state else 0), q, k, call)

    method, state = replace(inner, plan=plan), [1]
    densities = []
    for given in (None, state, [2], state, None):
        densities.append(attnbench.select(*tensors(), method=method, state=given, **WHERE).density * 24**2)
        state[0] += 1
    assert densities == [24, 24 + 46 + 44, 24 + 46 + 44, 24 + 46 + 44 + 42 + 40, 24]
    assert len(calls) == 4, "only the plan without state is remembered"


def test_plans_that_depend_on_q_and_k_are_made_each_time() -> None:
    calls: list[Call] = []
    for _ in range(3):
        attnbench.select(*tensors(), method=banded(calls, depends_on_qk=True), **WHERE)
    assert len(calls) == 3


def test_a_plan_that_somebody_wrote_into_is_made_again() -> None:
    calls: list[Call] = []
    method = banded(calls)
    spoilt = attnbench.select(*tensors(), method=method, **WHERE)
    spoilt.pattern.keep.fill_(True)
    assert attnbench.select(*tensors(), method=method, **WHERE).density < 1
    assert len(calls) == 2


def test_few_plans_are_remembered_and_the_least_used_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = []
    method, x = banded(calls), tensors()
    monkeypatch.setattr(planning, "MOST_PLANS", 2)
    for blocks in (1, 2, 1, 3, 1, 2):
        attnbench.select(*x, method=method, blocks=blocks, **WHERE)
    assert len(calls) == 4
    monkeypatch.setattr(planning, "MOST_BYTES", 0)
    for blocks in (5, 5, 6, 5):
        attnbench.select(*x, method=method, blocks=blocks, **WHERE)
    assert len(calls) == 7, "the latest is remembered whatever its size"


def test_a_plan_made_in_inference_mode_serves_training() -> None:
    calls: list[Call] = []
    method = banded(calls)
    with torch.inference_mode():
        q, k = tensors()
        attnbench.attention(q, k, k, method=method, **WHERE)
    q, k = (x.requires_grad_() for x in tensors())
    attnbench.attention(q, k, k, method=method, **WHERE).sum().backward()
    assert len(calls) == 1


def test_while_a_graph_is_captured_nothing_new_is_remembered_and_what_is_used_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Call] = []
    method, call = banded(calls), Call(layout_of(WHERE))
    seen = planning.make_plan(method, Reach(), *tensors(), call)
    for module in (planning, remember):
        monkeypatch.setattr(module, "capturing", lambda: True)
    assert planning.make_plan(method, Reach(), *tensors(), call) is seen
    for _ in range(2):
        planning.make_plan(method, Reach(2), *tensors(), call)
    assert len(calls) == 3
    for module in (planning, remember):
        monkeypatch.setattr(module, "capturing", lambda: False)
    assert any(kept is seen for kept in remember._captured.values())
    planning.make_plan(method, Reach(2), *tensors(), call)
    assert len(calls) == 4


def test_fake_tensors_leave_no_plan_behind() -> None:
    from torch._subclasses import FakeTensorMode

    calls: list[Call] = []
    method, call = banded(calls), Call(layout_of(WHERE))
    with FakeTensorMode():
        planning.make_plan(method, Reach(), *tensors(), call)
    plan = planning.make_plan(method, Reach(), *tensors(), call)
    assert plan.density < 1
    assert len(calls) == 2


@pytest.mark.parametrize("name", BUILT_IN)
def test_plans_of_windows_are_remembered_and_those_of_chosen_blocks_are_not(name: str) -> None:
    q, k = tensors()
    plans = [attnbench.select(q, k, v=k, method=name, grid=(2, 3, 4), step=0) for _ in range(2)]
    assert (plans[0] is plans[1]) == (not get_method(name).depends_on_qk)
    assert get_method(name).depends_on_qk == (name not in ("sliding-window", "sta", "radial"))
