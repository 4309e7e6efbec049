"""Metrics that tell whether a clip of the mini model shows what was asked for, by its classifier and tracker."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measured import Measured, Skipped
from attnbench.clips.metrics.metrics import Metric
from attnbench.kernels.errors import BadInput
from attnbench.mini.classifier import Classifier, load_classifier
from attnbench.mini.prompts import mini_prompt
from attnbench.mini.tracker import track

CLASS, MOTION = "mini_class_accuracy", "mini_motion_accuracy"


def class_right(clip: Clip, prompt: str) -> Measured:
    """Return 1 if the classifier sees the asked class in the clip, else 0.

    Raises:
        Skipped: if the classifier's weights are missing.
    """
    asked = mini_prompt(prompt)[1]
    try:
        classifier = _classifier()
    except BadInput as error:
        raise Skipped(str(error)) from error
    with torch.no_grad():
        seen = int(classifier(_video(clip)).argmax())
    return Measured(float(seen == asked), made_by="attnbench.mini.classifier")


def motion_right(clip: Clip, prompt: str) -> Measured:
    """Return 1 if the tracker sees the object move in the asked direction, else 0.

    Raises:
        Skipped: for a clip of one frame, which has no motion.
    """
    if clip.length < 2:
        raise Skipped("motion needs at least 2 frames, and this clip has 1")
    moved = int(track(_video(clip)).direction)
    return Measured(float(moved == mini_prompt(prompt)[2]), made_by="attnbench.mini.tracker")


MINI_METRICS = (
    Metric(CLASS, "higher", fidelity=class_right),
    Metric(MOTION, "higher", fidelity=motion_right),
)
"""Metrics that are 1 or 0 for each clip. Their mean is the share of clips that show what was asked for."""


@lru_cache(maxsize=1)
def _classifier() -> Classifier:
    return load_classifier()


def _video(clip: Clip) -> Tensor:
    """Return the clip as [1, 3, F, H, W] from -1 to 1."""
    return (clip.frames.permute(3, 0, 1, 2)[None].float() / 127.5) - 1
