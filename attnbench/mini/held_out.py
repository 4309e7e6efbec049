"""The loss on clips that training never sees, with the same clips, noise and times for every method and seed."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from attnbench.mini.config import ModelConfig
from attnbench.mini.data import Clips, make_clips
from attnbench.mini.draws import normal
from attnbench.mini.flow import losses
from attnbench.mini.model import Attend, MiniTransformer
from attnbench.mini.times import draw_times


@lru_cache(maxsize=1)
def held_out_set(config: ModelConfig, count: int) -> tuple[Clips, Tensor, Tensor]:
    """Return ``count`` held-out clips, the noise of each [count, 3, F, H, W], and its time [count], on the CPU."""
    clips = make_clips(0, count, seed=0, split="held-out", frames=config.frames, size=config.size)
    noise = torch.stack([normal(tuple(clips.video.shape[1:]), "held-out noise", clip) for clip in range(count)])
    return clips, noise, draw_times(count, "held-out times", count)


@torch.no_grad()
def held_out_losses(
    model: MiniTransformer, attend: Attend, count: int, batch: int, dtype: str = "float32"
) -> list[float]:
    """Return the loss of each of ``count`` held-out clips, computed ``batch`` at a time on the model's device."""
    device = next(model.parameters()).device
    clips, noise, times = held_out_set(model.config, count)
    found: list[Tensor] = []
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        for rows in torch.arange(count).split(batch):
            given = (clips.video, noise, times, clips.label, clips.direction)
            video, grain, t, label, direction = (x[rows].to(device) for x in given)
            found.append(losses(model, video, grain, t, label, direction, attend))
    values: list[float] = torch.cat(found).double().tolist()
    return values
