"""Check and time the GPU kernels: attention forward and backward, and VMoBA's selection.

python scripts/time_kernels.py                          # everything, each case of attention in a process of its own
python scripts/time_kernels.py attention routed-72 sta  # some cases of attention, in this process
python scripts/time_kernels.py attention --list         # their names
python scripts/time_kernels.py attention blocks-128-.25 --kernels gluon --kernels flash4 --kernels cudnn-bsa
python scripts/time_kernels.py selection --by-kernel    # selection, and every kernel of the 3-D layer at 55,296 tokens
python scripts/time_kernels.py selection --tiny         # a small grid, in Triton's interpreter where there is no GPU

The exit code is 1 if a result is wrong. Times are medians of CUDA events with a flushed L2 cache.

Attention: 12 heads of 128, 55,296 tokens, bfloat16, except in the small cases and on STA's grids. Routes are random and
keep each query's own block, about a fifth of the pairs; block masks are random and keep a quarter, or what the case
says. Output, log-sum-exp and gradients of some rows and keys are first compared with float64. TFLOP/s count kept pairs:
4·D a pair forward and 10·D for a whole backward pass.

Selection: the paper's partitions of its grids. Each layer is checked for pairs that differ from the rule in float64 on
the same inputs and on the same scores, at most 1 in 100,000 each, and for routes that hold exactly the kept pairs.
"graph" is the whole selection, captured and replayed. "bytes" is the time that the necessary traffic alone would take
at 3.0 TB/s: reading q and k, writing the scores and reading them three times, writing the kept pairs and reading them
once, writing the lists.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from attnbench.kernels.plan import Plan

HEADS, DIM, TOKENS = 12, 128, 55_296
SECONDS = 90
TOLERANCE = 2e-2
REPEATS = 7
OURS = ["triton", "gluon"]
ENGINES = ["flash4", "cudnn-bsa"]
DENSITIES = (0.5, 0.25, 0.125, 0.05)

BANDWIDTH = 3.0e12
LIMIT = 1e-5
THRESHOLD = 0.25
TITLES = (
    "grid", "tokens", "blocks", "pool", "score", "cut", "index", "sum", "graph", "bytes", "density", "≠ rule", "≠ cut",
)  # fmt: skip


# What both parts need


def milliseconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median time of ``run`` with a cold L2 cache; the wall time of one run without a GPU."""
    if device.type == "cpu":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    flush = torch.empty(256 * 2**20, dtype=torch.uint8, device=device)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for _ in range(3):
        run()
    for start_event, end_event in events:
        flush.zero_()
        start_event.record()
        run()
        end_event.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events)


def captured(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Capture ``run`` in a CUDA graph."""
    if device.type == "cpu":
        return run
    graph = torch.cuda.CUDAGraph()
    run()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def by_kernel(run: Callable[[], object]) -> list[tuple[str, float, int]]:
    """Return (name, milliseconds, launches) of every kernel of one call, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(3):
            run()
        torch.cuda.synchronize()
    rows = [(e.key, e.self_device_time_total / 3e3, e.count // 3) for e in profiler.key_averages()]
    return sorted((row for row in rows if row[1] > 0.02), key=lambda row: -row[1])


def print_kernels(run: Callable[[], object]) -> None:
    """Print the time of every kernel of one call."""
    for kernel, ms, count in by_kernel(run):
        print(f"      {ms:7.3f} ms  {count:3d} x  {kernel[:60]}")


# Attention


@dataclass(frozen=True)
class Problem:
    """Tensors of one case and what the plan keeps."""

    q: Tensor
    k: Tensor
    v: Tensor
    d_output: Tensor
    plan: Plan

    @property
    def pairs(self) -> int:
        """Kept pairs of all heads."""
        return self.plan.pairs


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
    **{
        f"blocks-{block}-{f'{density:g}'[1:]}": partial(masked, block, density)
        for block in (128, 64)
        for density in DENSITIES
    },
    "sta": lambda: sta((24, 36, 64), (6, 4, 16)),
    "sta-480p": lambda: sta((21, 30, 52), (6, 8, 8)),
    "sta-720p": lambda: sta((21, 45, 80), (6, 8, 8)),
}


def relative(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y).norm() / y.norm().clamp(min=1e-30))


def exact(problem: Problem, rows: Tensor, head: int, lse: Tensor, delta: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield output, log-sum-exp and dq of some query rows, and dk and dv of the same tokens as keys, in float64."""
    plan = problem.plan
    group = problem.q.shape[1] // problem.k.shape[1]
    q, d_output = problem.q[0, head].double(), problem.d_output[0, head].double()
    k, v = problem.k[0, head // group].double(), problem.v[0, head // group].double()
    scale = q.shape[1] ** -0.5
    kept = plan.key_mask_of(0, head, rows)
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
            seen = plan.key_mask_of(0, other, queries)[:, rows]
            p = (q[queries] @ k[rows].T * scale - lse[0, other, queries, None].double()).exp().masked_fill(~seen, 0.0)
            dv += p.T @ d_output[queries]
            ds = p * (d_output[queries] @ v[rows].T - delta[0, other, queries, None].double())
            dk += ds.T @ q[queries] * scale
    yield "dk", dk
    yield "dv", dv


Results = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, ...]


def ours(problem: Problem, kind: str) -> tuple[Callable[[], Results], Callable[[Tensor, Tensor], Gradients]]:
    """Return the forward pass of our kernels, and the backward pass that takes output and log-sum-exp."""
    from attnbench.kernels.gpu.blocked import attend_blocks, backward_blocks
    from attnbench.kernels.gpu.routed import attend_routed
    from attnbench.kernels.gpu.routed_backward import backward_routed
    from attnbench.kernels.pattern import RoutedPattern

    is_routed = isinstance(problem.plan.pattern, RoutedPattern)
    attend, backward = (attend_routed, backward_routed) if is_routed else (attend_blocks, backward_blocks)
    given = (problem.q, problem.k, problem.v, problem.plan, problem.q.shape[3] ** -0.5)
    hopper = kind == "gluon"
    return partial(attend, *given, hopper=hopper), lambda output, lse: backward(
        *given, output, lse, problem.d_output, None, hopper=hopper
    )


def of_engine(problem: Problem, name: str) -> tuple[Callable[[], Results], Callable[[Tensor, Tensor], Gradients]] | str:
    """Return the same of another engine, with all that it does around its kernels, or why it cannot run the case."""
    from attnbench.kernels.engines import Task, get_engine
    from attnbench.kernels.errors import Unsupported

    leaves = [x.detach().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    try:
        engine = get_engine(name)
    except Unsupported as error:
        return str(error)
    task = dataclasses.replace(Task.of(problem.q, problem.k, problem.v), needs_grad=True)
    if reason := engine.supports(problem.plan, task):
        return reason
    scale = problem.q.shape[3] ** -0.5

    @torch.no_grad()
    def forward() -> Results:
        output, lse = engine.attend(problem.q, problem.k, problem.v, problem.plan, scale, True)
        assert lse is not None
        return output, lse

    recorded, _ = engine.attend(*leaves, problem.plan, scale, False)
    return forward, lambda output, lse: torch.autograd.grad(recorded, leaves, problem.d_output, retain_graph=True)


def run_case(name: str, kinds: list[str]) -> bool:
    """Check and time one case on kernels of these kinds, print lines of a table, and return whether all are right."""
    from attnbench.kernels.gpu.backward import delta_of

    problem = CASES[name]()
    q, k, d_output = problem.q, problem.k, problem.d_output
    flops = 4e-9 * q.shape[3] * problem.pairs
    n = q.shape[2]
    rows = torch.arange(5, n, max(1, n // 40), device="cuda")
    print(f"{name}: {n} tokens, density {problem.pairs / (q.shape[1] * n * n):.3f}", flush=True)
    right = True
    head = q.shape[1] - 1
    for kind in kinds:
        found = ours(problem, kind) if kind in OURS else of_engine(problem, kind)
        if isinstance(found, str):
            print(f"  {kind} {found}")
            continue
        forward, backward = found
        (output, lse), peak = with_peak(forward)
        delta = delta_of(output, d_output, None)
        expected = dict(exact(problem, rows, head, lse, delta))
        errors = {"out": relative(output[0, head, rows], expected["out"])}
        errors["lse"] = float((lse[0, head, rows].double() - expected["lse"]).abs().max())
        print_attention(f"{kind} fwd", forward, flops, peak, errors)
        both = partial(backward, output, lse)
        gradients, peak = with_peak(both)
        group = q.shape[1] // k.shape[1]
        gradient_errors = {
            which: relative(x[0, head if which == "dq" else head // group, rows], expected[which])
            for which, x in zip(("dq", "dk", "dv"), gradients, strict=True)
        }
        print_attention(f"{kind} bwd", both, 2.5 * flops, peak, gradient_errors)
        right = right and all(error < TOLERANCE for error in (*errors.values(), *gradient_errors.values()))
    return right


def with_peak(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``run`` returns, and the MiB that it allocated at most."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    return result, (torch.cuda.max_memory_allocated() - before) / 2**20


def print_attention(label: str, run: Callable[[], object], flops: float, peak: float, errors: dict[str, float]) -> None:
    """Time a call and print its line, and one for each kernel."""
    ms = milliseconds(run, torch.device("cuda"), REPEATS)
    said = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    print(f"  {label} {ms:.2f} ms {flops / ms:.0f} TFLOP/s, peak {peak:.0f} MiB, {said}")
    print_kernels(run)
    sys.stdout.flush()


# Selection


@dataclass(frozen=True)
class Selection:
    """What one layer took, in ms, and how many pairs differ: from the rule on the inputs, and on the same scores."""

    grid: str
    tokens: int
    blocks: int
    steps: tuple[float, ...]
    graph: float
    predicted: float
    density: float
    differing: int
    differing_cut: int
    pairs: int
    routed: bool

    @property
    def right(self) -> bool:
        """Whether few enough pairs differ, and the routes are those of the kept pairs."""
        return self.routed and self.differing <= LIMIT * self.pairs and self.differing_cut <= LIMIT * self.pairs

    def cells(self) -> tuple[str, ...]:
        """Return a row of the table."""
        times = (*self.steps, sum(self.steps), self.graph, self.predicted)
        numbers = (f"{self.density:.3f}", f"{self.differing}", f"{self.differing_cut}")
        return (self.grid, f"{self.tokens}", f"{self.blocks}", *(f"{ms:.3f}" for ms in times), *numbers)


def wavy_inputs(shape: tuple[int, int, int], heads: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise on waves over the grid that queries and keys share: q and k bfloat16 [1, heads, N, dim]."""
    random = torch.Generator(device.type).manual_seed(0)
    axes = [torch.arange(side, device=device) / side for side in shape]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    made = []
    for share in (0.8, 0.8):
        waves = torch.randn(heads, 3, dim, generator=torch.Generator(device.type).manual_seed(1), device=device)
        noise = torch.randn(1, heads, len(places), dim, generator=random, device=device)
        made.append((torch.cos(places @ (4.0 * waves)) * share + noise).bfloat16())
    return made[0], made[1]


def rule_in_float64(q: Tensor, k: Tensor, order: Tensor | None, offsets: Tensor, own: Tensor, head: int) -> Tensor:
    """Pool, score and cut one head in float64, bool [N, blocks]."""
    from attnbench.kernels.selection import pool_blocks, score_blocks, threshold_per_head

    q, k = q[:, head : head + 1].double(), k[:, head : head + 1].double()
    return threshold_per_head(score_blocks(q, pool_blocks(k, order, offsets)), own, THRESHOLD)[0, 0]


def routes_hold(keep: Tensor, group: int) -> bool:
    """Whether the routes of groups of blocks hold the kept pairs of ``keep``, and no others."""
    from attnbench.kernels.gpu.routing import build_routes

    routes = build_routes(keep, group)
    count = int(routes.count)
    row, first, pattern, _ = routes.tiles[:count].long().unbind(1)
    queries = routes.queries[: count * routes.tile].view(count, routes.tile).long()
    again = torch.zeros_like(keep).flatten(0, 1)
    for i in range(group):
        chosen = (queries >= 0) & ((pattern >> i) & 1 == 1)[:, None]
        rows, blocks = (x[:, None].expand_as(queries)[chosen] for x in (row, first + i))
        again[rows, queries[chosen], blocks] = True
    entries = int((queries >= 0).sum())
    expected = sum(int(part.any(-1).sum()) for part in keep.split(group, -1))
    return torch.equal(again, keep.flatten(0, 1)) and entries == expected and not int(routes.overflow)


def measure_selection(
    shape: tuple[int, int, int],
    layer: int,
    heads: int,
    dim: int,
    device: torch.device,
    repeats: int,
    list_kernels: bool,
) -> Selection:
    """Check and time the selection of one layer."""
    from attnbench.kernels.gpu.routing import build_routes
    from attnbench.kernels.gpu.selection.cut_heads import cut_threshold_head
    from attnbench.kernels.gpu.selection.pooling import pool_means
    from attnbench.kernels.gpu.selection.scoring import score
    from attnbench.kernels.grid import Grid, Layout
    from attnbench.kernels.partition import partition_cuboids
    from attnbench.kernels.selection import threshold_per_head
    from attnbench.methods.vmoba import VMoBA, cuboid, resolve

    layout = Layout(Grid(*shape))
    partition = resolve(VMoBA(), layout).partition
    assert partition is not None
    cut_up = partition_cuboids(layout, cuboid(partition, layout.grid, layer), device)
    order, offsets, own = cut_up.order, cut_up.offsets, cut_up.block_of_token()
    q, k = wavy_inputs(shape, heads, dim, device)

    def whole() -> Tensor:
        scores, extremes = score(q, pool_means(k, order, offsets))
        keep = cut_threshold_head(scores, own, THRESHOLD, extremes=extremes)
        build_routes(keep)
        return keep

    means = pool_means(k, order, offsets)
    scores, extremes = score(q, means)
    keep = cut_threshold_head(scores, own, THRESHOLD, extremes=extremes)
    differing = differing_cut = 0
    for head in range(heads):
        differing += int((rule_in_float64(q, k, order, offsets, own, head) ^ keep[0, head]).sum())
        same_scores = threshold_per_head(scores[:, head : head + 1].double(), own, THRESHOLD)
        differing_cut += int((same_scores[0, 0] ^ keep[0, head]).sum())
    routed = all(routes_hold(keep, group) for group in (1, 2, 3))
    steps: list[Callable[[], object]] = [
        lambda: pool_means(k, order, offsets),
        lambda: score(q, means),
        lambda: cut_threshold_head(scores, own, THRESHOLD, extremes=extremes),
        lambda: build_routes(keep),
    ]
    # Steps are replayed from graphs too: launching a dozen short kernels takes longer than running them.
    times = tuple(milliseconds(captured(step, device), device, repeats) for step in steps)
    if list_kernels and device.type == "cuda":
        print_kernels(whole)
    kept = float(keep.float().mean())
    traffic = q.nbytes + k.nbytes + 4 * scores.nbytes + 2 * keep.nbytes + 4 * kept * keep.numel()
    graph = milliseconds(captured(whole, device), device, repeats)
    return Selection(
        str(layout.grid), layout.tokens, cut_up.blocks, times, graph, traffic / BANDWIDTH * 1e3, kept,
        differing, differing_cut, keep.numel(), routed,
    )  # fmt: skip


def print_table(results: list[Selection]) -> None:
    rows = [TITLES, *(result.cells() for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TITLES))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


# The command


def time_attention(cases: list[str], kinds: list[str]) -> bool:
    """Check and time cases here, or every case in a process of its own; return whether all are right."""
    if cases:
        outcomes = [run_case(name, kinds) for name in cases]
        return all(outcomes)
    failed = []
    for name in CASES:
        command = [sys.executable, __file__, "attention", name, *(f"--kernels={kind}" for kind in kinds)]
        try:
            subprocess.run(command, check=True, timeout=SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            failed.append(f"{name}: {error}")
    print("\n".join(failed) if failed else "all cases ran")
    return not failed


def time_selection(device: torch.device, *, tiny: bool, list_kernels: bool, repeats: int) -> bool:
    """Check and time the selection of every layer, print a table, and return whether all are right."""
    shapes = [(6, 9, 16)] if tiny else [(21, 30, 52), (24, 36, 64), (21, 45, 80)]
    heads, dim = (2, 32) if tiny else (HEADS, DIM)
    results = []
    for shape in shapes:
        for layer in range(3):
            listed = list_kernels and layer == 2 and shape == (24, 36, 64)
            results.append(measure_selection(shape, layer, heads, dim, device, repeats, listed))
            print(f"measured {results[-1].grid} layer {layer}", file=sys.stderr)
    mean = statistics.mean(result.graph for result in results if result.grid in ("24x36x64", "6x9x16"))
    right = all(result.right for result in results)
    verdict = "all right" if right else "NOT RIGHT"
    print(f"mean of layers at {'864' if tiny else '55,296'} tokens: {mean:.3f} ms; selections: {verdict}")
    print_table(results)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = parser.add_subparsers(dest="part", metavar="{attention,selection}", help="default: both")
    attention = parts.add_parser("attention")
    attention.add_argument("cases", nargs="*", choices=[*CASES, []])
    attention.add_argument("--list", action="store_true", help="print the names of the cases")
    attention.add_argument(
        "--kernels", action="append", choices=[*OURS, *ENGINES], help="ours of this kind, or an engine"
    )
    selection = parts.add_parser("selection")
    selection.add_argument("--tiny", action="store_true", help="a small grid; without a GPU, in the interpreter")
    selection.add_argument("--by-kernel", action="store_true", help="print the time of every kernel too")
    selection.add_argument("--repeats", type=int, default=30)
    parser.set_defaults(cases=[], list=False, kernels=None, tiny=False, by_kernel=False, repeats=30)
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        print("this needs an NVIDIA GPU; only `selection --tiny` runs without one", file=sys.stderr)
        return 2
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    right = True
    if options.part != "attention":
        right &= time_selection(device, tiny=options.tiny, list_kernels=options.by_kernel, repeats=options.repeats)
    if options.part != "selection":
        right &= time_attention(options.cases, options.kernels or OURS)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
