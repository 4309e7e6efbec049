"""Coarse stages that several runs share. With full attention they are the same for every method."""

from __future__ import annotations

from pathlib import Path

import torch

from attnbench.kernels.errors import BadInput
from attnbench.mini.begin import read_config
from attnbench.mini.checkpoint import State, load_state
from attnbench.mini.config import TrainConfig
from attnbench.mini.steps import fresh_state

NOT_COARSE = (
    "method", "settings", "engine", "as_layer", "steps", "batch", "held_out", "checkpoint_every", "full_seconds",
    "judge", "compile",
)  # fmt: skip
"""Fields in which two runs that share coarse stages may differ."""


def taken_over(source: Path, config: TrainConfig) -> State:
    """Return the state of another run at the end of its coarse stages, from which a new run can begin.

    The other run must have stopped there, as a run does if all of its steps are coarse.

    Args:
        source: the folder of the other run.
        config: the configuration of the new run.

    Raises:
        BadInput: if ``source`` holds no such run, or its coarse stages are not those of ``config``.
    """
    if not config.dense_coarse or not config.coarse:
        raise BadInput("only coarse stages with full attention are the same for every method: add --dense-coarse")
    other = read_config(source)
    there, here = other.as_json(), config.as_json()
    differing = [name for name in here if name not in NOT_COARSE and there[name] != here[name]]
    if differing:
        said = ", ".join(f"{name} {there[name]!r} for {here[name]!r}" for name in differing)
        raise BadInput(f"{str(source)!r} has other coarse stages than those asked for: {said}")
    state = fresh_state(config, torch.device("cpu"))
    load_state(state, other, source)
    if state.step != config.coarse_steps:
        raise BadInput(
            f"{str(source)!r} is at step {state.step} and its coarse stages take {config.coarse_steps} steps: give "
            "a run that ended with its coarse stages"
        )
    return state
