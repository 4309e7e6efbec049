"""Attention engines: each runs a plan on q, k, v and states what it supports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine, Task
from attnbench.kernels.engines.cudnn import CUDNN
from attnbench.kernels.engines.flash2 import FLASH2
from attnbench.kernels.engines.flash3 import FLASH3
from attnbench.kernels.engines.flash4 import FLASH4
from attnbench.kernels.engines.flex import FLEX
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.engines.sdpa import SDPA
from attnbench.kernels.engines.triton_engine import TRITON
from attnbench.kernels.engines.two_call import TWO_CALL
from attnbench.kernels.engines.unfused import UNFUSED
from attnbench.kernels.errors import BadInput, Unsupported, unknown_name
from attnbench.kernels.plan import Plan
from attnbench.kernels.tracing import constant

# "auto" takes the first that is available, tested, supports the plan and suits it.
_ALL = (FLASH4, CUDNN, SDPA, TRITON, FLEX, FLASH3, FLASH2, REFERENCE, TWO_CALL, UNFUSED)
ENGINES: Mapping[str, Engine] = MappingProxyType({engine.name: engine for engine in _ALL})

__all__ = [
    "ENGINES", "Engine", "Task", "between_graphs", "choose_engine", "dense_engines", "engine_version", "get_engine",
    "known_engines",
]  # fmt: skip


def known_engines() -> list[Engine]:
    """Return every engine in the order of "auto", whether it can be used here or not."""
    return list(ENGINES.values())


def engine_version(name: str) -> str:
    """Return the version of an engine as rows carry it; empty where it is unknown or cannot be used here."""
    engine = ENGINES.get(name)
    return engine.version() if engine is not None and engine.available() is None else ""


def get_engine(name: str) -> Engine:
    """Return the engine of that name.

    Raises:
        BadInput: if there is none.
        Unsupported: if it cannot be used on this machine.
    """
    if problem := _unknown(name):
        raise BadInput(problem)
    if problem := _unavailable(name):
        raise Unsupported(f"engine {name!r} is not available: {problem}")
    return ENGINES[name]


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
    for engine in _candidates():
        problem = _unavailable(engine.name) or engine.unsuitable(plan, task) or engine.supports(plan, task)
        if problem is None and not engine.tested:
            problem = "was never tested: ask for it by name"
        if problem is None:
            return engine
        problems[engine.name] = problem
    raise Unsupported("no engine can serve: " + "; ".join(f"{name} {why}" for name, why in problems.items()))


def dense_engines() -> list[str]:
    """Return the tested engines that may be the dense baseline and can be used here."""
    return [each.name for each in known_engines() if each.dense and each.tested and each.available() is None]


def between_graphs(name: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return what an engine runs, as torch.compile does not trace it: with fullgraph=True calling it is an error."""
    _attach(name)
    run: Callable[..., tuple[Tensor, Tensor | None]] = getattr(_untraced, name)
    return run


class _Untraced:
    """Holds functions as attributes, where torch.compile can tell whether they are still the same."""


_untraced = _Untraced()


@constant
def _attach(name: str) -> None:
    able = ", ".join(sorted(engine.name for engine in ENGINES.values() if engine.traceable))
    reason = (
        f"a compiled graph cannot hold the engine {name!r}, where {able} can; "
        "without fullgraph=True it runs between two graphs"
    )
    setattr(_untraced, name, torch.compiler.disable(ENGINES[name].attend, reason=reason))


def _candidates() -> list[Engine]:
    """Return the engines in the order of "auto"; in compiled code those come first that go into the graph."""
    engines = known_engines()
    if not torch.compiler.is_compiling():
        return engines
    return [engine for engine in engines if engine.traceable] + [engine for engine in engines if not engine.traceable]


@constant
def _unknown(name: object) -> str | None:
    known = isinstance(name, str) and name in ENGINES
    return None if known else str(unknown_name("engine", name, [*ENGINES, "auto"]))


@constant
def _unavailable(name: str) -> str | None:
    return ENGINES[name].available()
