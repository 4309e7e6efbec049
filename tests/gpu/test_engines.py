"""Every engine on a GPU against exact attention in float64: output, log-sum-exp and gradients, on plans of many kinds.

python -m pytest tests/gpu                       # every case, a process each, eight at a time
python -m pytest tests/gpu -k "flash4 and sta"   # some of them
python tests/gpu/test_engines.py flash4/sta      # one case in this process, without pytest's capturing

Two more kinds of cases check that torch.compile takes attention as one graph, and that a CUDA graph replays it with
other values in the same tensors. Each case prints one line with its errors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.gpu

SECONDS = 240
AT_ONCE = 8
TOLERANCE = 2e-2


@dataclass(frozen=True)
class Case:
    """A call of ``attnbench.attention``."""

    method: str
    grid: tuple[int, int, int]
    settings: dict[str, Any]
    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 128
    text: tuple[int, int] = (0, 0)
    layer: int = 0


STA = {"tile": (6, 4, 16), "window": (3, 3, 3)}
RAGGED = {"tile": (6, 8, 8), "window": (3, 3, 3)}
CASES = {
    "full": Case("full", (6, 8, 20), {}),
    "sta": Case("sta", (12, 8, 32), STA),
    "sta-gqa-64": Case("sta", (12, 8, 32), STA, heads=4, head_dim=64),
    "sta-gqa": Case("sta", (12, 8, 32), STA, heads=4),
    "sta-ragged": Case("sta", (7, 15, 26), RAGGED),
    "sta-text": Case("sta", (7, 15, 26), RAGGED, text=(0, 77)),
    "sliding-window": Case("sliding-window", (6, 14, 20), {"window": (1, 4, 5)}),
    "sta-small-tiles": Case("sta", (8, 12, 20), {"tile": (4, 4, 4), "window": (1, 3, 3)}),
    "vmoba-1d": Case("vmoba", (9, 16, 24), {}),
    "vmoba-2d": Case("vmoba", (9, 16, 24), {}, layer=1),
    "vmoba-3d": Case("vmoba", (9, 16, 24), {}, layer=2, heads=4, head_dim=64),
    "vmoba-text": Case("vmoba", (9, 16, 24), {}, layer=1, text=(5, 100)),
    "moba-causal": Case("moba", (8, 16, 20), {"block_size": 200, "topk": 4, "causal": True}),
}
WITHOUT_ROUTES = ["full", "sta", "sta-gqa-64", "sta-gqa", "sta-ragged", "sta-text", "sliding-window", "sta-small-tiles"]
ENGINES = {
    "triton": list(CASES),
    "flash4": WITHOUT_ROUTES[:7],
    "cudnn-bsa": ["full", "sta", "sta-gqa", "sta-ragged", "sta-text", "sta-small-tiles"],
    "flex": ["full", "sta-ragged", "sliding-window", "sta-small-tiles"],
    "cudnn": ["full"],
    "sdpa": ["full"],
    "two-call": ["vmoba-1d", "vmoba-2d", "vmoba-3d", "vmoba-text"],
    "unfused": ["full", "sta-ragged", "vmoba-3d"],
}
NAMES = [f"{engine}/{case}" for engine, cases in ENGINES.items() for case in cases] + [
    "compile/vmoba-3d", "compile/sta", "graph/vmoba-3d", "graph/sta-ragged", "graph/sliding-window",
]  # fmt: skip


def draw(case: Case, seed: int = 0) -> list[Tensor]:
    random = torch.Generator("cuda").manual_seed(seed)
    n = sum(case.text) + case.grid[0] * case.grid[1] * case.grid[2]
    return [
        torch.randn(1, n, h, case.head_dim, generator=random, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for h in (case.heads, case.kv_heads, case.kv_heads, case.heads)
    ]


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, d_output: Tensor) -> list[Tensor]:
    """Return output, log-sum-exp and gradients in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in leaves[1:])
    scores = (leaves[0] @ keys.mT * q.shape[3] ** -0.5).masked_fill(~mask, -torch.inf)
    output = scores.softmax(-1).nan_to_num(0.0) @ values
    return [output.detach(), scores.detach().logsumexp(-1), *torch.autograd.grad(output, leaves, d_output.double())]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs).norm() / theirs.norm())


def check(engine: str, case: Case) -> dict[str, float]:
    """Return the relative error of each result; of the log-sum-exp the largest absolute one."""
    import attnbench

    q, k, v, d_output = draw(case)
    arguments: dict[str, Any] = {"method": case.method, "grid": case.grid, "text": case.text, "layer": case.layer}
    mask = attnbench.select(q, k, **arguments, **case.settings).token_mask()
    wanted = exact(q, k, v, mask, d_output)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    output = attnbench.attention(*leaves, **arguments, **case.settings, engine=engine)
    got = [output.detach(), *torch.autograd.grad(output, leaves, d_output)]
    errors = dict(zip(("out", "dq", "dk", "dv"), map(relative, got, [wanted[0], *wanted[2:]]), strict=True))
    if engine not in ("cudnn", "sdpa"):
        with torch.no_grad():
            _, lse = attnbench.attention(q, k, v, **arguments, **case.settings, engine=engine, return_lse=True)
        errors["lse"] = float((lse.double() - wanted[1]).abs().max())
    return errors


def check_compiled(case: Case) -> dict[str, float]:
    """Compare compiled attention with plain attention."""
    import attnbench

    arguments: dict[str, Any] = {"method": case.method, "grid": case.grid, "layer": case.layer, "engine": "triton"}
    arguments |= case.settings

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attnbench.attention(q, k, v, **arguments)

    compiled = torch.compile(attend, fullgraph=True)
    results = []
    for run in (attend, compiled):
        q, k, v, d_output = draw(case)
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        output = run(*leaves)
        results.append([output.detach(), *torch.autograd.grad(output, leaves, d_output)])
    return {name: relative(b, a.double()) for name, a, b in zip(("out", "dq", "dk", "dv"), *results, strict=True)}


def check_graph(case: Case) -> dict[str, float]:
    """Capture attention and its gradients, replay them on other values, and compare with plain calls."""
    import attnbench

    arguments: dict[str, Any] = {"method": case.method, "grid": case.grid, "layer": case.layer, "engine": "triton"}
    arguments |= case.settings
    q, k, v, d_output = draw(case)
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]

    def both() -> list[Tensor]:
        output = attnbench.attention(*leaves, **arguments)
        return [output, *torch.autograd.grad(output, leaves, d_output)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            both()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    with torch.no_grad():
        for leaf, new in zip(leaves, draw(case, seed=1), strict=False):
            leaf.copy_(new)
    graph.replay()
    replayed = [x.detach().clone() for x in captured]
    plain = [x.detach() for x in both()]
    return {
        name: relative(a, b.double()) for name, a, b in zip(("out", "dq", "dk", "dv"), replayed, plain, strict=True)
    }


def run(name: str) -> bool:
    """Check one case, print its line, and return whether it is right."""
    engine, case = name.split("/")
    special: dict[str, Callable[[Case], dict[str, float]]] = {"compile": check_compiled, "graph": check_graph}
    errors = special[engine](CASES[case]) if engine in special else check(engine, CASES[case])
    right = all(error < TOLERANCE for error in errors.values())
    print(f"{'ok   ' if right else 'WRONG'} {name}: " + ", ".join(f"{what} {e:.1e}" for what, e in errors.items()))
    return right


def run_alone(name: str) -> tuple[bool, str]:
    """Check one case in a process of its own, so that an error of the device cannot spoil the next."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, name], timeout=SECONDS, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"WRONG {name}: no result in {SECONDS} s"
    crashed = done.returncode != 0 and "WRONG" not in done.stdout
    said = f"{done.stdout}{done.stderr}WRONG {name}: exit code {done.returncode}" if crashed else done.stdout
    return done.returncode == 0, said.rstrip()


def missing(name: str) -> str | None:
    """Say why the engine of a case cannot be used here, or return None."""
    from attnbench.kernels.engines import ENGINES

    engine = name.partition("/")[0]
    return ENGINES[engine].available() if engine in ENGINES else None


Outcome = Callable[[str], tuple[bool, str]]


@pytest.fixture(scope="module")
def outcome(request: pytest.FixtureRequest) -> Iterator[Outcome]:
    """Start the selected cases, eight at a time, and return what waits for one.

    A worker of pytest-xdist starts none of them ahead: each worker would start all cases, and cases that run outside of
    a test would disturb tests that need the GPU alone.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield run_alone
        return
    selected = [item.name for item in request.session.items if item.path == request.path]
    names = [name for name in NAMES if f"test_engine[{name}]" in selected and not missing(name)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = {name: pool.submit(run_alone, name) for name in names}
        yield lambda name: begun[name].result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", NAMES)
def test_engine(name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := missing(name):
        pytest.skip(reason)
    run_case: Outcome = request.getfixturevalue("outcome")
    right, said = run_case(name)
    if not right:
        pytest.fail(said, pytrace=False)
    with capsys.disabled():  # the lines are a record that may be kept
        print(f"\n{said}", end="")


if __name__ == "__main__":
    outcomes = [run(name) for name in sys.argv[1:]]
    sys.exit(not all(outcomes))
