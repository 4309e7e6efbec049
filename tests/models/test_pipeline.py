"""Whole pipelines, from prompt embeddings to frames, with tiny random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from attnbench.kernels.errors import Unsupported
from attnbench.models.patch import patch
from attnbench.models.warm_up import NeverCalled

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


def own_calls(pipeline: Any, make: Callable[[], Any], **options: Any) -> list[tuple[int, int]]:
    """Return for each clip how often the first layer ran the method and its own attention."""
    found, before = [], (0, 0)
    with patch(pipeline, "full", engine="sdpa", **options) as stats:
        for clip in make():
            clip()
            now = (stats.layers[0].calls, stats.layers[0].own_calls)
            found.append((now[0] - before[0], now[1] - before[1]))
            before = now
    return found


@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 1), (5.0, 2)])
def test_a_clip_of_one_step_leaves_the_next_clips_alone(
    fresh_wan: Callable[..., Any], guidance: float, calls: int
) -> None:
    pipeline = make_pipeline(fresh_wan())
    found = own_calls(
        pipeline,
        lambda: [
            lambda steps=steps: generate(pipeline, num_inference_steps=steps, guidance_scale=guidance)
            for steps in (8, 1, 8, 1, 1, 8)
        ],
    )
    eight, one = (6 * calls, 2 * calls), (calls, 0)
    assert found == [eight, one, eight, one, one, eight]


def test_three_clips_of_one_step_are_three_steps(fresh_wan: Callable[..., Any]) -> None:
    pipeline = make_pipeline(fresh_wan())
    with patch(pipeline, "full", engine="sdpa", dense_steps=0) as stats:
        for _ in range(3):
            generate(pipeline, num_inference_steps=1)
    assert (stats.steps, stats.layers[0].steps) == (3, 3)


@pytest.mark.parametrize(("strength", "ran", "dense"), [(0.5, 4, 1), (0.25, 2, 0), (1.0, 8, 2), (0.125, 1, 0)])
def test_of_video_to_video_a_quarter_of_the_steps_that_run_is_dense(
    fresh_wan: Callable[..., Any], strength: float, ran: int, dense: int
) -> None:
    whole = make_pipeline(fresh_wan())
    pipeline = diffusers.WanVideoToVideoPipeline(
        tokenizer=None, text_encoder=None, transformer=whole.transformer, vae=whole.vae, scheduler=whole.scheduler
    )
    pipeline.set_progress_bar_config(disable=True)
    video = torch.rand(FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    embeddings = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(2))
    with patch(pipeline, "full", engine="sdpa") as stats:
        pipeline(
            video=video, prompt_embeds=embeddings, height=SIDE, width=SIDE, num_inference_steps=8, strength=strength,
            guidance_scale=1.0, generator=torch.Generator().manual_seed(3),
        )  # fmt: skip
    assert (stats.steps, stats.layers[0].own_calls, stats.layers[0].calls) == (ran, dense, ran - dense)


def test_a_clip_in_which_the_method_is_never_called_is_said_to_be_one(fresh_wan: Callable[..., Any]) -> None:
    pipeline = make_pipeline(fresh_wan())
    with (
        patch(pipeline, "full", engine="sdpa", dense_steps=4) as stats,
        pytest.warns(NeverCalled, match="it has 2 denoising steps, and the first 4 are dense"),
    ):
        generate(pipeline)
    assert stats.layers[0].calls == 0


def test_a_pipeline_without_a_transformer_is_refused() -> None:
    with pytest.raises(Unsupported, match="a WanPipeline cannot be patched"):
        patch(make_pipeline(None), "full")
