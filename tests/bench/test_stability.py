"""Repeated calls: which call is told of, however many wait to be looked at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attnbench.bench import stability
from attnbench.bench.stability import check_stability

FIRST = torch.randn(1, 2, 16, 8, generator=torch.Generator().manual_seed(5))
SPOILT = FIRST.index_put((torch.tensor(0), torch.tensor(1), torch.tensor(3)), torch.tensor(9.0))
ROUNDED = FIRST * (1 + 1e-6)


def repeated(results: list[Tensor], ahead: int) -> tuple[stability.StabilityCheck, int]:
    """Return the check of a call that gives ``results`` after FIRST, and how often it was called again."""
    left = iter(results)
    made = 0

    def again() -> list[Tensor]:
        nonlocal made
        made += 1
        return [next(left)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stability, "_calls_ahead", lambda first: ahead)
        found = check_stability([FIRST], again, [1e-4], calls=1 + len(results), seconds=0.01)
    return found, made


@given(ahead=st.integers(1, 5), calls=st.integers(1, 12), at=st.integers(0, 11))
def test_the_call_that_is_off_is_named_however_many_wait(ahead: int, calls: int, at: int) -> None:
    results = [FIRST.clone() for _ in range(calls)]
    assert repeated(results, ahead) == (stability.StabilityCheck("deterministic", 1 + calls), calls)
    spoilt, rounded = [list(results) for _ in range(2)]
    rounded[at % calls] = ROUNDED
    assert repeated(rounded, ahead) == (stability.StabilityCheck("stable", 1 + calls), calls)
    spoilt[at % calls] = SPOILT
    found, made = repeated(spoilt, ahead)
    assert (found.found, found.calls) == ("unstable", 1 + made)
    assert f"call {2 + at % calls} on the same inputs differs" in found.problem
    assert made <= min(calls, at % calls + ahead)


@given(ahead=st.integers(1, 5), at=st.integers(0, 5))
def test_what_is_not_a_number_is_never_the_same(ahead: int, at: int) -> None:
    results = [FIRST.clone() for _ in range(6)]
    results[at] = torch.full_like(FIRST, torch.nan)
    assert repeated(results, ahead)[0].found == "unstable"


def test_calls_wait_on_a_gpu_as_far_as_memory_goes() -> None:
    def ahead(nbytes: int, device: str) -> int:
        tensor: Any = SimpleNamespace(nbytes=nbytes, device=torch.device(device))
        return stability._calls_ahead([tensor])

    assert ahead(2**20, "cpu") == 1
    assert [ahead(size, "cuda") for size in (2**20, 2**29, 2**30, 2**31, 2**33)] == [4, 4, 2, 1, 1]
