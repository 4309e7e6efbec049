"""Peak memory of a call, by the process's resident set and by a made-up CUDA allocator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnbench.machine.memory import measure_peak

CPU = torch.device("cpu")
MIB = 2**20


def readable() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not readable(), reason="the system does not let a process set its resident peak back")
def test_the_peak_counts_what_was_freed_before_the_end() -> None:
    def call() -> int:
        large = torch.ones(96 * MIB, dtype=torch.uint8)
        size = large.numel()
        del large
        return torch.ones(16 * MIB, dtype=torch.uint8).numel() + size

    measure_peak(call, CPU)  # whatever is loaded on first use
    result, peak = measure_peak(call, CPU)
    assert result == 112 * MIB
    assert peak is not None
    assert 90 * MIB < peak < 140 * MIB


@pytest.mark.skipif(not readable(), reason="the system does not let a process set its resident peak back")
def test_an_earlier_peak_does_not_count() -> None:
    torch.ones(128 * MIB, dtype=torch.uint8)
    _, peak = measure_peak(lambda: torch.ones(MIB, dtype=torch.uint8), CPU)
    assert peak is not None
    assert peak < 30 * MIB


@pytest.mark.parametrize("broken", ["write_text", "read_text"])
def test_where_the_system_does_not_tell_the_call_still_runs_once(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object) -> None:
        raise PermissionError("not allowed")

    calls: list[int] = []
    monkeypatch.setattr(Path, broken, refuse)
    assert measure_peak(lambda: calls.append(1), CPU) == (None, None)
    assert calls == [1]


def test_an_error_of_the_call_is_its_own_and_not_tried_again() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise FileNotFoundError("a kernel's cache")

    with pytest.raises(FileNotFoundError):
        measure_peak(call, CPU)
    assert calls == [1]


def test_on_cuda_the_peak_is_the_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    held, peak = [100], [900]  # a peak of earlier, which must be reset
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(0, held[0]))

    def call() -> str:
        log.append("call")
        peak[0], held[0] = 350, 150
        return "output"

    assert measure_peak(call, torch.device("cuda")) == ("output", 250)
    assert log == ["synchronize", "call", "synchronize"]


def test_what_the_heap_kept_from_earlier_calls_does_not_hide_what_a_call_takes() -> None:
    def take() -> torch.Tensor:
        small = [torch.ones(16_000) for _ in range(400)]  # 25 MB in pieces that the heap keeps when they are freed
        return torch.stack([piece.sum() for piece in small])

    peaks = [measure_peak(take, torch.device("cpu"))[1] for _ in range(3)]
    assert all(peak is not None and peak > 20e6 for peak in peaks)
