"""Torch operators that are called as plain functions where nothing looks at operators.

Through the dispatcher and its Python layers a call takes 60 to 200 µs on the host of an H100, and a call of VMoBA has
four of them, of some 2 ms in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils._python_dispatch import _get_current_dispatch_mode

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Operator(Generic[Arguments, Result]):
    """A function, and the operator made of it. Calling this runs the operator, or the function where that is the same.

    It is the same where torch.compile does not trace, no mode such as a counter of FLOPs sees operators, every tensor
    is a plain one, and none is to be differentiated.
    """

    def __init__(self, name: str, function: Callable[Arguments, Result]) -> None:
        self.function = function
        self.operator: Any = custom_op(name, mutates_args=())(function)

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Run the operator, or the function."""
        if torch.compiler.is_compiling() or _is_seen(args):
            result: Result = self.operator(*args, **kwargs)
            return result
        with torch.no_grad():
            return self.function(*args, **kwargs)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Say what the operator returns for tensors that stand for others."""
        registered: Callable[..., Any] = self.operator.register_fake(function)
        return registered

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """Say how the operator is differentiated."""
        self.operator.register_autograd(backward, setup_context=setup_context)


def operator(name: str) -> Callable[[Callable[Arguments, Result]], Operator[Arguments, Result]]:
    """Make an operator of a function that writes to none of its arguments and returns new tensors."""
    return lambda function: Operator(name, function)


def _is_seen(args: tuple[object, ...]) -> bool:
    if _get_current_dispatch_mode() is not None:
        return True
    graded = torch.is_grad_enabled()
    for x in args:
        if isinstance(x, Tensor) and (type(x) not in (Tensor, torch.nn.Parameter) or (graded and x.requires_grad)):
            return True
    return False
