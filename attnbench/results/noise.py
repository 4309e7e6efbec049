"""How much one run differs from the next where nothing changed: what more rounds within a run cannot show.

The interval of a comparison holds this part as well. Without it, more rounds make intervals narrower and wrong.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import linear_regression
from typing import Literal

from pydantic import Field, ValidationError

from attnbench.inputs.files import read_file
from attnbench.kernels.errors import BadInput
from attnbench.results.estimates import Estimate
from attnbench.results.files import write_whole
from attnbench.results.records.cells import Record
from attnbench.results.records.faults import first_fault

NOISE_VERSION = 1
UNCANCELLED = 0.32
"""Measured in 65 runs on two cores of a shared host, whose speed differed by up to 80 %: docs/calibration.md."""

PAIR_SD = 0.01
"""Assumed where no pairs of runs were measured. Other memory addresses alone may change a call by so much."""

MOST_SD = 10.0
"""Runs that differ by more, by a factor of 20,000, are no runs of one thing."""

KINDS = ("cpu", "cuda")
"""What a model is named after that was not measured on the device itself."""

_LEAST_FITTED = 10
_SHIPPED = Path(__file__).with_name("noise_models")


class NoiseModel(Record):
    """The noise between runs of one device, or of a class of devices."""

    schema_version: int = Field(default=NOISE_VERSION, description="version of this file")
    device: str = Field(description="name of the GPU or CPU, or cpu or cuda for all that have no model of their own")
    speedup_sd: float = Field(
        ge=0, le=MOST_SD, description="standard deviation between runs of the log of the speed-up, paired by round"
    )
    latency_sd: float = Field(ge=0, le=MOST_SD, description="standard deviation between runs of the log of the latency")
    uncancelled: float = Field(
        default=UNCANCELLED,
        ge=0,
        le=1,
        description="what pairing with the dense baseline leaves of a change of the machine's speed between two runs",
    )
    pair_sd: float = Field(
        default=PAIR_SD,
        ge=0,
        le=MOST_SD,
        description="standard deviation of the log ratio of two runs that were measured in turns, beyond their rounds",
    )
    pairs: int = Field(default=0, ge=0, description="pairs of runs that it was measured with; 0: it is assumed")
    runs: int = Field(ge=0, description="A/A runs that the deviations were measured with; 0: they are assumed")
    cells: int = Field(default=0, ge=0, description="cells of each of those runs")
    provenance: Literal["measured", "assumed"] = Field(description="whether the deviations were measured on the device")
    note: str = Field(default="", description="where the deviations come from, in a sentence")
    measured_at: str = Field(default="", description="UTC, ISO 8601")
    details: dict[str, float] = Field(default_factory=dict, description="how often delays of known size were found")

    def between_two(self, scatter: float, *, speedup: bool) -> Estimate:
        """Return the part that is between two runs in a difference of log speed-ups, or of log latencies.

        A model of all devices of a kind knows nothing of this machine. With it, that part is at least as large as the
        scatter of single rounds: where calls differ by 10 % within a run, on a shared host, runs may differ as much.

        Args:
            scatter: standard deviation of single rounds in the two runs.
            speedup: whether speed-ups are compared, not latencies.
        """
        deviation = self.speedup_sd if speedup else self.latency_sd
        if self.device in KINDS:
            deviation = max(deviation, scatter)
        return Estimate(0.0, math.sqrt(2) * deviation, max(self.runs - 1, 1) if self.runs else math.inf)


def between_runs(runs: Sequence[Mapping[str, Estimate]]) -> float:
    """Return the standard deviation between runs of estimates that were repeated, without what is within a run.

    Args:
        runs: of each A/A run, the estimate of each cell by any name; cells that a run lacks do not count there.

    Raises:
        BadInput: if no cell was measured twice.
    """
    variances: list[tuple[int, float]] = []
    for name in dict.fromkeys(name for run in runs for name in run):
        found = [run[name] for run in runs if name in run and math.isfinite(run[name].error)]
        if len(found) > 1:
            mean = math.fsum(each.value for each in found) / len(found)
            seen = math.fsum((each.value - mean) ** 2 for each in found) / (len(found) - 1)
            within = math.fsum(each.error**2 for each in found) / len(found)
            variances.append((len(found) - 1, seen - within))
    if not variances:
        raise BadInput("the noise between runs needs two or more runs of the same cells, with two rounds or more")
    total = math.fsum(weight * variance for weight, variance in variances)
    return math.sqrt(max(0.0, total / sum(weight for weight, _ in variances)))


def uncancelled(speedups: Sequence[Mapping[str, float]], dense: Sequence[float]) -> float:
    """Return what pairing with the dense baseline leaves of a change of the machine's speed, from 0 to 1.

    The square of the difference of two runs' log speed-ups is fitted by a constant, and by the square of the difference
    of their baselines' log times. Fewer than ten runs, or runs of equal speed, say too little: then it is the usual.

    Args:
        speedups: of each A/A run, the log speed-up of each cell by any name.
        dense: of each run, the log of the time of its dense baseline.
    """
    squares: list[tuple[float, float]] = []
    for (mine, here), (theirs, there) in combinations(zip(speedups, dense, strict=True), 2):
        both = mine.keys() & theirs.keys()
        if both:
            moved = math.fsum((mine[name] - theirs[name]) ** 2 for name in both) / len(both)
            squares.append(((here - there) ** 2, moved))
    if len(speedups) < _LEAST_FITTED or len({x for x, _ in squares}) < 2:
        return UNCANCELLED
    slope = linear_regression([x for x, _ in squares], [y for _, y in squares]).slope
    return math.sqrt(min(1.0, max(0.0, slope)))


def find_noise(device: str, kind: str, given: Path | None = None) -> NoiseModel:
    """Return the noise model of a device.

    Args:
        device: its name, as in results.
        kind: cpu or cuda.
        given: a file to take instead of what is known of the device.

    Returns:
        the model of that file; otherwise what ``attnbench calibrate`` wrote on this machine for the device, what is
        shipped for it, or what is shipped for its kind.

    Raises:
        BadInput: if a file cannot be read or holds no noise model.
    """
    if given is not None:
        return read_noise(given)
    name = noise_name(device)
    places = [noise_folder() / name, _SHIPPED / name, _SHIPPED / noise_name(kind)]
    return read_noise(next(place for place in places if place.is_file()))


def read_noise(path: Path) -> NoiseModel:
    """Read a noise model.

    Raises:
        BadInput: if the file cannot be read or holds no noise model.
    """
    try:
        model = NoiseModel.model_validate_json(read_file(path))
    except OSError as error:
        raise BadInput(f"noise model {str(path)!r} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BadInput(f"{str(path)!r} is no noise model of attnbench calibrate: {first_fault(error, 'it')}") from error
    if model.schema_version > NOISE_VERSION:
        raise BadInput(f"{str(path)!r} is of version {model.schema_version}, newer than this attnbench: upgrade it")
    return model


def write_noise(model: NoiseModel, path: Path | None = None) -> Path:
    """Write a noise model, by default to where ``find_noise`` looks for it; return the file.

    Raises:
        BadInput: if it cannot be written.
    """
    place = path or noise_folder() / noise_name(model.device)
    return write_whole(model.model_dump_json(indent=1).encode() + b"\n", place)


def noise_folder() -> Path:
    """Return where the models of this user are: ``ATTNBENCH_NOISE``, or attnbench/noise in the user's data folder."""
    if given := os.environ.get("ATTNBENCH_NOISE"):
        return Path(given)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "attnbench" / "noise"


def noise_name(device: str) -> str:
    """Return the file name of a device's model."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")[:100] + ".json"
