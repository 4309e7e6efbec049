"""Coarse stages that several runs share: with full attention they are the same whatever the method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from attnbench.alone import alone
from attnbench.kernels.errors import BadInput
from attnbench.mini.checkpoint import load_state, save_state
from attnbench.mini.config import TrainConfig
from attnbench.mini.train import CONFIG, check_attention, fresh_state, read_config
from attnbench.mini.weights import write_atomically


def take_over(source: Path, config: TrainConfig, folder: Path) -> None:
    """Begin a run where the coarse stages of another one ended, for ``resume`` to go on with.

    The other run must have stopped there, as one does whose steps are all coarse, and differ in nothing but the
    attention on full clips, the number of steps and how often they are checked.

    Args:
        source: folder of the other run.
        config: of the new run.
        folder: of the new run; its log will begin with the first step on full clips.

    Raises:
        BadInput: if ``source`` holds no such run, ``folder`` holds a run or cannot be written, or the method, a setting
            or the engine is unknown.
    """
    check_attention(config)
    other = read_config(source)
    own = replace(
        config, method=other.method, settings=other.settings, engine=other.engine, as_layer=other.as_layer,
        steps=other.steps, checkpoint_every=other.checkpoint_every,
    )  # fmt: skip
    if not config.dense_coarse or not config.coarse:
        raise BadInput("only coarse stages with full attention are the same for every method: ask for --dense-coarse")
    if own != other:
        given, wanted = other.as_json(), own.as_json()
        differing = ", ".join(
            f"{name} {old!r} for {wanted[name]!r}" for name, old in given.items() if old != wanted[name]
        )
        raise BadInput(f"{str(source)!r} has other coarse stages than are asked for: {differing}")
    state = fresh_state(config, torch.device("cpu"))
    load_state(state, other, source)
    if state.step != config.coarse_steps:
        raise BadInput(
            f"{str(source)!r} is at step {state.step} and its coarse stages take {config.coarse_steps}: give a run "
            "whose steps are all coarse and done"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {str(folder)!r}: {error.strerror}") from error
    with alone(folder, "training in"):
        if (folder / CONFIG).exists():
            raise BadInput(f"{str(folder)!r} holds a training run already: choose another folder")
        save_state(state, config, folder)
        write_atomically(folder / CONFIG, (json.dumps(config.as_json(), indent=1) + "\n").encode())
