"""What is read of a training run: the lines of its log, its configuration and its card. All else in them is let be."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from attnbench.results.records.cells import Record

MOST_CLIPS = 100_000
"""Judged clips of a card, and held-out clips of a checkpoint."""


Stage = Annotated[tuple[int, int], Field(strict=False)]
"""JSON has lists where Python has tuples."""


class _Part(Record):
    """A part of an object, whose other fields may be anything."""

    model_config = ConfigDict(extra="ignore", strict=True)


class LogLine(_Part):
    """A step of training, or the held-out losses after it."""

    step: int = Field(ge=0, description="steps taken")
    loss: float | None = Field(default=None, description="of the step")
    seconds: float | None = Field(default=None, gt=0, description="of the step")
    peak_mib: float | None = Field(default=None, ge=0, description="most memory of the step")
    held_out: float | None = Field(default=None, description="mean of held_out_losses")
    held_out_losses: list[float] = Field(default_factory=list, max_length=MOST_CLIPS, description="one a clip")

    @model_validator(mode="after")
    def _is_whole(self) -> LogLine:
        if self.loss is not None and (self.seconds is None or self.peak_mib is None):
            raise ValueError("a loss without seconds or peak_mib")
        if (self.held_out is None) != (not self.held_out_losses) or any(loss <= 0 for loss in self.held_out_losses):
            raise ValueError("held_out must come with held_out_losses, all above 0")
        return self


class ConfigRead(_Part):
    """What a run was asked for."""

    coarse: list[Stage] = Field(max_length=100, description="steps and clips a step of each coarse stage")
    dense_coarse: bool = Field(default=False, description="whether full attention ran on coarse clips")
    method: str | None = Field(default=None, description="name of the method")
    seed: int | None = Field(default=None, description="seed of weights, clips and noise")


class ScoreRead(_Part):
    """How many clips show and do what was asked for."""

    clips: int = Field(ge=1, le=MOST_CLIPS, description="clips that were judged")
    wrong_class: list[int] = Field(max_length=MOST_CLIPS, description="numbers of those that show another class")
    wrong_motion: list[int] = Field(max_length=MOST_CLIPS, description="numbers of those that move otherwise")
    density: float | None = Field(default=None, ge=0, le=1, description="mean density while they were made")


class TrainingRead(_Part):
    """The training that a card tells of."""

    method: str | None = Field(default=None, description="name of the method")


class EnvironmentRead(_Part):
    """Where a run was trained."""

    device: str | None = Field(default=None, description="name of the GPU or CPU")
    packages: dict[str, Any] = Field(default_factory=dict, description="versions")


class CardRead(_Part):
    """What came of a run."""

    engine: str = Field(description="who ran the self-attention of full clips")
    score: ScoreRead | None = Field(default=None, description="of clips made with the final weights")
    training: TrainingRead = Field(default_factory=TrainingRead, description="what was asked for")
    environment: EnvironmentRead = Field(default_factory=EnvironmentRead, description="where it ended")
