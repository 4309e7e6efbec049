"""Add VBench's scores of a run's videos to the run, so that they get the same pairs, floors and intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from attnbench.clips.request import ClipsRequest, read_request, seed_pairs
from attnbench.clips.session import Outcome, failures
from attnbench.clips.vbench.evaluation import RECORD
from attnbench.inputs.files import read_file
from attnbench.kernels.errors import BadInput
from attnbench.results.journal import Journal
from attnbench.results.records.cells import RunHeader
from attnbench.results.records.clips import ClipRow, QualityRow, Role, clip_words, still_true
from attnbench.results.records.faults import first_fault

PREFIX = "vbench_"
STAND_IN = "_with_random_weights"


class VbenchScore(BaseModel):
    """A score in ``vbench.json``: a value, or the reason why there is none."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    version: str
    dimension: str = Field(min_length=1)
    video: str
    value: float | None
    status: Literal["ok", "skipped"]
    reason: str = ""
    stand_in: bool = False

    @model_validator(mode="after")
    def _has_a_value_or_a_reason(self) -> Self:
        if (self.status == "ok") != (self.value is not None) or (self.status == "skipped") != bool(self.reason):
            raise ValueError(f"status {self.status!r} with value {self.value!r} and reason {self.reason!r}")
        return self


def add_vbench(folder: Path, scores: Path) -> Outcome:
    """Append the scores that ``attnbench vbench run FOLDER/videos --out SCORES`` left, and return the run's rows.

    Args:
        folder: the folder of a run of clips.
        scores: the folder that holds ``vbench.json``.

    Raises:
        BadInput: if there is no run, there are no scores, or the scores belong to other videos.
    """
    found = read_scores(scores)
    journal, records = Journal.resume(folder, "clips")
    with journal:
        header = next(record for record in records if isinstance(record, RunHeader))
        rows = {record.key: record for record in records if isinstance(record, QualityRow)}
        clips = {record.clip_id: record for record in records if isinstance(record, ClipRow)}
        new = list(vbench_rows(found, list(clips.values()), read_request(**header.request)))
        if not new:
            raise BadInput(
                f"{str(scores / RECORD)!r} has no score of a video of {str(folder)!r}: score its videos first"
            )
        for row in new:
            if rows.get(row.key) != row:
                journal.append(row)
                rows[row.key] = row
    return Outcome(folder, tuple(still_true(rows.values())), failures(clips.values()))


def read_scores(folder: Path) -> list[VbenchScore]:
    """Return the scores of a ``vbench.json``.

    Raises:
        BadInput: if it cannot be read, is another kind of file, or holds a damaged score.
    """
    path = folder / RECORD
    try:
        found = json.loads(read_file(path))
        version, scores = str(found["vbench"]), [(str(score["video"]), score) for score in found["scores"]]
    except OSError as error:
        raise BadInput(f"scores {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"scores {str(path)!r} are not what attnbench vbench run writes") from error
    return [_read_score(path, video, {**score, "version": version}) for video, score in scores]


def _read_score(path: Path, video: str, fields: dict[str, object]) -> VbenchScore:
    try:
        return VbenchScore.model_validate(fields)
    except ValidationError as error:
        raise BadInput(f"{str(path)!r} has a damaged score of {video!r}: {first_fault(error, 'it')}") from error


def vbench_rows(scores: list[VbenchScore], clips: list[ClipRow], request: ClipsRequest) -> Iterator[QualityRow]:
    """Yield a row for each score of a clip and, for the seed floor, another one for each pair of exact clips.

    Args:
        scores: what ``read_scores`` returns. Scores of other videos are ignored.
        clips: the clips of one run.
        request: the request of that run.
    """
    by_video = {Path(clip.video).name: clip for clip in clips if clip.video}
    exact = {(clip.prompt, clip.seed): clip for clip in clips if clip.role == "exact"}
    pairs = seed_pairs(request)
    for score in scores:
        clip = by_video.get(score.video)
        if clip is None:
            continue
        if clip.role != "exact":
            yield _row(score, clip, clip.role, exact[clip.prompt, clip.seed])
            continue
        yield _row(score, clip, "exact", clip)
        for seed, of in pairs:
            if seed == clip.seed and (clip.prompt, of) in exact:
                yield _row(score, clip, "seed-floor", exact[clip.prompt, of])


def _row(score: VbenchScore, clip: ClipRow, role: Role, reference: ClipRow) -> QualityRow:
    there = clip_words(reference.method, reference.engine, reference.seed)
    return QualityRow(
        run_id=clip.run_id, model=clip.model, method=clip.method, settings=clip.settings, engine=clip.engine,
        prompt=clip.prompt, seed=clip.seed,
        metric=f"{PREFIX}{score.dimension}{STAND_IN if score.stand_in else ''}", value=score.value,
        reference=None if role == "exact" else there, status=score.status,
        reason=f"skipped: {score.reason}" if score.status == "skipped" else "", role=role,
        reference_seed=reference.seed, metric_kind="score", better="higher", frames=clip.frames or 1,
        size=clip.size or "", fps=clip.fps or 1.0, clip_hash=clip.clip_hash,
        reference_hash=None if role == "exact" else reference.clip_hash, made_by=f"vbench {score.version}",
    )  # fmt: skip
