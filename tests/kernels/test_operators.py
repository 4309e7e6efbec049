"""Operators run as functions where nothing looks, and as operators where something does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.kernels.operators import operator


@operator("attnbench_test::twice")
def twice(x: Tensor) -> Tensor:
    return x * 2


twice.register_autograd(lambda ctx, grad: grad * 2, setup_context=lambda ctx, inputs, output: None)


class Seen(TorchDispatchMode):
    """Collects the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_plain_call_does_not_reach_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twice, "operator", None)
    assert twice(torch.ones(2)).tolist() == [2, 2]
    with torch.no_grad():
        assert twice(torch.ones(2, requires_grad=True)).tolist() == [2, 2]


def test_a_mode_sees_the_operator() -> None:
    with Seen() as seen:
        twice(torch.ones(2))
    assert "twice" in seen.names


def test_what_is_to_be_differentiated_is() -> None:
    x = torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(twice(x).sum(), x)
    assert gradient.tolist() == [2, 2]


def test_a_tensor_of_another_class_goes_through_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Tensor):
        pass

    monkeypatch.setattr(twice, "function", None)
    assert twice(torch.ones(2).as_subclass(Other)).tolist() == [2, 2]
