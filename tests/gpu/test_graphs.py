"""``attnbench.graphed`` on a GPU: replays give what ``attention`` gives, on new values, and enqueue in less time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench import graphs
from attnbench.bench.step.case import StepCase
from attnbench.bench.step.measure import measure_step
from attnbench.kernels.engines import ENGINES
from attnbench.kernels.errors import Unsupported
from attnbench.methods.entries import Entry

pytestmark = pytest.mark.gpu

GRID = (9, 16, 24)
CALLS: dict[str, dict[str, Any]] = {
    "vmoba-1d": {"method": "vmoba", "layer": 0},
    "vmoba-3d": {"method": "vmoba", "layer": 2},
    "vmoba-query": {"method": "vmoba", "layer": 1, "scope": "query", "select": "topk"},
    "moba": {"method": "moba", "blocks": 12, "topk": 3},
    "sta": {"method": "sta"},
    "sliding-window": {"method": "sliding-window", "engine": "triton"},
    "full": {"method": "full", "engine": "cudnn"},
    "vsa": {"method": "vsa", "engine": "cudnn-bsa"},
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    graphs.forget_graphs()
    yield
    graphs.forget_graphs()


def draw(seed: int, heads: int = 3, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    random = torch.Generator("cuda").manual_seed(seed)
    tokens = GRID[0] * GRID[1] * GRID[2]
    shape = (1, tokens, heads, 128)
    return [torch.randn(shape, generator=random, device="cuda", dtype=dtype).transpose(1, 2) for _ in range(3)]


@pytest.mark.parametrize("name", CALLS)
def test_replays_are_what_attention_returns(name: str) -> None:
    arguments: dict[str, Any] = {"grid": GRID, **CALLS[name]}
    if "engine" in arguments and (problem := ENGINES[arguments["engine"]].available()):
        pytest.skip(problem)
    with torch.no_grad():
        found = [attnbench.graphed(*draw(seed), **arguments) for seed in range(4)]
        for seed, output in enumerate(found):
            expected = attnbench.attention(*draw(seed), **arguments)
            assert float((output.double() - expected.double()).norm() / expected.double().norm()) < 1e-3
    assert sum(len(shape.graphs) for shape in graphs._shapes.values()) == 1


def test_graphs_of_one_shape_share_memory_and_do_not_disturb_each_other() -> None:
    q, k, v = draw(0)
    with torch.no_grad():
        for layer in range(3):
            attnbench.graphed(q, k, v, method="vmoba", grid=GRID, layer=layer)
        torch.cuda.synchronize()
        reserved = torch.cuda.memory_reserved()
        for layer in range(3, 15):
            attnbench.graphed(q, k, v, method="vmoba", grid=GRID, layer=layer)
        torch.cuda.synchronize()
        assert torch.cuda.memory_reserved() < 1.5 * reserved
        for layer in (7, 2, 14, 0, 5):
            q, k, v = draw(layer)
            output = attnbench.graphed(q, k, v, method="vmoba", grid=GRID, layer=layer)
            expected = attnbench.attention(q, k, v, method="vmoba", grid=GRID, layer=layer)
            assert float((output.double() - expected.double()).norm() / expected.double().norm()) < 1e-3


@pytest.mark.parametrize("engine", ["reference", "two-call"])
def test_an_engine_that_waits_for_the_device_is_refused_and_leaves_the_device_usable(engine: str) -> None:
    q, k, v = draw(0)
    with torch.no_grad():
        with pytest.raises(Unsupported, match="method 'moba' cannot be captured in a CUDA graph"):
            attnbench.graphed(q, k, v, method="moba", grid=GRID, blocks=12, topk=3, engine=engine)
        torch.cuda.synchronize()
        output = attnbench.graphed(q, k, v, method="moba", grid=GRID, blocks=12, topk=3, engine="triton")
        assert bool(output.isfinite().all())


def test_a_call_within_another_capture_is_refused() -> None:
    q, k, v = draw(0)
    with torch.no_grad():
        attnbench.graphed(q, k, v, method="sta", grid=GRID)
        with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(Unsupported, match="captured already"):
            attnbench.graphed(q, k, v, method="sta", grid=GRID)


def test_the_cpu_is_free_sooner() -> None:
    q, k, v = draw(0)
    arguments: dict[str, Any] = {"method": "vmoba", "grid": GRID, "layer": 2}

    def enqueue_ms(call: Callable[..., Any]) -> float:
        taken = []
        for _ in range(12):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call(q, k, v, **arguments)
            taken.append(1e3 * (time.perf_counter() - start))
        return statistics.median(taken[2:])

    with torch.no_grad():
        eager, replayed = enqueue_ms(attnbench.attention), enqueue_ms(attnbench.graphed)
    print(f"\nto enqueue a call: attention {eager:.2f} ms, graphed {replayed:.2f} ms")
    assert replayed < eager


def test_a_step_of_a_model_is_measured_as_graphs_too() -> None:
    pytest.importorskip("diffusers")
    case = StepCase(size="1.3b", heads=2, grid=GRID, text_tokens=16, rounds=2, graphs=True)
    records = measure_step([Entry("vmoba"), Entry("sta")], case)
    names = [record.name for record in records[2:]]
    assert names == ["vmoba/triton", "vmoba/triton, graphs", "sta/triton", "sta/triton, graphs"]
    assert all(record.step_eager_ms is not None and record.step_eager_ms > 0 for record in records)
