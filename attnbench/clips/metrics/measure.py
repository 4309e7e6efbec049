"""Turn pairs of clips into rows: every metric of every pair, with a reason wherever there is no value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from attnbench.clips.metrics.frames import Clip, require_alike
from attnbench.clips.metrics.measured import Measured, Skipped
from attnbench.clips.metrics.metrics import METRICS, Metric
from attnbench.kernels.errors import BadInput
from attnbench.kernels.told import in_one_line
from attnbench.results.records.clips import QualityRow, Role, clip_words

OnProgress = Callable[[int, int, str], None]
"""Called after each metric of each pair with the number done, the total, and the name of the last one."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A clip, and how it was made.

    Attributes:
        clip: the frames.
        model: name of the model.
        method: name of the method.
        prompt: what was asked for.
        seed: seed of the noise.
        engine: who ran the plan.
        settings: canonical JSON of the method's settings.
    """

    clip: Clip
    model: str
    method: str
    prompt: str
    seed: int
    engine: str = ""
    settings: str = "{}"

    @property
    def words(self) -> str:
        """Method, engine and seed, as "full/sdpa, seed 0"."""
        return clip_words(self.method, self.engine, self.seed)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A clip, and the full-attention clip of the same model and prompt that it is compared with.

    Attributes:
        clip: the clip of a method or, for a noise floor, another clip of full attention.
        reference: the clip of full attention.
        role: "method"; "kernel-floor" for another exact dense kernel with the same seed; "seed-floor" for another seed.

    Raises:
        BadInput: if the clips differ in size, length, model or prompt, or the seeds do not fit the role.
    """

    clip: Labelled
    reference: Labelled
    role: Role = "method"

    def __post_init__(self) -> None:
        ours, theirs = self.clip, self.reference
        require_alike(ours.clip, theirs.clip)
        for name in ("model", "prompt"):
            mine, other = getattr(ours, name), getattr(theirs, name)
            if mine != other:
                raise BadInput(f"clips of {name} {mine!r} and {other!r} are not a pair: the {name} must be the same")
        if self.role == "exact":
            raise BadInput("a pair has the role 'method', 'kernel-floor' or 'seed-floor'; 'exact' is its reference")
        if (ours.seed != theirs.seed) != (self.role == "seed-floor"):
            wanted = "different seeds" if self.role == "seed-floor" else "the same seed"
            raise BadInput(f"a pair for {self.role!r} has seeds {ours.seed} and {theirs.seed}; it needs {wanted}")


@dataclass(slots=True)
class Scores:
    """Scores that were taken already, since a full-attention clip is part of several pairs.

    Pass it again to keep them.
    """

    taken: dict[tuple[str, str, str], Measured | str] = field(default_factory=dict)
    written: set[tuple[str, ...]] = field(default_factory=set)


def measure_pairs(
    pairs: Iterable[Pair],
    metrics: Sequence[Metric] = METRICS,
    *,
    run_id: str,
    total: int | None = None,
    scores: Scores | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[QualityRow]:
    """Take every metric of every pair, and yield the rows pair by pair.

    Pairs may come from a generator, so that not all clips need to be in memory. A metric that cannot be taken or fails
    gives a row with status "skipped" and the reason, and the others continue. A score is also taken once of each
    reference clip, with the role "exact".

    Args:
        pairs: the clips.
        metrics: the metrics to take.
        run_id: the run that the rows belong to.
        total: number of pairs, for progress; needed only if ``pairs`` has no length.
        scores: the scores of earlier calls, if the pairs of one run come in several calls.
        on_progress: called after each metric of each pair.
    """
    count = total if total is not None else len(pairs) if isinstance(pairs, Sequence) else 0
    known = Scores() if scores is None else scores
    for index, pair in enumerate(pairs):
        for number, metric in enumerate(metrics):
            yield from _rows(pair, metric, run_id, known)
            if on_progress is not None:
                done = index * len(metrics) + number + 1
                on_progress(done, max(count * len(metrics), done), f"{metric.name} of {pair.clip.words}")


def measure_pair(pair: Pair, metrics: Sequence[Metric] = METRICS, *, run_id: str) -> list[QualityRow]:
    """Take every metric of one pair; see ``measure_pairs``."""
    return list(measure_pairs([pair], metrics, run_id=run_id))


def missing_rows(pair: Pair, metrics: Sequence[Metric], *, run_id: str, reason: str) -> list[QualityRow]:
    """Return a row for every metric of a pair whose clip could not be made.

    The pair holds the reference in its place.
    """
    rows = [_row(pair, pair.role, metric, run_id, f"skipped: {reason}") for metric in metrics]
    return [row.model_copy(update={"clip_hash": ""}) for row in rows]


def _rows(pair: Pair, metric: Metric, run_id: str, scores: Scores) -> Iterator[QualityRow]:
    if metric.kind == "distance":
        yield _row(pair, pair.role, metric, run_id, _outcome(metric, pair.clip, pair.reference))
        return
    yield _row(pair, pair.role, metric, run_id, _score(metric, pair.clip, scores))
    exact = Pair(pair.reference, pair.reference)
    key = (metric.name, exact.clip.model, exact.clip.prompt, exact.clip.words, exact.clip.clip.digest)
    if key not in scores.written:
        scores.written.add(key)
        yield _row(exact, "exact", metric, run_id, _score(metric, exact.clip, scores))


def _score(metric: Metric, labelled: Labelled, scores: Scores) -> Measured | str:
    key = (metric.name, labelled.clip.digest, labelled.prompt)
    if key not in scores.taken:
        scores.taken[key] = _outcome(metric, labelled, labelled)
    return scores.taken[key]


def _outcome(metric: Metric, ours: Labelled, theirs: Labelled) -> Measured | str:
    """Return the measurement, or why there is none."""
    try:
        measured = metric.take(ours.clip, theirs.clip, ours.prompt)
    except Skipped as error:
        return f"skipped: {error}"
    except Exception as error:  # a metric from elsewhere may fail in any way, and the rest of the table must continue
        return f"failed: {in_one_line(error)[:300]}"
    bad = [value for value in (measured.value, *measured.per_frame) if not math.isfinite(value)]
    return f"failed: the metric gave {bad[0]}" if bad else measured


def _row(pair: Pair, role: Role, metric: Metric, run_id: str, outcome: Measured | str) -> QualityRow:
    ours, theirs = pair.clip, pair.reference
    measured = outcome if isinstance(outcome, Measured) else None
    return QualityRow(
        run_id=run_id,
        model=ours.model,
        method=ours.method,
        settings=ours.settings,
        engine=ours.engine,
        prompt=ours.prompt,
        seed=ours.seed,
        metric=metric.name,
        value=measured.value if measured else None,
        reference=theirs.words if role != "exact" else None,
        status="ok" if measured else "skipped",
        reason="" if isinstance(outcome, Measured) else outcome,
        role=role,
        reference_seed=theirs.seed,
        metric_kind=metric.kind,
        better=metric.better,
        unit=metric.unit,
        pooled=metric.pooled,
        # Metrics compute in float32 or worse: more digits are noise, and were more than a third of a journal.
        per_frame=[float(f"{value:.7g}") for value in measured.per_frame] if measured else [],
        identical_frames=measured.identical_frames if measured else None,
        frames=ours.clip.length,
        size=f"{ours.clip.height}x{ours.clip.width}",
        fps=ours.clip.fps,
        clip_hash=ours.clip.digest,
        reference_hash=theirs.clip.digest if role != "exact" else None,
        made_by=measured.made_by if measured else "",
    )
