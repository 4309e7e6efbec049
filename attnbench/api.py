"""The two calls that everything else stands on: ``attention`` and ``select``."""

from __future__ import annotations

import dataclasses
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
from attnbench.methods import BranchCall, Call, Finished, Method, make_settings
from attnbench.methods.planning import make_plan
from attnbench.methods.registry import find_method


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., return_lse: Literal[False] = ...,
    return_plan: Literal[False] = ..., **settings: Any,
) -> Tensor: ...  # fmt: skip


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., return_lse: Literal[True],
    return_plan: Literal[False] = ..., **settings: Any,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., return_lse: Literal[False] = ...,
    return_plan: Literal[True], **settings: Any,
) -> tuple[Tensor, Plan]: ...  # fmt: skip


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., return_lse: Literal[True],
    return_plan: Literal[True], **settings: Any,
) -> tuple[Tensor, Tensor, Plan]: ...  # fmt: skip


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
    return_plan: bool = False,
    **settings: Any,
) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Plan] | tuple[Tensor, Tensor, Plan]:
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
        state: what the method keeps between steps or layers: ``plan.state`` of its last call, which stays as it is.
        params: learned tensors of methods that have them.
        engine: who runs the plan; "auto" takes the first that can. An engine that cannot is an error.
        return_lse: also return the log-sum-exp of each query's kept scores [B, heads, N], float32 or for float64 inputs
            float64. It is that of the plan, without what the method adds.
        return_plan: also return the plan, of which ``plan.state`` is the next state.
        **settings: the method's settings.

    Returns:
        The output [B, heads, N, head_dim] in grid order and q's dtype; with ``return_lse`` or ``return_plan`` a tuple
        of it, the log-sum-exp and the plan. A query that keeps no key gives zeros and -inf.

    Raises:
        BadInput: for arguments that do not fit each other, or settings that the method does not take.
        Unsupported: if the engine cannot serve the plan.
    """
    chosen, values, call = _prepare(q, k, v, method, grid, text, layer, step, state, params, settings)
    _check_tensor("v", v)
    if not chosen.has_gradient and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise BadInput(
            f"method {chosen.name!r} has no gradient, and q, k or v needs one: call it under torch.no_grad()"
        )
    factor = q.shape[3] ** -0.5 if scale is None else _finite(scale)
    plan = _plan(chosen, values, q, k, call)
    finishes = chosen.finishes(values, call)
    output, lse = _attend(q, k, v, plan, factor, engine, return_lse or (finishes and chosen.needs_lse))
    if finishes:
        assert chosen.finish is not None

        def again(other: Plan) -> tuple[Tensor, Tensor]:
            more, more_lse = _attend(q, k, v, other, factor, engine, True)
            assert more_lse is not None
            return more, more_lse

        fields = (call.layout, call.layer, call.step, call.state, call.params, call.v)
        with phase("branch"):
            found = chosen.finish(values, BranchCall(*fields, plan, factor, lse, again), q, k, v, output)
        output = found.output if isinstance(found, Finished) else found
        if isinstance(found, Finished):
            plan = dataclasses.replace(plan, state=found.state)
    if not return_lse:
        return (output, plan) if return_plan else output
    assert lse is not None
    return (output, lse, plan) if return_plan else (output, lse)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, engine: str, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Run a plan on the engine that was asked for."""
    runner = choose_engine(engine, plan, Task.of(q, k, v, return_lse=return_lse))
    run = runner.attend if runner.traceable or not torch.compiler.is_compiling() else between_graphs(runner.name)
    with torch.autocast(q.device.type, enabled=False), phase("attend"):
        output, lse = run(q, k, v, plan, scale, return_lse)
    attended(runner.name, plan, output, lse)
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
    params: Any = None,
    v: Tensor | None = None,
    **settings: Any,
) -> Plan:
    """Return the plan that ``attention`` would run: arguments and errors as there.

    ``v`` is needed by methods that select by it. The plan may serve other calls too, so do not write into its tensors.
    """
    chosen, values, call = _prepare(q, k, v, method, grid, text, layer, step, state, params, settings)
    plan = _plan(chosen, values, q, k, call)
    plan.check()
    return plan


def _plan(method: Method, settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Plan without gradients, and without autocast: in bfloat16 scores would select other blocks."""
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False), phase("select"):
        return make_plan(method, settings, q, k, call)


def _prepare(
    q: Tensor, k: Tensor, v: Tensor | None, method: str | Method, grid: Any, text: Any, layer: Any, step: Any,
    state: Any, params: Any, settings: dict[str, Any],
) -> tuple[Method, Any, Call]:  # fmt: skip
    chosen = find_method(method)
    if not isinstance(text, (tuple, list)):
        raise BadInput(f"text is {text!r}; it must be two whole numbers: text tokens before and after the video")
    layout = Layout(Grid.of(grid), tuple(text))
    for name, value in (("layer", layer), ("step", 0 if step is None else step)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadInput(f"{name} is {value!r}; it must be a whole number of at least 0")
    _check_tensors(q, k, layout)
    if v is not None:
        _check_tensor("v", v)
        if v.shape != k.shape or v.dtype != k.dtype or v.device != k.device:
            raise BadInput(f"v is {_describe(v)} and k is {_describe(k)}; they must be alike")
    elif chosen.needs_v:
        raise BadInput(f"method {chosen.name!r} selects by the values too; pass v, which is like k")
    values = chosen.resolve(make_settings(chosen, settings), layout)
    for name in chosen.per_head:
        _check_per_head(name, getattr(values, name), q.shape[1])
    return chosen, values, Call(layout, layer, step, state, params, v if chosen.needs_v else None)


def _check_per_head(name: str, value: object, heads: int) -> None:
    if isinstance(value, tuple) and len(value) != heads:
        raise BadInput(
            f"{name} has {len(value)} numbers and q has {heads} heads; give one number, or one for each head"
        )


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
