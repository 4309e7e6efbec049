"""Check and time VMoBA's selection kernels, step by step, with the paper's partitions of its grids.

python scripts/bench_selection.py            # on a GPU: 12 heads of 128, bfloat16
python scripts/bench_selection.py --kernels  # and the time of every kernel of the 3-D layer at 55,296 tokens
python scripts/bench_selection.py --tiny     # a small grid, in Triton's interpreter where there is no GPU

Checked for every layer: pairs that differ from the rule in float64 on the same inputs (at most 1 in 100,000), pairs
that differ from it on the same scores, and that the routes hold exactly the kept pairs. Times are medians of CUDA event
pairs with a flushed L2 cache; "graph" is the whole selection, captured and replayed. "bytes" is the time that the
compulsory traffic alone would take at 3.0 TB/s: reading q and k, writing the scores and reading them three times,
writing the kept pairs and reading them once, writing the lists.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BANDWIDTH = 3.0e12
LIMIT = 1e-5
THRESHOLD = 0.25
TITLES = (
    "grid",
    "tokens",
    "blocks",
    "pool",
    "score",
    "cut",
    "index",
    "sum",
    "graph",
    "bytes",
    "density",
    "≠ rule",
    "≠ cut",
)


@dataclass(frozen=True)
class Result:
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


def make_inputs(shape: tuple[int, int, int], heads: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
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


def measure(
    shape: tuple[int, int, int], layer: int, heads: int, dim: int, device: torch.device, repeats: int, kernels: bool
) -> Result:
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
    q, k = make_inputs(shape, heads, dim, device)

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
    if kernels and device.type == "cuda":
        print_kernels(whole)
    kept = float(keep.float().mean())
    traffic = q.nbytes + k.nbytes + 4 * scores.nbytes + 2 * keep.nbytes + 4 * kept * keep.numel()
    graph = milliseconds(captured(whole, device), device, repeats)
    return Result(
        str(layout.grid), layout.tokens, cut_up.blocks, times, graph, traffic / BANDWIDTH * 1e3, kept,
        differing, differing_cut, keep.numel(), routed,
    )  # fmt: skip


def print_kernels(run: Callable[[], object]) -> None:
    """Print the mean time of every kernel that ``run`` launches."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(10):
            run()
        torch.cuda.synchronize()
    print(profiler.key_averages().table(sort_by="cuda_time_total", row_limit=30, max_name_column_width=40))


def print_table(results: list[Result]) -> None:
    rows = [TITLES, *(result.cells() for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TITLES))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small grid; without a GPU, in the interpreter")
    parser.add_argument("--kernels", action="store_true", help="print the time of every kernel too")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        if not options.tiny:
            print("there is no GPU: only --tiny works here", file=sys.stderr)
            return 2
        os.environ["TRITON_INTERPRET"] = "1"
    shapes = [(6, 9, 16)] if options.tiny else [(21, 30, 52), (24, 36, 64), (21, 45, 80)]
    heads, dim = (2, 32) if options.tiny else (12, 128)
    results = []
    for shape in shapes:
        for layer in range(3):
            kernels = options.kernels and layer == 2 and shape == (24, 36, 64)
            results.append(measure(shape, layer, heads, dim, device, options.repeats, kernels))
            print(f"measured {results[-1].grid} layer {layer}", file=sys.stderr)
    mean = statistics.mean(result.graph for result in results if result.grid in ("24x36x64", "6x9x16"))
    verdict = "all right" if all(result.right for result in results) else "NOT RIGHT"
    print(f"mean of layers at {'864' if options.tiny else '55,296'} tokens: {mean:.3f} ms; selections: {verdict}")
    print_table(results)
    return 0 if all(result.right for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
