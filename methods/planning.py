"""Make plans. A plan that does not depend on q and k is made once and then remembered.

It is found again by what it was made from: the settings, the layout, the device, the numbers of batch items, heads, KV
heads and channels, and whatever the method read of the call. So a method that never looks at the layer has one plan for
all layers, and a method that looks at the step has one for each step.
"""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan, plain
from attnbench.kernels.remember import capturing, keep_for_graphs
from attnbench.methods.base import Call, Method
from attnbench.methods.full import plan as plan_full
from attnbench.methods.recipe import runs_dense

MOST_PLANS = 64
MOST_BYTES = 2**28
"""How many plans, and how many bytes of plans, are remembered. The latest one is remembered whatever its size."""

_NOTED = frozenset(field.name for field in dataclasses.fields(Call)) - {"layout"}  # the layout is always in the key


def make_plan(method: Method, settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Return the method's plan: a remembered one if the method says that its plans do not depend on q and k.

    Args:
        method: the method that plans.
        settings: its settings, resolved for the layout of ``call``.
        q: [B, H, N, D].
        k: [B, KV heads, N, D].
        call: the rest of the attention call.

    Raises:
        BadInput: if the method returns something other than a Plan.

    In the dense steps and layers of its recipe, a method is not asked: the plan is full attention, and the state stays.
    """
    if runs_dense(settings, call):
        return replace(plan_full(None, q, k, call), state=call.state)
    if method.depends_on_qk or torch.compiler.is_compiling() or type(q) not in (Tensor, torch.nn.Parameter):
        return _made(method, settings, q, k, call)
    key = _key(method, settings, q, k, call)
    with _lock:
        found = _find(key, call)
    if found is not None:
        keep_for_graphs(found)
        return found
    if capturing():  # what is made now has no contents until the graph is replayed
        return _made(method, settings, q, k, call)
    watched = WatchedCall.of(call)
    with torch.inference_mode(False), torch.no_grad():
        plan = _made(method, settings, q, k, watched)
    read = {name: getattr(call, name) for name in watched.names_read}
    if all(type(value) in (int, float, str, type(None)) for value in read.values()) and _is_plain(plan):
        with _lock:
            _remember(_Remembered(key, read, plan, _versions(plan)))
    return plan


def forget_plans() -> None:
    """Forget every remembered plan, which frees its memory."""
    with _lock:
        _plans.clear()


@dataclass(frozen=True, eq=False, slots=True)
class _Remembered:
    """A plan and what it was made from. ``versions`` tell whether its tensors were written to since."""

    key: object
    read: dict[str, Any]
    plan: Plan
    versions: tuple[int, ...]

    def serves(self, key: object, call: Call) -> bool:
        """Whether the method would make the same plan again."""
        return self.key == key and all(_is_same(value, getattr(call, name)) for name, value in self.read.items())


class WatchedCall(Call):
    """A call that records which of its attributes are read."""

    @classmethod
    def of(cls, call: Call) -> WatchedCall:
        """Return a call with the same attributes, none of them read yet."""
        return cls(**{field.name: getattr(call, field.name) for field in dataclasses.fields(Call)})

    def __getattribute__(self, name: str) -> Any:
        if name in _NOTED:
            object.__getattribute__(self, "names_read").add(name)
        return object.__getattribute__(self, name)

    @cached_property
    def names_read(self) -> set[str]:
        """The attributes that have been read."""
        return set()


_lock = threading.Lock()
_plans: list[_Remembered] = []
"""Plans in the order of their last use, the most recent one last."""


def _made(method: Method, settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    plan = method.plan(settings, q, k, call)
    if not isinstance(plan, Plan):
        raise BadInput(f"method {method.name!r} planned a {type(plan).__name__}; it must return an attnbench Plan")
    if type(plan) is not Plan or type(plan.pattern) not in (BlockPattern, RoutedPattern):
        return plain(plan)  # what a subclass says of its density is not believed
    return plan


def _key(method: Method, settings: Any, q: Tensor, k: Tensor, call: Call) -> object:
    values = tuple(_frozen(getattr(settings, field.name)) for field in dataclasses.fields(settings))
    return (method.plan, type(settings), values, call.layout, q.device, q.shape[:2], q.shape[3], k.shape[1])


def _frozen(value: Any) -> object:
    """Return a copy that is equal only to copies of the same types and content: 1, 1.0 and True differ."""
    if isinstance(value, (tuple, list)):
        return (type(value), tuple(_frozen(item) for item in value))
    if isinstance(value, dict):
        return (dict, tuple((name, _frozen(item)) for name, item in value.items()))
    return (type(value), repr(value) if isinstance(value, float) else value)


def _is_same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other


def _find(key: object, call: Call) -> Plan | None:
    for entry in reversed(_plans):
        if entry.serves(key, call):
            _plans.remove(entry)
            if _versions(entry.plan) != entry.versions:
                return None
            _plans.append(entry)
            return entry.plan
    return None


def _remember(entry: _Remembered) -> None:
    _plans.append(entry)
    while len(_plans) > MOST_PLANS or (len(_plans) > 1 and sum(each.plan.nbytes for each in _plans) > MOST_BYTES):
        del _plans[0]


def _is_plain(plan: Plan) -> bool:
    """Whether the plan holds plain tensors: those of tracing or of inference mode cannot serve another call."""
    return all(type(tensor) is Tensor and not tensor.is_inference() for tensor in plan.tensors)


def _versions(plan: Plan) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in plan.tensors)
