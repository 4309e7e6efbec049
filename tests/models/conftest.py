"""A tiny Wan transformer with random weights, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

GRID = (3, 4, 5)


def make_wan(seed: int = 0, **changes: Any) -> Any:
    """Three layers of two heads of 24, evaluation mode."""
    torch.manual_seed(seed)
    config = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4,
        "out_channels": 4, "text_dim": 16, "freq_dim": 32, "ffn_dim": 64, "num_layers": 3, "rope_max_seq_len": 64,
    }  # fmt: skip
    model = diffusers.WanTransformer3DModel(**config | changes).eval()
    for block in model.blocks:  # weights of their own, so that forgetting a norm would show
        for norm in (block.attn1.norm_q, block.attn1.norm_k):
            torch.nn.init.uniform_(norm.weight, 1.0, 3.0)
    return model


def make_inputs(grid: tuple[int, int, int] = GRID, batch: int = 2, timestep: float = 500.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    t, h, w = grid
    return {
        "hidden_states": torch.randn(batch, 4, t, 2 * h, 2 * w, generator=generator),
        "timestep": torch.full((batch,), timestep),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
    }


@pytest.fixture(scope="session")
def wan() -> Any:
    return make_wan()


@pytest.fixture
def fresh_wan() -> Callable[..., Any]:
    return make_wan


@pytest.fixture
def inputs() -> Callable[..., dict[str, Any]]:
    return make_inputs
