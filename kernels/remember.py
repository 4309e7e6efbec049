"""Remember results that take long to make: from shapes alone, or from tensors that do not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attnbench.kernels.errors import Unsupported
from attnbench.kernels.tracing import constant

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_captured: dict[int, object] = {}
"""Objects that CUDA graphs read. They stay, whatever else is remembered later."""


def remembered(maxsize: int) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Remember the results of a function for its last ``maxsize`` arguments. torch.compile treats them as constants.

    Since the functions are not traced, they may look at values of tensors, and compiled code holds the finished
    tensors. Arguments must be numbers, tuples of numbers, and devices, because torch.compile notices when these change.
    Tensors are made outside of inference mode, so that training can use them later.

    Raises:
        Unsupported: raised by the returned function if a CUDA graph is being captured and nothing is remembered for the
            arguments. A result that was made now would have no contents until the graph is replayed.
    """

    def remember(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @lru_cache(maxsize)
        def memory(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            if capturing():
                raise Unsupported("this shape was not seen before: call attention once before a CUDA graph captures it")
            with torch.inference_mode(False):
                return function(*args, **kwargs)

        @wraps(function)
        def recall(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            result: Result = memory(*args, **kwargs)  # type: ignore[arg-type]  # lru_cache types arguments as hashable
            keep_for_graphs(result)
            return result

        return constant(recall)

    return remember


def keep_for_graphs(result: object) -> None:
    """Keep ``result`` permanently if a CUDA graph is being captured, because the graph reads it at every replay."""
    if capturing():
        _captured[id(result)] = result


def kept_with(tensors: tuple[Tensor | None, ...], key: Hashable, make: Callable[[], Result]) -> Result:
    """Make something from tensors once, and keep it as long as the first tensor lives and none of them is written to.

    Results that are made while a CUDA graph is captured are not kept, because they have no contents until the graph is
    replayed. Work on another stream waits until the result is made.

    Args:
        tensors: what it is made from. The first one must not be None.
        key: distinguishes results that are made from the same tensors.
        make: makes the result, on the current stream.
    """
    first = tensors[0]
    assert first is not None
    if any(tensor is not None and tensor.is_inference() for tensor in tensors):
        return make()  # there is no way to know when these are written to
    versions = tuple(None if tensor is None else tensor._version for tensor in tensors)
    entry = _kept.get(first)
    if entry is None or not entry.is_of(tensors, versions):
        entry = _kept[first] = _Kept(tensors[1:], versions)
    found = entry.made.get(key)
    if found is not None and found.is_ready():
        made: Result = found.value
        return made
    with torch.inference_mode(False):
        value = make()
    if not capturing():
        event = torch.cuda.Event() if first.is_cuda else None
        if event is not None:
            event.record()
        entry.made[key] = _Made(value, event, _stream() if first.is_cuda else 0)
    return value


def kept_by(owner: object, key: Hashable, make: Callable[[], Result]) -> Result:
    """Make something from attributes of an object that never change, once, and keep it in the object.

    torch.compile traces ``make`` at each call.
    """
    if torch.compiler.is_compiling():
        return make()
    made: dict[Hashable, Result] = vars(owner).setdefault("_kept_by", {})
    if key not in made:
        made[key] = make()
    return made[key]


@dataclass
class _Made:
    value: Any
    event: torch.cuda.Event | None
    stream: int

    def is_ready(self) -> bool:
        """Return whether the current stream may read it, if necessary after waiting for it."""
        if self.event is None or self.event.query():
            self.event = None
        elif capturing():
            return False
        elif _stream() != self.stream:
            torch.cuda.current_stream().wait_event(self.event)
        return True


@dataclass
class _Kept:
    others: tuple[Tensor | None, ...]
    versions: tuple[int | None, ...]
    made: dict[Hashable, _Made] = field(default_factory=dict)

    def is_of(self, tensors: tuple[Tensor | None, ...], versions: tuple[int | None, ...]) -> bool:
        if versions != self.versions:  # of as many tensors
            return False
        return all(mine is theirs for mine, theirs in zip(self.others, tensors[1:], strict=True))


_kept: MutableMapping[Tensor, _Kept] = WeakIdKeyDictionary()


def _stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)


def capturing() -> bool:
    """Return whether a CUDA graph is being captured. What is made now has no contents until the graph is replayed."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
