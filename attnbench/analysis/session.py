"""Runs of ``attnbench analyze``: calls are measured as they come, and what they gave is written at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from attnbench.analysis.attention import measure_attention
from attnbench.analysis.between import block_mass_measurer, mask_measurer
from attnbench.analysis.budgets import measure_budgets
from attnbench.analysis.call import AttentionCall, Finding, How, Measurer, see
from attnbench.analysis.kept import kept_measurer
from attnbench.analysis.lacking import without_k, without_v
from attnbench.analysis.perturbation import Entropies, Perturbation
from attnbench.analysis.plans import Planner
from attnbench.analysis.request import AnalyzeRequest
from attnbench.analysis.similarity import measure_similarity
from attnbench.analysis.sources import Source, make_source
from attnbench.machine.clock import CLOCK
from attnbench.machine.command import typed_command
from attnbench.machine.environment import collect_environment
from attnbench.machine.memory import lack_told
from attnbench.results.conditions import contents_of
from attnbench.results.journal import Journal
from attnbench.results.means import mean_estimate
from attnbench.results.premises import judge
from attnbench.results.records.analysis import AnalysisRow, PremiseRow
from attnbench.results.records.cells import MOST
from attnbench.results.run import Progress, announce, begin, choose_place

_DIGITS = 6
"""Significant digits of figures in rows: queries are sampled, and float32 has seven."""


@dataclass(frozen=True)
class Outcome:
    """Where a run is, and what it found."""

    folder: Path
    rows: tuple[AnalysisRow, ...]
    premises: tuple[PremiseRow, ...]


def measurers_of(how: How) -> list[Measurer]:
    """Return fresh measurers for the calls of one clip."""
    planner = Planner(how)
    return [
        measure_attention,
        measure_similarity,
        partial(measure_budgets, how=how),
        block_mass_measurer(),
        mask_measurer(planner),
        kept_measurer(planner),
    ]


def start(request: AnalyzeRequest, out: Path | None, progress: Progress) -> Outcome:
    """Analyse what a request asks for.

    Args:
        request: what, and how.
        out: folder of the run; by default results/runs/<run id>-analyze, to which results/latest then points.
        progress: told what happens.

    Raises:
        BadInput: for a request or a folder that cannot be used, before anything is written; also for scores that
            overflow and for a full disk, in which case the rows that were written before are kept.
        Unsupported: for a model or a method that is not available.
    """
    progress.step("load", 0, 1, None)
    source = make_source(request)
    perturbation = Perturbation.of(request, source) if request.perturb else None
    place = choose_place(out, "-analyze")
    environment = collect_environment("cuda" if source.device.type == "cuda" else "cpu", typed_command())
    with begin(place, environment, request.model_dump(mode="json"), contents_of(source.files)) as journal:
        announce(place, progress)
        run = _Run(journal, place.run_id, request.how, source, progress, perturbation)
        with lack_told(_too_large), torch.no_grad():
            run.go()
    return Outcome(place.folder, tuple(run.rows), tuple(run.premises))


def _too_large(said: str) -> str:
    return "there is not enough memory for these maps; take fewer --queries, or a smaller clip"


Key = tuple[str, int | None, int | None, int | None, str, str]
"""Measure, layer, head, step, method and settings of a finding."""


class _Run:
    """A run in progress. Where there are several prompts, rows are means over them and are written after the last."""

    def __init__(
        self, journal: Journal, run_id: str, how: How, source: Source, progress: Progress,
        perturbation: Perturbation | None,
    ) -> None:  # fmt: skip
        self.perturbation = perturbation
        self.journal, self.run_id, self.how, self.source, self.progress = journal, run_id, how, source, progress
        self.rows: list[AnalysisRow] = []
        self.premises: list[PremiseRow] = []
        self._layout: tuple[int, str] = (1, "")
        self._found: dict[Key, dict[str, Finding]] = {}
        self._done, self._began = 0, CLOCK.seconds()

    def go(self) -> None:
        """Measure all prompts. What is interrupted keeps the prompts that were finished."""
        try:
            for prompt in self.source.prompts:
                self._prompt(prompt)
        finally:
            if len(self.source.prompts) > 1:
                self._write(map(over_prompts, self._found.values()))
        self.premises = judge(self.rows, self.run_id)
        self.journal.append(*self.premises)

    def _prompt(self, prompt: str) -> None:
        measurers = measurers_of(self.how)
        entropies = Entropies()

        def take(call: AttentionCall) -> None:
            self._layout = (call.layout.tokens, str(call.layout.grid))
            self._tell(prompt, call)
            fresh = list(_placed(call, measurers, self.how))
            self._done += 1
            entropies.note(fresh)
            keep(fresh)

        found: list[Finding] = []

        def keep(fresh: Iterable[Finding]) -> None:
            if len(self.source.prompts) == 1:
                self._write((each, 1) for each in fresh)
            else:
                found.extend(fresh)

        self.source.run(prompt, take)
        if self.perturbation is not None:
            for finding in self.perturbation.findings(prompt, entropies, self.progress):
                keep([finding])
        for finding in found:
            self._found.setdefault(_key(finding), {})[prompt] = finding

    def _write(self, found: Iterable[tuple[Finding, int]]) -> None:
        rows = [self._row(finding, prompts) for finding, prompts in found]
        if rows:
            self.journal.append(*rows)
            self.rows += rows

    def _row(self, finding: Finding, prompts: int) -> AnalysisRow:
        tokens, grid = self._layout
        finding = recordable(finding)
        return AnalysisRow(
            run_id=self.run_id, model=self.source.model, method=finding.method, settings=finding.settings,
            density=finding.density, layer=finding.layer, head=finding.head, step=finding.step, measure=finding.measure,
            value=rounded(finding.value), lo=rounded(finding.lo), hi=rounded(finding.hi), label=finding.label,
            points=[float(f"{x:.4g}") for x in finding.points], shape=finding.shape, queries=finding.queries,
            tokens=tokens, grid=grid, prompts=prompts, status=finding.status, reason=finding.reason,
        )  # fmt: skip

    def _tell(self, prompt: str, call: AttentionCall) -> None:
        total = self.source.calls * len(self.source.prompts)
        spent = CLOCK.seconds() - self._began
        left = spent / self._done * (total - self._done) if self._done else None
        words = f"layer {call.layer}" + ("" if call.step is None else f", step {call.step}")
        self.progress.step(f"{prompt}: {words}" if prompt else words, self._done, total, left)


def _placed(call: AttentionCall, measurers: Iterable[Measurer], how: How) -> Iterator[Finding]:
    """Yield what measurers find in a call, each with the call's layer and step where it has none."""
    for finding in _measured(call, measurers, how):
        yield replace(
            without_v(finding, call) if "v" in call.lacking else finding,
            layer=call.layer if finding.layer is None else finding.layer,
            step=call.step if finding.step is None else finding.step,
        )


def _measured(call: AttentionCall, measurers: Iterable[Measurer], how: How) -> Iterator[Finding]:
    if "k" in call.lacking:
        yield from without_k(call)
        return
    seen = see(call, how)
    for measure in measurers:
        yield from measure(seen)


def _key(finding: Finding) -> Key:
    return finding.measure, finding.layer, finding.head, finding.step, finding.method, finding.settings


def over_prompts(by_prompt: dict[str, Finding]) -> tuple[Finding, int]:
    """Return the mean of a measure over prompts, with the interval over prompts, and how many there were.

    Its label is that of most prompts. Curves and maps are averaged. A measure that was skipped for all is skipped.
    """
    measured = {prompt: each for prompt, each in by_prompt.items() if each.value is not None}
    if not measured:
        return next(iter(by_prompt.values())), len(by_prompt)
    first, *_ = measured.values()
    if len(measured) == 1:
        return first, 1
    figure = mean_estimate({(prompt, 0): each.value or 0.0 for prompt, each in measured.items()})
    labels = [each.label for each in measured.values()]
    points = zip(*(each.points for each in measured.values()), strict=True)
    densities = [each.density for each in measured.values() if each.density is not None]
    return replace(
        first, value=figure.mean, lo=figure.lo, hi=figure.hi, label=max(labels, key=labels.count), reason=figure.reason,
        points=tuple(math.fsum(column) / len(measured) for column in points),
        density=math.fsum(densities) / len(densities) if densities else None,
    ), len(measured)  # fmt: skip


def recordable(finding: Finding) -> Finding:
    """Return a finding as it is, or skipped if one of its figures is too large for a journal, as of huge values."""
    figures = [each for each in (finding.value, finding.lo, finding.hi, *finding.points) if each is not None]
    largest = max(map(abs, figures), default=0.0)
    if largest <= MOST:
        return finding
    reason = f"a figure of {largest:.3g} is too large to be recorded: scale what was captured"
    return replace(
        finding, value=None, lo=None, hi=None, label="", points=(), shape="", status="skipped", reason=reason
    )


def rounded(value: float | None) -> float | None:
    """Return a figure with as many digits as rows have."""
    return None if value is None else float(f"{value:.{_DIGITS}g}")
