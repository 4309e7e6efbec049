"""A run over several ranks from request to journal: begun, or continued.

All ranks call the same function. Rank 0 writes the run and returns it, the others return None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attnbench.bench.bench import Bench
from attnbench.bench.jobs import Agenda, make_agenda
from attnbench.bench.request import Request, read_request
from attnbench.bench.session import Outcome, environment_of
from attnbench.kernels.errors import BadInput
from attnbench.parallel.deal import deal, way_of
from attnbench.results.conditions import require_same
from attnbench.results.journal import Journal, JournalRecord, request_of
from attnbench.results.records.cells import PhaseRow
from attnbench.results.run import NoProgress, Progress, announce, begin, choose_place, reopen
from attnbench.scale.group_rows import Group, Profiled
from attnbench.scale.ranks import joined, require_alike
from attnbench.scale.watch import watched


def check_group(request: Request) -> None:
    """Find what is wrong with a request of several ranks, without measuring.

    Raises:
        BadInput: quoting what cannot be used.
    """
    given = {"density": request.density, "precision": request.precision, "isolate": request.isolate}
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"--{name} is not possible with --gpus: leave it out")
    if request.timer not in (None, "events", "wall"):
        raise BadInput(f"--timer {request.timer} is not possible with --gpus; events and wall are")
    agenda = make_agenda(request)
    assert request.gpus is not None
    shape, way = agenda.shape, way_of(request.parallel or "ulysses")
    deal(way, request.gpus, shape.heads, shape.kv_heads)
    if request.gpus > shape.layout.tokens:
        raise BadInput(f"--gpus is {request.gpus}, and the grid {shape.grid} has {shape.layout.tokens} tokens")


def group_request(folder: Path) -> Request | None:
    """Return the request of a run over several ranks; None for any other run, or if there is none that can be read."""
    asked = request_of(folder)
    return None if asked is None or asked.get("gpus") is None or "command" in asked else read_request(**asked)


def check_resumed(folder: Path, request: Request) -> None:
    """Find what is wrong with continuing a run, before ranks are started.

    Raises:
        BadInput: if another process writes it, or it was begun under other conditions.
    """
    journal, header, _ = reopen(folder)
    journal.close()
    threads = header.environment.threads  # of a rank, not of this process
    agenda = make_agenda(request)
    here = environment_of(agenda, request).model_copy(update={"threads": threads})
    require_same(folder, header, here, agenda.contents, lambda text: None)


@dataclass(frozen=True)
class GroupOutcome(Outcome):
    """A run over several ranks, and the phases of its cells on rank 0, if they were asked for."""

    phases: tuple[PhaseRow, ...] = ()


def start_group(
    request: Request, out: Path | None, progress: Progress, profiled: Profiled | None = None
) -> GroupOutcome | None:
    """Measure a request with the other ranks.

    Args:
        request: the same on all ranks; ``gpus`` says how many there are.
        out: folder of the run; by default results/runs/<run id>.
        progress: told what is done, on rank 0.
        profiled: how the cells are profiled too; None if they are not.

    Raises:
        BadInput: for a request or a folder that cannot be used, and for ranks that differ.
        RankLost: if another rank ended.
    """
    request = request.model_copy(update={"parallel": request.parallel or "ulysses"})
    with _group(request, progress) as group:
        if not group.crew.leads:
            _take_part(group, profiled)
            return None
        place, agenda = choose_place(out), group.bench.agenda
        asked = request.model_dump(mode="json")
        with begin(place, environment_of(agenda, request), asked, agenda.contents) as journal:
            announce(place, progress)
            return _lead(group, journal, place.run_id, (), profiled)


def resume_group(folder: Path, progress: Progress, profiled: Profiled | None = None) -> GroupOutcome | None:
    """Go on with a run over several ranks: finished cells stay, samples count, the rest is measured.

    Args:
        folder: of the run, which all ranks see.
        progress, profiled: as of ``start_group``. Cells whose phases are there are not profiled again.

    Raises:
        BadInput: as of ``check_resumed``, and for ranks that differ.
        RankLost: if another rank ended.
    """
    request = group_request(folder)
    if request is None:
        raise BadInput(f"{str(folder)!r} holds no run over several ranks")
    with _group(request, progress) as group:
        if not group.crew.leads:
            _take_part(group, profiled)
            return None
        journal, header, records = reopen(folder)
        with journal:
            agenda = group.bench.agenda
            here = environment_of(agenda, request)
            require_same(folder, header, here, agenda.contents, progress.note)
            progress.started(str(folder))
            return _lead(group, journal, header.run_id, records, profiled)


@contextmanager
def _group(request: Request, progress: Progress) -> Iterator[Group]:
    agenda = make_agenda(request)
    with joined(agenda.device) as crew:
        require_alike(crew, request.model_dump(mode="json"))
        with watched(crew, _limit(agenda)):
            yield Group(crew, Bench(agenda, progress if crew.leads else NoProgress(), heads=agenda.shape.heads))


def _limit(agenda: Agenda) -> float | None:
    """Return the seconds that a rank may take for one piece of work: rank 0 verifies all cells in one.

    Without ``--cell-timeout`` there is a limit on GPUs only, as for cells in processes of their own.
    """
    request, cells = agenda.request, len(agenda.jobs)
    if request.cell_timeout is None and agenda.device.type != "cuda":
        return None
    return request.seconds_a_cell * (cells + 1)


def _take_part(group: Group, profiled: Profiled | None) -> None:
    group.measure((), lambda sample: None)
    if profiled is not None:
        group.profile((), None, profiled)


def _lead(
    group: Group, journal: Journal, run_id: str, records: Sequence[JournalRecord], profiled: Profiled | None
) -> GroupOutcome:
    rows = group.write(records, journal, run_id)
    phases = () if profiled is None else group.profile(rows, journal, profiled)
    return GroupOutcome(journal.folder, rows, phases)
