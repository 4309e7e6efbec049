"""What belongs to single heads: settings of one value a head, and states, whose tensors begin with batch and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.told import kind_of
from attnbench.methods.base import Method


def check_per_head(method: Method, settings: Any, heads: int) -> None:
    """Check that settings of one value a head have as many values as there are query heads.

    Raises:
        BadInput: naming the setting and both numbers.
    """
    for name in method.per_head:
        value = getattr(settings, name)
        if isinstance(value, tuple) and len(value) != heads:
            values, of_q = (f"{n} {word}{'s' * (n != 1)}" for n, word in ((len(value), "value"), (heads, "head")))
            raise BadInput(f"{name} has {values} and q has {of_q}; give one value, or one for each head")


def settings_of_heads(method: Method, settings: Mapping[str, Any], heads: slice) -> dict[str, Any]:
    """Return settings, or other keyword arguments, with those of one value a head cut to some heads."""
    return {
        name: value[heads] if name in method.per_head and isinstance(value, tuple) else value
        for name, value in settings.items()
    }


def repeated_for_heads(method: Method, settings: Any, heads: range) -> Any:
    """Return a method's settings for some heads, of any number of values: head h has value h modulo that number."""
    fitted = {
        name: tuple(value[h % len(value)] for h in heads)
        for name in method.per_head
        if isinstance(value := getattr(settings, name), tuple) and value
    }
    return dataclasses.replace(settings, **fitted) if fitted else settings


def state_of(state: Any, b: int, h: int | None, *, heads: int, batch: int) -> Any:
    """Return the state of a batch item, its tensors [batch, ...], all items alike: of one of ``heads`` query heads.

    Tensors of KV heads are those of the head's KV head; with h None, those of all heads stay. Numbers of float32 and
    less become float64.
    """

    def cut(x: Tensor) -> Tensor:
        wide = x.double() if x.is_floating_point() else x
        if x.dim() < 2:
            return wide
        item = wide[min(b, x.shape[0] - 1)]
        one = item[None] if h is None else item[h * x.shape[1] // heads][None, None]
        return one.expand(batch, *one.shape[1:])

    return map_tensors(state, cut)


def as_state(
    method: str,
    state: object,
    tensors: Mapping[str, tuple[tuple[torch.dtype, ...], tuple[int, ...]]],
    device: torch.device,
) -> Mapping[str, Tensor]:
    """Return a state if it is a dictionary of tensors as a method makes it.

    Args:
        method: its name.
        state: what the call got.
        tensors: the dtypes that each may have, of which the first is usual, and its shape.
        device: of the call.

    Raises:
        BadInput: saying what it is instead.
    """
    advice = "as plan.state of the last call is"
    if not isinstance(state, Mapping) or set(state) != set(tensors):
        names = " and ".join(tensors)
        raise BadInput(f"the state of {method} is {kind_of(state)}; it must be a dictionary of {names}, {advice}")
    for name, (dtypes, shape) in tensors.items():
        x = state[name]
        alike = isinstance(x, Tensor) and x.layout == torch.strided and x.dtype in dtypes
        if not alike or tuple(x.shape) != shape or x.device != device:
            kind = str(dtypes[0]).removeprefix("torch.")
            raise BadInput(
                f"{name} of the state is {kind_of(x)}; it must be {kind} {list(shape)} on {device}, {advice}"
            )
    return state


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a state with every tensor of its dictionaries, tuples, lists and dataclasses changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(item, change) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [map_tensors(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: map_tensors(getattr(value, field.name), change) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
