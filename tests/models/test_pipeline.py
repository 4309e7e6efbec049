"""Whole pipelines, from prompt embeddings to frames, with tiny random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from attnbench.kernels.errors import Unsupported
from attnbench.models.patch import patch

diffusers = pytest.importorskip("diffusers")

FRAMES, SIDE, STEPS = 9, 32, 2


def make_pipeline(transformer: Any, second: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pipeline = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, transformer=transformer, vae=vae, transformer_2=second,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), **options,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: Any, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(2)
    embeddings = {
        name: torch.randn(1, 7, 16, generator=generator) for name in ("prompt_embeds", "negative_prompt_embeds")
    }
    arguments = {"num_frames": FRAMES, "height": SIDE, "width": SIDE, "num_inference_steps": STEPS, **embeddings}
    return pipeline(generator=torch.Generator().manual_seed(3), **arguments | options).frames


def test_two_steps_with_guidance_are_two_steps_in_every_clip(fresh_wan: Callable[..., Any]) -> None:
    pipeline = make_pipeline(fresh_wan())
    with patch(pipeline, "full", engine="sdpa", dense_steps=1) as stats:
        first = generate(pipeline)
        assert (stats.steps, stats.step, str(stats.grid)) == (2, 1, "3x2x2")
        second = generate(pipeline)
    assert stats.steps == 4
    assert [(layer.calls, layer.own_calls, layer.steps) for layer in stats.layers] == [(4, 4, 2)] * 3
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, generate(pipeline))


def test_a_sparse_method_changes_the_clip_and_leaves_the_pipeline_as_it_was(fresh_wan: Callable[..., Any]) -> None:
    pipeline = make_pipeline(fresh_wan())
    before = generate(pipeline)
    with patch(pipeline, "sliding-window", window=(0, 0, 0)):
        sparse = generate(pipeline)
    assert np.isfinite(sparse).all()
    assert np.abs(sparse - before).max() > 0
    np.testing.assert_array_equal(generate(pipeline), before)


def test_two_transformers_of_a_pipeline_share_the_steps(fresh_wan: Callable[..., Any]) -> None:
    pipeline = make_pipeline(fresh_wan(0), fresh_wan(1), boundary_ratio=0.9)
    own = [part.blocks[0].attn1.processor for part in (pipeline.transformer, pipeline.transformer_2)]
    before = generate(pipeline)
    with patch(pipeline, "full", engine="sdpa", dense_steps=1) as stats:
        np.testing.assert_array_equal(generate(pipeline), before)
    assert stats.steps == 2
    assert [(layer.calls, layer.own_calls) for layer in stats.layers] == [(2, 2)] * 3
    assert [part.blocks[0].attn1.processor for part in (pipeline.transformer, pipeline.transformer_2)] == own


def test_a_timestep_for_every_token_is_one_step(fresh_wan: Callable[..., Any]) -> None:
    pipeline = make_pipeline(fresh_wan(), expand_timesteps=True)
    before = generate(pipeline)
    with patch(pipeline, "full", engine="sdpa") as stats:
        np.testing.assert_array_equal(generate(pipeline), before)
    assert stats.steps == 2


def test_a_pipeline_without_a_transformer_is_refused() -> None:
    with pytest.raises(Unsupported, match="a WanPipeline cannot be patched"):
        patch(make_pipeline(None), "full")
