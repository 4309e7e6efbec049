"""Count the clips that show what was asked for and move in the right direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.mini.classifier import Classifier
from attnbench.mini.tracker import track
from attnbench.results.intervals import HitShare

_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Score:
    """The judgement of clips against what was asked for.

    Attributes:
        class_right, motion_right: bool [B] on the CPU, so that runs can be compared clip by clip.
    """

    class_right: Tensor
    motion_right: Tensor

    @property
    def class_share(self) -> HitShare:
        """The share of clips in which the classifier sees the asked class."""
        return HitShare(int(self.class_right.sum()), len(self.class_right))

    @property
    def motion_share(self) -> HitShare:
        """The share of clips whose object moves in the asked direction according to the tracker."""
        return HitShare(int(self.motion_right.sum()), len(self.motion_right))


@torch.no_grad()
def score(video: Tensor, label: Tensor, direction: Tensor, classifier: Classifier) -> Score:
    """Judge clips with the classifier and the tracker.

    Args:
        video: [B, 3, F, H, W] from -1 to 1.
        label, direction: int64 [B], what was asked for.

    Raises:
        BadInput: if there are no clips, the numbers of clips and labels differ, or a value is not finite.
    """
    if not len(video) or not len(video) == len(label) == len(direction):
        raise BadInput(f"{len(video)} clips, {len(label)} classes and {len(direction)} directions cannot be scored")
    seen, moved = [], []
    for part in video.split(_AT_ONCE):
        seen.append(classifier(part).argmax(1).cpu())
        moved.append(track(part).direction.cpu())
    return Score(torch.cat(seen) == label.cpu(), torch.cat(moved) == direction.cpu())
