"""Methods under torch.compile: one whole graph, and the plan that runs without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.methods import Call, get_method

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

VARIANTS: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("vmoba", {}, (0, 0)),
    ("vmoba", {"partition": (1, (2, 2), (2, 2, 2)), "scope": "query"}, (2, 1)),
    ("vmoba", {"select": "topk"}, (0, 3)),
    ("vmoba", {"select": "topk", "scope": "query", "topk": (1, 2, 3)}, (0, 0)),
    ("moba", {"blocks": 7, "topk": 3}, (0, 0)),
    ("moba", {"block_size": 9, "topk": 3, "causal": True}, (3, 0)),
    ("full", {}, (1, 2)),
    ("sta", {"tile": (2, 2, 3), "window": (1, 3, 1)}, (2, 0)),
    ("sliding-window", {}, (0, 1)),
    ("sliding-window", {"window": (0, 2, 1)}, (0, 0)),
    ("sliding-window", {"width": 9}, (1, 1)),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "given_settings", "text"),
    [VARIANTS[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in VARIANTS[1:3]), *VARIANTS[3:]],
    ids=lambda value: str(value),
)
def test_a_plan_is_compiled_whole(
    name: str, given_settings: dict[str, Any], text: tuple[int, int], tensors: Helper
) -> None:
    """Also on a second grid: then the compiler leaves sizes and settings open where it can."""
    method = get_method(name)
    settings = method.settings(**given_settings)

    def keep(q: Tensor, k: Tensor, call: Call) -> Tensor:
        with torch.no_grad():
            return method.plan(settings, q, k, call).pattern.keep

    compiled = torch.compile(keep, backend="aot_eager", fullgraph=True)
    for sides in ((4, 5, 6), (3, 6, 7)):
        layout = Layout(Grid(*sides), text)
        for layer in range(3):
            q, k = tensors(layout, 2, 1, dtype=torch.float32, seed=layer)
            call = Call(layout, layer)
            assert torch.equal(compiled(q, k, call), keep(q, k, call))


def test_partitions_made_while_compiling_serve_afterwards(tensors: Helper) -> None:
    layout = Layout(Grid(5, 3, 4), (1, 1))  # of no other test
    q, k = tensors(layout, 1, 1, dtype=torch.float32)
    method = get_method("vmoba")
    settings = method.settings(partition=(2, (2, 3), (2, 2, 3)))

    @torch.compile(backend="aot_eager", fullgraph=True)
    def keep(q: Tensor, k: Tensor) -> Tensor:
        with torch.no_grad():
            return method.plan(settings, q, k, Call(layout, 2)).pattern.keep

    kept = keep(q, k)
    partition = partition_cuboids(layout, (2, 2, 3), torch.device("cpu"))
    assert type(partition.own) is Tensor
    assert partition.offsets.tolist()[-1] == layout.tokens
    assert torch.equal(kept, method.plan(settings, q, k, Call(layout, 2)).pattern.keep)
