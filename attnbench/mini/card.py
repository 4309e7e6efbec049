"""The model card: what a mini model was trained on, how, for how long, and with what result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from attnbench.api import select
from attnbench.kernels.engines import Task, choose_engine
from attnbench.mini.checkpoint import State
from attnbench.mini.config import FPS, PRESETS, TrainConfig
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.results.files import write_whole
from attnbench.results.records.cells import Environment
from attnbench.results.training import CARD, read_log

_POINTS = 200
"""Largest number of points of the loss curve. Each is the mean over its share of the steps."""


def write_card(
    folder: Path, config: TrainConfig, state: State, device: torch.device, processes: int, environment: Environment
) -> None:
    """Write the card beside the weights of a run, each of whose processes had a device like this one.

    The environment is the one in which the run ended.

    Raises:
        BadInput: if the log cannot be read or the card cannot be written.
    """
    lines = read_log(folder)
    only_coarse = config.dense_coarse and state.step <= config.coarse_steps
    ran = replace(config, method="full", settings={}, as_layer=None) if only_coarse else config
    trained = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    share = -(-len(trained) // _POINTS) if trained else 1
    parts = [trained[begin : begin + share] for begin in range(0, len(trained), share)]
    sizes = PRESETS[config.model]
    card = {
        "name": f"attnbench {config.model} video diffusion transformer",
        "licence": "Apache-2.0; the digits it learned from are CC BY 4.0 (Alpaydin and Kaynak, 1998)",
        "clips": {"frames": sizes.frames, "size": sizes.size, "fps": FPS, "tokens": sizes.grid.tokens},
        "data": "made by attnbench.mini.data: a handwritten digit or a textured shape moves over a still ground",
        "classes": CLASSES,
        "directions": DIRECTIONS,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "weights": "exponential moving average; matrices in 8 bits with a factor for each row, the rest in bfloat16",
        "training": config.as_json(),
        "steps": state.step,
        "clips_seen": sum(config.stage(step)[1] for step in range(state.step)),
        "seconds": round(state.seconds, 1),
        "engine": training_engines(ran, device),
        "processes": processes,
        "environment": environment.model_dump(mode="json"),
        "seed": config.seed,
        "curve": [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 5)] for part in parts],
        "held_out": [
            [line["step"], *(round(line[name], 5) for name in ("held_out", "held_out_lo", "held_out_hi"))]
            for line in lines
            if "held_out" in line
        ],
    }
    write_whole((json.dumps(card, indent=1, allow_nan=False) + "\n").encode(), folder / CARD, "")


def training_engines(config: TrainConfig, device: torch.device) -> str:
    """Return the engines that run the self-attention of full clips in training, joined by a plus.

    Raises:
        Unsupported: if no engine can run it.
    """
    sizes = PRESETS[config.model]
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    q = torch.zeros(1, sizes.heads, sizes.grid.tokens, sizes.head_dim, device=device, dtype=dtype, requires_grad=True)
    found: dict[str, None] = {}
    for layer in range(sizes.layers):
        told = layer if config.as_layer is None else config.as_layer
        plan = select(q, q, method=config.method, grid=sizes.grid, layer=told, **config.settings)
        found[choose_engine(config.engine, plan, Task.of(q, q, q)).name] = None
    return "+".join(found)
