"""Remember what is costly to make and depends on shapes alone: partitions, token arrays, small tables on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

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
            if _capturing():
                raise Unsupported("this shape was not seen before: call attention once before a CUDA graph captures it")
            with torch.inference_mode(False):
                return function(*args, **kwargs)

        @wraps(function)
        def recall(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            result: Result = memory(*args, **kwargs)  # type: ignore[arg-type]  # lru_cache types arguments as hashable
            if _capturing():
                _captured[id(result)] = result
            return result

        return constant(recall)

    return remember


def _capturing() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
