"""Time attention over the GPUs of one host against one of them: ``torchrun --nproc-per-node 2 scripts/time_ranks.py``.

Each call is verified against one process first. Prints one line of JSON a case; with ``--small`` on the CPU by gloo.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import attnbench
from attnbench.kernels.grid import Grid
from attnbench.parallel.collectives import Moved, counting

METHODS: dict[str, dict[str, Any]] = {"full": {}, "vmoba": {}, "sta": {}, "moba": {}}
GRIDS = {"480p": "21x30x52", "720p": "21x45x80"}
HEAD_DIM = 128


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--small", action="store_true", help="a tiny grid on the CPU")
    options.add_argument("--seconds", type=float, default=330.0, help="begin no case after these")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    cuda = torch.cuda.is_available() and not given.small
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=60))
    began = time.monotonic()
    grids = GRIDS if cuda else {"small": "3x8x10"}
    cases = [(res, heads, name, way) for res in grids for heads in ((12, 40) if cuda else (4,)) for name in METHODS
             for way in ("ulysses", "allgather")]  # fmt: skip
    for res, heads, name, way in cases:
        late = torch.tensor([time.monotonic() - began > given.seconds], device=device, dtype=torch.int32)
        dist.all_reduce(late)
        if late.item():
            break
        found = one_case(res, grids[res], heads, name, way, device, given.rounds)
        if dist.get_rank() == 0:
            print(json.dumps(found), flush=True)
    dist.destroy_process_group()


def one_case(res: str, grid: str, heads: int, name: str, way: str, device: torch.device, rounds: int) -> dict[str, Any]:
    n, ranks, rank = Grid.of(grid).tokens, dist.get_world_size(), dist.get_rank()
    generator = torch.Generator(device).manual_seed(3)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(1, heads, n, HEAD_DIM, device=device, dtype=dtype, generator=generator) for _ in range(3))
    mine = slice(n * rank // ranks, n * (rank + 1) // ranks)
    part = [x[:, :, mine].clone() for x in (q, k, v)]
    asked = {"method": name, "grid": grid, "layer": 2, **METHODS[name]}

    def alone() -> Tensor:
        return attnbench.attention(q, k, v, **asked)

    def together() -> Tensor:
        return attnbench.attention(*part, **asked, group=dist.group.WORLD, parallel=way)

    with torch.no_grad():
        one, own = alone()[:, :, mine].float(), together().float()
        error = torch.tensor([(own - one).norm() / one.norm()], device=device)
        dist.all_reduce(error, dist.ReduceOp.MAX)
        with counting() as moved:
            together()
        times = {"one_ms": sample(alone, device, rounds), "ranks_ms": sample(together, device, rounds)}
    gradients = gradient_error(alone, together, (q, k, v), part, mine) if heads <= 12 and res != "720p" else None
    slowest = torch.tensor([times["ranks_ms"]], device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return {
        "res": res, "heads": heads, "method": name, "parallel": way, "ranks": ranks, "error": error.item(),
        "gradient_error": gradients,
        "one_ms": times["one_ms"], "ranks_ms": slowest.item(), "speedup": times["one_ms"] / slowest.item(),
        "sent_mib": moved.sent / 2**20, "exchange_ms": exchange_ms(moved, device),
    }  # fmt: skip


def gradient_error(
    alone: Callable[[], Tensor], together: Callable[[], Tensor], whole: Sequence[Tensor], part: Sequence[Tensor],
    mine: slice,
) -> float:  # fmt: skip
    """Return the largest relative difference of a gradient from that of one process, on any rank."""
    for x in (*whole, *part):
        x.requires_grad_()
    ones = torch.autograd.grad(alone().square().sum(), list(whole))
    owns = torch.autograd.grad(together().square().sum(), list(part))
    for x in (*whole, *part):
        x.requires_grad_(False)
    errors = [
        float((own.float() - one[:, :, mine].float()).norm() / one.float().norm())
        for one, own in zip(ones, owns, strict=True)
    ]
    worst = torch.tensor([max(errors)], device=part[0].device)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return worst.item()


def sample(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median of some calls in milliseconds, after one that is not counted; the ranks begin together."""
    taken = []
    for number in range(rounds + 1):
        dist.barrier()
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def exchange_ms(moved: Moved, device: torch.device) -> float:
    """Return what it takes to exchange as many bytes as the call did, by itself."""
    ranks = dist.get_world_size()
    count = moved.sent // max(1, ranks - 1) * ranks
    count -= count % ranks
    buffers = [torch.empty(max(ranks, count), dtype=torch.uint8, device=device) for _ in range(2)]
    return sample(lambda: dist.all_to_all_single(*buffers), device, 3)


if __name__ == "__main__":
    main()
