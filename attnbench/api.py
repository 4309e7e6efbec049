"""The two calls that everything else stands on: ``attention`` and ``select``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.kernels.plan import Plan
from attnbench.methods import Method
from attnbench.methods.arguments import check_gradient, check_tensor, finite, prepare
from attnbench.methods.running import make_plan_of, run

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from attnbench.parallel.balance import Balance


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., group: ProcessGroup | None = ...,
    parallel: str | Balance | None = ..., return_lse: Literal[False] = ...,
    return_plan: Literal[False] = ..., **settings: Any,
) -> Tensor: ...  # fmt: skip


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., group: ProcessGroup | None = ...,
    parallel: str | Balance | None = ..., return_lse: Literal[True],
    return_plan: Literal[False] = ..., **settings: Any,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., group: ProcessGroup | None = ...,
    parallel: str | Balance | None = ..., return_lse: Literal[False] = ...,
    return_plan: Literal[True], **settings: Any,
) -> tuple[Tensor, Plan]: ...  # fmt: skip


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, method: str | Method, grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = ..., scale: float | None = ..., layer: int = ..., step: int | None = ..., state: Any = ...,
    params: Any = ..., engine: str = ..., group: ProcessGroup | None = ...,
    parallel: str | Balance | None = ..., return_lse: Literal[True],
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
    group: ProcessGroup | None = None,
    parallel: str | Balance | None = None,
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
        scale: factor of the scores; default 1/√head_dim. Selections always take 1/√head_dim.
        layer, step: where in the model and in denoising the call stands, for methods that differ by them.
        state: what the method keeps between steps or layers: ``plan.state`` of its last call, which stays as it is.
        params: learned tensors of methods that have them.
        engine: who runs the plan; "auto" takes the first that can. An engine that cannot is an error.
        return_lse: also return the log-sum-exp of each query's kept scores [B, heads, N], float32 or for float64 inputs
            float64. It is that of the plan, without what the method adds.
        return_plan: also return the plan, of which ``plan.state`` is the next state.
        group: processes of torch.distributed that hold the tokens together. Then q, k and v are this rank's shard:
            tokens that follow one another in the order text, video, text, those of rank 0 first; shards may have any
            lengths. ``grid`` and ``text`` are those of the whole sequence, and so are tensors and settings that belong
            to single heads. Every rank of the group makes the same call.
        parallel: what each rank computes: "ulysses", some heads of all tokens; "allgather", its own queries of all
            heads; "ulysses+allgather", some queries of some heads, for more ranks than heads divide. A ``Balance``
            deals heads by what they keep. None is "ulysses". docs/parallel.md has more.
        **settings: the method's settings.

    Returns:
        The output [B, heads, N, head_dim] in grid order and q's dtype; with ``return_lse`` or ``return_plan`` a tuple
        of it, the log-sum-exp and the plan. A query that keeps no key gives -inf, and zeros unless the
        method puts another output there. With ``group``, output and log-sum-exp are those of the rank's tokens, and the
        plan is what the rank computed, with the state of all heads.

    Raises:
        BadInput: for arguments that do not fit each other, or settings that the method does not take.
        Unsupported: if the engine cannot serve the plan, or the method not be computed in parallel.
        RankLost: if another rank of the group ended.
    """
    asked = (q, k, v, method, grid, text, layer, step, state, params, settings)
    if group is not None:
        from attnbench.parallel.attend import in_group

        ran = in_group(asked, group, parallel, scale, engine, return_lse, return_plan)
    elif parallel is not None:
        raise BadInput(f"parallel is {parallel!r} without a group: pass group, the processes that hold the tokens")
    else:
        chosen, values, call = prepare(*asked)
        check_tensor("v", v)
        check_gradient(chosen, q, k, v)
        factor = q.shape[3] ** -0.5 if scale is None else finite(scale)
        ran = run(chosen, values, q, k, v, call, factor, engine, return_lse=return_lse)
    if not return_lse:
        return (ran.output, ran.plan) if return_plan else ran.output
    assert ran.lse is not None
    return (ran.output, ran.lse, ran.plan) if return_plan else (ran.output, ran.lse)


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
    chosen, values, call = prepare(q, k, v, method, grid, text, layer, step, state, params, settings)
    plan = make_plan_of(chosen, values, q, k, call)
    plan.check()
    return plan
