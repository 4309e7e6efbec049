"""Torch operators that are called as plain functions if nothing observes operators.

Going through the dispatcher and its Python layers takes 60 to 200 µs on the host of an H100. A call of VMoBA, which
takes about 2 ms in total, has four operators.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils._python_dispatch import _get_current_dispatch_mode

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Operator(Generic[Arguments, Result]):
    """A function and the operator made from it. A call runs the operator, or the function if that is equivalent.

    It is equivalent if torch.compile does not trace, no mode such as a FLOP counter observes operators, every tensor is
    a plain tensor, and none needs a gradient.
    """

    def __init__(self, name: str, function: Callable[Arguments, Result]) -> None:
        self.function = function
        self.operator: Any = custom_op(name, mutates_args=())(function)

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Run the operator, or the function."""
        if is_seen(args):
            result: Result = self.operator(*args, **kwargs)
            return result
        return unrecorded(self.function, *args, **kwargs)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register what the operator returns for fake tensors."""
        registered: Callable[..., Any] = self.operator.register_fake(function)
        return registered

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """Register how the operator is differentiated."""
        self.operator.register_autograd(backward, setup_context=setup_context)


def unrecorded(function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """Call a function without recording for autograd. Where nothing is recorded anyway, no context is entered."""
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    with torch.no_grad():
        return function(*args, **kwargs)


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Make the device of ``x`` the current one. Where it is that already, as nearly always, this takes no time."""
    if not torch.compiler.is_compiling() and (not x.is_cuda or x.get_device() == torch.cuda.current_device()):
        return nullcontext()
    return torch.cuda.device_of(x)


def operator(name: str) -> Callable[[Callable[Arguments, Result]], Operator[Arguments, Result]]:
    """Make an operator from a function that does not write to its arguments and returns new tensors."""
    return lambda function: Operator(name, function)


def is_seen(args: tuple[object, ...]) -> bool:
    """Return whether a call with these arguments needs the operator; see ``Operator``."""
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return True
    graded = torch.is_grad_enabled()
    for x in args:
        if isinstance(x, Tensor) and (type(x) not in (Tensor, torch.nn.Parameter) or (graded and x.requires_grad)):
            return True
    return False
