"""Gradients at full size: dq of sampled queries, dk and dv of sampled keys, by the very kernels that are timed.

dq needs nothing but the query's own row. dk and dv need the log-sum-exp and the row sum delta of every query: computed
in float64, chunk by chunk, where that takes less than a minute, and otherwise taken from the engine, whose own samples
have passed by then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attnbench.bench import oracle
from attnbench.bench.branch import Branch
from attnbench.bench.verify import sample_rows
from attnbench.kernels.plan import Plan
from attnbench.machine.clock import CLOCK

LIMIT = 60.0
"""Seconds that float64 may take for the rows of all queries, if the engine has them."""

REST_SLACK = 2.0
"""Factor of the tolerance of dq beside the mean of the keys. torch's kernel for CPUs reaches .7 of that tolerance."""

CHUNK_PAIRS = 2**25
"""Pairs whose scores are in memory at once: 256 MiB."""

Where = Literal["float64", "engine"]


@dataclass(frozen=True, eq=False)
class Passed:
    """What a training call was given and what came of it: q, k, v, d_output and output, LSE and gradients.

    All are [B, H or KV heads, N, D]; ``lse`` is [B, H, N], or None where the engine computes none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    d_output: Tensor
    output: Tensor
    lse: Tensor | None
    dq: Tensor
    dk: Tensor
    dv: Tensor

    def before(self, branch: Branch) -> Passed:
        """Return what attention itself was given and gave, where a branch came after it: float64 tells how the branch
        passes its gradient on.
        """
        leaves = [x.double().requires_grad_() for x in (self.q, self.k, self.v, self.output)]
        with torch.enable_grad():
            final = branch(*leaves)
        past = torch.autograd.grad(final, leaves, self.d_output.double(), allow_unused=True)
        dq, dk, dv = (
            whole if own is None else whole.double() - own
            for whole, own in zip((self.dq, self.dk, self.dv), past[:3], strict=True)
        )
        inner = torch.zeros_like(leaves[3]) if past[3] is None else past[3]
        return replace(self, d_output=inner, dq=dq, dk=dk, dv=dv)


@dataclass(frozen=True, slots=True)
class GradientCheck:
    """Errors of sampled gradients over their tolerances.

    Attributes:
        ratios: by tensor, of the worst head; above 1, or NaN, is a defect.
        tolerances: by tensor, the largest relative L2 error that rounding explains in a head.
        checked: where the log-sum-exp and row sums of the keys' gradients come from.
    """

    ratios: dict[str, float]
    tolerances: dict[str, float]
    checked: Where

    @property
    def problem(self) -> str | None:
        """Why they are wrong, or None."""
        bad = [f"{name} by {ratio:.3g} times" for name, ratio in self.ratios.items() if not ratio <= 1]
        return f"at full size errors exceed what rounding explains: {', '.join(bad)}" if bad else None


def check_gradients(
    passed: Passed,
    plan: Plan,
    scale: float,
    seed: int,
    *,
    slack: float = 1.0,
    limit: float = LIMIT,
    needs_keys: bool = True,
) -> GradientCheck:
    """Compare the gradients of 64 queries and of 64 keys of each head with float64.

    Args:
        passed: the call.
        plan: what it ran.
        scale: factor of the scores.
        seed: of the samples.
        slack: factor of the tolerances, where ``d_output`` itself has been rounded.
        limit: seconds for the rows of all queries in float64. An engine that gives no log-sum-exp leaves no choice.
        needs_keys: whether dk and dv are checked also if that takes longer, for want of a log-sum-exp.
    """
    rounding = oracle.Rounding.of(passed.q.dtype)
    q, k, v = passed.q, passed.k, passed.v
    batch, heads, n, _ = q.shape
    group, worst = heads // k.shape[1], _Worst(slack)
    for b in range(batch):
        for h in range(heads):
            rows = sample_rows(n, seed + 104729 * (b * heads + h)).to(q.device)
            dq = oracle.query_gradients(
                q[b, h, rows], k[b, h // group], v[b, h // group], passed.d_output[b, h, rows],
                plan.key_mask_of(b, h, rows), scale, rounding,
            )  # fmt: skip
            got = passed.dq[b, h, rows]
            worst.note("dq", dq.whole, got)
            worst.note_ratio("dq", dq.rest, dq.rest_of(got), REST_SLACK)
    sums, checked = _row_sums(passed, plan, scale, limit, needs_keys)
    for b in range(batch if sums else 0):
        for kv in range(k.shape[1]):
            keys = sample_rows(n, seed + 15485863 * (b * k.shape[1] + kv + 1)).to(q.device)
            parts = [
                oracle.key_gradients(
                    q[b, h], k[b, kv], v[b, kv], keys, passed.d_output[b, h], sums[b, h],
                    plan.pair_mask_of(b, h, keys), scale, rounding,
                )
                for h in range(kv * group, (kv + 1) * group)
            ]  # fmt: skip
            for name, exacts, got in (
                ("dk", [dk for dk, _ in parts], passed.dk), ("dv", [dv for _, dv in parts], passed.dv)
            ):  # fmt: skip
                value = torch.stack([each.value for each in exacts]).sum(0)
                variance = torch.stack([each.variance for each in exacts]).sum(0)
                worst.note(name, oracle.Exact(value, variance), got[b, kv, keys])
    return GradientCheck(worst.ratios, worst.tolerances, checked)


class _Worst:
    """The largest error over its tolerance, by tensor; NaN stays."""

    def __init__(self, slack: float) -> None:
        self.slack = slack
        self.ratios: dict[str, float] = {}
        self.tolerances: dict[str, float] = {}

    def note(self, name: str, exact: oracle.Exact, got: Tensor) -> None:
        tolerance = float(exact.tolerance()) * self.slack
        self.tolerances[name] = max(tolerance, self.tolerances.get(name, 0.0))
        self.note_ratio(name, exact, got)

    def note_ratio(self, name: str, exact: oracle.Exact, got: Tensor, slack: float = 1.0) -> None:
        """Note the error of a part of a tensor, whose tolerance is not that of the whole."""
        ratio = float(exact.error(got)) / (float(exact.tolerance()) * self.slack * slack)
        before = self.ratios.get(name, 0.0)
        self.ratios[name] = ratio if ratio != ratio or ratio > before else before


def _row_sums(
    passed: Passed, plan: Plan, scale: float, limit: float, needed: bool
) -> tuple[dict[tuple[int, int], oracle.RowSums], Where]:
    """Return the row sums of every head: in float64, or the engine's where that would take too long.

    Without the engine's there are none then, unless they are needed.
    """
    started, batch, heads = CLOCK.now(), *passed.q.shape[:2]
    made: dict[tuple[int, int], oracle.RowSums] = {}
    n = passed.q.shape[2]
    chunks = torch.arange(n, device=passed.q.device).split(max(1, CHUNK_PAIRS // n))
    total, done = batch * heads * len(chunks), 0
    for b in range(batch):
        for h in range(heads):
            parts = []
            for rows in chunks:
                parts.append(_exact_sums(passed, plan, scale, b, h, rows))
                done += 1
                if (passed.lse is not None or not needed) and done in (1, 4):
                    if passed.q.is_cuda:
                        torch.cuda.synchronize(passed.q.device)
                    if (CLOCK.since(started)) / done * total > limit:
                        return ({} if passed.lse is None else _engine_sums(passed)), "engine"
            made[b, h] = oracle.RowSums(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return made, "float64"


def _exact_sums(
    passed: Passed, plan: Plan, scale: float, b: int, h: int, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    kv = h // (passed.q.shape[1] // passed.k.shape[1])
    # In place: on a GPU this is most of what verifying gradients takes, and bound by memory.
    scores = (scale * passed.q[b, h, rows].double()) @ passed.k[b, kv].double().T
    scores.masked_fill_(~plan.key_mask_of(b, h, rows), -torch.inf)
    most = scores.amax(-1, keepdim=True).nan_to_num_(neginf=0.0)
    weights = scores.sub_(most).exp_()
    total = weights.sum(-1, keepdim=True)
    lse = (most + total.log()).squeeze(-1)
    output = weights @ passed.v[b, kv].double() / total.masked_fill(total == 0, 1.0)
    d_output = passed.d_output[b, h, rows].double()
    return lse, (d_output * output).sum(-1), (d_output.square() * output.square()).sum(-1)


def _engine_sums(passed: Passed) -> dict[tuple[int, int], oracle.RowSums]:
    assert passed.lse is not None
    sums = {}
    for b in range(passed.q.shape[0]):
        for h in range(passed.q.shape[1]):
            d_output, output = passed.d_output[b, h].double(), passed.output[b, h].double()
            delta, spread = (d_output * output).sum(-1), (d_output.square() * output.square()).sum(-1)
            sums[b, h] = oracle.RowSums(passed.lse[b, h].double(), delta, spread)
    return sums
