"""What is remembered serves training after inference, and CUDA graphs, whose capture is stood in for here."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from attnbench.kernels import remember
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import Partition, partition_cuboids
from attnbench.kernels.remember import remembered

CPU = torch.device("cpu")


def test_what_was_made_in_inference_serves_training() -> None:
    with torch.inference_mode():
        partition = partition_cuboids(Layout(Grid(3, 5, 7), (2, 1)), (2, 2, 3), CPU)
    assert not partition.offsets.is_inference()
    x = torch.ones(partition.offsets.shape, requires_grad=True)
    (x * partition.offsets).sum().backward()  # saves the offsets


def test_a_capture_finds_what_was_made_before_and_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = (Layout(Grid(3, 5, side)) for side in (8, 9))
    before = partition_cuboids(known, (2, 2, 3), CPU)
    monkeypatch.setattr(remember, "_capturing", lambda: True)
    assert partition_cuboids(known, (2, 2, 3), CPU) is before
    with pytest.raises(Unsupported, match="call attention once before a CUDA graph captures it"):
        partition_cuboids(unknown, (2, 2, 3), CPU)
    monkeypatch.setattr(remember, "_capturing", lambda: False)
    assert partition_cuboids(unknown, (2, 2, 3), CPU).blocks == 2 * 3 * 3


def test_what_a_graph_holds_is_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    @remembered(1)
    def make(number: int) -> Partition:
        return Partition(None, torch.tensor([0, number]), torch.zeros(number, dtype=torch.int64))

    held = weakref.ref(make(1))
    monkeypatch.setattr(remember, "_capturing", lambda: True)
    make(1)
    monkeypatch.setattr(remember, "_capturing", lambda: False)
    dropped = weakref.ref(make(2))
    make(3)
    gc.collect()
    assert dropped() is None
    assert held() is not None
