"""VBench's scores of a run's videos as rows of the run, so that they get the same pairs, floors and intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attnbench.clip_schema import ClipRow, QualityRow, Role, clip_words, still_true
from attnbench.clips.request import ClipsRequest, read_request, seed_pairs
from attnbench.clips.session import Outcome, failures
from attnbench.kernels.errors import BadInput
from attnbench.schema import RunHeader
from attnbench.store import Journal
from attnbench.vbench.run import RECORD

PREFIX = "vbench_"
STAND_IN = "_with_random_weights"


def add_vbench(folder: Path, scores: Path) -> Outcome:
    """Append the scores that ``attnbench vbench run FOLDER/videos --out SCORES`` left, and return the run's rows.

    Args:
        folder: of a run of clips.
        scores: folder with a ``vbench.json``.

    Raises:
        BadInput: if there is no run or no scores, or they are of other videos.
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


def read_scores(folder: Path) -> list[Mapping[str, Any]]:
    """Return the scores of a ``vbench.json``: dimension, video, value, status, reason, stand_in.

    Raises:
        BadInput: if it cannot be read, or is another file.
    """
    path = folder / RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, scores = str(found["vbench"]), list(found["scores"])
        return [{**score, "version": version, "video": str(score["video"])} for score in scores]
    except OSError as error:
        raise BadInput(f"scores {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"scores {str(path)!r} are not what attnbench vbench run writes") from error


def vbench_rows(scores: list[Mapping[str, Any]], clips: list[ClipRow], request: ClipsRequest) -> Iterator[QualityRow]:
    """Give a row for each score of a clip, and for the seed floor one more of each pair of exact clips.

    Args:
        scores: as ``read_scores`` returns them; those of other videos are left out.
        clips: of one run.
        request: what it was asked for.
    """
    by_video = {Path(clip.video).name: clip for clip in clips if clip.video}
    exact = {(clip.prompt, clip.seed): clip for clip in clips if clip.role == "exact"}
    pairs = seed_pairs(request)
    for score in scores:
        clip = by_video.get(score["video"])
        if clip is None:
            continue
        if clip.role != "exact":
            yield _row(score, clip, clip.role, exact[clip.prompt, clip.seed])
            continue
        yield _row(score, clip, "exact", clip)
        for seed, of in pairs:
            if seed == clip.seed and (clip.prompt, of) in exact:
                yield _row(score, clip, "seed-floor", exact[clip.prompt, of])


def _row(score: Mapping[str, Any], clip: ClipRow, role: Role, reference: ClipRow) -> QualityRow:
    there = clip_words(reference.method, reference.engine, reference.seed)
    return QualityRow(
        run_id=clip.run_id, model=clip.model, method=clip.method, settings=clip.settings, engine=clip.engine,
        prompt=clip.prompt, seed=clip.seed,
        metric=f"{PREFIX}{score['dimension']}{STAND_IN if score.get('stand_in') else ''}", value=score["value"],
        reference=None if role == "exact" else there, status=score["status"],
        reason=f"skipped: {score['reason']}" if score["status"] == "skipped" else "", role=role,
        reference_seed=reference.seed, metric_kind="score", better="higher", frames=clip.frames or 1,
        size=clip.size or "", fps=clip.fps or 1.0, clip_hash=clip.clip_hash,
        reference_hash=None if role == "exact" else reference.clip_hash, made_by=f"vbench {score['version']}",
    )  # fmt: skip
