"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1 on AlexNet, without torchvision.

The trunk is the convolutional part of torchvision's AlexNet (Krizhevsky 2014, arXiv 1404.5997), and the five heads are
those of the authors' package. Both files are used if they are found and are never downloaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from attnbench.clips.metrics.frames import Clip, float_batches, require_alike
from attnbench.clips.metrics.measured import Measured, Skipped, mean_of
from attnbench.clips.metrics.published_weights import file_of_package, read_weights

TRUNK_FILE = "alexnet-owt-7be5be79.pth"
TRUNK_DIGEST = "7be5be79"
HEADS_FILE = "weights/v0.1/alex.pth"
HEADS_DIGEST = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"

GET_TRUNK = (
    "load torchvision.models.alexnet(weights='IMAGENET1K_V1') once on a machine with a network, and copy the file that "
    "it leaves in its torch hub folder there (233 MB)"
)
GET_HEADS = "pip install --no-deps lpips==0.1.4 (54 KB)"

MIN_SIDE = 31
"""Smallest side of a frame: below it, AlexNet's second pooling has nothing left to pool."""

_CHANNELS = (64, 192, 384, 256, 256)
_EPSILON = 1e-10


class Lpips(nn.Module):
    """The distance of two batches of pictures, [B, 3, H, W] in -1 … 1: a number for each pair, 0 if they are equal."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        ]
        self.features = nn.Sequential(*layers)
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(channels)) for channels in _CHANNELS)
        # ImageNet's mean and deviation in the units of -1 … 1, rounded as the authors rounded them.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distances, [B]."""
        total = torch.zeros(a.shape[0], dtype=a.dtype, device=a.device)
        for head, of_a, of_b in zip(self.heads, self._stages(a), self._stages(b), strict=True):
            squares = (_unit(of_a) - _unit(of_b)).square()
            total = total + torch.einsum("bchw,c->bhw", squares, head).mean(dim=(1, 2))
        return total

    def _stages(self, x: Tensor) -> list[Tensor]:
        """Return the activations after each of the five ReLUs."""
        x = (x - self.shift) / self.scale
        stages = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                stages.append(x)
        return stages


def lpips(clip: Clip, reference: Clip) -> Measured:
    """Return the mean over frames of LPIPS, 0 for equal frames.

    Raises:
        BadInput: if the clips differ in size or length.
        Skipped: if weights are missing or wrong, or a side is under 31 pixels.
    """
    require_alike(clip, reference)
    if min(clip.height, clip.width) < MIN_SIDE:
        raise Skipped(f"LPIPS needs frames of at least {MIN_SIDE}x{MIN_SIDE}, and these are {clip.height}x{clip.width}")
    model = _model(trunk_path(), heads_path())
    values: list[float] = []
    with torch.inference_mode():
        for a, b in float_batches(clip, reference):
            values += model(a / 127.5 - 1, b / 127.5 - 1).double().tolist()
    return mean_of(values, "LPIPS 0.1, AlexNet")


def trunk_path() -> Path:
    """Return the path of AlexNet's weights in the checkpoint folder of torch's hub, which follows TORCH_HOME."""
    return Path(torch.hub.get_dir()) / "checkpoints" / TRUNK_FILE


def heads_path() -> Path:
    """Return the path of the heads in the lpips package, which is not imported because it needs torchvision.

    Raises:
        Skipped: if that package is not installed.
    """
    return file_of_package("lpips", HEADS_FILE, lacking=f"the heads of LPIPS are not installed: {GET_HEADS}")


@lru_cache(maxsize=1)
def _model(trunk: Path, heads: Path) -> Lpips:
    model = Lpips()
    features = {
        name.removeprefix("features."): tensor
        for name, tensor in read_weights(trunk, digest=TRUNK_DIGEST, get_it=GET_TRUNK).items()
        if name.startswith("features.")
    }
    state = read_weights(heads, digest=HEADS_DIGEST, get_it=GET_HEADS)
    try:
        model.features.load_state_dict(features)
        for number, head in enumerate(model.heads):
            head.data = state[f"lin{number}.model.1.weight"].reshape(_CHANNELS[number]).float()
    except (KeyError, RuntimeError) as error:
        raise Skipped(f"weights {str(trunk)!r} and {str(heads)!r} do not fit LPIPS on AlexNet: {GET_TRUNK}") from error
    return model.eval().requires_grad_(False)


def _unit(x: Tensor) -> Tensor:
    """Scale the channels of each pixel to length 1."""
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)
