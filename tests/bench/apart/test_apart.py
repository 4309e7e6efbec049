"""Cells in processes of their own: methods that crash, hang, exit or lie cost only themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attnbench.bench import session
from attnbench.bench.apart.cells import check_request
from attnbench.bench.profile.cells import ProfileAfter
from attnbench.bench.request import Request, read_request
from attnbench.kernels.errors import BadInput
from attnbench.methods.entries import Entry
from attnbench.results.journal import JOURNAL, read_journal
from attnbench.results.load import read
from attnbench.results.pairs import paired
from attnbench.results.records.cells import Choices, Row, Sample

Install = Callable[..., Path]

BEGIN = """
import dataclasses, os, signal, sys, threading, time, traceback
from attnbench.methods import get_method

BASE = get_method("sliding-window")

def named(name, plan):
    return dataclasses.replace(BASE, name=name, plan=plan, depends_on_qk=True)

CALLS = []

def first_call(q):
    CALLS.append(q.shape)
    return len(CALLS) == 1

def after_timing_began(q):
    \"\"\"Whether this is one of the later calls of a process.\"\"\"
    CALLS.append(q.shape)
    return len(CALLS) > 12

def plan(settings, q, k, call):
    return BASE.plan(settings, q, k, call)

HONEST = named("honest", plan)
"""

BODIES = {
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "abort": "print('the heap is broken', file=sys.stderr, flush=True); os.abort()",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "leaver": "os._exit(0)",
    "exiter": "sys.exit(0)",
    "hanger": "time.sleep(10**6)",
    "late-leaver": "os._exit(3) if after_timing_began(q) else None",
    "talker": "[print('x' * 10**5) for _ in range(100)]; os._exit(1)",
    "hoarder": "raise MemoryError('no memory')",
    "orphan": "os.fork() or time.sleep(10**6); os._exit(0)",
    "stayer": "threading.Thread(target=time.sleep, args=(10**6,)).start() if first_call(q) else None",
    "worker": "threading.Thread(target=time.sleep, args=(10**6,)).start()",
    "shy": "os._exit(0) if any(f.name == 'profile_rows' for f in traceback.extract_stack()) else None",
}

EXPECTED = {
    "segfault": ("crashed", "its process was killed by SIGSEGV"),
    "abort": ("crashed", "its process was killed by SIGABRT; its last words: the heap is broken"),
    "killed": ("crashed", "its process was killed by SIGKILL, perhaps because memory ran out"),
    "leaver": ("crashed", "its process ended with exit code 0 and left no result"),
    "exiter": ("error", "it called sys.exit(0)"),
    "late-leaver": ("crashed", "its process ended with exit code 3 and left no result"),
    "talker": ("crashed", "its process ended with exit code 1 and left no result; its last words: xxx"),
    "hoarder": ("oom", "MemoryError: no memory"),
    "orphan": ("crashed", "its process ended with exit code 0 and left no result"),
    "stayer": ("ok", ""),
    "worker": ("incorrect", "work goes on in another thread after the call has returned"),
    "shy": ("ok", ""),
    "sta": ("ok", ""),
    "honest": ("ok", ""),
}


class Told:
    """Progress that is kept for the test to look at."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        self.steps.append(label)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, folder: str) -> None:
        pass


def package(names: list[str]) -> tuple[str, dict[str, str]]:
    """The source of a package with these methods, and its entry points."""
    source, points = BEGIN, {}
    for name in names:
        short = name.replace("-", "_")
        source += f"\ndef {short}(settings, q, k, call):\n    {BODIES[name]}\n    return plan(settings, q, k, call)\n"
        source += f"\n{short.upper()} = named({name!r}, {short})\n"
        points[name] = short.upper()
    return source, points


def asked(methods: list[str | Entry], **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "methods": [Entry(each) if isinstance(each, str) else each for each in methods], "grid": "3x5x7", "heads": 1,
        "head_dim": 16, "inputs": "gaussian", "device": "cpu", "rounds": 3, "cell_timeout": 200.0,
    }  # fmt: skip
    return read_request(**fields | changes)


def records(folder: Path, kind: type[Any]) -> list[Any]:
    return [record for record in read_journal(folder / JOURNAL) if isinstance(record, kind)]


def assert_as_expected(rows: tuple[Row, ...], names: list[str]) -> None:
    found = {row.method: (row.verdict, row.reason) for row in rows}
    assert set(found) == set(names)
    for name in names:
        verdict, reason = EXPECTED[name]
        assert found[name][0] == verdict, (name, found[name])
        assert found[name][1].startswith(reason), (name, found[name])
        assert reason or not found[name][1], (name, found[name])
    assert all(row.latency_ms is None for row in rows if row.verdict != "ok")


def test_a_method_that_hangs_is_stopped(install: Install, tmp_path: Path) -> None:
    source, points = package(["hanger"])
    install("bad_methods", source, **points)
    (row,) = session.start(asked(["hanger"], cell_timeout=3.0), tmp_path / "run", Told()).rows
    assert (row.verdict, row.reason) == ("timeout", "it took longer than 3 s and was stopped; see --cell-timeout")


def test_methods_that_end_their_process_cost_only_themselves(install: Install, tmp_path: Path) -> None:
    """Whether they do so when they are measured or when they are profiled; of a cell only the phases are lost then."""
    source, points = package(["segfault", "shy"])
    install("bad_methods", source, honest="HONEST", **points)
    folder, told = tmp_path / "run", Told()
    after = ProfileAfter(told, repeats=1, traces=True)
    rows = session.start(asked(["segfault", "shy", "honest"]), folder, told, after).rows
    assert_as_expected(rows, ["segfault", "shy", "honest"])
    # Beside its own cell each process timed the dense baseline, in the same rounds.
    honest = next(row for row in rows if row.method == "honest")
    taken = records(folder, Sample)
    assert {sample.group for sample in taken if sample.cell_id == honest.cell_id} == {honest.cell_id}
    pairs = paired(honest, taken)
    assert list(pairs) == [(honest.cell_id, number) for number in range(3)]
    assert honest.speedup is not None
    # All cells were measured alike, as was decided once.
    (choices,) = records(folder, Choices)
    assert {row.heads_timed for row in rows} == {choices.heads}
    assert {row.baseline for row in rows if row.verdict == "ok"} == {f"full/{choices.baseline}"}
    assert len({row.inputs_hash for row in rows if row.verdict == "ok"}) == 1
    found = read(folder)
    assert found.rows == tuple(rows)
    assert {phase.row_id for phase in found.phases} == {honest.row_id}
    assert sorted(found.phases, key=str) == sorted(after.phases, key=str)
    assert any("not profiled: its process ended with exit code 0 and left no result" in note for note in told.notes)
    assert set(found.traces) == {honest.cell_id}


@pytest.mark.slow
def test_every_way_to_end_a_process_has_its_verdict_and_cause(install: Install, tmp_path: Path) -> None:
    source, points = package([name for name in EXPECTED if name in BODIES])
    install("bad_methods", source, honest="HONEST", **points)
    assert_as_expected(session.start(asked(list(EXPECTED)), tmp_path / "run", Told()).rows, list(EXPECTED))


@pytest.mark.parametrize(
    ("statement", "verdict", "reason"),
    [
        pytest.param("import sys; sys.exit(0)", "error", "importing it called sys.exit(0)", marks=pytest.mark.slow),
        ("import os; os._exit(0)", "crashed", "its process ended with exit code 0 and left no result"),
    ],
)
def test_an_exit_while_a_package_is_imported_is_a_verdict(
    statement: str, verdict: str, reason: str, install: Install, tmp_path: Path
) -> None:
    install("leaves", statement, gone="METHOD")
    check_request(asked(["gone"]))  # which a suite does before its first cell: the request itself is right
    (gone,) = session.start(asked(["gone"]), tmp_path / "run", Told()).rows
    assert gone.verdict == verdict
    assert reason in gone.reason


def test_what_failed_is_repeated_and_the_rest_is_kept(install: Install, tmp_path: Path) -> None:
    body = f"os._exit(0) if not os.path.exists({str(tmp_path / 'mended')!r}) else None"
    source = BEGIN + f"\ndef fragile(settings, q, k, call):\n    {body}\n    return plan(settings, q, k, call)\n"
    install("fragile_method", source + "\nFRAGILE = named('fragile', fragile)\n", fragile="FRAGILE")
    folder = tmp_path / "run"
    first = {row.method: row for row in session.start(asked(["sta", "fragile"]), folder, Told()).rows}
    assert (first["sta"].verdict, first["fragile"].verdict) == ("ok", "crashed")
    (tmp_path / "mended").touch()
    told = Told()
    second = {row.method: row for row in session.resume(folder, told).rows}
    assert second["sta"] == first["sta"]
    assert second["fragile"].verdict == "ok"
    assert second["fragile"].cell_id == first["fragile"].cell_id
    assert not any(label.startswith("verifying sta") for label in told.steps)
    assert len(records(folder, Choices)) == 1
    assert {row.method: row.verdict for row in read(folder).rows} == {"sta": "ok", "fragile": "ok"}


def test_a_run_does_not_go_on_with_other_code_of_a_package(install: Install, tmp_path: Path) -> None:
    site = install("honest_method", BEGIN, honest="HONEST")
    folder = tmp_path / "run"
    session.start(asked(["honest"], rounds=3, isolate=False), folder, Told())
    header = read(folder).headers[0]
    assert list(header.contents) == ["package honest_method"]
    assert header.environment.packages["honest_method"] == "1.0"
    session.resume(folder, Told())
    (site / "honest_method.py").write_text(BEGIN + "\nANOTHER = 1\n")
    said = "content of package honest_method .* and this is content of package honest_method .*; start a new one"
    with pytest.raises(BadInput, match=said):
        session.resume(folder, Told())


def test_a_run_does_not_go_on_where_a_package_brought_an_engine(install: Install, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    session.start(asked(["sta"], rounds=3), folder, Told())
    assert read(folder).headers[0].contents == {}
    install("more_engines", "ENGINE = None", group="attnbench.engines", more="ENGINE")
    with pytest.raises(BadInput, match="content of package more_engines absent"):
        session.resume(folder, Told())


def test_settings_that_a_method_refuses_are_refused_before_anything_is_written(
    install: Install, tmp_path: Path
) -> None:
    install("honest_method", BEGIN, honest="HONEST")
    with pytest.raises(BadInput, match="unknown setting of 'honest' 'windw'"):
        session.start(asked([Entry("honest", {"windw": 3})]), tmp_path / "run", Told())
    with pytest.raises(BadInput, match="unknown method 'honset': did you mean 'honest'"):
        session.start(asked(["honset"]), tmp_path / "run", Told())
    with pytest.raises(BadInput, match="unknown setting of 'sta'"):
        check_request(asked(["full", Entry("sta", {"tiel": 3})]))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # the small version is tests/cli/test_survival.py
def test_samples_of_an_interrupted_cell_count(install: Install, tmp_path: Path) -> None:
    """The journal ends after some samples of the cell, as after kill -9 of the run."""
    install("honest_method", BEGIN, honest="HONEST")
    folder = tmp_path / "run"
    (row,) = session.start(asked(["honest"], rounds=4), folder, Told()).rows
    lines = (folder / JOURNAL).read_text().splitlines(keepends=True)
    (folder / JOURNAL).write_text("".join(lines[:-3]))  # the row, and the last two samples
    told = Told()
    (again,) = session.resume(folder, told).rows
    assert any("resumed: 6 of 6 earlier samples count" in note for note in told.notes)
    taken = records(folder, Sample)
    assert len(taken) == 8
    assert again.samples_ms == [sample.cold_ms for sample in taken if sample.cell_id == row.cell_id]
    assert again.samples_ms[:3] == row.samples_ms[:3]


@pytest.mark.slow  # the small version is tests/cli/test_survival.py
def test_an_interrupt_ends_the_process_of_the_cell(install: Install, tmp_path: Path, waiting: ModuleType) -> None:
    note = tmp_path / "pid"
    body = f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(10**6)"
    source = BEGIN + f"\ndef asleep(settings, q, k, call):\n    {body}\n\nASLEEP = named('asleep', asleep)\n"
    install("asleep_method", source, asleep="ASLEEP")

    class Impatient(Told):
        def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
            if "asleep" in label:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.start(asked(["asleep"]), tmp_path / "run", Impatient())
    if note.exists() and (process := note.read_text()):  # otherwise it had not begun its call
        waiting.until_gone(int(process))


def test_built_in_methods_can_have_processes_of_their_own_and_share_one_by_default(tmp_path: Path) -> None:
    apart = session.start(asked(["full", "sta"], isolate=True, rounds=None, budget=0.5), tmp_path / "apart", Told())
    assert [(row.method, row.verdict) for row in apart.rows] == [("full", "ok"), ("sta", "ok")]
    assert {sample.group for sample in records(tmp_path / "apart", Sample)} == {row.cell_id for row in apart.rows}
    told = Told()
    shared = session.start(asked(["full", "sta"]), tmp_path / "shared", told)
    assert "--cell-timeout does not stop full, sta, which share this process; see --isolate" in told.notes
    assert {sample.group for sample in records(tmp_path / "shared", Sample)} == {""}
    assert [row.cell_id for row in shared.rows] == [row.cell_id for row in apart.rows]
    assert [row.inputs_hash for row in shared.rows] == [row.inputs_hash for row in apart.rows]


def test_a_limit_of_time_is_a_number_above_zero() -> None:
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(BadInput, match=r"cell.timeout"):
            session.start(asked(["sta"], cell_timeout=wrong), None, Told())
    for budget, seconds in ((10.0, 50.0), (240.0, 510.0), (1000.0, 600.0)):
        assert asked(["sta"], cell_timeout=None, budget=budget).seconds_a_cell == seconds


@pytest.mark.slow
def test_phases_of_processes_are_those_of_a_shared_one(tmp_path: Path) -> None:
    names = {}
    for isolate in (False, True):
        after = ProfileAfter(Told(), repeats=1, traces=False)
        session.start(asked(["sta", "moba"], rounds=3, isolate=isolate), tmp_path / str(isolate), Told(), after)
        names[isolate] = {(phase.cell_id, phase.pass_, phase.phase, phase.provenance) for phase in after.phases}
        assert {phase.peak_dense_mib is None for phase in after.phases} == {after.phases[0].peak_dense_mib is None}
    assert names[True] == names[False] != set()


@pytest.mark.slow
def test_a_profile_that_was_cut_short_goes_on_with_the_cells_that_are_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = ProfileAfter(Told(), repeats=1, traces=False)
    session.start(asked(["sta", "moba"], rounds=3, isolate=True), folder, Told(), first)
    lines = (folder / JOURNAL).read_text().splitlines(keepends=True)
    last = first.phases[-1].cell_id
    kept = [line for line in lines if not ('"kind": "phase"' in line and last in line)]
    assert len(kept) < len(lines)
    (folder / JOURNAL).write_text("".join(kept))
    told = Told()
    second = ProfileAfter(told, repeats=1, traces=False)
    session.resume(folder, told, second)
    assert {phase.key for phase in second.phases} == {phase.key for phase in first.phases}
    assert [phase for phase in second.phases if phase.cell_id != last] == [
        phase for phase in first.phases if phase.cell_id != last
    ]
    assert len([label for label in told.steps if label.startswith("profile 1 of 1")]) > 0
