"""Checkpoints: one file with everything that a training run needs to continue, replaced as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.kernels.errors import BadInput
from attnbench.mini.config import TrainConfig
from attnbench.mini.model import MiniTransformer
from attnbench.mini.muon import Muon
from attnbench.mini.stored import fill, read_tensors, write_tensors

CHECKPOINT = "checkpoint.safetensors"
_KIND = "mini-checkpoint"


@dataclass(slots=True)
class State:
    """A training run between two steps.

    Attributes:
        model: the model that is trained, float32.
        ema: a second model with its averaged weights.
        muon: the optimiser of the matrices in the blocks.
        adam: the optimiser of all other parameters.
        step: number of optimiser steps taken.
        seconds: time that these steps took, over all parts of an interrupted run.
        full_seconds: time since the first step on full clips, with held-out losses, over all parts.
    """

    model: MiniTransformer
    ema: MiniTransformer
    muon: Muon
    adam: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    full_seconds: float = 0.0


def save_state(state: State, config: TrainConfig, folder: Path) -> None:
    """Write the state to a folder, where it replaces the previous one.

    Raises:
        BadInput: if it cannot be written. The previous one is kept.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("model", state.model), ("ema", state.ema)):
        tensors |= {f"{prefix}.{name}": x for name, x in module.state_dict().items()}
    for name, optimiser, parameter, moments in _moments(state):
        tensors |= {f"{moment}.{name}": optimiser.state[parameter][moment] for moment in moments}
    about = {
        "step": state.step, "seconds": state.seconds, "full_seconds": state.full_seconds, "config": config.as_json(),
    }  # fmt: skip
    write_tensors(folder / CHECKPOINT, _KIND, tensors, about)


def load_state(state: State, config: TrainConfig, folder: Path) -> None:
    """Read what ``save_state`` wrote into a fresh state of the same configuration.

    Raises:
        BadInput: if the file is missing, damaged, or of a run with another configuration.
    """
    path = folder / CHECKPOINT
    tensors, about = read_tensors(path, _KIND)
    if not {"step", "seconds", "config"} <= about.keys() or _complete(about["config"]) != config.as_json():
        raise BadInput(f"checkpoint {str(path)!r} is of a run with other settings than {str(folder / 'config.json')!r}")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        parts.setdefault(prefix, {})[rest] = tensor
    fill(state.model, parts.get("model", {}), path)
    fill(state.ema, parts.get("ema", {}), path)
    for name, optimiser, parameter, moments in _moments(state):
        given = {moment: parts.get(moment, {}).get(name) for moment in moments}
        if any(x is None or x.shape != parameter.shape for x in given.values()):
            raise BadInput(f"checkpoint {str(path)!r} lacks the optimiser's state of {name!r}")
        own = {moment: x.to(parameter.device) for moment, x in given.items() if x is not None}
        step = {"step": torch.tensor(float(about["step"]))} if optimiser is state.adam else {}
        optimiser.state[parameter] = {**step, **own}
    state.step, state.seconds = int(about["step"]), float(about["seconds"])
    state.full_seconds = float(about.get("full_seconds", 0.0))


def _complete(written: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with those fields added that did not exist when it was written."""
    return TrainConfig.from_json(written).as_json()


def _moments(state: State) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter, tuple[str, ...]]]:
    """Yield for each parameter its name, its optimiser, itself, and the names of the tensors the optimiser keeps for
    it."""
    names = {parameter: name for name, parameter in state.model.named_parameters()}
    for optimiser, moments in ((state.muon, ("momentum",)), (state.adam, ("exp_avg", "exp_avg_sq"))):
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                yield names[parameter], optimiser, parameter, moments
