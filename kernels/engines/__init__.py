"""Attention engines. Each runs a plan on q, k and v, and states what it supports."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor

from attnbench.kernels.engines.base import Engine, Task, import_problem
from attnbench.kernels.engines.cudnn import CUDNN
from attnbench.kernels.engines.cudnn_bsa import CUDNN_BSA
from attnbench.kernels.engines.flash2 import FLASH2
from attnbench.kernels.engines.flash3 import FLASH3
from attnbench.kernels.engines.flash4 import FLASH4
from attnbench.kernels.engines.flex import FLEX
from attnbench.kernels.engines.others import load_others
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.engines.sdpa import SDPA
from attnbench.kernels.engines.triton_engine import TRITON
from attnbench.kernels.engines.two_call import TWO_CALL
from attnbench.kernels.engines.unfused import UNFUSED
from attnbench.kernels.errors import BadInput, Unsupported, unknown_name
from attnbench.kernels.plan import Plan
from attnbench.kernels.tracing import constant

# "auto" takes the first engine that is available and tested, and that supports and suits the plan. flash4 and cudnn-bsa
# pass by the plans that our kernels run as fast or faster. Engines of other packages come right before the reference,
# so they get no plan that one of our kernels runs.
_ALL = (FLASH4, CUDNN, SDPA, CUDNN_BSA, TRITON, FLEX, FLASH3, FLASH2, REFERENCE, TWO_CALL, UNFUSED)
ENGINES: Mapping[str, Engine] = MappingProxyType({engine.name: engine for engine in _ALL})

__all__ = [
    "ENGINES", "Engine", "Task", "between_graphs", "choose_engine", "dense_engines", "engine_version", "get_engine",
    "is_plain_on_gpu", "known_engines", "load_engines", "strictly", "why_not_here",
]  # fmt: skip


class _Others:
    """Holds the engines of other packages, so that torch.compile can tell whether they are still the same."""

    engines: Mapping[str, Engine] | None = None


_others = _Others()


class _Strictness:
    """Holds whether "auto" is strict, as an attribute for the same reason."""

    on = False


_strictness = _Strictness()


@contextmanager
def strictly(on: bool = True) -> Iterator[None]:
    """While the context lasts, "auto" raises ``Unsupported`` on a GPU where it would fall to plain torch.

    Args:
        on: False changes nothing.
    """
    before, _strictness.on = _strictness.on, on or _strictness.on
    try:
        yield
    finally:
        _strictness.on = before


def is_plain_on_gpu(name: str, device: torch.device) -> bool:
    """Return whether the engine of that name is plain torch, and slow, on a GPU."""
    return name == "reference" and device.type == "cuda"


def known_engines() -> list[Engine]:
    """Return every engine in the order of "auto", whether it can be used here or not."""
    _load()
    assert _others.engines is not None
    names = list(ENGINES)
    place = names.index("reference") if "reference" in names else len(names)
    ours = list(ENGINES.values())
    return [*ours[:place], *_others.engines.values(), *ours[place:]]


def _find(name: str) -> Engine | None:
    """Return the engine of that name, looking at other packages last."""
    if name in ENGINES:
        return ENGINES[name]
    return {engine.name: engine for engine in known_engines()}.get(name)


def _named(name: str) -> Engine:
    engine = _find(name)
    assert engine is not None
    return engine


@constant
def _load() -> None:
    """Load the engines of other packages at the first call."""
    if _others.engines is None:
        _others.engines = load_others((*ENGINES, "auto"))


def load_engines() -> None:
    """Import what the first calls of built-in engines would import. What fails is told where it is needed."""
    for engine in ENGINES.values():
        if engine.tested:
            import_problem(engine.load)


def engine_version(name: str) -> str:
    """Return the version of an engine for rows; empty if the engine is unknown or cannot be used here."""
    engine = _find(name)
    return engine.version() if engine is not None and why_not_here(engine) is None else ""


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
    return _named(name)


def choose_engine(name: str, plan: Plan, task: Task) -> Engine:
    """Return the engine that was asked for or, for "auto", the first one that can run the plan.

    If that is the reference engine on a GPU, a warning says why, once for each reason. Within ``strictly`` it is an
    error. "auto" passes by an engine whose package is installed and cannot be imported, and warns once.

    Raises:
        BadInput: if there is no engine of that name.
        Unsupported: if the engine cannot serve the plan and task, or be imported. It never falls back to another one.
    """
    if name != "auto":
        engine = get_engine(name)
        if problem := _broken(name) or engine.lacks(plan, task):
            raise Unsupported(f"engine {name!r} {problem}")
        return engine
    problems: dict[str, str] = {}
    for engine in _candidates():
        problem = _unavailable(engine.name) or engine.cannot(plan) or engine.unsuitable(plan, task)
        if problem is None and not engine.tested:
            problem = "was never tested: ask for it by name"
        # What an engine needs is imported before it is asked what it supports: the answer may depend on it.
        if problem is None and (problem := _broken(engine.name)):
            _warn_once(f"engine {engine.name!r} {problem}; engine='auto' goes on without it")
        problem = problem or engine.lacks(plan, task)
        if problem is None:
            if is_plain_on_gpu(engine.name, task.device):
                if _strictness.on:
                    problems[engine.name] = "is plain torch, which a strict run does not take on a GPU"
                    break
                _warn_once(
                    "attention runs on engine 'reference', plain torch and slow, for engine 'triton' "
                    f"{problems.get('triton', 'cannot be used here')}; engine='reference' asks for it without a warning"
                )
            return engine
        problems[engine.name] = problem
    raise Unsupported("no engine can serve: " + "; ".join(f"{name} {why}" for name, why in problems.items()))


@constant
def _warn_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        warnings.warn(text, RuntimeWarning, stacklevel=3)


_said: set[str] = set()


def dense_engines() -> list[str]:
    """Return the tested engines that can be used here and may be the dense baseline."""
    return [each.name for each in known_engines() if each.dense and each.tested and why_not_here(each) is None]


def why_not_here(engine: Engine) -> str | None:
    """Return why an engine cannot be used on this machine, or None. What it needs is imported to find out."""
    return engine.available() or import_problem(engine.load)


def between_graphs(name: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return an engine's function in a form that torch.compile does not trace.

    With fullgraph=True, calling it is an error.
    """
    _attach(name)
    run: Callable[..., tuple[Tensor, Tensor | None]] = getattr(_untraced, name)
    return run


class _Untraced:
    """Holds functions as attributes, so that torch.compile can tell whether they are still the same."""


_untraced = _Untraced()


@constant
def _attach(name: str) -> None:
    able = ", ".join(sorted(engine.name for engine in known_engines() if engine.traceable))
    reason = (
        f"a compiled graph cannot hold the engine {name!r}, where {able} can; "
        "without fullgraph=True it runs between two graphs"
    )
    setattr(_untraced, name, torch.compiler.disable(_named(name).attend, reason=reason))


def _candidates() -> list[Engine]:
    """Return the engines in the order of "auto". In compiled code, engines that can be part of the graph come first."""
    engines = known_engines()
    if not torch.compiler.is_compiling():
        return engines
    return [engine for engine in engines if engine.traceable] + [engine for engine in engines if not engine.traceable]


@constant
def _unknown(name: object) -> str | None:
    if isinstance(name, str) and _find(name) is not None:
        return None
    return str(unknown_name("engine", name, [*(engine.name for engine in known_engines()), "auto"]))


@constant
def _unavailable(name: str) -> str | None:
    return _named(name).available()


@constant  # apart from ``import_problem``: torch.compile would trace a cached function
def _broken(name: str) -> str | None:
    return import_problem(_named(name).load)
