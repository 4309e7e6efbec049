"""One step of training: the state before the first, the rate, the gradients, and how long a step takes."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnbench.machine.clock import CLOCK
from attnbench.mini.batch import Batch, make_batch
from attnbench.mini.checkpoint import State
from attnbench.mini.config import PRESETS, TrainConfig
from attnbench.mini.draws import generator
from attnbench.mini.gradients import WARM_UP, DirectGradients, Gradients, ReplayedGradients
from attnbench.mini.model import Attend, MiniTransformer, attend_by, attend_on
from attnbench.mini.muon import Muon
from attnbench.mini.workers import ALONE, Workers


def fresh_state(config: TrainConfig, device: torch.device) -> State:
    """Return the state before the first step. The weights depend on the seed, not on the method or the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator("weights", config.seed).initial_seed())
        model = MiniTransformer(PRESETS[config.model])
    model.to(device)
    matrices = [layer.weight for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in matrices)]
    adam = torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    muon = Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay)
    return State(model, copy.deepcopy(model).requires_grad_(False), muon, adam)


def rate_share(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step as a share of its peak: a linear warm-up, then half a cosine down to 0.01.

    The cosine begins with the full clips. All coarse steps after the warm-up are taken at the peak.
    """
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    flat = max(config.warmup, config.coarse_steps)
    rest = min(1.0, max(0.0, (step - flat) / max(config.steps - flat, 1)))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * rest)))


def prepare(
    state: State, config: TrainConfig, device: torch.device, note: Callable[[str], None], workers: Workers = ALONE
) -> tuple[Attend, Gradients]:
    """Return the self-attention of a run and its gradients, compiled and replayed if it asks for that."""
    if config.compile:
        state.model.fuse()
    attend = attend_by(config.method, config.engine, as_layer=config.as_layer, **config.settings)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    in_training = attend_on(PRESETS[config.model].grid, attend) if config.dense_coarse else attend
    direct = DirectGradients(state.model, in_training, dtype)
    if config.compile and device.type == "cuda" and workers.count == 1:
        return attend, ReplayedGradients(direct, device, note)
    return attend, direct


def take_step(
    state: State, config: TrainConfig, batch: Batch, gradients: Gradients, workers: Workers = ALONE
) -> tuple[Tensor, Tensor]:
    """Take one optimiser step. Return its loss and the norm of its gradient, on the device."""
    loss = workers.average(state.model.parameters(), gradients(batch))
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
    share = rate_share(config, state.step)
    for optimiser, peak in ((state.muon, config.muon_lr), (state.adam, config.lr)):
        for group in optimiser.param_groups:
            group["lr"] = peak * share
        optimiser.step()
    decay = min(config.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.ema.parameters()), list(state.model.parameters()), 1 - decay)
    return loss, norm


def seconds_a_step(
    config: TrainConfig, step: int, device: torch.device, note: Callable[[str], None], workers: Workers = ALONE,
    count: int = 1,
) -> float:  # fmt: skip
    """Return the median time of ``count`` steps of another run, after some that compile whatever they need.

    Args:
        step: the steps are like the one of this number, in clips and attention.
        note: is told if no CUDA graph can be captured.
    """
    state = fresh_state(config, device)
    _, gradients = prepare(state, config, device, note, workers)
    state.step = step
    times = []
    batch = make_batch(config, step, device, workers)
    for _ in range(WARM_UP + 1 + count):
        before = CLOCK.seconds()
        values = take_step(state, config, batch, gradients, workers)
        batch = make_batch(config, step, device, workers)
        torch.stack(values).tolist()
        times.append(CLOCK.seconds() - before)
    return workers.agree(statistics.median(times[-count:]))
