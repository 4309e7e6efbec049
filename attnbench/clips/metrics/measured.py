"""What a metric gives: a number with the numbers of its frames, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from attnbench.kernels.errors import Unsupported


class Skipped(Unsupported):
    """A metric that cannot be taken here or of this clip; the message says why, and how to get what is missing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One value of one clip.

    Attributes:
        value: in the unit of the metric.
        per_frame: the values it is the mean of, one a frame, or one a pair of frames; empty for pooled metrics.
        identical_frames: frames equal to the reference's in every pixel, where the metric counts them.
        made_by: package and version, or model, that took the value.
    """

    value: float
    per_frame: tuple[float, ...] = ()
    identical_frames: int | None = None
    made_by: str = ""


def mean_of(per_frame: list[float], made_by: str, identical_frames: int | None = None) -> Measured:
    """Return the mean over frames as a measurement."""
    return Measured(sum(per_frame) / len(per_frame), tuple(per_frame), identical_frames, made_by)


def version_of(package: str) -> str:
    """Return "package version" as installed, or the name alone where its version is not known."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package
