"""Recipes of the pipelines: their classes, the sizes that they can make, and how fast their clips play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the pipeline of a family makes a clip from text.

    Attributes:
        pipeline: class in diffusers.
        temporal, spatial: names of the pipeline's attributes with the frames and pixels that a latent covers.
        side: the number of latents of which height and width must be a multiple.
        fps: frames a second at which clips play.
        other_fps: (config of this part, field, value, frames a second) of a version that plays at another rate.
        wide_vae: whether the VAE stays in float32, as in its authors' code.
        tiled: whether the VAE decodes large clips in tiles, as in diffusers' example of the pipeline.
        least_steps: fewest denoising steps with which the pipeline works.
    """

    pipeline: str
    temporal: str
    spatial: str
    side: int
    fps: float
    wide_vae: bool = False
    tiled: bool = False
    least_steps: int = 1
    other_fps: tuple[str, str, object, float] | None = None

    def rate(self, pipeline: Any) -> float:
        """Return the frames a second at which clips of this version of the model play."""
        if self.other_fps is None:
            return self.fps
        part, field, value, fps = self.other_fps
        return fps if getattr(getattr(pipeline, part).config, field, None) == value else self.fps

    def problem(self, pipeline: Any, frames: int | None, height: int | None, width: int | None) -> str | None:
        """Return why a pipeline cannot make clips of this size, or None if it can.

        Sizes that are None have their defaults.
        """
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
        "wan": Recipe(
            "WanPipeline",
            "vae_scale_factor_temporal",
            "vae_scale_factor_spatial",
            2,
            16.0,
            wide_vae=True,
            other_fps=("vae", "scale_factor_spatial", 16, 24.0),
        ),
        "hunyuan": Recipe(
            "HunyuanVideoPipeline", "vae_scale_factor_temporal", "vae_scale_factor_spatial", 2, 24.0, tiled=True
        ),
        "cogvideox": Recipe(
            "CogVideoXPipeline",
            "vae_scale_factor_temporal",
            "vae_scale_factor_spatial",
            2,
            8.0,
            other_fps=("transformer", "patch_size_t", 2, 16.0),
        ),
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
"""Recipes by family.

Frames a second are those of diffusers' examples for Wan and CogVideoX, the default ``frame_rate`` of LTXPipeline, and
those at which the authors of HunyuanVideo and Mochi save their clips. The authors of Wan 2.2 5B and of CogVideoX 1.5
give 24 and 16."""
