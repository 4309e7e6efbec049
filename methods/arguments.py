"""The arguments of an attention call: checked, and turned into a method, its settings and its call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.told import kind_of, quoted
from attnbench.methods.base import Call, Method
from attnbench.methods.checks import LARGEST, as_finite
from attnbench.methods.per_head import check_per_head
from attnbench.methods.registry import find_method, make_settings


def prepare(
    q: Tensor, k: Tensor, v: Tensor | None, method: str | Method, grid: Any, text: Any, layer: Any, step: Any,
    state: Any, params: Any, settings: dict[str, Any], *, all_tokens: bool = True,
) -> tuple[Method, Any, Call]:  # fmt: skip
    """Return the method, its resolved settings, and the call that it plans for.

    Args:
        q, k, v, method, grid, text, layer, step, state, params, settings: as of ``attnbench.attention``; v may be None.
        all_tokens: whether q, k and v must hold all tokens of grid and text, not some of them.

    Raises:
        BadInput: for arguments that do not fit each other, or settings that the method does not take.
    """
    chosen = find_method(method)
    key = _key(chosen, grid, text, settings)
    found = None if key is None else _prepared.get(key)
    layout = _layout_of(grid, text) if found is None else found.layout
    for name, value in (("layer", layer), ("step", 0 if step is None else step)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadInput(f"{name} is {quoted(value)}; it must be a whole number of at least 0")
        if value > LARGEST:
            raise BadInput(f"{name} is {quoted(value)}; it must be at most {LARGEST:,}")
    _check_tensors(q, k, layout if all_tokens else None)
    if v is not None:
        check_tensor("v", v)
        if v.shape != k.shape or v.dtype != k.dtype or v.device != k.device:
            raise BadInput(f"v is {kind_of(v)} and k is {kind_of(k)}; they must be alike")
    elif chosen.needs_v:
        raise BadInput(f"method {chosen.name!r} selects by the values too; pass v, which is like k")
    values = chosen.resolve(make_settings(chosen, settings), layout) if found is None else found.values
    check_per_head(chosen, values, q.shape[1])
    if found is None and key is not None:
        _remember(key, _Prepared(chosen, layout, values))
    return chosen, values, Call(layout, layer, step, state, params, v if chosen.needs_v else None)


def _layout_of(grid: Any, text: Any) -> Layout:
    if not isinstance(text, (tuple, list)):
        raise BadInput(f"text is {quoted(text)}; it must be two whole numbers: text tokens before and after the video")
    return Layout(Grid.of(grid), tuple(text))


class _Prepared(NamedTuple):
    """What a method made of a grid, text and settings. The method is held, so that its id stays its own."""

    method: Method
    layout: Layout
    values: Any


_prepared: dict[object, _Prepared] = {}
MOST_PREPARED = 256
"""How many settings of methods are remembered, each for a layout: resolving them takes longer than a launch."""


def _remember(key: object, prepared: _Prepared) -> None:
    if len(_prepared) >= MOST_PREPARED:
        _prepared.clear()
    _prepared[key] = prepared


def _key(method: Method, grid: Any, text: Any, settings: dict[str, Any]) -> object:
    """Return a key that only equal arguments of the same types have; None for what is not plain, or to be compiled."""
    if torch.compiler.is_compiling():
        return None
    try:
        return id(method), _plain(grid), _plain(text), *[(name, _plain(value)) for name, value in settings.items()]
    except _NotPlainError:
        return None


class _NotPlainError(Exception):
    """Raised for a value that may change, or that equals another one without being the same."""


def _plain(value: object) -> object:
    kind = type(value)
    if kind in (int, str, bool, type(None), Grid):
        return kind, value
    if kind is float:
        return kind, repr(value)
    if kind in (tuple, list):
        return kind, *[_plain(item) for item in value]  # type: ignore[attr-defined]  # it is a tuple or a list
    raise _NotPlainError


def _check_tensors(q: Tensor, k: Tensor, layout: Layout | None) -> None:
    check_tensor("q", q)
    check_tensor("k", k)
    b, h, n, d = q.shape
    if layout is not None and n != layout.tokens:
        video = str(layout.grid)
        parts = f"{layout.text[0]} + {video} + {layout.text[1]}" if layout.text != (0, 0) else video
        raise BadInput(f"q has {n} tokens, but grid and text make {layout.tokens} ({parts})")
    if (k.shape[0], k.shape[2], k.shape[3]) != (b, n, d) or q.dtype != k.dtype or q.device != k.device:
        raise BadInput(
            f"k is {kind_of(k)} and q is {kind_of(q)}; they must agree in all but the number of heads "
            "(cross-attention and batches of different lengths are not supported)"
        )
    if h % k.shape[1]:
        raise BadInput(f"q has {h} heads and k has {k.shape[1]}; the number of k's heads must divide q's")


def check_tensor(name: str, x: object) -> None:
    """Raise ``BadInput`` for anything but a tensor [B, heads, N, head_dim] with a last stride of 1."""
    if not isinstance(x, Tensor):
        raise BadInput(f"{name} is a {type(x).__name__}; it must be a tensor [B, heads, N, head_dim]")
    if x.layout != torch.strided:
        raise BadInput(f"{name} is {kind_of(x)}; it must be strided (call .to_dense() first)")
    if x.dim() != 4 or 0 in x.shape or not x.is_floating_point():
        raise BadInput(f"{name} is {kind_of(x)}; it must be floating-point [B, heads, N, head_dim], none of them 0")
    if x.stride(-1) != 1 and x.shape[-1] != 1:
        raise BadInput(f"{name} has strides {tuple(x.stride())}; the last must be 1 (call .contiguous() first)")


def check_gradient(method: Method, *tensors: Tensor) -> None:
    """Raise ``BadInput`` if one of the tensors needs a gradient that the method does not have."""
    if not method.has_gradient and torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        raise BadInput(
            f"method {method.name!r} has no gradient, and q, k or v needs one: call it under torch.no_grad(), or take "
            "another method to train"
        )


def finite(scale: object) -> float:
    """Return the factor of the scores; raise ``BadInput`` for anything but a finite number."""
    number = as_finite(scale)
    if number is None:
        raise BadInput(f"scale is {quoted(scale)}; it must be a finite number, or None for 1/√head_dim")
    return number
