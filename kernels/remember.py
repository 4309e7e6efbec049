"""Remember results that are costly to make: from shapes alone, or from tensors that do not change."""

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
"""What CUDA graphs read: it stays, whatever else is remembered since."""


def remembered(maxsize: int) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Remember what a function returned for its last ``maxsize`` arguments; torch.compile takes it as a constant.

    Not traced, functions may look at their tensors, and compiled code holds the finished ones. Arguments must be
    numbers, tuples of them and devices: of those torch.compile can tell when they change. Tensors are made outside of
    inference mode, so that training can use them later.

    Raises:
        Unsupported: by what is returned, if a CUDA graph is being captured and nothing is remembered for the
            arguments: what was made then would hold nothing until the graph is replayed.
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
    """Keep ``result`` for good if a CUDA graph is being captured, which then reads it at every replay."""
    if capturing():
        _captured[id(result)] = result


def kept_with(tensors: tuple[Tensor | None, ...], key: Hashable, make: Callable[[], Result]) -> Result:
    """Make something from tensors once, for as long as the first lives and none of them is written to.

    What a CUDA graph captures is not kept: it would hold nothing until the graph is replayed. Work on another stream
    waits until it is made.

    Args:
        tensors: what it is made from; the first not None.
        key: tells apart what is made from the same tensors.
        make: makes it, on the current stream.
    """
    first = tensors[0]
    assert first is not None
    if any(tensor is not None and tensor.is_inference() for tensor in tensors):
        return make()  # nothing says when these are written to
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


@dataclass
class _Made:
    value: Any
    event: torch.cuda.Event | None
    stream: int

    def is_ready(self) -> bool:
        """Whether the current stream may read it, if need be after waiting for it."""
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
        same = all(mine is theirs for mine, theirs in zip(self.others, tensors[1:], strict=True))
        return same and versions == self.versions


_kept: MutableMapping[Tensor, _Kept] = WeakIdKeyDictionary()


def _stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)


def capturing() -> bool:
    """Return whether a CUDA graph is being captured: what is made now holds nothing until the graph is replayed."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
