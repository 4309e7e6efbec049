"""What an evaluation gives: a score of each clip in each dimension, and how it was taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from attnbench.clips.vbench.videos import Clip

Status = Literal["ok", "skipped"]

VBENCH_VERSION = "0.1.5"


@dataclass(frozen=True, slots=True)
class Score:
    """One clip in one dimension.

    Attributes:
        dimension: VBench's name of the dimension.
        video: file name of the clip.
        value: on the scale of VBench's published means, mostly 0 to 1; None where there is none.
        status: ok, or skipped.
        reason: why there is no value, in one sentence.
        stand_in: whether random weights stood in for the published ones: then the value means nothing.
    """

    dimension: str
    video: str
    value: float | None
    status: Status
    reason: str = ""
    stand_in: bool = False

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.value is not None) or (self.status == "skipped") != bool(self.reason):
            raise ValueError(f"status {self.status!r} with value {self.value!r} and reason {self.reason!r}")


@dataclass(frozen=True, slots=True)
class DimensionRun:
    """One dimension over all clips.

    Attributes:
        dimension: VBench's name of the dimension.
        status: ok if at least one clip has a value.
        mean: of the values of the clips; VBench's own means weigh by frames in two dimensions.
        seconds: of the subprocess, start and imports included; 0 where it was not started.
        reason: why it was skipped, in one sentence.
        stand_in: whether random weights stood in for the published ones.
        log: file with what VBench printed, relative to the folder of the evaluation; empty where nothing ran.
        versions: packages, and the device, as the subprocess named them.
    """

    dimension: str
    status: Status
    mean: float | None = None
    seconds: float = 0.0
    reason: str = ""
    stand_in: bool = False
    log: str = ""
    versions: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What ``evaluate`` returns and writes as ``vbench.json``.

    Attributes:
        scores: one for each clip and dimension, dimensions in the order asked for.
        runs: one for each dimension.
        clips: what was scored: frames a second and codec move the scores, so they are part of the record.
        prompts: the prompt of each clip, by file name; None where none were given.
        lock: digest of the environment's lock file.
        python: version of Python in the environment.
    """

    scores: tuple[Score, ...]
    runs: tuple[DimensionRun, ...]
    clips: tuple[Clip, ...]
    prompts: Mapping[str, str] | None
    lock: str
    python: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"vbench": VBENCH_VERSION, **asdict(self)}
