"""Run one attention call of one process: plan, attend, and what the method adds."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.engines import Task, between_graphs, choose_engine, get_engine
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan
from attnbench.kernels.shard import only_queries
from attnbench.kernels.witness import attended
from attnbench.methods.base import BranchCall, Call, Finished, Method
from attnbench.methods.planning import make_plan


@dataclass(frozen=True, eq=False, slots=True)
class Ran:
    """What a call gave.

    Attributes:
        output: [B, H, N, D].
        lse: the log-sum-exp [B, H, N], where it was asked for; perhaps elsewhere.
        plan: what ran. ``plan.state`` is the next state.
    """

    output: Tensor
    lse: Tensor | None
    plan: Plan


def run(
    method: Method, settings: Any, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float, engine: str, *,
    return_lse: bool = False, plan: Plan | None = None,
) -> Ran:  # fmt: skip
    """Attend to the pairs that a method keeps.

    Args:
        method: what plans.
        settings: its resolved settings.
        q: [B, H, N, D]; with ``call.shard``, the queries that it has.
        k, v: [B, KV heads, N, D].
        call: the rest of the call, v left out unless the method needs it.
        scale: factor of the scores.
        engine: who runs the plan, or "auto".
        return_lse: whether the log-sum-exp is needed.
        plan: of this call, if it is made already.

    Raises:
        Unsupported: if the engine cannot serve the plan.
    """
    plan = make_plan_of(method, settings, q, k, call) if plan is None else plan
    if call.shard is not None:
        return _run_shard(plan, q, k, v, call, scale, engine, return_lse)
    finishes = method.finishes(settings, call)
    output, lse = _attend(q, k, v, plan, scale, engine, return_lse or (finishes and method.needs_lse))
    if finishes:
        assert method.finish is not None

        def again(other: Plan) -> tuple[Tensor, Tensor]:
            who = _who_attends_again(engine, other, Task.of(q, k, v, return_lse=True))
            more, more_lse = _attend(q, k, v, other, scale, who, True)
            assert more_lse is not None
            return more, more_lse

        fields = (call.layout, call.layer, call.step, call.state, call.params, call.v, call.shard)
        with phase("branch"):
            found = method.finish(settings, BranchCall(*fields, plan, scale, lse, again), q, k, v, output)
        output = found.output if isinstance(found, Finished) else found
        if isinstance(found, Finished):
            plan = dataclasses.replace(plan, state=found.state)
    return Ran(output, lse, plan)


def _who_attends_again(engine: str, plan: Plan, task: Task) -> str:
    """Return the engine of a call if it can serve the other plan too, otherwise "auto".

    That of a full plan may run nothing else, or give no log-sum-exp.
    """
    return engine if engine == "auto" or get_engine(engine).lacks(plan, task) is None else "auto"


def make_plan_of(method: Method, settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Plan without gradients, and without autocast: in bfloat16 scores would select other blocks."""
    with torch.no_grad(), _without_autocast(q), phase("select"):
        return make_plan(method, settings, q, k, call)


def _without_autocast(q: Tensor) -> AbstractContextManager[Any]:
    # Entering and leaving autocast takes some microseconds.
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(q.device.type):
        return torch.autocast(q.device.type, enabled=False)
    return nullcontext()


def _run_shard(
    plan: Plan, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float, engine: str, return_lse: bool
) -> Ran:
    """Attend for the queries of a shard.

    Engines take as many queries as keys, except for full attention, which some run as it is. So the other queries are
    zeros that keep no key: they take memory, and no products.
    """
    shard = call.shard
    assert shard is not None
    part = only_queries(plan, shard.first, shard.stop)
    if plan.pattern.is_full and choose_engine(engine, plan, Task.of(q, k, v, return_lse=return_lse)).rectangular:
        return Ran(*_attend(q, k, v, plan, scale, engine, return_lse, witnessed=False), part)
    q = pad(q, (0, 0, shard.first, k.shape[2] - shard.stop))
    output, lse = _attend(q, k, v, part, scale, engine, return_lse, shard=True)
    mine = slice(shard.first, shard.stop)
    return Ran(output[:, :, mine], None if lse is None else lse[:, :, mine], part)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, engine: str, return_lse: bool, *,
    witnessed: bool = True, shard: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Run a plan on the engine that was asked for."""
    runner = choose_engine(engine, plan, Task.of(q, k, v, return_lse=return_lse, shard=shard))
    run = runner.attend if runner.traceable or not torch.compiler.is_compiling() else between_graphs(runner.name)
    with _without_autocast(q), phase("attend"):
        output, lse = run(q, k, v, plan, scale, return_lse)
    if witnessed:
        attended(runner.name, plan, output, lse)
    return output, lse
