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
from attnbench.kernels.remember import kept_with, remembered

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
    monkeypatch.setattr(remember, "capturing", lambda: True)
    assert partition_cuboids(known, (2, 2, 3), CPU) is before
    with pytest.raises(Unsupported, match="call attention once before a CUDA graph captures it"):
        partition_cuboids(unknown, (2, 2, 3), CPU)
    monkeypatch.setattr(remember, "capturing", lambda: False)
    assert partition_cuboids(unknown, (2, 2, 3), CPU).blocks == 2 * 3 * 3


def test_what_a_graph_holds_is_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    @remembered(1)
    def make(number: int) -> Partition:
        return Partition(None, torch.tensor([0, number]), torch.zeros(number, dtype=torch.int64))

    held = weakref.ref(make(1))
    monkeypatch.setattr(remember, "capturing", lambda: True)
    make(1)
    monkeypatch.setattr(remember, "capturing", lambda: False)
    dropped = weakref.ref(make(2))
    make(3)
    gc.collect()
    assert dropped() is None
    assert held() is not None


def test_what_tensors_make_is_made_once_while_they_stay_as_they_are() -> None:
    keep, offsets = torch.ones(3, 3), torch.arange(4)
    made: list[str] = []

    def make() -> float:
        made.append("")
        return float(keep.sum() + offsets.sum())

    assert [kept_with((keep, None, offsets), "sum", make) for _ in range(3)] == [15.0] * 3
    assert len(made) == 1
    kept_with((keep, None, offsets), "other", make)
    kept_with((keep, offsets, offsets), "sum", make)
    assert len(made) == 3
    assert kept_with((keep, None, offsets), "sum", make) == 15.0
    assert len(made) == 4, "the last tensors alone are remembered"
    offsets[3] = 13
    assert kept_with((keep, None, offsets), "sum", make) == 25.0
    keep.zero_()
    assert kept_with((keep, None, offsets), "sum", make) == 16.0


def test_what_a_tensor_made_goes_with_it() -> None:
    keep, made = torch.ones(3), [torch.ones(5)]
    gone = weakref.ref(made[0])
    kept_with((keep,), "copy", made.pop)
    gc.collect()
    assert gone() is not None
    del keep
    gc.collect()
    assert gone() is None


def test_what_is_made_in_a_capture_or_from_tensors_without_versions_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep = torch.ones(3)
    with monkeypatch.context() as capture:
        capture.setattr(remember, "capturing", lambda: True)
        first = kept_with((keep,), "object", object)
    second = kept_with((keep,), "object", object)
    assert first is not second
    assert kept_with((keep,), "object", object) is second
    with torch.inference_mode():
        unversioned = torch.ones(3)
        assert kept_with((unversioned,), "object", object) is not kept_with((unversioned,), "object", object)


def test_what_is_kept_in_inference_serves_training() -> None:
    keep = torch.ones(3)
    with torch.inference_mode():
        made = kept_with((keep,), "double", lambda: keep * 2)
    assert not made.is_inference()
