"""The dense baseline: the fastest dense engine on this device whose output is right.

One search serves ``attnbench run`` and whole steps. Small trials first show which engines need no full-size trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench import api
from attnbench.bench.calls import output_of
from attnbench.bench.rounds import interleave
from attnbench.bench.trial import classified, dense_job
from attnbench.kernels.engines import Task, dense_engines, get_engine
from attnbench.kernels.plan import Plan
from attnbench.machine.clock import CLOCK

Qkv = tuple[Tensor, Tensor, Tensor]

SMALL_TRIALS = 5
"""Small trials of every dense engine, in turns; the quickest of each counts."""

SMALL_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Length of a small trial."""

CLOSE = 4.0
"""How many times slower than the fastest a dense engine may be in a small trial to get a full-size one, on CUDA."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A full-size trial of a dense engine: how long it takes, or why it cannot be the baseline."""

    seconds: float = math.inf
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The engine of the dense baseline, None if there is none, and what was wrong with others."""

    engine: str | None
    problems: tuple[str, ...]

    @property
    def complaint(self) -> str:
        """Why there is no baseline."""
        return "; ".join(self.problems) or "no engine runs it here"


def find_dense(
    plan: Plan, task: Task, qkv: Qkv, attempt: Callable[[str], Attempt], chosen: str | None = None,
    confirm: Callable[[str], Attempt] | None = None,
) -> Found:  # fmt: skip
    """Find the fastest dense engine that works.

    Args:
        plan: of full attention.
        task: what the engine has to do.
        qkv: the tensors that will be timed, [B, heads, N, D].
        attempt: tries an engine at full size.
        chosen: the only engine to try, if an earlier part of a run chose it.
        confirm: tries the fastest one more thoroughly, and the next one if that fails; a single engine at once.
    """
    seconds: dict[str, float] = {}
    problems = []
    names = promising_engines(plan, task, qkv) if chosen is None else [chosen]
    alone = len(names) == 1
    for name in names:
        tried = (confirm if alone and confirm is not None else attempt)(name)
        if tried.problem:
            problems.append(f"{name}: {tried.problem}")
        else:
            seconds[name] = tried.seconds
    while seconds and confirm is not None and not alone:
        best = min(seconds, key=seconds.__getitem__)
        if not (problem := confirm(best).problem):
            break
        problems.append(f"{best}: {problem}")
        del seconds[best]
    return Found(min(seconds, key=seconds.__getitem__, default=None), tuple(problems))


def promising_engines(plan: Plan, task: Task, qkv: Qkv) -> list[str]:
    """Return the dense engines worth a full-size trial: on a CPU the fastest of a small one, on CUDA the close ones.

    A full-size dense call takes 10 s and more a head on a CPU, and its engines differ by a factor of two. On CUDA a
    small trial is too rough to choose by, but shows which engines cannot be the fastest.
    """
    usable = [name for name in dense_engines() if get_engine(name).lacks(plan, task) is None]
    if len(usable) < 2:
        return usable
    seconds = _small_trials(usable, qkv, backward=task.needs_grad)
    fastest = min(usable, key=seconds.__getitem__)
    if qkv[0].device.type == "cpu":
        return [fastest]
    return [name for name in usable if name == fastest or seconds[name] <= CLOSE * seconds[fastest]]


def _small_trials(names: Sequence[str], qkv: Qkv, *, backward: bool) -> dict[str, float]:
    """Return the least seconds of each engine on the first tokens; infinity for one that fails there."""
    device = qkv[0].device
    few = SMALL_TOKENS[device.type]
    q, k, v = (x[:, :, :few].detach().requires_grad_(backward) for x in qkv)
    method, grid = dense_job().method, (1, 1, q.shape[2])
    seconds: dict[str, float] = dict.fromkeys(names, math.inf)
    for turn in interleave(names, SMALL_TRIALS):
        with classified() as failure:
            start = CLOCK.now()
            output = output_of(api.attention(q, k, v, method=method, grid=grid, engine=turn.item))
            if backward:
                output.sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[turn.item] = min(seconds[turn.item], CLOCK.since(start))
        if failure.verdict is not None:  # if no other engine is left, its full-size trial will say why
            seconds[turn.item] = math.inf
    return seconds
