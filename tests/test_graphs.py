"""``attnbench.graphed`` without a GPU: what stands for a captured graph runs the same call on the same buffers again.

What this cannot show is that CUDA captures and replays the call; ``tests/gpu/test_graphs.py`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench import graphs
from attnbench.kernels.errors import BadInput, Unsupported

GRID = (2, 3, 4)
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("sta", {"tile": (1, 2, 2), "window": (1, 1, 1)}),
    ("vmoba", {"partition": (1, (2, 2), (2, 2, 2))}),
    ("moba", {"blocks": 4, "topk": 2}),
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    graphs.forget_graphs()
    yield
    graphs.forget_graphs()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[graphs._Shape]:
    """Stand for CUDA; lists the shape of each capture."""
    seen: list[graphs._Shape] = []

    def record(run: Callable[[], None], shape: graphs._Shape) -> Callable[[], object]:
        seen.append(shape)
        return run

    monkeypatch.setattr(graphs, "_wrong_place", lambda q: None)
    monkeypatch.setattr(graphs, "_record", record)
    return seen


def draw(seed: int, heads: int = 4, kv_heads: int = 2, dim: int = 8) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 24, h, dim, generator=random).transpose(1, 2) for h in (heads, kv_heads, kv_heads)]


@pytest.mark.parametrize(("method", "settings"), CALLS)
def test_each_call_returns_what_attention_does(
    method: str, settings: dict[str, Any], recorded: list[graphs._Shape]
) -> None:
    arguments = {"method": method, "grid": GRID, "scale": 0.3, **settings}
    found = [attnbench.graphed(*draw(seed), **arguments, return_lse=True) for seed in range(3)]
    for seed, (output, lse) in enumerate(found):  # later calls have changed none of them
        expected, expected_lse = attnbench.attention(*draw(seed), **arguments, return_lse=True)
        torch.testing.assert_close((output, lse), (expected, expected_lse), rtol=0, atol=0)
    assert len(recorded) == 1
    torch.testing.assert_close(attnbench.graphed(*draw(7), **arguments), attnbench.attention(*draw(7), **arguments))
    assert len(recorded) == 2, "without the log-sum-exp it is another graph"
    assert recorded[0] is recorded[1], "of the same buffers"


def test_what_a_plan_does_not_read_makes_no_other_graph(recorded: list[graphs._Shape]) -> None:
    q, k, v = draw(0)
    for layer in range(4):
        for step in range(3):
            attnbench.graphed(q, k, v, method="sta", grid="2x3x4", layer=layer, step=step)
    assert len(recorded) == 1
    partition = (1, (2, 2), (2, 2, 2))
    for step in range(2):
        for layer in range(3):
            output = attnbench.graphed(q, k, v, method="vmoba", grid=GRID, layer=layer, step=step, partition=partition)
            expected = attnbench.attention(q, k, v, method="vmoba", grid=GRID, layer=layer, partition=partition)
            torch.testing.assert_close(output, expected)
    assert len(recorded) == 1 + 3, "one for each layer"


def test_other_settings_scales_and_shapes_have_graphs_of_their_own(recorded: list[graphs._Shape]) -> None:
    def call(heads: int = 4, dim: int = 8, **changes: Any) -> None:
        q, k, v = draw(0, heads, dim=dim)
        arguments: dict[str, Any] = {"method": "moba", "grid": GRID, "blocks": 4, "topk": 2, **changes}
        expected = attnbench.attention(q, k, v, **arguments)
        torch.testing.assert_close(attnbench.graphed(q, k, v, **arguments), expected)

    for changes in (
        {},
        {"topk": 1},
        {"scale": 0.1},
        {"grid": (4, 3, 2)},
        {"engine": "reference"},
        {"heads": 2},
        {"dim": 16},
    ):
        for _ in range(2):
            call(**changes)
    assert len(recorded) == 7
    assert len({id(shape) for shape in recorded}) == 3


def test_shapes_and_graphs_that_were_not_used_for_long_are_dropped(
    recorded: list[graphs._Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)

    def made(**changes: Any) -> int:
        before = len(recorded)
        dim = changes.pop("dim", 8)
        attnbench.graphed(*draw(0, dim=dim), method="moba", grid=GRID, **{"blocks": 4, "topk": 2, **changes})
        return len(recorded) - before

    assert [made(dim=dim) for dim in (8, 16, 8, 24, 8, 16)] == [1, 1, 0, 1, 0, 1]
    assert [made(topk=topk) for topk in (2, 1, 2, 3, 2, 1)] == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "graphed captures CUDA graphs, and q is on cpu"),
        ({"state": object()}, "graphed keeps no state between calls"),
    ],
)
def test_what_cannot_be_captured_is_refused(given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if given:
        monkeypatch.setattr(graphs, "_wrong_place", lambda q: None)
    with pytest.raises(Unsupported, match=words):
        attnbench.graphed(*draw(0), method="sta", grid=GRID, **given)


def test_gradients_are_refused(recorded: list[graphs._Shape]) -> None:
    q, k, v = draw(0)
    v.requires_grad_()
    with pytest.raises(Unsupported, match=r"no backward pass.* call it under torch.no_grad\(\)"):
        attnbench.graphed(q, k, v, method="sta", grid=GRID)
    with torch.no_grad():
        assert not attnbench.graphed(q, k, v, method="sta", grid=GRID).requires_grad


@pytest.mark.parametrize("fault", ["raises", "differs"])
def test_what_fails_while_it_is_captured_is_refused_in_a_sentence_and_not_tried_again(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def record(run: Callable[[], None], shape: graphs._Shape) -> Callable[[], object]:
        tried.append(1)
        if fault == "raises":
            raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")
        return lambda: shape.output.fill_(1.0)

    monkeypatch.setattr(graphs, "_wrong_place", lambda q: None)
    monkeypatch.setattr(graphs, "_record", record)
    why = {
        "raises": "CUDA error: operation not permitted when stream is capturing$",
        "differs": "the first replay gave another output than the call$",
    }[fault]
    for _ in range(2):
        with pytest.raises(Unsupported, match=f"^method 'moba' cannot be captured in a CUDA graph: {why}"):
            attnbench.graphed(*draw(0), method="moba", grid=GRID, blocks=4, topk=2)
    assert len(tried) == 1


def test_nan_in_a_first_call_shuts_no_later_one_out(recorded: list[graphs._Shape]) -> None:
    q, k, v = draw(0)
    q[0, 1, 5] = torch.nan
    for tensors in ((q, k, v), draw(1)):
        output = attnbench.graphed(*tensors, method="moba", grid=GRID, blocks=4, topk=2)
        expected = attnbench.attention(*tensors, method="moba", grid=GRID, blocks=4, topk=2)
        torch.testing.assert_close(output, expected, equal_nan=True)
    assert len(recorded) == 1


@pytest.mark.parametrize("change", [{"grid": "2x3x5"}, {"topk": -1}, {"method": "mobba"}, {"layer": -1}])
def test_wrong_arguments_are_refused_as_by_attention(change: dict[str, Any], recorded: list[graphs._Shape]) -> None:
    arguments: dict[str, Any] = {"method": "moba", "grid": GRID, "blocks": 4, "topk": 2, **change}
    with pytest.raises(BadInput) as ours:
        attnbench.graphed(*draw(0), **arguments)
    with pytest.raises(BadInput) as theirs:
        attnbench.attention(*draw(0), **arguments)
    assert str(ours.value) == str(theirs.value)
    with pytest.raises(BadInput, match="q is a list"):
        attnbench.graphed([], *draw(0)[1:], method="moba", grid=GRID)
    assert not recorded


def test_inference_mode_makes_buffers_that_other_calls_can_use(recorded: list[graphs._Shape]) -> None:
    with torch.inference_mode():
        attnbench.graphed(*draw(0), method="sta", grid=GRID)
    output = attnbench.graphed(*draw(1), method="sta", grid=GRID)
    torch.testing.assert_close(output, attnbench.attention(*draw(1), method="sta", grid=GRID))
    assert len(recorded) == 1
