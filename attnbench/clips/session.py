"""Runs of clips: start one, interrupt it, resume it. A finished clip is on disk before the next one begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.clips.files import can_encode, read_take, stem_of, write_prompts, write_take
from attnbench.clips.maker import Maker
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measure import Labelled, Pair, Scores, measure_pairs, missing_rows
from attnbench.clips.metrics.metrics import Metric
from attnbench.clips.request import MINI, NO_FLOOR, ClipsRequest, Shot, read_request, seed_pairs, shots_of
from attnbench.inputs.files import inside
from attnbench.kernels.engines import strictly
from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.machine.clock import CLOCK
from attnbench.machine.command import typed_command
from attnbench.machine.environment import collect_environment
from attnbench.machine.memory import lacks_memory
from attnbench.results.conditions import contents_of, require_same
from attnbench.results.journal import Journal, JournalRecord
from attnbench.results.records.cells import Environment, canonical_json, digest
from attnbench.results.records.clips import ClipRow, QualityRow, still_true
from attnbench.results.run import Progress, announce, begin, choose_place, reopen

_FAILURES = (AttnbenchError, MemoryError, RuntimeError)
"""Errors that lose one clip only. A RuntimeError is one of them if it says that memory ran out."""


@dataclass(frozen=True)
class Outcome:
    """The journal of a run, all of its rows, and the clips that could not be made."""

    folder: Path
    rows: tuple[QualityRow, ...]
    failed: tuple[str, ...]


def failures(clips: Iterable[ClipRow]) -> tuple[str, ...]:
    """Return the clips that could not be made, each with its reason."""
    failed = (clip for clip in clips if clip.status == "failed")
    return tuple(f"{clip.method}, {clip.prompt!r}, seed {clip.seed}: {clip.reason}" for clip in failed)


def start(request: ClipsRequest, out: Path | None, progress: Progress) -> Outcome:
    """Make the clips of a request and measure them.

    Args:
        request: what to make.
        out: folder of the run; by default results/runs/<run id>, to which results/latest then points.
        progress: told what happens.

    Raises:
        BadInput: for a request or a folder that cannot be used, before anything is written; also if the clip of full
            attention cannot be made or the disk is full, in which case what was made before is kept.
        Unsupported: for an engine that is not available.
    """
    place = choose_place(out, "-clips")
    maker = make_maker(request, progress)
    with begin(place, _environment(maker), request.model_dump(mode="json"), _contents(maker)) as journal:
        announce(place, progress)
        return _Run(journal, place.run_id, request, maker, progress).go(())


def resume(folder: Path, progress: Progress) -> Outcome:
    """Finish an interrupted run: keep its clips and values, make the rest, and retry skipped metrics.

    Raises:
        BadInput: if there is no run of clips, or it was made with other code or weights or on another device.
        Unsupported: for the same reasons as ``start``.
    """
    journal, header, records = reopen(folder, "clips")
    with journal:
        request = read_request(**header.request)
        maker = make_maker(request, progress)
        require_same(folder, header, _environment(maker), _contents(maker), progress.note)
        made_with = {row.weights for row in records if isinstance(row, ClipRow)} - {maker.weights}
        if made_with:
            raise BadInput(
                f"{str(folder)!r} was made with weights {made_with.pop()} and this is {maker.weights}: one run cannot "
                "hold both; start a new one"
            )
        progress.started(str(folder))
        return _Run(journal, header.run_id, request, maker, progress).go(records)


def _environment(maker: Maker) -> Environment:
    return collect_environment("cuda" if maker.device == "cuda" else "cpu", typed_command())


def _contents(maker: Maker) -> dict[str, str]:
    """Return the digest of the weights that clips are made with."""
    return contents_of({"weights": maker.weights_path})


def make_maker(request: ClipsRequest, progress: Progress) -> Maker:
    """Load the model that was asked for.

    Raises:
        BadInput: for an unknown model, or if the request does not fit the model.
        Unsupported: for an engine or package that is not available.
    """
    progress.step(f"load {request.model}", 0, 1, None)
    if request.model == MINI:
        from attnbench.clips.mini import MiniMaker

        return MiniMaker(request)
    from attnbench.clips.pipeline import PipelineMaker

    return PipelineMaker(request)


@dataclass
class _Run:
    """A run in progress."""

    journal: Journal
    run_id: str
    request: ClipsRequest
    maker: Maker
    progress: Progress
    rows: dict[tuple[object, ...], QualityRow] = field(default_factory=dict)
    clips: dict[str, ClipRow] = field(default_factory=dict)
    scores: Scores = field(default_factory=Scores)
    began: float = field(default_factory=CLOCK.seconds)
    done: int = 0
    """Steps computed."""
    total: int = 0
    """Number of steps to compute, as far as it is known."""
    encodes: bool = True
    taken: set[tuple[object, ...]] = field(default_factory=set)
    """Metrics that have a value already, by everything that decides the value."""
    told: float = 0.0
    """When progress was last reported."""

    def go(self, records: Iterable[JournalRecord]) -> Outcome:
        """Make and measure what is not in ``records`` yet."""
        for record in records:
            if isinstance(record, QualityRow):
                self._note(record)
            elif isinstance(record, ClipRow):
                self.clips[record.clip_id] = record
        shots = [(place, shot) for place, prompt in enumerate(self.request.prompts) for shot in self._shots(prompt)]
        self.total = sum(self.maker.passes(shot) for place, shot in shots if self._kept(shot) is None)
        if problem := can_encode():
            self.encodes = False
            self.progress.note(f"no players: {problem}")
        if self.maker.floor_engine is None and self.request.floor_engine != NO_FLOOR:
            self.progress.note("no kernel floor: this machine has no second exact kernel")
        try:
            for place, prompt in enumerate(self.request.prompts):
                self._prompt(place, prompt)
            videos = [row for row in self.clips.values() if row.video]
            write_prompts(self.journal.folder, {Path(row.video).name: row.prompt for row in videos})
        except BadInput as error:
            if "--resume" in str(error):
                raise
            again = f"what was made before is kept; continue with: attnbench clips --resume {self.journal.folder}"
            raise BadInput(f"{error}; {again}") from error
        return Outcome(self.journal.folder, tuple(still_true(self.rows.values())), failures(self.clips.values()))

    def _shots(self, prompt: str) -> Iterator[Shot]:
        return shots_of(self.request, prompt, self.maker.exact_engine, self.maker.floor_engine)

    def _prompt(self, place: int, prompt: str) -> None:
        """Make and measure all clips of a prompt."""
        exact: dict[int, Labelled] = {}
        for shot in self._shots(prompt):
            reference = exact.get(shot.seed)
            made = self._clip(shot, place, None if reference is None else reference.clip)
            if shot.role == "exact":
                assert made is not None
                exact[shot.seed] = made
                continue
            assert reference is not None
            if made is not None:
                self._measure(Pair(made, reference, shot.role))
            elif shot.role == "method":
                row = self.clips[self._id(shot)]
                lost = Labelled(
                    reference.clip, self.maker.model, shot.method, prompt, shot.seed, row.engine, row.settings
                )
                pair = Pair(lost, reference)
                self._append(missing_rows(pair, self.maker.metrics, run_id=self.run_id, reason=row.reason))
        for seed, of in seed_pairs(self.request):
            self._measure(Pair(exact[seed], exact[of], "seed-floor"))

    def _clip(self, shot: Shot, place: int, reference: Clip | None) -> Labelled | None:
        """Return a clip, made now or earlier. If it cannot be made, return None; for an exact clip, the run ends."""
        kept = self._kept(shot)
        if kept is not None:
            clip = read_take(self.journal.folder, kept.raw, kept.clip_hash)
            if clip is not None:
                return self._labelled(kept, clip)
        passes, before = self.maker.passes(shot), self.done

        def after_step(number: int) -> None:
            self.done = before + max(0, number + 1 - (self.maker.steps - passes))
            self._tell(f"{shot.label}: step {number + 1} of {self.maker.steps}")

        self._tell(shot.label, always=True)
        began = CLOCK.seconds()
        try:
            with strictly(self.request.strict):
                take = self.maker.make(shot, after_step)
        except _FAILURES as error:
            if not isinstance(error, AttnbenchError) and not lacks_memory(error):
                raise
            self.done = before + passes
            reason = " ".join(str(error).split()) or type(error).__name__
            if shot.role == "exact":
                raise BadInput(f"full attention failed on {shot.prompt!r}, seed {shot.seed}: {reason}") from error
            settings = canonical_json(shot.settings)
            self._keep(ClipRow(**self._facts(shot), status="failed", reason=reason, settings=settings))
            self.progress.note(f"{shot.label} failed: {reason}")
            return None
        seconds = CLOCK.seconds() - began
        self.done = before + passes
        if reference is not None and take.clip.frames.shape != reference.frames.shape:
            raise BadInput(f"{shot.label} gave {take.clip.words}, and full attention {reference.words}")
        stem = stem_of(shot, place)
        files = write_take(self.journal.folder, stem, shot, take.clip, reference, encode=self._plays(place, shot.seed))
        row = ClipRow(
            **{**self._facts(shot), "engine": take.engine}, status="ok", settings=take.settings,
            densities=list(take.densities), seconds=round(seconds, 3), frames=take.clip.length,
            size=f"{take.clip.height}x{take.clip.width}", fps=take.clip.fps, clip_hash=take.clip.digest, raw=files.raw,
            video=files.video, player=files.player,
        )  # fmt: skip
        self._keep(row)
        return self._labelled(row, take.clip)

    def _plays(self, place: int, seed: int) -> bool:
        """Return whether H.264 is written for a prompt and seed."""
        most = self.request.players
        return self.encodes and (most is None or place * self.request.seeds + seed - self.request.seed < most)

    def _labelled(self, row: ClipRow, clip: Clip) -> Labelled:
        return Labelled(clip, row.model, row.method, row.prompt, row.seed, row.engine, row.settings)

    def _facts(self, shot: Shot) -> dict[str, Any]:
        exact = shot.role == "exact"
        return {
            "run_id": self.run_id, "clip_id": self._id(shot), "role": shot.role, "model": self.maker.model,
            "weights": self.maker.weights, "method": shot.method, "engine": shot.engine, "prompt": shot.prompt,
            "seed": shot.seed, "steps": self.maker.steps,
            "dense_steps": self.maker.steps if exact else self.maker.dense_steps,
            "dense_layers": sorted(self.request.dense_layers), "dtype": self.maker.dtype,
        }  # fmt: skip

    def _id(self, shot: Shot) -> str:
        return digest([
            self.maker.model, self.maker.weights, shot.role, shot.method, shot.settings, shot.engine, shot.prompt,
            shot.seed, self.maker.steps, self.maker.dense_steps, sorted(self.request.dense_layers), self.maker.dtype,
            self.maker.device, self.request.frames, self.request.height, self.request.width,
            *([] if self.request.fps is None else [self.request.fps]),
        ])  # fmt: skip

    def _kept(self, shot: Shot) -> ClipRow | None:
        row = self.clips.get(self._id(shot))
        if row is None or row.status != "ok":
            return None
        raw = inside(self.journal.folder, row.raw)
        return row if raw is not None and raw.is_file() else None

    def _keep(self, row: ClipRow) -> None:
        self.journal.append(row)
        self.clips[row.clip_id] = row

    def _measure(self, pair: Pair) -> None:
        """Take those metrics of a pair that have no value yet."""
        metrics = [metric for metric in self.maker.metrics if not self._has(pair, metric)]
        for metric in metrics:
            self._tell(f"{metric.name} of {pair.clip.words}")
            self._append(measure_pairs([pair], [metric], run_id=self.run_id, scores=self.scores))

    def _has(self, pair: Pair, metric: Metric) -> bool:
        ours, theirs = pair.clip, pair.reference
        wanted = [(pair.role, ours)]
        if metric.kind == "score":
            wanted.append(("exact", theirs))
        return self.taken.issuperset(
            (metric.name, role, each.prompt, each.method, each.settings, each.engine, each.clip.digest, theirs.seed)
            for role, each in wanted
        )

    def _note(self, row: QualityRow) -> None:
        self.rows[row.key] = row
        if row.status == "ok":
            key = (row.metric, row.role, row.prompt, row.method, row.settings, row.engine)
            self.taken.add((*key, row.clip_hash, row.reference_seed))

    def _append(self, rows: Iterable[QualityRow]) -> None:
        for row in rows:
            if self.rows.get(row.key) != row:
                self.journal.append(row)
                self._note(row)

    def _tell(self, label: str, *, always: bool = False) -> None:
        """Report progress, at most once a second unless the message must be shown."""
        now = CLOCK.seconds()
        if not always and now - self.told < 1:
            return
        self.told, spent = now, now - self.began
        left = spent / self.done * (self.total - self.done) if self.done else None
        self.progress.step(label, self.done, max(self.total, 1), left)
