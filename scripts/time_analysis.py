"""Time every measure of ``attnbench analyze`` on random q, k and v of one layer.

python scripts/time_analysis.py                                     # 12 heads of 21x45x80, on the GPU
python scripts/time_analysis.py --grid 4x8x16 --heads 2 --functions 20   # and the functions that took longest
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable

import torch

from attnbench.analysis.call import AttentionCall, How, see
from attnbench.analysis.session import measurers_of
from attnbench.kernels.grid import Grid, Layout
from attnbench.machine.device import resolve_device
from attnbench.methods.entries import Entry

NAMES = ("maps of each head", "self-similarity", "budgets", "block masses", "masks", "what methods keep")
"""Of the measurers, in their order."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="21x45x80")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=None)
    parser.add_argument("--steps", type=int, default=2, help="of the same layer, so that steps are compared, too")
    parser.add_argument("--device", default=None)
    parser.add_argument("--method", action="append", default=[], help="methods whose masks are looked at")
    parser.add_argument("--functions", type=int, default=0, help="of Python to show, by their own time")
    asked = parser.parse_args()
    device = resolve_device(asked.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    how = How(asked.queries, methods=tuple(Entry(method=name) for name in asked.method))
    grid = Grid.of(asked.grid)
    warm = calls(Grid(4, 8, 16), asked.heads, asked.head_dim, dtype, device)
    once = measurers_of(how)
    for step in range(2):  # loads what is loaded once
        seen = see(warm(step), how)
        for measure in once:
            list(measure(seen))
    measurers = measurers_of(how)
    make = calls(grid, asked.heads, asked.head_dim, dtype, device)
    profile = cProfile.Profile()
    for step in range(asked.steps):
        call = make(step)
        finish(device)
        times: dict[str, float] = {}
        if asked.functions:
            profile.enable()
        began = time.perf_counter()
        seen = see(call, how)
        finish(device)
        times["sums over maps"] = time.perf_counter() - began
        for name, measure in zip(NAMES, measurers, strict=True):
            start = time.perf_counter()
            list(measure(seen))
            finish(device)
            times[name] = time.perf_counter() - start
        whole = time.perf_counter() - began
        profile.disable()
        print(f"step {step}: {whole:.2f} s, {asked.heads} heads, {grid.tokens:,} tokens, {len(seen.queries):,} queries")
        for name, seconds in times.items():
            print(f"    {name:18} {seconds:7.2f} s", flush=True)
    if device.type == "cuda":
        print(f"most memory of the GPU: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    if asked.functions:
        pstats.Stats(profile).sort_stats("tottime").print_stats(asked.functions)


def calls(
    grid: Grid, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Callable[[int], AttentionCall]:
    """Return what makes the call of a step."""

    def make(step: int) -> AttentionCall:
        generator = torch.Generator(device=device).manual_seed(step)
        q, k, v = (
            torch.randn(1, heads, grid.tokens, head_dim, generator=generator, device=device, dtype=dtype)
            for _ in range(3)
        )
        return AttentionCall(q, k, v, Layout(grid), 0, step)

    return make


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
