"""Four gloo ranks that run every case of test_attention.py once, each case on the first two, three or all four of them.

Started as ``python fleet.py FOLDER``. Each rank compares its part with one process, in float64, and writes what it
found as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import attnbench
from attnbench.kernels.errors import AttnbenchError
from attnbench.methods import get_method, method_names
from attnbench.parallel import handshake
from attnbench.parallel.balance import Balance
from attnbench.parallel.collectives import Ranks, counting

RANKS = 4

Shards = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A call, compared with one process: the shards are those of as many ranks."""

    method: str
    parallel: str | None
    shards: Shards
    settings: dict[str, Any] = field(default_factory=dict)
    grid: tuple[int, int, int] = (3, 4, 5)
    text: tuple[int, int] = (0, 0)
    batch: int = 1
    heads: int = 3
    kv_heads: int = 3
    layer: int = 0
    gate: bool = False

    @property
    def name(self) -> str:
        words = [self.method, self.parallel, "+".join(map(str, self.shards)), f"h{self.heads}/{self.kv_heads}"]
        return " ".join(map(str, [*words, *(f"{name}={value}" for name, value in self.settings.items())]))


MOBA, STA = {"block_size": 9, "topk": 3}, {"tile": (2, 2, 3), "window": (1, 3, 1)}
BY_QUERY, BY_HEAD = {"scope": "query", "select": "topk", "topk": 3}, {"select": "topk", "topk": 2}
FIRST: list[tuple[str, dict[str, Any]]] = [
    ("full", {}), ("moba", MOBA), ("moba", MOBA | {"causal": True}), ("vmoba", {}), ("vmoba", BY_QUERY),
    ("vmoba", BY_HEAD), ("vmoba", {"scope": "query", "threshold": 0.4}), ("sta", STA),
    ("sliding-window", {"window": (1, 1, 2)}), ("sliding-window", {"width": 9}),
]  # fmt: skip
WHOLE: dict[str, Any] = {"text": (3, 4), "heads": 4, "kv_heads": 2}  # 67 tokens
TWO, THREE, FOUR = (40, 27), (2, 51, 14), (9, 1, 37, 20)
MOVING: dict[str, Any] = {"grid": (4, 6, 6)}  # 144 tokens, in shards of 100 and 44
QUICK = [
    *(Case(name, "allgather", THREE, settings, **WHOLE, layer=2) for name, settings in FIRST),
    Case("full", "ulysses", TWO, **WHOLE, batch=2),
    Case("vmoba", "ulysses", TWO, **WHOLE, batch=2, layer=2),
    Case("vmoba", "allgather", TWO, **WHOLE, batch=2, layer=2),
    Case("sta", "ulysses", TWO, STA, **WHOLE, batch=2),
    Case("vmoba", "ulysses+allgather", FOUR, text=(3, 4), heads=6, kv_heads=2, layer=1),
    Case("sta", "ulysses+allgather", FOUR, STA, text=(3, 4), heads=6, kv_heads=3),
    Case("vmoba", None, (30, 30), layer=2),
    Case("vmoba", "ulysses", (17, 40, 3), heads=5, kv_heads=1, layer=2),
    Case("vmoba", "ulysses+allgather", (17, 40, 3), heads=2, kv_heads=2, layer=2),
    Case("moba", "allgather", (1, 59), MOBA, heads=1, kv_heads=1),
    Case("sparge", "ulysses", (100, 44), {"topk": (0.3, 0.5, 0.9)}, **MOVING),
    Case("vsa", "ulysses", (100, 44), gate=True, **MOVING),
    Case("bsa", "ulysses", (100, 44), **MOVING),
    Case("svg2", "ulysses", (100, 44), **MOVING),
]  # fmt: skip


def slow() -> list[Case]:
    """The first methods in every way, and every method by ulysses."""
    return [
        *(
            Case(name, way, TWO, settings, **WHOLE, batch=2)
            for name, settings in FIRST
            for way in ("ulysses", "allgather")
        ),
        *(Case(name, "ulysses", THREE, settings, **WHOLE, layer=1) for name, settings in FIRST),
        *(Case(name, "ulysses+allgather", FOUR, settings, **WHOLE, layer=1) for name, settings in FIRST),
        Case("radial", "allgather", (33, 27)),
        *(Case(name, "ulysses", (100, 44), **MOVING, layer=1) for name in method_names()),
    ]


def relative(mine: Tensor, whole: Tensor) -> float:
    with torch.no_grad():
        return float((mine - whole).norm() / whole.norm().clamp(min=1e-30))


def compare(case: Case, rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    n = case.text[0] + case.grid[0] * case.grid[1] * case.grid[2] + case.text[1]
    generator = torch.Generator().manual_seed(5)
    shape = (case.batch, case.heads, n, 16)
    q, d_output = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    k, v = (torch.randn(case.batch, case.kv_heads, n, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    first = sum(case.shards[:rank])
    mine = slice(first, first + case.shards[rank])
    asked: dict[str, Any] = {"method": case.method, "grid": case.grid, "text": case.text, "layer": case.layer}
    asked |= case.settings | ({"params": {"gate": q.flip(2)}} if case.gate else {})
    method = get_method(case.method)
    with_gradient = method.has_gradient and method.cycle is None
    whole, part = [x.clone() for x in (q, k, v)], [x[:, :, mine].clone() for x in (q, k, v)]
    for x in (*whole, *part):
        x.requires_grad_(with_gradient)
    lse = method.finish is None and method.cycle is None
    steps = (0,) if method.cycle is None else (0, 1, 2)
    state = own_state = None
    errors, moved_back = {}, None
    for step in steps:
        given = asked if method.cycle is None else asked | {"step": step}
        one = attnbench.attention(*whole, **given, state=state, return_lse=lse, return_plan=True)
        with counting() as moved:
            own = attnbench.attention(
                *part, **given, state=own_state, return_lse=lse, return_plan=True, group=group, parallel=case.parallel
            )
        forward = {"sent": moved.sent, "received": moved.received}
        state, own_state = one[-1].state, own[-1].state
        errors[f"output {step}"] = relative(own[0], one[0][:, :, mine])
    if lse:
        errors["lse"] = relative(own[1], one[1][:, :, mine])
    if with_gradient:
        one[0].backward(d_output)
        with counting() as moved:
            own[0].backward(d_output[:, :, mine])
        moved_back = {"sent": moved.sent, "received": moved.received}
        for name, mine_of, whole_of in zip(("dq", "dk", "dv"), part, whole, strict=True):
            assert mine_of.grad is not None
            assert whole_of.grad is not None
            errors[name] = relative(mine_of.grad, whole_of.grad[:, :, mine])
    mask = one[-1].token_mask() if n < 200 else None
    rows = None if mask is None else int(mask[:, :, mine].sum())
    return {
        "errors": errors, "forward": forward, "backward": moved_back, "lse": lse, "pairs": own[-1].pairs,
        "all_pairs": one[-1].pairs, "pairs_of_rows": rows, "heads": own[-1].heads,
        "blocks": own[-1].pattern.keep.shape[3],
    }  # fmt: skip


def said(call: Any, *arguments: Any, **named: Any) -> str:
    """Return the class and the words of the error that a call ends with."""
    try:
        call(*arguments, **named)
    except AttnbenchError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refusals(rank: int, group: dist.ProcessGroup) -> dict[str, str]:
    """What two ranks say to calls that cannot be: 30 tokens of rank 0, 30 of rank 1."""
    q, k, v = (torch.randn(1, 2, 30, 16) for _ in range(3))
    asked: dict[str, Any] = {"method": "full", "grid": (3, 4, 5), "group": group}

    def ask(*tensors: Tensor, **changed: Any) -> str:
        return said(attnbench.attention, *(tensors or (q, k, v)), **asked | changed)

    one = [x[:, :1] for x in (q, k, v)]
    return {
        "heads": ask(*one),
        "tokens": ask(grid=(3, 4, 6)),
        "more ranks than tokens": ask(*(x[:, :, :1] for x in (q, k, v)), grid=(1, 1, 1)),
        "way": ask(parallel="ulises"),
        "no name": ask(parallel=3),
        "method": ask(method="sparge", parallel="allgather"),
        "branch": ask(method="vsa", parallel="allgather"),
        "settings": ask(method="moba", topk=2 + rank),
        "layers": ask(layer=rank),
        "dtype": ask(*((x.double() if rank else x) for x in (q, k, v))),
        "one refuses": ask(method="moba", topk=3 if rank else "few"),
        "version": _of_other_version(rank, ask),
        "alone": said(attnbench.attention, q, k, v, method="full", grid=(1, 5, 6), parallel="ulysses"),
        "no group": ask(group="world"),
        "fine": ask(),
        "other lengths": ask(*(torch.randn(1, 2, 29 + 2 * rank, 16) for _ in range(3))),
        "other lengths of one": ask(*(torch.randn(1, 2, 30 + rank, 16) for _ in range(3))),
        **{f"layer {layer}": ask(method="vmoba", layer=layer) for layer in (0, 1)},
        "known layers": ask(method="vmoba", layer=rank),
        "known and new": ask(method="vmoba", layer=0, **({"threshold": 0.5} if rank else {})),
        "known and refused": ask(method="vmoba", layer=0, **({"threshold": "half"} if rank else {})),
        "fine again": ask(method="vmoba", layer=1),
    }  # fmt: skip


def _of_other_version(rank: int, ask: Any) -> str:
    known = handshake.version
    handshake.version = lambda name: f"{known(name)}.{rank}"
    try:
        return str(ask(scale=0.5))
    finally:
        handshake.version = known


def balanced(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    """Six heads of unequal density on three ranks, in two steps of one layer; the middle heads keep most."""
    thresholds = (0.1, 0.9, 0.8, 0.1, 0.15, 0.2)
    generator = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(1, 6, 144, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    asked: dict[str, Any] = {
        "method": "sparge",
        "grid": (4, 6, 6),
        "topk": thresholds,
        "block": (8, 8),
        "similarity": -1.0,
    }
    one, plan = attnbench.attention(q, k, v, **asked, return_plan=True)
    mine, balance = slice(48 * rank, 48 * rank + 48), Balance()
    part = [x[:, :, mine] for x in (q, k, v)]
    found: dict[str, Any] = {"by_head": plan.pairs_by_head[0].tolist(), "errors": [], "pairs": [], "gains": []}
    for parallel in (balance, balance, Balance(plan=plan)):
        own, own_plan = attnbench.attention(*part, **asked, group=group, parallel=parallel, return_plan=True)
        found["errors"].append(relative(own, one[:, :, mine]))
        found["pairs"].append(own_plan.pairs)
        found["gains"].append(parallel.gain)
    return found


def overlapped(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    """What is on the way while a method selects, and how long it takes to begin an exchange with a late rank."""
    found: dict[str, Any] = {}
    q, k, v = (torch.randn(1, 2, 30, 16, dtype=torch.float64) for _ in range(3))
    for name in ("vmoba", "sta"):
        method = get_method(name)
        assert method.plan is not None

        def plan(*asked: Any, of: Any = method.plan, name: str = name) -> Any:
            found[name] = [moved.exchanges, len(moved.spans)]
            return of(*asked)

        watched = dataclasses.replace(method, plan=plan)
        with counting(lambda device: lambda: lambda: 0.0) as moved:
            attnbench.attention(q, k, v, method=watched, grid=(3, 4, 5), scale=0.25, group=group)
        found[f"{name} in all"] = [moved.exchanges, len(moved.spans)]
    with counting() as moved:
        attnbench.attention(q, k, v, method="full", grid=(3, 4, 5), scale=0.25, group=group)
    found["full in all"] = moved.exchanges
    ranks, own = Ranks.of(group, torch.device("cpu")), torch.full((3,), float(rank), requires_grad=True)
    dist.barrier(group)
    if rank == 1:
        time.sleep(0.6)
    started = time.monotonic()
    arrive = ranks.begin(torch.cat([own, own * 10]), [3, 3], [(3,), (3,)])
    found["begun"] = time.monotonic() - started
    pieces = arrive()
    found["arrived"] = time.monotonic() - started
    (pieces[0] * 2 + pieces[1] * 3).sum().backward()
    return found | {
        "pieces": [x.tolist() for x in pieces],
        "gradient": own.grad.tolist() if own.grad is not None else [],
    }


def main(rank: int, folder: Path, everything: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    groups = {size: dist.new_group(list(range(size))) for size in (2, 3, 4)}
    found: dict[str, Any] = {}
    for case in slow() if everything else QUICK:
        if rank < len(case.shards):
            found[case.name] = compare(case, rank, groups[len(case.shards)])
    if rank < 2:
        found["refusals"] = refusals(rank, groups[2])
        found["overlapped"] = overlapped(rank, groups[2])
    if rank < 3:
        found["balanced"] = balanced(rank, groups[3])
    if rank < 3:
        q, k, v = (torch.randn(1, 4, 15, 16) for _ in range(3))
        found["death"] = said(attnbench.attention, q, k, v, method="full", grid=(3, 4, 5), group=groups[4])
    (folder / f"{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # rank 3 at once, without a farewell; the others cannot say theirs to it


if __name__ == "__main__":
    started = []
    for number in range(RANKS):  # forked, so that torch is imported once
        child = os.fork()
        if child == 0:
            try:
                main(number, Path(sys.argv[1]), sys.argv[2:] == ["all"])
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        started.append(child)
    sys.exit(max([os.waitpid(child, 0)[1] for child in started]) > 0)
