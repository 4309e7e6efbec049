"""The result of an evaluation: a score of each clip in each dimension, and how it was computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from attnbench.clips.vbench.videos import Clip

Status = Literal["ok", "skipped"]

VBENCH_VERSION = "0.1.5"


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one clip in one dimension.

    Attributes:
        dimension: VBench's name for the dimension.
        video: file name of the clip.
        value: the score on the scale of VBench's published means, mostly 0 to 1; None if there is none.
        status: ok, or skipped.
        reason: why there is no value, in one sentence.
        stand_in: whether random weights stood in for the published ones, in which case the value means nothing.
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
        dimension: VBench's name for the dimension.
        status: ok if at least one clip has a value.
        mean: the unweighted mean over clips. In two dimensions, VBench's own mean weights clips by their frames.
        seconds: time of the subprocess, including its start and imports; 0 if it was not started.
        reason: why it was skipped, in one sentence.
        stand_in: whether random weights stood in for the published ones.
        log: file with VBench's output, relative to the folder of the evaluation; empty if nothing ran.
        versions: the packages and the device that the subprocess reported.
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
        clips: the clips that were scored, with fps and codec, which influence the scores.
        prompts: the prompt of each clip, by file name; None if none were given.
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
        """Return the evaluation as plain values for JSON."""
        return {"vbench": VBENCH_VERSION, **asdict(self)}
