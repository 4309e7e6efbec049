"""Check and time the attention kernels on a GPU, forward and backward, kernel by kernel.

python scripts/bench_kernels.py                 # every case, each in a process of its own that may take 90 s
python scripts/bench_kernels.py routed-72 …     # some cases, here
python scripts/bench_kernels.py --list

Sizes are those of the targets, 12 heads of 128, 55,296 tokens, bfloat16, except in the small cases. Selections are
random with every query's own block, about a fifth kept; block masks are random, a quarter kept. Every case first
compares output, log-sum-exp and gradients of some rows and keys with float64. Times are medians of CUDA events, L2
flushed; TFLOP/s count kept pairs, 4·D a pair forward, 6·D for dQ alone, 8·D for dK and dV, 10·D for a whole backward
pass. The exit code is 1 if a result is wrong.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from bench_selection import milliseconds
from torch import Tensor

HEADS, DIM, TOKENS = 12, 128, 55_296
SECONDS = 90
TOLERANCE = 2e-2
REPEATS = 7
KINDS = ["triton", "gluon"]


@dataclass(frozen=True)
class Problem:
    """Tensors of one case and what the plan keeps."""

    q: Tensor
    k: Tensor
    v: Tensor
    d_output: Tensor
    plan: object

    @property
    def pairs(self) -> int:
        """Kept pairs of all heads."""
        return self.plan.pairs  # type: ignore[attr-defined,no-any-return]


def tensors(batch: int, heads: int, kv_heads: int, n: int, dim: int) -> list[Tensor]:
    random = torch.Generator("cuda").manual_seed(0)
    return [
        torch.randn(batch, h, n, dim, generator=random, device="cuda", dtype=torch.bfloat16)
        for h in (heads, kv_heads, kv_heads, heads)
    ]


def routed(blocks: int, *, n: int = TOKENS, heads: int = HEADS, kv_heads: int = HEADS, dim: int = DIM) -> Problem:
    from attnbench.kernels.grid import Grid, Layout
    from attnbench.kernels.pattern import RoutedPattern
    from attnbench.kernels.plan import Plan

    random = torch.Generator("cuda").manual_seed(1)
    offsets = torch.linspace(0, n, blocks + 1, device="cuda").round().long()
    share = (0.2 - 1 / blocks) / (1 - 1 / blocks)
    keep = torch.rand(1, heads, n, blocks, generator=random, device="cuda") < share
    own = torch.searchsorted(offsets[1:].contiguous(), torch.arange(n, device="cuda"), right=True)
    keep.scatter_(3, own[None, None, :, None].expand(1, heads, n, 1), True)
    order = torch.randperm(n, generator=random, device="cuda")
    plan = Plan(Layout(Grid(1, 1, n)), 1, heads, RoutedPattern(offsets, keep), None, order)
    return Problem(*tensors(1, heads, kv_heads, n, dim), plan)


def masked(
    block: int, density: float, *, n: int = TOKENS, heads: int = HEADS, kv_heads: int = HEADS, dim: int = DIM
) -> Problem:
    from attnbench.kernels.grid import Grid, Layout
    from attnbench.kernels.pattern import BlockPattern
    from attnbench.kernels.plan import Plan

    random = torch.Generator("cuda").manual_seed(1)
    blocks = n // block
    offsets = torch.cat([torch.arange(blocks, device="cuda") * block, torch.tensor([n], device="cuda")])
    kept = round(blocks * density)
    best = torch.rand(1, heads, blocks, blocks, generator=random, device="cuda").argsort(-1)[..., :kept]
    keep = torch.zeros(1, heads, blocks, blocks, dtype=torch.bool, device="cuda").scatter_(3, best, True)
    plan = Plan(Layout(Grid(1, 1, n)), 1, heads, BlockPattern(offsets, offsets, keep))
    return Problem(*tensors(1, heads, kv_heads, n, dim), plan)


def sta(grid: tuple[int, int, int], tile: tuple[int, int, int]) -> Problem:
    from attnbench import select

    q, k, v, d_output = tensors(1, HEADS, HEADS, grid[0] * grid[1] * grid[2], DIM)
    return Problem(q, k, v, d_output, select(q, k, method="sta", grid=grid, tile=tile, window=(3, 3, 3)))


CASES: dict[str, Callable[[], Problem]] = {
    "small-routed": lambda: routed(16, n=16384, heads=2, kv_heads=2),
    "small-ragged": lambda: routed(9, n=5000, heads=4, kv_heads=2),
    "small-routed-64": lambda: routed(9, n=5000, heads=4, kv_heads=2, dim=64),
    "small-blocks": lambda: masked(128, 0.3, n=5000, heads=4, kv_heads=2),
    "routed-72": lambda: routed(72),
    "routed-48": lambda: routed(48),
    "routed-8": lambda: routed(8),
    "blocks-128": lambda: masked(128, 0.25),
    "blocks-64": lambda: masked(64, 0.25),
    "sta": lambda: sta((24, 36, 64), (6, 4, 16)),
    "sta-480p": lambda: sta((21, 30, 52), (6, 8, 8)),
    "sta-720p": lambda: sta((21, 45, 80), (6, 8, 8)),
}


def by_kernel(run: Callable[[], object]) -> list[tuple[str, float, int]]:
    """Return (name, milliseconds, launches) of every kernel of one call, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(3):
            run()
        torch.cuda.synchronize()
    rows = [(e.key, e.self_device_time_total / 3e3, e.count // 3) for e in profiler.key_averages()]
    return sorted((row for row in rows if row[1] > 0.02), key=lambda row: -row[1])


def relative(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y).norm() / y.norm().clamp(min=1e-30))


def exact(problem: Problem, rows: Tensor, head: int, lse: Tensor, delta: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield output, log-sum-exp and dq of some query rows, and dk and dv of the same tokens as keys, in float64."""
    plan = problem.plan
    group = problem.q.shape[1] // problem.k.shape[1]
    q, d_output = problem.q[0, head].double(), problem.d_output[0, head].double()
    k, v = problem.k[0, head // group].double(), problem.v[0, head // group].double()
    scale = q.shape[1] ** -0.5
    kept = plan.key_mask_of(0, head, rows)  # type: ignore[attr-defined]
    s = (q[rows] @ k.T * scale).masked_fill(~kept, -torch.inf)
    p = s.softmax(-1).nan_to_num(0.0)
    output = p @ v
    yield "out", output
    yield "lse", s.logsumexp(-1)
    row_delta = (output * d_output[rows]).sum(-1, keepdim=True)
    yield "dq", (p * (d_output[rows] @ v.T - row_delta)) @ k * scale
    dk, dv = torch.zeros_like(k[rows]), torch.zeros_like(v[rows])
    for other in range(head // group * group, head // group * group + group):
        q, d_output = problem.q[0, other].double(), problem.d_output[0, other].double()
        for queries in torch.arange(len(q), device="cuda").split(4096):
            seen = plan.key_mask_of(0, other, queries)[:, rows]  # type: ignore[attr-defined]
            p = (q[queries] @ k[rows].T * scale - lse[0, other, queries, None].double()).exp().masked_fill(~seen, 0.0)
            dv += p.T @ d_output[queries]
            ds = p * (d_output[queries] @ v[rows].T - delta[0, other, queries, None].double())
            dk += ds.T @ q[queries] * scale
    yield "dk", dk
    yield "dv", dv


def run_case(name: str, kinds: list[str]) -> bool:
    """Check and time one case on kernels of these kinds, print lines of a table, and return whether all are right."""
    from attnbench.kernels.gpu.backward import delta_of
    from attnbench.kernels.gpu.blocked import attend_blocks, backward_blocks
    from attnbench.kernels.gpu.routed import attend_routed
    from attnbench.kernels.gpu.routed_backward import backward_routed
    from attnbench.kernels.pattern import RoutedPattern

    problem = CASES[name]()
    q, k, v, d_output, plan = problem.q, problem.k, problem.v, problem.d_output, problem.plan
    is_routed = isinstance(plan.pattern, RoutedPattern)  # type: ignore[attr-defined]
    attend, backward = (attend_routed, backward_routed) if is_routed else (attend_blocks, backward_blocks)
    scale = q.shape[3] ** -0.5
    flops = 4e-9 * q.shape[3] * problem.pairs
    n = q.shape[2]
    rows = torch.arange(5, n, max(1, n // 40), device="cuda")
    print(f"{name}: {n} tokens, density {problem.pairs / (q.shape[1] * n * n):.3f}", flush=True)
    right = True
    head = q.shape[1] - 1
    for kind in kinds:
        forward = partial(attend, q, k, v, plan, scale, hopper=kind == "gluon")
        (output, lse), peak = with_peak(forward)
        delta = delta_of(output, d_output, None)
        expected = dict(exact(problem, rows, head, lse, delta))
        errors = {"out": relative(output[0, head, rows], expected["out"])}
        errors["lse"] = float((lse[0, head, rows].double() - expected["lse"]).abs().max())
        report(f"{kind} fwd", forward, flops, peak, errors)
        both = partial(backward, q, k, v, plan, scale, output, lse, d_output, None, hopper=kind == "gluon")
        gradients, peak = with_peak(both)
        found = dict(zip(("dq", "dk", "dv"), gradients, strict=True))
        group = q.shape[1] // k.shape[1]
        gradient_errors = {
            which: relative(x[0, head if which == "dq" else head // group, rows], expected[which])
            for which, x in found.items()
        }
        report(f"{kind} bwd", both, 2.5 * flops, peak, gradient_errors)
        right = right and all(error < TOLERANCE for error in (*errors.values(), *gradient_errors.values()))
    return right


def with_peak(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``run`` returns, and the MiB that it allocated at most."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    return result, (torch.cuda.max_memory_allocated() - before) / 2**20


def report(label: str, run: Callable[[], object], flops: float, peak: float, errors: dict[str, float]) -> None:
    """Time a call and print its line, and one for each kernel."""
    ms = milliseconds(run, torch.device("cuda"), REPEATS)
    said = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    print(f"  {label} {ms:.2f} ms {flops / ms:.0f} TFLOP/s, peak {peak:.0f} MiB, {said}")
    for kernel, time, count in by_kernel(run):
        print(f"      {time:7.3f} ms  {count:3d} x  {kernel[:60]}")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[*CASES, []])
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--kernels", choices=KINDS, help="only kernels of one kind")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    if not torch.cuda.is_available():
        print("this needs an NVIDIA GPU; the tests check the kernels in Triton's interpreter", file=sys.stderr)
        return 2
    if options.cases:
        wrong = [name for name in options.cases if not run_case(name, [options.kernels] if options.kernels else KINDS)]
        return 1 if wrong else 0
    failed = []
    only = ["--kernels", options.kernels] if options.kernels else []
    for name in CASES:
        try:
            subprocess.run([sys.executable, __file__, name, *only], check=True, timeout=SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            failed.append(f"{name}: {error}")
    print("\n".join(failed) if failed else "all cases ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
