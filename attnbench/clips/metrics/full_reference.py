"""PSNR (by torchmetrics), SSIM and MS-SSIM of a clip against its reference, frame by frame.

The range of pixels is always 255. Each frame is a picture by itself: no window spans time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from attnbench.clips.metrics.frames import Clip, float_batches, require_alike
from attnbench.clips.metrics.measured import Measured, Skipped, mean_of, version_of
from attnbench.clips.metrics.structure import ms_ssim_of, ssim_of

PSNR_CAP_DB = 100.0
"""PSNR of identical frames, and the largest of any frame or clip: a single wrong pixel would otherwise weigh too
much."""

SSIM_MIN_SIDE = 11
"""The window of SSIM: 11 × 11, a Gaussian of sigma 1.5 (Wang et al. 2004)."""

MS_SSIM_MIN_SIDE = 176
"""Smallest side for five scales of that window: at 1/16 of the size, 11 pixels must be left."""

_RANGE = 255.0
_STRUCTURE = version_of("attnbench")


def psnr(clip: Clip, reference: Clip) -> Measured:
    """Return the mean over frames of the PSNR in dB of each, capped at 100 dB, and the number of identical frames.

    Raises:
        BadInput: if the clips differ in size or length.
        Skipped: if torchmetrics cannot be imported.
    """
    require_alike(clip, reference)
    functional = _torchmetrics()

    def of_batch(a: Tensor, b: Tensor) -> Tensor:
        # In float64 the sum of squares of whole numbers is exact; dim keeps the batch apart instead of pooling it.
        values: Tensor = functional.peak_signal_noise_ratio(
            a.double(), b.double(), data_range=_RANGE, reduction="none", dim=(1, 2, 3)
        )
        return values.clamp(max=PSNR_CAP_DB)

    return _per_frame(clip, reference, of_batch, identical=PSNR_CAP_DB, made_by=version_of("torchmetrics"))


def psnr_pooled(clip: Clip, reference: Clip) -> Measured:
    """Return the PSNR in dB of the mean squared error over all frames together, capped at 100 dB.

    It is never above the mean over frames, because the logarithm is taken last: the worst frames decide.

    Raises:
        BadInput: if the clips differ in size or length.
        Skipped: if torchmetrics cannot be imported.
    """
    require_alike(clip, reference)
    functional = _torchmetrics()
    squares = sum(float((a.double() - b.double()).square().sum()) for a, b in float_batches(clip, reference))
    error = torch.tensor(squares / clip.frames.numel(), dtype=torch.float64).sqrt().reshape(1)
    value = functional.peak_signal_noise_ratio(error, torch.zeros_like(error), data_range=_RANGE)
    return Measured(
        min(float(value), PSNR_CAP_DB), identical_frames=_identical(clip, reference), made_by=version_of("torchmetrics")
    )


def ssim(clip: Clip, reference: Clip) -> Measured:
    """Return the mean over frames of SSIM (Wang et al. 2004), each the mean over its pixels and three channels.

    Pixels at the edge count too; the frame is mirrored beyond it.

    Raises:
        BadInput: if the clips differ in size or length.
        Skipped: if a side is under 11 pixels.
    """
    require_alike(clip, reference)
    _require_side(clip, SSIM_MIN_SIDE, "SSIM")
    return _per_frame(clip, reference, ssim_of, identical=1.0, made_by=_STRUCTURE)


def ms_ssim(clip: Clip, reference: Clip) -> Measured:
    """Return the mean over frames of MS-SSIM (Wang et al. 2003, five scales with the published weights).

    Raises:
        BadInput: if the clips differ in size or length.
        Skipped: if a side is under 176 pixels.
    """
    require_alike(clip, reference)
    _require_side(clip, MS_SSIM_MIN_SIDE, "MS-SSIM")
    return _per_frame(clip, reference, ms_ssim_of, identical=1.0, made_by=_STRUCTURE)


def _per_frame(
    clip: Clip, reference: Clip, of_batch: Callable[[Tensor, Tensor], Tensor], *, identical: float, made_by: str
) -> Measured:
    """Average over frames. Identical frames get the value ``identical`` by definition, whatever rounding would give."""
    values: list[float] = []
    equal = 0
    for a, b in float_batches(clip, reference):
        same = (a == b).flatten(1).all(dim=1)
        equal += int(same.sum())
        values += torch.where(same, identical, of_batch(a, b).double()).tolist()
    return mean_of(values, made_by, equal)


def _identical(clip: Clip, reference: Clip) -> int:
    return int((clip.frames == reference.frames).flatten(1).all(dim=1).sum())


def _require_side(clip: Clip, least: int, name: str) -> None:
    if min(clip.height, clip.width) < least:
        raise Skipped(f"{name} needs frames of at least {least}x{least}, and these are {clip.height}x{clip.width}")


def _torchmetrics() -> ModuleType:
    try:
        import torchmetrics.functional.image as functional
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit torch breaks it
        raise Skipped(f"torchmetrics cannot be imported ({error}): uninstall or repair torchvision") from error
    return functional
