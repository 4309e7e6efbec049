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
from attnbench.bench.states import warmed_up
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.plan import Plan
from attnbench.methods import Method
from attnbench.methods.per_head import settings_of_heads

Rows = dict[tuple[int, int], Tensor]
"""Something of some query rows, by (batch item, head)."""

ROWS = 64

LARGEST_TOLERANCE = 0.1
"""Where rounding alone explains more than this, a match would prove nothing."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """Errors of the sampled rows.

    Attributes:
        error: relative L2 against the plan in float64, of the head that is worst against its tolerance.
        tolerance: what rounding in this dtype explains, of the same head; 0 if no sampled row keeps a key.
        approximation: relative L2 against full attention, all heads together.
        cosine: mean cosine of a row's output and its full attention.
        lse_error: of the worst log-sum-exp, over what rounding explains; 0 where the engine computes none.
    """

    error: float
    tolerance: float
    approximation: float
    cosine: float
    lse_error: float = 0.0

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
            if self.lse_error <= 1:
                return None
            return f"the log-sum-exp of sampled rows is off by {self.lse_error:.3g} times what rounding explains"
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
    q: Tensor, k: Tensor, v: Tensor, output: Tensor, plan: Plan, scale: float, seed: int, *,
    final: Tensor | None = None, lse: Tensor | None = None,
) -> RowCheck:  # fmt: skip
    """Compare sampled rows of ``output`` with float64 attention over the plan's keys, and with full attention.

    Args:
        q: [B, H, N, D]. k, v: [B, KV heads, N, D].
        output: of the plan, [B, H, N, D].
        plan: what was run.
        scale: factor of the scores.
        seed: of the sample.
        final: what the method made of ``output`` with a branch of its own, which is what approximates full attention.
        lse: the log-sum-exp of ``output`` [B, H, N], where the engine computes one.
    """
    rounding = oracle.Rounding.of(q.dtype)
    group = q.shape[1] // k.shape[1]
    worst, lse_errors, exact_all, full_all = (-1.0, 0.0, 1.0), [0.0], [], []
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            rows = sample_rows(q.shape[2], seed + 7919 * (b * q.shape[1] + h)).to(q.device)
            keys, values = k[b, h // group], v[b, h // group]
            mask = plan.key_mask_of(b, h, rows)
            sparse = oracle.attend(q[b, h, rows], keys, values, mask, scale, rounding)
            full = oracle.attend(q[b, h, rows], keys, values, None, scale, rounding)
            got = output[b, h, rows]
            worst = max(worst, _against(sparse.output, got) if bool(mask.any()) else _against_nothing(got))
            if lse is not None:
                lse_errors.append(oracle.lse_error(sparse.lse, lse[b, h, rows], q[b, h, rows], keys, scale, rounding))
            exact_all.append(sparse.output.value if final is None else final[b, h, rows].double())
            full_all.append(full.output.value)
    sparse_rows, full_rows = torch.stack(exact_all), torch.stack(full_all)
    approximation = (sparse_rows - full_rows).norm() / full_rows.norm().clamp(min=1e-300)
    cosine = torch.nn.functional.cosine_similarity(sparse_rows, full_rows, dim=-1).mean()
    _, error, tolerance = worst
    off = max(x if x == x else float("inf") for x in lse_errors)
    return RowCheck(error, tolerance, float(approximation), float(cosine), off)


def _against(exact: oracle.Exact, got: Tensor) -> tuple[float, float, float]:
    """Return error over tolerance (infinite for NaN), error and tolerance of some rows."""
    error, tolerance = float(exact.error(got)), float(exact.tolerance())
    return (error / tolerance if error == error else float("inf")), error, tolerance


def _against_nothing(got: Tensor) -> tuple[float, float, float]:
    """Return the same of rows that keep no key: they must be 0, and there is nothing to round."""
    return (float("inf"), float("inf"), 0.0) if bool(got.any()) else (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class RowSample:
    """Some query rows of every head, and exact attention for them: what timed calls are compared with.

    Attributes:
        rows: int64 tokens by (batch item, head).
        exact: float64 attention over the plan's keys, by (batch item, head).
    """

    rows: Rows
    exact: dict[tuple[int, int], oracle.Exact]

    @classmethod
    def of(
        cls, rows: dict[tuple[int, int], Tensor], q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float
    ) -> RowSample:
        """Compute the rows exactly; arguments as of ``check_rows``."""
        rounding, group = oracle.Rounding.of(q.dtype), q.shape[1] // k.shape[1]
        exact = {
            (b, h): oracle.attend(
                q[b, h, chosen], k[b, h // group], v[b, h // group], plan.key_mask_of(b, h, chosen), scale, rounding
            ).output
            for (b, h), chosen in rows.items()
        }
        return cls(rows, exact)

    def problem(self, taken: Rows, of: str = "a timed call") -> str:
        """Return why the rows that a call gave are wrong, and of what they are; empty if they are right."""
        _, error, tolerance = max(_against(exact, taken[place]) for place, exact in self.exact.items())
        if error <= tolerance:
            return ""
        return (
            f"sampled rows of {of} differ from the exact attention of its plan by {error:.2g} (relative L2); "
            f"rounding explains {tolerance:.2g}"
        )


def choose_rows(batch: int, heads: int, tokens: int, seed: int, device: torch.device) -> Rows:
    """Return sampled query tokens of every head."""
    return {
        (b, h): sample_rows(tokens, seed + 7919 * (b * heads + h)).to(device)
        for b in range(batch)
        for h in range(heads)
    }


def rows_of(output: Tensor, rows: Rows) -> Rows:
    """Return some rows of a tensor [B, H, N, D], as they are now."""
    return {(b, h): output[b, h, chosen] for (b, h), chosen in rows.items()}


def apart(wanted: Rows, taken: Rows) -> float:
    """Return how far rows are from others (relative L2), of the head where it is most; infinite where one is NaN."""
    far = [
        float((taken[place].double() - rows.double()).norm() / rows.double().norm().clamp(min=1e-150))
        for place, rows in wanted.items()
    ]
    return max(x if x == x else float("inf") for x in far)


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
        **settings_of_heads(spec.method, fields, slice(0, heads)),
    }
    q, k, v = draw(heads), draw(kv_heads), draw(kv_heads)
    if (cycle := spec.method.cycle_of(settings, spec.layer)) is not None:
        with torch.no_grad():
            state = warmed_up(spec.method, cycle, arguments, q, k, v, "auto")
        arguments |= {"step": cycle.steady, "state": state}
    return arguments, q, k, v


def check_twin(spec: TwinSpec) -> TwinCheck:
    """Run the cell's engine on the twin and compare every row with the masked oracle, and the gradients if asked."""
    arguments, q, k, v = twin_tensors(spec)
    rounding = oracle.Rounding.of(spec.dtype)
    scale = spec.head_dim**-0.5
    mask = api.select(q, k, v=v, **arguments).token_mask()
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
