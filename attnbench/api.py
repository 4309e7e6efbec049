"""The two calls that everything else stands on: ``attention`` and ``select``."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal, overload

import torch
from torch import Tensor

from attnbench.kernels.engines import Task, between_graphs, choose_engine
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import attended
from attnbench.methods import Call, Method, make_settings
from attnbench.methods.planning import make_plan
from attnbench.methods.registry import find_method


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., return_lse: Literal[False] = ..., **settings: Any,
) -> Tensor: ...  # fmt: skip


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., return_lse: Literal[True], **settings: Any,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str | Method,
    grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = (0, 0),
    scale: float | None = None,
    layer: int = 0,
    step: int | None = None,
    state: Any = None,
    params: Any = None,
    engine: str = "auto",
    return_lse: bool = False,
    **settings: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend to the pairs that ``method`` keeps.

    Args:
        q: [B, heads, N, head_dim]. N = text[0] + T·H·W + text[1], video tokens in grid order (T-major). Any strides
            with a last stride of 1; docs/engines.md says which engines copy keys and values.
        k, v: [B, KV heads, N, head_dim], where KV heads divides heads.
        method: name of a registered method, or a Method.
        grid: the token grid (T, H, W), also as "21x45x80".
        text: text tokens before and after the video; they stay dense.
        scale: factor of the scores; default 1/√head_dim.
        layer, step: where in the model and in denoising the call stands, for methods that differ by them.
        state, params: see ``attnbench.methods.Call``.
        engine: who runs the plan; "auto" takes the first that can. An engine that cannot is an error.
        return_lse: also return the log-sum-exp of each query's kept scores [B, heads, N], float32 or for float64 inputs
            float64.
        **settings: the method's settings.

    Returns:
        The output [B, heads, N, head_dim] in grid order and q's dtype; with ``return_lse`` a pair of it and the
        log-sum-exp. A query that keeps no key gives zeros and -inf.

    Raises:
        BadInput: for arguments that do not fit each other, or settings that the method does not take.
        Unsupported: if the engine cannot serve the plan.
    """
    chosen, values, call = _prepare(q, k, method, grid, text, layer, step, state, params, settings)
    _check_tensor("v", v)
    if v.shape != k.shape or v.dtype != k.dtype or v.device != k.device:
        raise BadInput(f"v is {_describe(v)} and k is {_describe(k)}; they must be alike")
    factor = q.shape[3] ** -0.5 if scale is None else _finite(scale)
    plan = _plan(chosen, values, q, k, call)
    runner = choose_engine(engine, plan, Task.of(q, k, v, return_lse=return_lse))
    run = runner.attend if runner.traceable or not torch.compiler.is_compiling() else between_graphs(runner.name)
    with torch.autocast(q.device.type, enabled=False), phase("attend"):
        output, lse = run(q, k, v, plan, factor, return_lse)
    attended(runner.name, plan, output, lse)
    if chosen.finish is not None:
        with phase("branch"):
            output = chosen.finish(values, call, q, k, v, output)
    if not return_lse:
        return output
    assert lse is not None
    return output, lse


def select(
    q: Tensor,
    k: Tensor,
    *,
    method: str | Method,
    grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = (0, 0),
    layer: int = 0,
    step: int | None = None,
    state: Any = None,
    **settings: Any,
) -> Plan:
    """Return the plan that ``attention`` would run: arguments and errors as there.

    The plan may serve other calls too, so do not write into its tensors.
    """
    chosen, values, call = _prepare(q, k, method, grid, text, layer, step, state, None, settings)
    plan = _plan(chosen, values, q, k, call)
    plan.check()
    return plan


def _plan(method: Method, settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Plan without gradients, and without autocast: in bfloat16 scores would select other blocks."""
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False), phase("select"):
        return make_plan(method, settings, q, k, call)


def _prepare(
    q: Tensor, k: Tensor, method: str | Method, grid: Any, text: Any, layer: Any, step: Any, state: Any, params: Any,
    settings: dict[str, Any],
) -> tuple[Method, Any, Call]:  # fmt: skip
    chosen = find_method(method)
    if not isinstance(text, (tuple, list)):
        raise BadInput(f"text is {text!r}; it must be two whole numbers: text tokens before and after the video")
    layout = Layout(Grid.of(grid), tuple(text))
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        raise BadInput(f"layer is {layer!r}; it must be a whole number of at least 0")
    _check_tensors(q, k, layout)
    values = chosen.resolve(make_settings(chosen, settings), layout)
    return chosen, values, Call(layout, layer, step, state, params)


def _check_tensors(q: Tensor, k: Tensor, layout: Layout) -> None:
    _check_tensor("q", q)
    _check_tensor("k", k)
    b, h, n, d = q.shape
    if n != layout.tokens:
        video = str(layout.grid)
        parts = f"{layout.text[0]} + {video} + {layout.text[1]}" if layout.text != (0, 0) else video
        raise BadInput(f"q has {n} tokens, but grid and text make {layout.tokens} ({parts})")
    if (k.shape[0], k.shape[2], k.shape[3]) != (b, n, d) or q.dtype != k.dtype or q.device != k.device:
        raise BadInput(
            f"k is {_describe(k)} and q is {_describe(q)}; they must agree in all but the number of heads "
            "(cross-attention and batches of different lengths are not supported)"
        )
    if h % k.shape[1]:
        raise BadInput(f"q has {h} heads and k has {k.shape[1]}; the number of k's heads must divide q's")


def _check_tensor(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise BadInput(f"{name} is a {type(x).__name__}; it must be a tensor [B, heads, N, head_dim]")
    if x.dim() != 4 or 0 in x.shape or not x.is_floating_point():
        raise BadInput(f"{name} is {_describe(x)}; it must be floating-point [B, heads, N, head_dim], none of them 0")
    if x.stride(-1) != 1 and x.shape[-1] != 1:
        raise BadInput(f"{name} has strides {tuple(x.stride())}; the last must be 1 (call .contiguous() first)")


def _finite(scale: object) -> float:
    if isinstance(scale, bool) or not isinstance(scale, Real) or not -math.inf < float(scale) < math.inf:
        raise BadInput(f"scale is {scale!r}; it must be a finite number, or None for 1/√head_dim")
    return float(scale)


def _describe(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)} on {x.device}"
