"""What belongs to single heads: settings of one number a head, and states, whose tensors begin with batch and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from attnbench.methods.base import Method


def settings_of_heads(method: Method, settings: Mapping[str, Any], heads: slice) -> dict[str, Any]:
    """Return settings, or other keyword arguments, with those of one number a head cut to some heads."""
    return {
        name: value[heads] if name in method.per_head and isinstance(value, tuple) else value
        for name, value in settings.items()
    }


def state_of_head(state: Any, b: int, h: int, *, heads: int, batch: int) -> Any:
    """Return the state of one of ``heads`` query heads of a batch item, its tensors [batch, 1, ...], all items alike.

    Tensors of KV heads are those of the head's KV head. Numbers of float32 and less become float64.
    """

    def cut(x: Tensor) -> Tensor:
        wide = x.double() if x.is_floating_point() else x
        if x.dim() < 2:
            return wide
        one = wide[min(b, x.shape[0] - 1), h * x.shape[1] // heads][None, None]
        return one.expand(batch, *one.shape[1:])

    return map_tensors(state, cut)


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a state with every tensor of its dictionaries, tuples, lists and dataclasses changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: map_tensors(item, change) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [map_tensors(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: map_tensors(getattr(value, field.name), change) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
