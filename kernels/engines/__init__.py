"""Attention engines: each runs a plan on q, k, v and states what it supports."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attnbench.kernels.engines.base import Engine, Task
from attnbench.kernels.engines.cudnn import CUDNN
from attnbench.kernels.engines.flash4 import FLASH4
from attnbench.kernels.engines.fused import TRITON
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.engines.sdpa import SDPA
from attnbench.kernels.errors import Unsupported, unknown_name
from attnbench.kernels.plan import Plan

# "auto" takes the first that is available and supports the plan.
_ALL = (FLASH4, CUDNN, SDPA, TRITON, REFERENCE)
ENGINES: Mapping[str, Engine] = MappingProxyType({engine.name: engine for engine in _ALL})

__all__ = ["ENGINES", "Engine", "Task", "choose_engine", "get_engine"]


def get_engine(name: str) -> Engine:
    """Return the engine of that name.

    Raises:
        BadInput: if there is none.
        Unsupported: if it cannot be used on this machine.
    """
    if not isinstance(name, str) or name not in ENGINES:
        raise unknown_name("engine", name, [*ENGINES, "auto"])
    engine = ENGINES[name]
    if problem := engine.available():
        raise Unsupported(f"engine {name!r} is not available: {problem}")
    return engine


def choose_engine(name: str, plan: Plan, task: Task) -> Engine:
    """Return the engine asked for, or for "auto" the first that serves.

    Raises:
        BadInput: if there is no engine of that name.
        Unsupported: if the engine cannot serve the plan and task; never falls back to another.
    """
    if name != "auto":
        engine = get_engine(name)
        if problem := engine.supports(plan, task):
            raise Unsupported(f"engine {name!r} {problem}")
        return engine
    problems = {}
    for engine in ENGINES.values():
        problem = engine.available() or engine.supports(plan, task)
        if problem is None:
            return engine
        problems[engine.name] = problem
    raise Unsupported("no engine can serve: " + "; ".join(f"{name} {why}" for name, why in problems.items()))
