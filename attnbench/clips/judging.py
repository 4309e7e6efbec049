"""Judge clips that mini models make: how many show and do what was asked, for the card of a training run."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnbench.clips.gallery import LOOK
from attnbench.clips.recording import Recording
from attnbench.inputs.files import read_file
from attnbench.methods.registry import find_method
from attnbench.mini.begin import WEIGHTS, read_config
from attnbench.mini.classifier import load_classifier
from attnbench.mini.data import labels_of
from attnbench.mini.flow import Sampler, generate, usual_sampler
from attnbench.mini.model import FULL, Attend, MiniTransformer, attend_by
from attnbench.mini.score import Score, score
from attnbench.mini.stored import load_mini
from attnbench.results.files import replacing, write_whole
from attnbench.results.run import NoProgress, Progress
from attnbench.results.training import CARD

FIRST_SEED = 20_000
"""Of the clips that a card counts."""
KEPT = 15
"""Clips to look at, of a run."""
_AT_ONCE = 30


def judge_run(folder: Path, device: torch.device, progress: Progress) -> Score | None:
    """Judge the clips that a finished run asks for, made with its own attention in every step and layer.

    The card gets the score, with the density and the engines of the attention, and ``look.npy`` the first clips. A run
    that asks for none, or whose card has its score, is left as it is.

    Args:
        progress: told how many clips are made.

    Raises:
        BadInput: if the folder holds no run with its weights and card, or cannot be written.
    """
    config, card = read_config(folder), folder / CARD
    if not config.judge or "score" in json.loads(read_file(card)):
        return None
    recording = Recording(find_method(config.method), config.engine)
    attend = attend_by(recording.method, config.engine, as_layer=config.as_layer, **config.settings)
    model = load_mini(folder / WEIGHTS, device)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    found, video = judged(
        model, usual_sampler(), config.judge, FIRST_SEED, attend=attend, dtype=dtype, progress=progress
    )
    save_look(folder, video[:KEPT])
    densities = [each for each in recording.densities(model.config.layers) if each is not None]
    about = {"density": statistics.fmean(densities), "engine": recording.engines}
    write_score(folder, usual_sampler(), found, FIRST_SEED, **about)
    return found


def judged(
    model: MiniTransformer,
    sampler: Sampler,
    count: int,
    seed: int,
    *,
    attend: Attend = FULL,
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress | None = None,
) -> tuple[Score, Tensor]:
    """Return the score of clips of every class and direction in turn, with seeds from ``seed``, and the clips.

    The clips are float32 [count, 3, F, H, W] from -1 to 1, on the CPU.
    """
    label, direction = labels_of(0, count)
    device = next(model.parameters()).device
    told, parts = progress or NoProgress(), list[Tensor]()
    for rows in torch.arange(count).split(_AT_ONCE):
        asked = (label[rows].tolist(), direction[rows].tolist(), (seed + rows).tolist())
        parts.append(generate(model, *asked, sampler=sampler, attend=attend, dtype=dtype).cpu())
        made = sum(map(len, parts))
        told.step(f"judged clips: {made} of {count}", made, count, None)
    video = torch.cat(parts)
    return score(video.to(device), label, direction, load_classifier(device=device)), video


def save_look(folder: Path, video: Tensor) -> None:
    """Save clips [B, 3, F, H, W] from -1 to 1 as they are shown, uint8, for ``attnbench clips --gallery``."""
    with replacing(folder / LOOK) as partial, partial.open("wb") as file:
        np.save(file, ((video + 1) * 127.5).round().byte().numpy())


def write_score(folder: Path, sampler: Sampler, found: Score, first_seed: int, **more: object) -> None:
    """Add to a card how many clips show and do what was asked, and ``more`` about them.

    Raises:
        BadInput: if the card cannot be written.
    """
    card = folder / CARD
    about = {
        "clips": found.class_share.count,
        "first_seed": first_seed,
        "sampler": asdict(sampler),
        "class": [found.class_share.hits, *found.class_share.interval],
        "motion": [found.motion_share.hits, *found.motion_share.interval],
        "wrong_class": (~found.class_right).nonzero().flatten().tolist(),
        "wrong_motion": (~found.motion_right).nonzero().flatten().tolist(),
        **more,
    }
    write_whole((json.dumps({**json.loads(read_file(card)), "score": about}, indent=1) + "\n").encode(), card, "")
