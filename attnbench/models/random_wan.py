"""Wan transformers with random weights, for measurements: the time of a step does not depend on the weights' values."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from attnbench.cost.flops.wan import WAN_MODELS
from attnbench.kernels.errors import Unsupported, unknown_name
from attnbench.kernels.grid import Grid

SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "1.3b": WAN_MODELS["wan2.1-1.3b"].arguments,
        # For tests on a CPU: every part of the large model, and three layers for methods with three kinds of layers.
        "tiny": {
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 24,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 32,
            "freq_dim": 32,
            "ffn_dim": 96,
            "num_layers": 3,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "eps": 1e-6,
            "rope_max_seq_len": 128,
        },
    }
)
"""Arguments of diffusers' WanTransformer3DModel by size."""


def make_wan(size: str, device: torch.device, dtype: torch.dtype, seed: int = 0, heads: int | None = None) -> Any:
    """Return a WanTransformer3DModel with random weights on ``device``. Global random generators are not changed.

    Parameters that diffusers keeps in float32 when it loads a checkpoint are float32 here too. With other ``heads``
    than the size has, all layers are as much narrower or wider, so linear layers change with the square.

    Raises:
        BadInput: for an unknown size.
        Unsupported: without diffusers.
    """
    if size not in SIZES:
        raise unknown_name("size of Wan", size, SIZES)
    try:
        model_class = importlib.import_module("diffusers").WanTransformer3DModel
    except ImportError as error:
        raise Unsupported("a Wan transformer needs diffusers: pip install 'attnbench[models]'") from error
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        model = model_class(**_with_heads(SIZES[size], heads))
    return narrow(model, dtype).eval()


def _with_heads(arguments: Mapping[str, Any], heads: int | None) -> dict[str, Any]:
    if heads is None:
        return dict(arguments)
    wide = arguments["ffn_dim"] * heads / arguments["num_attention_heads"]
    return {**arguments, "num_attention_heads": heads, "ffn_dim": 16 * max(1, round(wide / 16))}  # as kernels like it


def narrow(model: Any, dtype: torch.dtype) -> Any:
    """Cast the parameters of a diffusers model, except those that diffusers keeps in float32, and return the model."""
    wide = set(model._keep_in_fp32_modules or ())
    for name, weight in model.named_parameters():
        if wide.isdisjoint(name.split(".")):
            weight.data = weight.data.to(dtype)
    return model


def make_inputs(
    size: str, grid: Grid, batch: int, text_tokens: int, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor]:
    """Return random arguments of the forward call: latents [B, C, T, H·p, W·p], timestep [B], text [B, tokens, d]."""
    config = SIZES[size]
    sides = [side * patch for side, patch in zip(grid.shape, config["patch_size"], strict=True)]
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    return {
        "hidden_states": random(batch, config["in_channels"], *sides),
        "timestep": torch.full((batch,), 500.0, device=device),
        "encoder_hidden_states": random(batch, text_tokens, config["text_dim"]),
    }
