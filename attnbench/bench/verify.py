"""Verification before timing: no latency without a match with the oracle.

There are three checks. On the tensors that are timed, 64 query rows of each head are compared with float64 attention
over exactly the keys that the plan keeps. Where each query picks blocks, every pair is also compared with the same
method's plan in float64. On a small twin of the cell, as ragged as the cell, every row (and dq, dk, dv) is compared
with the fully masked oracle.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench import api
from attnbench.bench import oracle
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.methods import Method

ROWS = 64

LARGEST_TOLERANCE = 0.1
"""Where rounding alone explains more than this, a match would prove nothing."""


LARGEST_SELECTION_DIFFERENCE = 1e-5
"""The share of the (video token, block) pairs that rounding may decide otherwise."""

LEAST_SELECTION_DIFFERENCE = 2
"""Pairs that may differ in a cell of any size: at a near tie, rounding exchanges one pair for another."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """Errors of the sampled rows.

    Attributes:
        error: relative L2 against the plan in float64, of the head that is worst against its tolerance.
        tolerance: what rounding in this dtype explains, of the same head.
        approximation: relative L2 against full attention, all heads together.
        cosine: mean cosine of a row's output and its full attention.
        recall: mean share of full attention's weight on the kept pairs.
    """

    error: float
    tolerance: float
    approximation: float
    cosine: float
    recall: float

    @property
    def vacuous(self) -> str | None:
        """Why a match proves nothing here, or None."""
        if self.tolerance <= LARGEST_TOLERANCE:
            return None
        return (
            f"cannot be verified: on these inputs rounding explains errors of {self.tolerance:.2g}, above "
            f"{LARGEST_TOLERANCE:g} (relative L2); scores are too large for the dtype, or the output is 0"
        )

    @property
    def problem(self) -> str | None:
        """Why the output is wrong, or None. NaN never passes."""
        if self.error <= self.tolerance:
            return None
        return (
            f"sampled rows differ from the exact attention of the plan by {self.error:.2g} (relative L2); "
            f"rounding explains {self.tolerance:.2g}"
        )


def sample_rows(tokens: int, seed: int, count: int = ROWS) -> Tensor:
    """Return up to ``count`` query tokens, one drawn at random from each of as many equal stretches of the sequence."""
    if tokens <= count:
        return torch.arange(tokens)
    generator = torch.Generator().manual_seed(seed)
    edges = torch.arange(count + 1) * tokens // count
    return edges[:-1] + (torch.rand(count, generator=generator, dtype=torch.float64) * edges.diff()).long()


def check_rows(
    q: Tensor, k: Tensor, v: Tensor, output: Tensor, plan: Plan, scale: float, seed: int, *, finishes: bool = False
) -> RowCheck:
    """Compare sampled rows of ``output`` [B, H, N, D] with float64 attention over the plan's keys, and with full
    attention.

    With ``finishes`` the method adds a branch of its own to the output. Only the twin, which runs without it, can be
    compared with the plan then, and the error is 0.
    """
    rounding = oracle.Rounding.of(q.dtype)
    group = q.shape[1] // k.shape[1]
    worst, exact_all, full_all, recalls = (-1.0, 0.0, 1.0), [], [], []
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            rows = sample_rows(q.shape[2], seed + 7919 * (b * q.shape[1] + h)).to(q.device)
            keys, values = k[b, h // group], v[b, h // group]
            mask = plan.key_mask_of(b, h, rows)
            sparse = oracle.attend(q[b, h, rows], keys, values, mask, scale, rounding)
            full = oracle.attend(q[b, h, rows], keys, values, None, scale, rounding)
            got = output[b, h, rows].double()
            error, tolerance = float(sparse.output.error(got)), float(sparse.output.tolerance())
            ratio = error / tolerance if error == error else float("inf")
            worst = max(worst, (ratio, error, tolerance))
            exact_all.append(got if finishes else sparse.output.value)
            full_all.append(full.output.value)
            recalls.append((full.weights * mask).sum(-1).mean())
    sparse_rows, full_rows = torch.stack(exact_all), torch.stack(full_all)
    approximation = (sparse_rows - full_rows).norm() / full_rows.norm().clamp(min=1e-300)
    cosine = torch.nn.functional.cosine_similarity(sparse_rows, full_rows, dim=-1).mean()
    _, error, tolerance = (0.0, 0.0, 1.0) if finishes else worst
    return RowCheck(error, tolerance, float(approximation), float(cosine), float(torch.stack(recalls).mean()))


@dataclass(frozen=True, slots=True)
class SelectionCheck:
    """How far a routed plan is from the same method's plan in float64.

    Attributes:
        differing: (query token, key block) pairs that one of the two keeps and the other does not, of all heads.
        pairs: pairs of a video token and a block, of all heads.
    """

    differing: int
    pairs: int

    @property
    def problem(self) -> str | None:
        """Why the selection is wrong, or None."""
        allowed = max(LEAST_SELECTION_DIFFERENCE, int(LARGEST_SELECTION_DIFFERENCE * self.pairs))
        if self.differing <= allowed:
            return None
        return (
            f"the selection differs from the rule in float64 in {self.differing:,} of {self.pairs:,} pairs; rounding "
            f"explains {allowed:,}"
        )


def check_selection(q: Tensor, k: Tensor, plan: Plan, arguments: dict[str, Any]) -> SelectionCheck | None:
    """Compare a routed plan with the plan that the same method makes of the same values in float64.

    This plans one head of one batch item at a time, to save memory. So a method that selects for a head by what is in
    another one will differ.

    Args:
        q: [B, H, N, D].
        k: [B, KV heads, N, D].
        plan: made from them.
        arguments: the keyword arguments of ``select`` that made it.

    Returns:
        None for a plan that is not routed, or whose blocks differ from those of the plan in float64.
    """
    if not isinstance(plan.pattern, RoutedPattern):
        return None
    group, differing = q.shape[1] // k.shape[1], 0
    for b in range(plan.batch):
        for h in range(plan.heads):
            kv = h // group
            exact = api.select(q[b : b + 1, h : h + 1].double(), k[b : b + 1, kv : kv + 1].double(), **arguments)
            if not same_blocks(plan, exact, b, h):
                return None
            differing += int((plan.keep_of(b, h) ^ exact.keep_of(0, 0)).sum())
    blocks = plan.pattern.keep.shape[3]
    return SelectionCheck(differing, plan.batch * plan.heads * plan.layout.grid.tokens * blocks)


def same_blocks(plan: Plan, exact: Plan, b: int, h: int) -> bool:
    """Whether one head's keys are cut into the same blocks by both plans, and its queries in the same order."""
    if not torch.equal(plan.pattern.k_offsets, exact.pattern.k_offsets):
        return False
    for side in ("q", "k"):
        mine, other = plan.order_of(side, b, h), exact.order_of(side, 0, 0)
        if (mine is None) != (other is None):
            return False
        if mine is not None and other is not None and not torch.equal(mine, other):
            return False
    return True


@dataclass(frozen=True, slots=True)
class TwinCheck:
    """Errors of the small twin over their tolerances, by tensor."""

    ratios: dict[str, float]
    layout: Layout

    @property
    def worst(self) -> float:
        """The largest ratio; above 1, or NaN, is a defect."""
        values = list(self.ratios.values())
        return float("nan") if any(value != value for value in values) else max(values)

    @property
    def problem(self) -> str | None:
        """Why the engine is wrong, or None."""
        bad = [f"{name} by {ratio:.3g} times" for name, ratio in self.ratios.items() if not ratio <= 1]
        if not bad:
            return None
        return f"on a twin of grid {self.layout.grid} errors exceed what rounding explains: {', '.join(bad)}"


@dataclass(frozen=True, slots=True)
class TwinSpec:
    """What the twin has in common with its cell."""

    method: Method
    settings: Any
    layout: Layout
    layer: int
    step: int | None
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    engine: str
    backward: bool
    seed: int


def twin_case(method: Method, settings: Any, layout: Layout, layer: int) -> tuple[Any, Layout]:
    """Return the settings and layout of the twin: the method's own, or its settings on a small part of the grid."""
    if method.twin is not None:
        return method.twin(settings, layout, layer)
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (5, 9, 13), strict=True))
    small = Layout(Grid(t, h, w), layout.few_text)
    return method.resolve(settings, small), small


def twin_tensors(spec: TwinSpec) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """Return the keyword arguments of ``attention`` for the twin, and its q, k, v."""
    settings, layout = twin_case(spec.method, spec.settings, spec.layout, spec.layer)
    kv_heads = min(spec.kv_heads, 2)
    heads = kv_heads * (spec.heads // spec.kv_heads)
    generator = torch.Generator().manual_seed(spec.seed)

    def draw(count: int) -> Tensor:
        x = torch.randn(min(spec.batch, 2), count, layout.tokens, spec.head_dim, generator=generator)
        return x.to(spec.device, spec.dtype)

    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    arguments = {
        "method": dataclasses.replace(spec.method, finish=None),
        "grid": layout.grid,
        "text": layout.text,
        "layer": spec.layer,
        "step": spec.step,
        **fields,
    }
    return arguments, draw(heads), draw(kv_heads), draw(kv_heads)


def check_twin(spec: TwinSpec) -> TwinCheck:
    """Run the cell's engine on the twin and compare every row with the masked oracle, and the gradients if asked."""
    arguments, q, k, v = twin_tensors(spec)
    rounding = oracle.Rounding.of(spec.dtype)
    scale = spec.head_dim**-0.5
    mask = api.select(q, k, **arguments).token_mask()
    leaves = [x.clone().requires_grad_(spec.backward) for x in (q, k, v)]
    output = api.attention(*leaves, **arguments, engine=spec.engine)
    assert isinstance(output, Tensor)
    group = q.shape[1] // k.shape[1]
    k_wide, v_wide = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    exact = {"output": oracle.attend(q, k_wide, v_wide, mask, scale, rounding).output}
    got = {"output": output.detach()}
    if spec.backward:
        d_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(spec.seed + 1))
        d_output = d_output.to(output.device, output.dtype)
        output.backward(d_output)
        wanted = oracle.gradients(q, k_wide, v_wide, d_output, mask, scale, rounding)
        exact |= {"dq": wanted.dq, "dk": _sum_groups(wanted.dk, group), "dv": _sum_groups(wanted.dv, group)}
        got |= {name: x.grad for name, x in zip(("dq", "dk", "dv"), leaves, strict=True) if x.grad is not None}
    ratios = {}
    for name, value in exact.items():
        error = value.error(got[name]) if name in got else torch.tensor(float("nan"))
        ratio = error / value.tolerance()
        ratios[name] = float("nan") if bool(ratio.isnan().any()) else float(ratio.max())
    return TwinCheck(ratios, arguments_layout(arguments))


def arguments_layout(arguments: dict[str, Any]) -> Layout:
    """Return the layout that keyword arguments of ``attention`` describe."""
    return Layout(arguments["grid"], arguments["text"])


def _sum_groups(exact: oracle.Exact, group: int) -> oracle.Exact:
    """Add up the gradients of the query heads that share a KV head."""
    value = exact.value.unflatten(1, (-1, group)).sum(2)
    return oracle.Exact(value, exact.variance.unflatten(1, (-1, group)).sum(2))
