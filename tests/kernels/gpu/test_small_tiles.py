"""Tiles of 64 rows, for cards whose shared memory is too small for 128: each tile of 128 is computed in two parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.kernels.engines import ENGINES, Task, choose_engine, strictly
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.gpu import attend, backward_keys, backward_queries, shared_memory
from attnbench.kernels.gpu.shared_memory import LARGE_TILES, SMALL_TILES, takes_large_tiles

Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

CASES: list[Any] = [
    ("sta", {"tile": (2, 5, 8), "window": (1, 1, 1)}),  # blocks of 80: the second part is nearly empty
    ("moba", {"block_size": 72, "topk": 2}),
    pytest.param("moba", {"block_size": 72, "topk": 2, "causal": True}, marks=pytest.mark.slow),
    ("sliding-window", {"window": (1, 2, 4)}),
]


@pytest.fixture
def small_card(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the kernels take tiles of 64 rows; notes which of them ask."""
    asked: list[str] = []
    for module in (attend, backward_queries, backward_keys):

        def small(device: torch.device, name: str = module.__name__) -> bool:
            asked.append(name.rpartition(".")[2])
            return False

        monkeypatch.setattr(module, "takes_large_tiles", small)
    return asked


@pytest.mark.parametrize(("method", "settings"), CASES)
def test_attention_and_its_gradients_are_those_of_whole_matrices(
    method: str, settings: dict[str, Any], small_card: list[str], oracle: Oracle, device: torch.device
) -> None:
    random = torch.Generator().manual_seed(0)
    grid, text, dim = (2, 5, 16), (2, 1), 72 if method == "moba" else 80
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v, d_output = (torch.randn(1, heads, 163, dim, generator=random).to(device, dtype) for heads in (2, 1, 1, 2))
    arguments: dict[str, Any] = {"method": method, "grid": grid, "text": text, **settings}
    leaves = [x.requires_grad_() for x in (q, k, v)]
    output, lse = attnbench.attention(*leaves, **arguments, engine="triton", return_lse=True)
    got = torch.autograd.grad((output * d_output).sum() + lse.sum(), leaves)
    mask = attnbench.select(q, k, **arguments).token_mask()
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected, expected_lse = oracle(*wide, mask, dim**-0.5)
    wanted = torch.autograd.grad((expected * d_output).sum() + expected_lse.sum(), wide)
    tolerance = 3e-2 if device.type == "cuda" else 1e-5
    for ours, theirs in zip((output, lse, *got), (expected, expected_lse, *wanted), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=tolerance * float(theirs.detach().abs().max()), rtol=0)
    assert set(small_card) == {"attend", "backward_queries", "backward_keys"}


@pytest.mark.parametrize(
    ("card", "shared", "large"), [("H100", 232_448, True), ("A100", 166_912, False), ("RTX 4090", 101_376, False)]
)
def test_the_shared_memory_decides(card: str, shared: int, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_most_shared_memory", lambda index: shared)
    assert takes_large_tiles(torch.device("cuda", 0)) is large
    assert attend.default_tuning(128, 128, large=large)[:2] == ((128, 128) if large else (64, 64))


def test_a_card_without_room_for_small_tiles_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    q = torch.zeros(1, 1, 12, 128, dtype=torch.bfloat16)
    plan = attnbench.select(q, q, method="moba", grid=(1, 3, 4), blocks=3, topk=1)
    task = replace(Task.of(q, q, q), device=torch.device("cuda"))
    for shared, why in [
        (LARGE_TILES, None), (SMALL_TILES, None),
        (SMALL_TILES - 1, f"needs {SMALL_TILES} bytes of shared memory, and this GPU has {SMALL_TILES - 1}"),
    ]:  # fmt: skip
        monkeypatch.setattr(shared_memory, "_most_shared_memory", lambda index, shared=shared: shared)
        assert ENGINES["triton"].supports(plan, task) == why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"head_dim": 160}, "runs head_dim up to 128, not 160"),
        ({"head_dim": 256}, "runs head_dim up to 128, not 256"),
        ({"dtype": torch.float64}, "runs bfloat16 and float16, not torch.float64"),
        ({"head_dim": 72}, None), ({"head_dim": 96}, None),
    ],
)  # fmt: skip
def test_what_no_kernel_runs_is_said_once_and_refused_strictly(
    changes: dict[str, Any], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "_most_shared_memory", lambda index: 232_448)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr("attnbench.kernels.engines._said", set())
    monkeypatch.setattr("attnbench.kernels.engines._unavailable", lambda name: None if name in ours else "is not here")
    ours = ("triton", "reference")
    q = torch.zeros(1, 1, 12, 16, dtype=torch.bfloat16)
    plan = attnbench.select(q, q, method="moba", grid=(1, 3, 4), blocks=3, topk=1)
    task = replace(Task.of(q, q, q), device=torch.device("cuda"), **changes)
    if why is None:
        assert choose_engine("auto", plan, task).name == "triton"
        return
    with pytest.warns(RuntimeWarning, match=f"plain torch and slow, for engine 'triton' {why}"):
        assert choose_engine("auto", plan, task).name == "reference"
    assert choose_engine("auto", plan, task).name == "reference"  # a second warning would be an error
    with strictly(), pytest.raises(Unsupported, match=f"triton {why}"):
        choose_engine("auto", plan, task)
