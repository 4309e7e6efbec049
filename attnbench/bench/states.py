"""The state that a method has at its steady step: made by calls of the steps before, on the same inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attnbench import api
from attnbench.methods import Cycle, Method
from attnbench.methods.per_head import map_tensors


@dataclass(frozen=True, eq=False)
class State:
    """A state, and torch's counters of writes to its tensors when it was made."""

    value: Any
    versions: tuple[int, ...]

    @classmethod
    def of(cls, value: Any) -> State:
        """Note the counters."""
        return cls(value, _versions(value))

    @property
    def problem(self) -> str:
        """What is wrong if a call wrote into the state; empty if it left it alone."""
        return (
            "" if _versions(self.value) == self.versions else "the call writes into the state it got, which others read"
        )


def warmed_up(
    method: Method, cycle: Cycle, arguments: dict[str, Any], q: Tensor, k: Tensor, v: Tensor, engine: str
) -> Any:
    """Return the state after the steps before the steady one.

    Args:
        method: of the calls.
        cycle: its steps.
        arguments: the other keyword arguments of ``attnbench.attention``.
        q: [B, H, N, D].
        k, v: [B, KV heads, N, D].
        engine: that runs the calls.
    """
    state: Any = None
    for step in cycle.warm:
        fresh = arguments | {"method": method, "step": step, "state": state, "engine": engine}
        _, plan = api.attention(q, k, v, **fresh, return_plan=True)
        state = plan.state
    return state


def _versions(value: Any) -> tuple[int, ...]:
    found: list[int] = []

    def note(x: Tensor) -> Tensor:
        found.append(0 if x.is_inference() else x._version)
        return x

    map_tensors(value, note)
    return tuple(found)
