"""How the pipeline of each family makes a clip: its class, the sizes it can make, and how fast its clips play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Recipe:
    """Text to clip with one family.

    Attributes:
        pipeline: class in diffusers.
        temporal, spatial: the pipeline's attributes with the frames and pixels that a latent covers.
        side: pixels that height and width must be a multiple of, in latents.
        fps: frames a second at which clips play.
        wide_vae: whether the VAE stays in float32, as its authors have it.
        tiled: whether the VAE decodes large clips in tiles, as diffusers' example of the pipeline has it.
        least_steps: denoising steps that the pipeline needs.
    """

    pipeline: str
    temporal: str
    spatial: str
    side: int
    fps: float
    wide_vae: bool = False
    tiled: bool = False
    least_steps: int = 1

    def problem(self, pipeline: Any, frames: int | None, height: int | None, width: int | None) -> str | None:
        """Say in a sentence why a pipeline cannot make clips of this size; None if it can. None is its default."""
        group, pixels = getattr(pipeline, self.temporal), getattr(pipeline, self.spatial) * self.side
        if frames is not None and (frames < 1 or (frames - 1) % group):
            below = max(frames - 1, 0) // group * group + 1
            return f"frames {frames} must be of the form {group}k+1, such as {below} or {below + group}"
        for name, size in (("height", height), ("width", width)):
            if size is not None and (size < pixels or size % pixels):
                below = max(size // pixels, 1) * pixels
                return f"{name} {size} must be a multiple of {pixels}, such as {below} or {below + pixels}"
        longest = getattr(pipeline.transformer.config, "rope_max_seq_len", None)  # tokens on an axis, of Wan
        if longest is not None:
            most = {"frames": (longest - 1) * group + 1, "height": longest * pixels, "width": longest * pixels}
            for name, size in (("frames", frames), ("height", height), ("width", width)):
                if size is not None and size > most[name]:
                    return f"{name} {size} must be at most {most[name]}"
        return None


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "wan": Recipe("WanPipeline", "vae_scale_factor_temporal", "vae_scale_factor_spatial", 2, 16.0, wide_vae=True),
        "hunyuan": Recipe(
            "HunyuanVideoPipeline", "vae_scale_factor_temporal", "vae_scale_factor_spatial", 2, 24.0, tiled=True
        ),
        "cogvideox": Recipe("CogVideoXPipeline", "vae_scale_factor_temporal", "vae_scale_factor_spatial", 2, 8.0),
        "ltx": Recipe("LTXPipeline", "vae_temporal_compression_ratio", "vae_spatial_compression_ratio", 1, 25.0),
        "mochi": Recipe(
            "MochiPipeline",
            "vae_temporal_scale_factor",
            "vae_spatial_scale_factor",
            2,
            30.0,
            tiled=True,
            least_steps=2,  # its schedule divides by half of them, rounded down
        ),
    }
)
"""Recipes by family. Frames a second: diffusers' examples of Wan and CogVideoX, the default ``frame_rate`` of
LTXPipeline, and what the authors of HunyuanVideo and Mochi save their clips at."""
