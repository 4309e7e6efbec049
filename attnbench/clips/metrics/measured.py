"""The result of a metric: a value with the values of its frames, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from attnbench.kernels.errors import Unsupported


class Skipped(Unsupported):
    """Raised by a metric that cannot be taken here or of this clip.

    The message says why, and how to get what is missing.
    """


@dataclass(frozen=True, slots=True)
class Measured:
    """The value of one metric of one clip.

    Attributes:
        value: the value in the unit of the metric.
        per_frame: the values whose mean it is, one for each frame or pair of frames; empty for pooled metrics.
        identical_frames: number of frames that equal the reference in every pixel, if the metric counts them.
        made_by: the package and version, or the model, that computed the value.
    """

    value: float
    per_frame: tuple[float, ...] = ()
    identical_frames: int | None = None
    made_by: str = ""


def mean_of(per_frame: list[float], made_by: str, identical_frames: int | None = None) -> Measured:
    """Return the mean over frames as a measurement."""
    return Measured(sum(per_frame) / len(per_frame), tuple(per_frame), identical_frames, made_by)


def version_of(package: str) -> str:
    """Return "package version" as installed, or the name alone if its version is not known."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package
