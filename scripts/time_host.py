"""Time calls as a caller without a CUDA graph makes them: launches, GPU time, host time, and a loop by the wall clock.

python scripts/time_host.py                                        # the shapes and methods of kernels/NOTES.md
python scripts/time_host.py --grid 21x30x52 --heads 3 --method sta
python scripts/time_host.py --grid 21x30x52 --profile 20           # and 20 functions that the host's time goes to

Prints a Markdown table. "GPU" is the median of 7 calls with a cold cache behind a GPU that waits, "host" the median
time until a call on an idle GPU returns, of 20 that are each synchronised before, with the least of them, and "loop"
wall clock of 20 calls, the median of 3 loops. Ratios are to dense attention of the same shape. Inputs are Gaussian,
bfloat16 with head_dim 128. A host that does other things at the same time shows in the medians of host and loop.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import attnbench
from attnbench.kernels.grid import Grid
from attnbench.machine.clock import CLOCK
from attnbench.machine.stopwatch import Stopwatch
from attnbench.methods.entries import Entry, parse_entry
from attnbench.methods.registry import get_method, make_settings

SHAPES = (("21x30x52", 12), ("21x30x52", 3), ("13x30x52", 12))
METHODS = ("vmoba", "vmoba:scope=query,select=topk", "moba", "sta:tile=(6,8,8)", "sliding-window")
HEAD_DIM, LAYERS = 128, 30
TITLES = ("shape", "method", "layer", "launches", "GPU, ms", "ratio", "host, ms", "least", "loop, ms", "ratio")
CALLS, LOOPS, REPEATS = 20, 3, 7

Call = Callable[[], object]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Call, device: torch.device, calls: int = 1, *, until_done: bool) -> float:
    """Return the milliseconds of a call on an idle device: until it returns, or until the device is done."""
    synchronize(device)
    start = CLOCK.now()
    for _ in range(calls):
        call()
    if until_done:
        synchronize(device)
    return CLOCK.since(start) * 1e3 / calls


def launches(call: Call, device: torch.device) -> int | None:
    """Return how many kernels a call launches; None on a CPU."""
    if device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        call()
        synchronize(device)
    kernels = (each for each in profile.events() if each.device_type.name == "CUDA")
    return sum("memcpy" not in each.name.lower() for each in kernels)


def layers_of(entry: Entry) -> Sequence[int]:
    """Return one layer of each kind of a model."""
    method = get_method(entry.method)
    layers: Sequence[int] = method.distinct_layers(make_settings(method, entry.settings), LAYERS)
    return layers


def row(call: Call, stopwatch: Stopwatch) -> tuple[int | None, float, float, float, float]:
    """Return launches, and milliseconds: GPU, host, the least of the host's, loop."""
    device = stopwatch.device
    with torch.no_grad():
        for _ in range(3):
            call()
        gpu = statistics.median(stopwatch.time(call, warm=False).cold_ms for _ in range(REPEATS))
        host = [milliseconds(call, device, until_done=False) for _ in range(CALLS)]
        loop = statistics.median(milliseconds(call, device, CALLS, until_done=True) for _ in range(LOOPS))
        return launches(call, device), gpu, statistics.median(host), min(host), loop


def show_profile(call: Call, device: torch.device, functions: int) -> None:
    """Print the functions in which the host spends most time, microseconds a call. The profiler about doubles it."""
    profile = cProfile.Profile()
    with torch.no_grad():
        for _ in range(CALLS):
            synchronize(device)
            profile.enable()
            call()
            profile.disable()
    stats: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # not in typeshed
    for (file, line, name), each in sorted(stats.items(), key=lambda item: item[1][2], reverse=True)[:functions]:
        where = f"{Path(file).name}:{line}"
        print(f"    {each[2] / CALLS * 1e6:8.1f} µs  {each[1] / CALLS:6.1f} calls  {name} ({where})")


def time_shape(grid: str, heads: int, methods: Sequence[str], stopwatch: Stopwatch, functions: int) -> None:
    """Print the rows of a shape, dense attention first."""
    device = stopwatch.device
    shape = (1, heads, Grid.of(grid).tokens, HEAD_DIM)
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(3))
    dense: tuple[float, float] | None = None
    for text in ("full", *methods):
        entry = parse_entry(text)
        for layer in layers_of(entry):
            call = partial(attnbench.attention, q, k, v, method=entry.method, grid=grid, layer=layer, **entry.settings)
            count, gpu, host, least, loop = row(call, stopwatch)
            dense = dense or (gpu, loop)
            figures = (
                f"{grid}, {heads} heads", text, layer, "" if count is None else count, f"{gpu:.3f}",
                f"{dense[0] / gpu:.2f}", f"{host:.3f}", f"{least:.3f}", f"{loop:.3f}", f"{dense[1] / loop:.2f}",
            )  # fmt: skip
            print(f"| {' | '.join(map(str, figures))} |", flush=True)
            if functions:
                show_profile(call, device, functions)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default=None, help="frames x rows x columns of tokens; with --heads one shape")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--method", action="append", default=None, help="by default those of the notes")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="also show N functions of each method")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    stopwatch = Stopwatch(torch.device(asked.device))
    print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}", flush=True)
    for grid, heads in SHAPES if asked.grid is None else ((asked.grid, asked.heads),):
        time_shape(grid, heads, asked.method or METHODS, stopwatch, asked.profile)
    return 0


if __name__ == "__main__":
    sys.exit(main())
