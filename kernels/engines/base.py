"""The definition of an engine: a name, what it supports, and a function that runs a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from attnbench.kernels.plan import Plan
from attnbench.kernels.told import in_one_line


@dataclass(frozen=True, slots=True)
class Task:
    """The properties of a call on which an engine's support depends.

    Attributes:
        device, dtype, head_dim: those of q, k and v.
        heads, kv_heads: of q; of k and v.
        needs_grad: whether gradients will be asked for.
        return_lse: whether the log-sum-exp is.
        shard: whether only some queries keep pairs, those of a rank.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    heads: int
    kv_heads: int
    needs_grad: bool
    return_lse: bool
    shard: bool = False

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, *, return_lse: bool = False, shard: bool = False) -> Task:
        """Read the task from the tensors."""
        needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        return cls(q.device, q.dtype, q.shape[3], q.shape[1], k.shape[1], needs_grad, return_lse, shard)


@cache  # "auto" asks at each call, and comparing versions takes 30 µs
def is_older(version: str, least: str) -> bool:
    """Return whether a package's version is older than the one that is needed."""
    return TorchVersion(version) < least


@cache
def import_problem(load: Callable[[], object]) -> str | None:
    """Import what an engine needs, and return why that fails, in words that follow "engine x", or None.

    The answer stays the same for the process.
    """
    try:
        load()
    except (Exception, SystemExit) as error:
        return f"is installed and cannot be imported: {in_one_line(error)}"
    return None


def same_gradients_problem(task: Task) -> str | None:
    """Return why an engine does not suit that adds up gradients in any order, as words that follow "engine x"."""
    if task.needs_grad and torch.are_deterministic_algorithms_enabled():
        return "gives gradients that differ in rounding from call to call, and torch is set to deterministic algorithms"
    return None


def supports_dtype(task: Task) -> str | None:
    """Support of an engine that runs every floating-point dtype in which torch computes."""
    if task.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        return f"runs float64, float32, bfloat16 and float16, not {task.dtype}"
    return None


@dataclass(frozen=True)
class Engine:
    """Runs plans.

    Attributes:
        name: what users type.
        summary: one line.
        available: returns None if it can be used here, otherwise why not and how to get it.
        version: returns the version that runs, for the results.
        supports: returns None if it can serve the plan and task, otherwise why not, in words that follow "engine x".
        attend: (q, k, v, plan, scale, return_lse) -> (output [B, H, N, D] in grid order, log-sum-exp [B, H, N], float32
            or for float64 inputs float64, or None). It may be returned unasked.
        executed_pairs: how many pairs it computes for a plan, including those that it discards.
        dense: whether it is a candidate for the dense baseline.
        unsuitable: returns why "auto" should skip it for a plan that it supports, in words that follow "engine x", or
            None. Every call of "auto" asks this before ``supports``.
        tested: whether it was ever run and checked. "auto" and the search for the dense baseline skip engines that were
            not.
        traceable: whether torch.compile can take it into a graph. Other engines loop over values that they read from
            tensors, or compile kernels themselves.
        bands: whether it runs patterns with a band. For the others, ``supports`` is not asked.
        own_offsets: whether it runs patterns whose heads have blocks of their own; likewise.
        rectangular: whether it runs full attention also for fewer queries than keys.
        load: imports what calls need, where that takes long or may fail; it does not touch a GPU. If it raises, "auto"
            passes by the engine, and by name it is refused.
    """

    name: str
    summary: str
    available: Callable[[], str | None]
    version: Callable[[], str]
    supports: Callable[[Plan, Task], str | None]
    attend: Callable[[Tensor, Tensor, Tensor, Plan, float, bool], tuple[Tensor, Tensor | None]]
    executed_pairs: Callable[[Plan], int]
    dense: bool
    unsuitable: Callable[[Plan, Task], str | None] = lambda plan, task: None
    tested: bool = False
    traceable: bool = False
    bands: bool = False
    own_offsets: bool = False
    rectangular: bool = False
    load: Callable[[], object] = lambda: None

    def cannot(self, plan: Plan) -> str | None:
        """Return None if the engine runs patterns of the plan's kind, otherwise why not."""
        if plan.pattern.band is not None and not self.bands:
            return "runs no band on arranged positions"
        if plan.pattern.has_own_offsets and not self.own_offsets:
            return "runs blocks that all heads share only, not those of single heads"
        return None

    def lacks(self, plan: Plan, task: Task) -> str | None:
        """Return None if the engine can serve the plan and task, otherwise why not."""
        return self.cannot(plan) or self.supports(plan, task)
