"""Batches of training, made from the seed and the number of the step, on a stream of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.mini.config import PRESETS, TrainConfig
from attnbench.mini.data import make_clips
from attnbench.mini.draws import generator, uniform
from attnbench.mini.model import HIDDEN_CLASS, HIDDEN_DIRECTION
from attnbench.mini.times import TRAIN_SHIFT, draw_times
from attnbench.mini.workers import ALONE, Workers


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one step: clips and noise [B, 3, F, H, W], and times, classes and directions [B]."""

    video: Tensor
    noise: Tensor
    t: Tensor
    label: Tensor
    direction: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order in which ``flow.losses`` takes them."""
        return self.video, self.noise, self.t, self.label, self.direction


def make_batch(config: TrainConfig, step: int, device: torch.device, workers: Workers = ALONE) -> Batch:
    """Return this process's share of the batch of a step, which depends only on the seed and the step.

    Every process makes the whole batch, so that a clip does not depend on the number of processes. That takes little
    time.
    """
    halved, count = config.stage(step)
    sizes, shift = (
        PRESETS[config.model].sizes[halved],
        TRAIN_SHIFT / math.sqrt(8**halved),
    )  # see MiniTransformer.forward
    clips = make_clips(step * count, count, seed=config.seed, frames=sizes.frames, size=sizes.size, device=device)
    source = torch.Generator(device).manual_seed(generator("noise", config.seed, step).initial_seed())
    noise = torch.randn(clips.video.shape, generator=source, device=device)
    t = draw_times(count, "times", config.seed, step, shift=shift).to(device)
    hidden = (uniform((count,), "drop", config.seed, step) < config.drop).to(device)
    label = torch.where(hidden, HIDDEN_CLASS, clips.label)
    direction = torch.where(hidden, HIDDEN_DIRECTION, clips.direction)
    own = workers.share(count)
    return Batch(*(whole[own] for whole in (clips.video, noise, t, label, direction)))


def made_aside(
    config: TrainConfig, step: int, device: torch.device, aside: torch.cuda.Stream | None, workers: Workers
) -> Batch:
    """Return the batch of a step, made on a stream of its own: a copy to the GPU waits for all work on its stream."""
    if aside is None:
        return make_batch(config, step, device, workers)
    with torch.cuda.stream(aside):
        batch = make_batch(config, step, device, workers)
    reader = torch.cuda.current_stream(device)
    reader.wait_stream(aside)
    for tensor in batch.tensors:
        tensor.record_stream(reader)  # so that its memory is not reused before the step has read it
    return batch
