"""A small convolutional classifier of what a clip shows. It is trained on drawn clips, never on generated ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnbench.kernels.errors import BadInput
from attnbench.mini.data import CLASSES, make_clips
from attnbench.mini.draws import generator, uniform
from attnbench.mini.stored import fill, read_tensors, shipped, write_tensors

_KIND = "mini-classifier"
_WIDTHS = (16, 32, 64, 96)
_LOOKS = 4
"""Number of frames of a clip that are judged: the first, the last, and two between them."""


class Classifier(nn.Module):
    """Judges single frames; a clip's answer is the mean of the log-probabilities of four of its frames."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in _WIDTHS:
            layers += [
                nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width), nn.Conv2d(width, width, 1),
                nn.BatchNorm2d(width), nn.ReLU(),
            ]  # fmt: skip
            before = width
        self.features = nn.Sequential(*layers)
        self.answer = nn.Linear(before, len(CLASSES))

    def frames(self, frames: Tensor) -> Tensor:
        """Return logits [B, classes] of frames [B, 3, H, W] in [-1, 1]."""
        logits: Tensor = self.answer(self.features(frames).amax((2, 3)))
        return logits

    def forward(self, video: Tensor) -> Tensor:
        """Return log-probabilities [B, classes] of clips [B, 3, F, H, W] in [-1, 1].

        Raises:
            BadInput: if the clips have another shape, or values that are not finite.
        """
        if video.dim() != 5 or video.shape[1] != 3:
            raise BadInput(f"clips are {list(video.shape)}; they must be [batch, 3, frames, height, width]")
        if not torch.isfinite(video).all():
            raise BadInput("a clip holds NaN or Inf, so it cannot be classified")
        looks = torch.linspace(0, video.shape[2] - 1, _LOOKS).round().long()
        seen = video.float()[:, :, looks.to(video.device)].transpose(1, 2)
        logits = self.frames(seen.flatten(0, 1)).log_softmax(1)
        answer: Tensor = logits.unflatten(0, (-1, _LOOKS)).mean(1)
        return answer


def train_classifier(
    steps: int = 2000,
    *,
    batch: int = 60,
    lr: float = 4e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float], object] = lambda step, loss: None,
) -> Classifier:
    """Train on frames of the training split, with a little noise and blur so that edges alone do not decide.

    Args:
        steps, batch, lr: steps, clips in a batch (one frame of each), and peak rate of AdamW with a one-cycle schedule.
        progress: called with each step and its loss.

    Returns:
        The classifier, ready to judge.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator("classifier", seed).initial_seed())
        model = Classifier().to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    for step in range(steps):
        # Two frames of each clip are enough, since the frames of a clip differ little except in the object's position.
        clips = make_clips(step * batch, batch, seed=seed, frames=2, device=device)
        frames = _blemished(clips.video[:, :, step % 2], seed, step)
        loss = functional.cross_entropy(model.frames(frames), clips.label, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(step, loss.item())
    return model.eval()


def _blemished(frames: Tensor, seed: int, step: int) -> Tensor:
    """Return frames with noise of at most 0.15, half of them blurred."""
    u = uniform((2, len(frames), 1, 1, 1), "blemish", seed, step).to(frames.device)
    noise = torch.randn(frames.shape, generator=generator("grain", seed, step)).to(frames.device)
    blurred = functional.avg_pool2d(functional.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(u[0] < 0.5, frames, blurred) + 0.15 * u[1] * noise


def save_classifier(model: Classifier, path: Path, about: dict[str, Any]) -> None:
    """Write the weights of a classifier, with facts about its training.

    Raises:
        BadInput: if the file cannot be written.
    """
    tensors = {name: x.half() if x.is_floating_point() else x for name, x in model.state_dict().items()}
    write_tensors(path, _KIND, tensors, about)


def load_classifier(path: Path | None = None, device: torch.device | str = "cpu") -> Classifier:
    """Return a trained classifier. None loads the one of this package.

    Raises:
        BadInput: if the file is missing, truncated, pickled, or of another model.
    """
    chosen = shipped("classifier.safetensors", "train it with train_mini.py classifier") if path is None else path
    model = Classifier()
    fill(model, read_tensors(chosen, _KIND)[0], chosen)
    return model.to(device).eval()
