"""Which cells of a run have processes of their own, and how such a run is made from its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnbench.bench.apart.process import Ahead, End, work
from attnbench.bench.apart.task import Listed, Problem, Step, Task, Unbelievable, record_of
from attnbench.bench.in_turns import in_turns
from attnbench.bench.jobs import Agenda, make_agenda
from attnbench.bench.request import Request
from attnbench.bench.trial import dense_job
from attnbench.kernels.engines.others import other_names
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.methods.entries import Entry, registered
from attnbench.methods.registry import BUILT_IN
from attnbench.results.journal import JournalRecord
from attnbench.results.records.cells import Cell, Choices, Row, Sample, Verdict, canonical_json, digest
from attnbench.results.run import PartProgress, Progress


def split(request: Request, device: str) -> tuple[list[Entry], list[Entry]]:
    """Return the entries of a request whose cells share this process, and those whose cells get one of their own.

    As asked; otherwise all get one of their own on a GPU, or where another package's engine may run, and on a CPU those
    of methods from other packages.

    Raises:
        BadInput: for a method that is not registered.
    """
    entries = registered(request.methods)
    if request.isolate is not None:
        return ([], entries) if request.isolate else (entries, [])
    if device != "cpu" or other_names():  # an engine of another package may run any cell
        return [], entries
    shared = [entry for entry in entries if entry.method in BUILT_IN]
    return shared, [entry for entry in entries if entry.method not in BUILT_IN]


@dataclass(frozen=True)
class Apart:
    """A cell with a process of its own, and how its method failed if it could not even be listed."""

    listed: Listed
    end: End = field(default_factory=End)

    @property
    def cell_id(self) -> str:
        """Of the cell."""
        return self.listed.cell.identity


def base_agenda(request: Request) -> Agenda:
    """Return the agenda of full attention alone, with which everything of a request but its methods is checked.

    Raises:
        BadInput: quoting what cannot be used.
        Unsupported: for an engine that is not available.
    """
    update: dict[str, Any] = {"methods": [Entry("full")], "density": None}
    if request.engine in other_names():  # which is not to be imported here
        update["engine"] = "auto"
    return make_agenda(request.model_copy(update=update))


def check_request(request: Request) -> int:
    """Find everything that is wrong with a request, without measuring; return how many cells it comes to.

    A method of another package that cannot be loaded is no fault of the request: it costs its own cell.

    Raises:
        BadInput: quoting what cannot be used.
        Unsupported: for an engine that is not available.
    """
    return len(list_cells(request, registered(request.methods), base_agenda(request), threads=1))


def list_cells(request: Request, entries: Sequence[Entry], base: Agenda, threads: int) -> list[Apart]:
    """Return the cells of entries, without importing code of other packages into this process.

    Raises:
        BadInput: for settings that a method refuses.
        Unsupported: for an engine that is not available.
    """
    from attnbench.bench.apart.worker import listed

    found: list[Apart] = []
    ours = [entry for entry in entries if entry.method in BUILT_IN]
    if ours and request.engine not in other_names():
        agenda = make_agenda(request.model_copy(update={"methods": ours}))
        found += [Apart(listed(agenda, job, request.engine)) for job in agenda.jobs]
        entries = [entry for entry in entries if entry.method not in BUILT_IN]
    for name in dict.fromkeys(entry.method for entry in entries):
        mine = [entry for entry in entries if entry.method == name]
        found += _list_method(request, mine, base, threads)
    return list({each.cell_id: each for each in found}.values())


def _list_method(request: Request, entries: list[Entry], base: Agenda, threads: int) -> list[Apart]:
    found: list[Apart] = []
    problems: list[Problem] = []
    example = base.cell(dense_job(), request.engine, request.engine)

    def hear(kind: str, value: Any) -> None:
        if kind == "problem":
            problems.append(record_of(Problem, value))
        elif kind == "cells":
            for each in value if isinstance(value, list) else [value]:
                found.append(Apart(record_of(Listed, each)))

    end = work(
        Task(do="list", request=request.model_copy(update={"methods": entries}), threads=threads),
        request.seconds_a_cell, hear,
    )  # fmt: skip
    _raise_for(problems)
    if problems:
        end = End("error", problems[0].text)
    if end.verdict is None and found:
        return found
    end = end if end.verdict is not None else End("error", "its process named no cell")
    return [
        Apart(
            Listed(
                method=entry.method, settings=entry.settings, layer=0, label=entry.method,
                cell=_cell_of(example, entry, request.density),
            ),
            end,
        )
        for entry in entries
    ]  # fmt: skip


def _cell_of(example: Cell, entry: Entry, density: float | None) -> Cell:
    """Return the cell of a method that cannot say what its settings come to."""
    given = canonical_json(entry.settings)
    update = {"method": entry.method, "settings": given, "settings_given": given, "density_asked": density}
    return example.model_copy(update=update)


def _raise_for(problems: Iterable[Problem]) -> None:
    for problem in problems:
        if problem.kind == "bad input":
            raise BadInput(problem.text)
        if problem.kind == "unsupported":
            raise Unsupported(problem.text)


def choose(request: Request, cells: int, threads: int, progress: Progress, ahead: Ahead) -> Choices:
    """Let a process find the dense baseline, and decide how many heads and rounds the budget allows.

    Args:
        request: of the run.
        cells: how many are to be measured.
        threads: CPU threads of torch.
        progress: told what is done.
        ahead: starts the process.

    Raises:
        BadInput: for inputs that cannot be made.
    """
    chosen: list[Choices] = []
    problems: list[Problem] = []

    def hear(kind: str, value: Any) -> None:
        if kind == "problem":
            problems.append(record_of(Problem, value))
        elif kind == "record":
            chosen.append(record_of(Choices, fields_of(value, "choices")))
        else:
            tell(progress, kind, value)

    alone = request.model_copy(update={"methods": [Entry("full")], "engine": "auto", "layers": None})
    end = work(Task(do="choose", request=alone, threads=threads, cells=cells), request.seconds_a_cell, hear, ahead)
    _raise_for(problem for problem in problems if problem.kind == "bad input")
    if end.verdict is None and not problems and chosen:
        made = chosen[-1]
    else:
        why = problems[0].text if problems else end.reason or "it came to no decision"
        progress.note(f"no dense baseline, so no speed-ups: {why}")
        made = Choices(heads=1, rounds=request.rounds or 3)
    alike = {name: in_turns().least(name, getattr(made, name)) for name in ("heads", "rounds")}
    return made.model_copy(update=alike)


@dataclass
class Parts:
    """The cells of a run that have processes of their own.

    Attributes:
        request: of the run.
        cells: one each.
        base: the agenda of full attention alone.
        threads: CPU threads of torch.
    """

    request: Request
    cells: list[Apart]
    base: Agenda
    threads: int

    def ahead(self) -> Ahead:
        """Return what starts the processes of the cells, and before them the one that chooses for them."""
        return Ahead(1 + sum(each.end.verdict is None for each in self.cells), self.base.device.type)

    def measure(
        self,
        write: Callable[[JournalRecord], object],
        run_id: str,
        progress: Progress,
        samples: Sequence[Sample],
        choices: Choices,
        done: Iterable[str],
        ahead: Ahead,
    ) -> list[Row]:
        """Measure the cells that have no row yet, one after the other, each in a process of its own.

        Args:
            write: gets each sample as it is taken, and each row.
            run_id: of the run.
            progress: told what is done.
            samples: that an earlier part of the run took, and that may still count.
            choices: what all cells of the run share.
            done: cell_ids of the cells that have their rows.
            ahead: starts the processes.
        """
        left = [each for each in self.cells if each.cell_id not in set(done)]
        rows = []
        for number, each in enumerate(left, 1):
            place = f"cell {number} of {len(left)}, {each.listed.label}"
            told = PartProgress(progress, each.listed.label, place)
            row = _One(self, each, write, run_id, told, choices).row(samples, ahead)
            if row.verdict not in ("ok", "incorrect", "unsupported"):
                told.note(f"{row.verdict}: {row.reason}")
            rows.append(row)
        return rows


class _One:
    """One cell while its process is heard."""

    def __init__(
        self, parts: Parts, apart: Apart, write: Callable[[JournalRecord], object], run_id: str, progress: Progress,
        choices: Choices,
    ) -> None:  # fmt: skip
        self.parts, self.apart, self.write, self.run_id = parts, apart, write, run_id
        self.progress, self.choices = progress, choices
        self.cell = apart.listed.cell
        self.problems: list[Problem] = []
        self.made: Row | None = None
        self.taken: list[float] = []

    def row(self, samples: Sequence[Sample], ahead: Ahead) -> Row:
        """Measure the cell, in the next process that was started ahead; return its row, which is written."""
        end = self.apart.end
        if end.verdict is None:
            mine = [sample for sample in samples if sample.group == self.apart.cell_id]
            self.taken = [sample.cold_ms for sample in mine if sample.cell_id == self.apart.cell_id]
            end = work(self._task(mine), self.parts.request.seconds_a_cell, self.hear, ahead)
        if self.made is not None:
            return self.made
        if self.problems:
            verdict: Verdict = "unsupported" if self.problems[0].kind == "unsupported" else "error"
            end = End(verdict, self.problems[0].text)
        if end.verdict is None:
            end = End("error", "its process left no result")
        parts = self.parts
        row = failed_row(self.cell, end, self.run_id, parts.base, self.choices.heads, parts.threads)
        self.write(row)
        return row

    def _task(self, samples: list[Sample]) -> Task:
        request, listed = self.parts.request, self.apart.listed
        entry = Entry(listed.method, dict(listed.settings))
        return Task(
            do="measure",
            request=request.model_copy(update={"methods": [entry], "layers": [listed.layer]}),
            run_id=self.run_id,
            threads=self.parts.threads,
            choices=self.choices,
            samples=samples,
        )

    def hear(self, kind: str, value: Any) -> None:
        """Take an answer of the cell's process."""
        if kind == "problem":
            self.problems.append(record_of(Problem, value))
        elif kind == "cell":
            cell = record_of(Cell, value)
            if cell.identity != self.apart.cell_id:
                raise Unbelievable("measured another cell than it was asked to")
            self.cell = cell
        elif kind == "record":
            self._keep(value)
        else:
            tell(self.progress, kind, value)

    def _keep(self, value: Any) -> None:
        if isinstance(value, dict) and value.get("kind") == "sample":
            sample = record_of(Sample, fields_of(value, "sample"))
            dense = {self.parts.base.cell(dense_job(), name, name).identity for name in self._engines()}
            if sample.group != self.apart.cell_id or sample.cell_id not in {self.apart.cell_id, *dense}:
                raise Unbelievable("handed in a sample of another cell")
            if sample.cell_id == self.apart.cell_id:
                self.taken.append(sample.cold_ms)
            self.write(sample)
            return
        row = record_of(Row, fields_of(value, "row"))
        if (row.cell_id, row.run_id) != (self.apart.cell_id, self.run_id) or self.made is not None:
            raise Unbelievable("handed in the row of another cell")
        if row.verdict == "ok" and not set(row.samples_ms) <= set(self.taken):
            raise Unbelievable("handed in a row with samples that it did not take")
        self.write(row)
        self.made = row

    def _engines(self) -> list[str]:
        return [] if self.choices.baseline is None else [self.choices.baseline]


def failed_row(cell: Cell, end: End, run_id: str, base: Agenda, heads: int, threads: int) -> Row:
    """Return the row of a cell whose process left none.

    Args:
        cell: what was to be measured.
        end: its verdict and the reason.
        run_id: of the run.
        base: the agenda of the run's full attention.
        heads: that are timed.
        threads: CPU threads of torch.
    """
    assert end.verdict is not None
    return Row(
        **cell.model_dump(),
        row_id=digest([run_id, cell.identity]),
        run_id=run_id,
        cell_id=cell.identity,
        verdict=end.verdict,
        reason=end.reason,
        model=base.shape.model,
        tokens=base.shape.layout.tokens,
        heads_timed=heads,
        engine_version="",
        threads=threads if base.device.type == "cpu" else None,
    )


def tell(progress: Progress, kind: str, value: Any) -> None:
    """Pass on what a process tells of its progress.

    Raises:
        Unbelievable: for an answer of another kind.
    """
    if kind == "note":
        progress.note(str(value)[:2000])
    elif kind == "step":
        step = record_of(Step, value)
        progress.step(step.label, step.done, step.total, step.seconds_left)
    else:
        raise Unbelievable(f"gave an answer of an unknown kind: {kind[:60]!r}")


def fields_of(value: Any, kind: str) -> dict[str, Any]:
    """Return the fields of a journal's record of that kind.

    Raises:
        Unbelievable: if it is no such record.
    """
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise Unbelievable(f"handed in something else than a {kind}")
    return {name: each for name, each in value.items() if name != "kind"}
