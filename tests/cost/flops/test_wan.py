"""The closed form of a Wan forward pass, part by part, against torch's counter on the real modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench.cost.flops import WAN_MODELS, WanConfig, forward_flops
from attnbench.inputs.presets import MODELS, RESOLUTIONS
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid

SMALL = WanConfig("small", layers=2, heads=3, head_dim=16, ffn_dim=40, source="", text_dim=24, freq_dim=32, channels=5)
WHOLE = RESOLUTIONS["480p"].grid()


def count_modules(config: WanConfig, grid: Grid, text_tokens: int, batch: int) -> dict[str, int]:
    """Run diffusers' module on the meta device; return what torch counts, by the parts of ``ForwardFlops``."""
    diffusers = pytest.importorskip("diffusers")
    t, h, w = (side * patch for side, patch in zip(grid.shape, config.patch, strict=True))
    with torch.device("meta"):
        model = diffusers.WanTransformer3DModel(
            patch_size=config.patch, num_attention_heads=config.heads, attention_head_dim=config.head_dim,
            in_channels=config.channels, out_channels=config.channels, text_dim=config.text_dim,
            freq_dim=config.freq_dim, ffn_dim=config.ffn_dim, num_layers=config.layers, cross_attn_norm=True,
            qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=1024,
        )  # fmt: skip
        latents = torch.empty(batch, config.channels, t, h, w)
        text = torch.empty(batch, text_tokens, config.text_dim)
        step = torch.zeros(batch, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(hidden_states=latents, timestep=step, encoder_hidden_states=text, return_dict=False)
    modules = {name: {str(op): n for op, n in ops.items()} for name, ops in counter.get_flop_counts().items()}

    def total(part: str, operators: tuple[str, ...] = ("aten.addmm", "aten.bmm", "aten.convolution")) -> int:
        return sum(modules[f"{type(model).__name__}.{part}"].get(operator, 0) for operator in operators)

    def blocks(part: str, *operators: str) -> int:
        return sum(total(f"blocks.{i}.{part}", operators) for i in range(config.layers))

    embedder = "condition_embedder"
    parts = {
        "patch_embedding": total("patch_embedding"),
        "time_embedding": total(f"{embedder}.time_embedder") + total(f"{embedder}.time_proj"),
        "text_embedding": total(f"{embedder}.text_embedder"),
        "self_projections": blocks("attn1", "aten.addmm"),
        "self_pairs": blocks("attn1", "aten.bmm"),
        "cross_projections": blocks("attn2", "aten.addmm"),
        "cross_pairs": blocks("attn2", "aten.bmm"),
        "ffn": blocks("ffn", "aten.addmm"),
        "head": total("proj_out"),
    }
    assert sum(parts.values()) == counter.get_total_flops(), "a part of the module is in none of ours"
    return parts


@pytest.mark.filterwarnings("ignore")  # of what diffusers warns while it is imported
@pytest.mark.parametrize(
    ("config", "grid", "text_tokens", "batch"),
    [
        (SMALL, Grid(1, 1, 1), 1, 1),
        (SMALL, Grid(3, 2, 5), 7, 2),
        (WAN_MODELS["wan2.1-1.3b"], WHOLE, 512, 1),
        (WAN_MODELS["wan2.1-14b"], RESOLUTIONS["720p"].grid(), 512, 2),
    ],
)
def test_every_part_is_what_torch_counts(config: WanConfig, grid: Grid, text_tokens: int, batch: int) -> None:
    ours = forward_flops(config, grid, text_tokens=text_tokens, batch=batch)
    assert ours.parts == count_modules(config, grid, text_tokens, batch)


def test_one_forward_pass_of_the_small_model_at_480p() -> None:
    flops = forward_flops(WAN_MODELS["wan2.1-1.3b"], WHOLE)
    assert flops.total == 283_001_787_777_024
    assert sum(flops.parts.values()) == flops.total


def test_other_self_attention_changes_that_part_alone() -> None:
    dense = forward_flops(SMALL, Grid(2, 2, 2))
    sparse = dense.with_self_pairs(17)
    assert sparse.total == dense.total - dense.self_pairs + 17
    assert {**dense.parts, "self_pairs": 17} == sparse.parts


@pytest.mark.parametrize("name", WAN_MODELS)
def test_the_models_are_those_of_the_shapes(name: str) -> None:
    config, preset = WAN_MODELS[name], MODELS[name]
    assert config.name == name
    assert (config.layers, config.heads, config.head_dim) == (preset.layers, preset.heads, preset.head_dim)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"text_tokens": -1}, {"text_tokens": 1.5}, {"batch": True}])
def test_counts_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(BadInput, match=f"{name} {wrong[name]!r} must be a whole number of at least 1"):
        forward_flops(SMALL, Grid(1, 1, 1), **wrong)
