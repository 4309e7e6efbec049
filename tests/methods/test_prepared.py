"""Settings that were seen before are not resolved again; arguments that only look like them are other ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import attnbench
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import Method, get_method

GRID = (2, 3, 4)
Q = torch.zeros(1, 2, 24, 8)


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is remembered is dropped when it becomes too much, which could happen in the middle of a test.
    monkeypatch.setattr("attnbench.methods.arguments._prepared", {})


@dataclass(frozen=True)
class Settings:
    width: Any = 1


def counting(resolved: list[Any]) -> Method:
    full = get_method("full")

    def resolve(settings: Settings, layout: Layout) -> Settings:
        resolved.append((settings.width, layout.grid.shape))
        return settings

    return replace(full, name="counting", settings=Settings, resolve=resolve)


def test_the_same_arguments_are_resolved_once() -> None:
    resolved: list[Any] = []
    method = counting(resolved)
    for grid in (GRID, GRID, Grid(*GRID), Grid(*GRID), "2x3x4"):
        attnbench.attention(Q, Q, Q, method=method, grid=grid, width=2)
    assert resolved == [(2, GRID)] * 3  # once for each way to write the grid


@pytest.mark.parametrize("width", [1, 1.0, True, "1", (1, 1), (1, True), [1, 1], (1.0, 1), None])
def test_values_that_equal_others_are_other_values(width: Any) -> None:
    resolved: list[Any] = []
    method = counting(resolved)
    seen = [1, 1.0, True, "1", (1, 1), (1, True), [1, 1], (1.0, 1), None]
    for value in (*seen, width):
        attnbench.attention(Q, Q, Q, method=method, grid=GRID, width=value)
    assert [repr(value) for value, _ in resolved] == [repr(value) for value in seen]


def test_what_may_change_is_resolved_at_each_call() -> None:
    resolved: list[Any] = []
    method = counting(resolved)
    width = torch.ones(1)
    for _ in range(2):
        attnbench.attention(Q, Q, Q, method=method, grid=GRID, width=width)
    assert len(resolved) == 2


def test_another_method_of_the_same_name_is_asked_itself() -> None:
    first, second = [], []  # type: ignore[var-annotated]  # filled below
    for resolved in (first, second):
        attnbench.attention(Q, Q, Q, method=counting(resolved), grid=GRID)
    assert len(first) == len(second) == 1


def test_errors_are_the_same_the_second_time() -> None:
    for _ in range(2):
        with pytest.raises(attnbench.BadInput, match="partition"):
            attnbench.attention(Q, Q, Q, method="vmoba", grid=GRID, partition=(True, (1, 1), (1, 1, 1)))
        attnbench.attention(Q, Q, Q, method="vmoba", grid=GRID, partition=(1, (1, 1), (1, 1, 1)))
        with pytest.raises(attnbench.BadInput, match="tokens"):
            attnbench.attention(Q, Q, Q, method="vmoba", grid=(2, 3, 5), partition=(1, (1, 1), (1, 1, 1)))
