"""Phases in the journal: written after a run, read back as a table, shown, and left alone by other readers."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from pydantic import ValidationError

import attnbench
from attnbench.bench import bench as runner
from attnbench.bench import check, session
from attnbench.bench.profile import cells as run_module
from attnbench.bench.profile.cells import CPU_REPEATS, GPU_REPEATS, profile_rows, repeats_for
from attnbench.bench.profile.parts import ablation_of
from attnbench.bench.request import Request
from attnbench.cli.profile import profile as profile_command
from attnbench.cost.roofline import Probe, peak_of, probe
from attnbench.kernels.ablation import Part
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.report.terminal.phases import shares
from attnbench.results.journal import JOURNAL, Journal, read_journal
from attnbench.results.load import read
from attnbench.results.records.cells import PhaseRow, Row

GRID = {"grid": "3x5x7", "heads": 2, "head_dim": 32, "inputs": "gaussian", "device": "cpu", "rounds": 3}


class Quiet:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, folder: str) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "CPU_SIDE", 256)
        patch.setattr(probe, "CPU_BYTES", 2**22)
        yield


@pytest.fixture(scope="module")
def sta_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of STA that was profiled."""
    folder = tmp_path_factory.mktemp("once") / "run"

    def after(bench: runner.Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
        profile_rows(bench, journal, rows, Quiet(), repeats=2, traces=False)

    session.start(Request(methods={"sta": {"tile": (2, 2, 2)}}, **GRID), folder, Quiet(), after)
    return folder


@pytest.fixture
def sta_run(sta_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(sta_once, tmp_path / "run"))


@pytest.fixture
def profiled(tmp_path: Path) -> Callable[..., tuple[session.Outcome, list[PhaseRow], Quiet]]:
    """Run and profile methods in a folder."""

    def go(
        methods: dict[str, dict[str, Any]], *, traces: bool = False, **changes: Any
    ) -> tuple[session.Outcome, list[PhaseRow], Quiet]:
        progress, found = Quiet(), list[PhaseRow]()

        def after(bench: runner.Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
            found.extend(profile_rows(bench, journal, rows, progress, repeats=2, traces=traces))

        request = Request(methods=methods, **{**GRID, **changes})
        return session.start(request, tmp_path / "run", progress, after), found, progress

    return go


def phase_row(**changes: Any) -> PhaseRow:
    fields: dict[str, Any] = {
        "row_id": "r", "run_id": "u", "cell_id": "c", "pass": "fwd", "phase": "pool", "time_ms": 2.0,
        "time_lo_ms": 1.0, "time_hi_ms": 3.0, "provenance": "measured", "engine": "triton", "kernels": 1,
    }  # fmt: skip
    return PhaseRow.model_validate({**fields, **changes})


def test_phases_are_journaled_after_the_rows_and_read_back(profiled: Any, tmp_path: Path) -> None:
    outcome, written, _ = profiled({"vmoba": {}}, direction="fwdbwd", layers=[1])
    table = attnbench.load_phases(tmp_path / "run")
    assert list(table.columns[:7]) == ["row_id", "run_id", "cell_id", "pass", "phase", "parent", "time_ms"]
    assert len(table) == len(written) > 0
    results = attnbench.load_results(tmp_path / "run")
    assert set(table["row_id"]) == set(results["row_id"]) == {row.row_id for row in outcome.rows}
    joined = table.merge(results[["row_id", "method"]], on="row_id")
    vmoba = joined[joined["method"] == "vmoba"]
    assert {"pool", "score", "select", "attend"} <= set(vmoba[vmoba["pass"] == "fwd"]["phase"])
    assert {"attend"} <= set(vmoba[vmoba["pass"] == "bwd"]["phase"])
    assert set(table["provenance"]) == {"measured"}
    assert set(table[table["phase"] == "qk"]["parent"]) == {"attend"}
    whole = vmoba[vmoba["parent"].isna()]["time_ms"].sum()
    assert whole > 0


def test_the_journal_says_pass_and_its_kind(sta_run: Path) -> None:
    lines = [json.loads(line) for line in (sta_run / JOURNAL).read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds.index("phase") > max(i for i, kind in enumerate(kinds) if kind == "row")
    phase = next(line for line in lines if line["kind"] == "phase")
    assert phase["pass"] == "fwd"
    assert "pass_" not in phase


def test_only_cells_with_a_latency_are_profiled(profiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        check, "check_rows", lambda *given, **options: dataclasses.replace(CHECK(*given, **options), error=1.0)
    )
    outcome, written, _ = profiled({"moba": {"blocks": 5, "topk": 2}})
    assert [row.verdict for row in outcome.rows] == ["incorrect"]
    assert written == []


CHECK = check.check_rows


def test_a_cell_that_fails_under_the_profiler_leaves_the_others(profiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = run_module.profile_call, list[int]()

    def sometimes(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no buffers left")
        return real(*given, **options)

    monkeypatch.setattr(run_module, "profile_call", sometimes)
    outcome, written, progress = profiled({"moba": {"blocks": 5, "topk": 2}, "sta": {"tile": (2, 2, 2)}})
    assert "moba could not be profiled: RuntimeError: no buffers left" in progress.notes
    (sta,) = (row for row in outcome.rows if row.method == "sta")
    assert {phase.row_id for phase in written} == {sta.row_id}


def test_traces_are_written_where_asked_for(profiled: Any, tmp_path: Path) -> None:
    outcome, _, _ = profiled({"sta": {"tile": (2, 2, 2)}}, traces=True)
    (trace,) = (tmp_path / "run" / "traces").iterdir()
    assert trace.name == f"{outcome.rows[0].cell_id}.json.gz"


def test_a_profiled_run_can_be_read_and_resumed_like_any_other(sta_run: Path) -> None:
    first = read(sta_run).rows
    assert session.resume(sta_run, Quiet()).rows == first


def test_a_profiled_run_does_not_go_on_under_other_conditions(sta_run: Path) -> None:
    path = sta_run / JOURNAL
    changed = path.read_bytes().replace(b'"packages": {', b'"packages": {"gone": "3", ', 1)
    path.write_bytes(changed)
    with pytest.raises(BadInput, match="with gone 3 and this is gone absent"):
        session.resume(sta_run, Quiet(), lambda *given: pytest.fail("profiled all the same"))
    assert path.read_bytes() == changed


def test_resuming_profiles_the_cells_that_are_not_profiled_yet(
    profiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, labels = run_module.profile_call, list[int]()

    def once(*given: Any, **options: Any) -> Any:
        labels.append(1)
        if len(labels) == 2:
            raise KeyboardInterrupt
        return real(*given, **options)

    methods = {"moba": {"blocks": 5, "topk": 2}, "sta": {"tile": (2, 2, 2)}, "full": {}}
    monkeypatch.setattr(run_module, "profile_call", once)
    with pytest.raises(KeyboardInterrupt):
        profiled(methods)
    folder = tmp_path / "run"
    (kept,) = {phase.cell_id for phase in read(folder).phases}
    found: list[PhaseRow] = []

    def after(bench: runner.Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
        found.extend(profile_rows(bench, journal, rows, Quiet(), repeats=2, traces=False))

    outcome = session.resume(folder, Quiet(), after)
    assert {phase.row_id for phase in found} == {row.row_id for row in outcome.rows}
    assert len(labels) == 2 + 2  # a cell's phases are written together, so one that has any has all
    times = attnbench.load_phases(folder).groupby("cell_id")["time_ms"].sum()
    measured = sum(p.time_ms for p in found if p.cell_id == kept)
    assert times[kept] == pytest.approx(measured)
    assert session.resume(folder, Quiet(), after).rows == outcome.rows
    assert len(labels) == 4


@pytest.mark.parametrize("room", [300, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_leaves_no_cell_with_half_of_its_phases(
    profiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    class Full:
        """The file of a journal on a disk that takes ``room`` more bytes of phases."""

        def __init__(self, stream: Any) -> None:
            self.stream, self.room = stream, room

        def write(self, data: memoryview) -> int:
            if bytes(data[:16]) == b'{"kind": "phase"' or self.room < room:
                if self.room == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                data = data[: self.room]
                self.room -= len(data)
            return int(self.stream.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    real = Journal.__init__

    def made(self: Journal, folder: Path, stream: Any, command: str = "run") -> None:
        real(self, folder, Full(stream), command)  # type: ignore[arg-type]  # as much of a file as is used

    monkeypatch.setattr(Journal, "__init__", made)
    with pytest.raises(BadInput, match=r"attnbench profile --resume .*run"):
        profiled({"sta": {"tile": (2, 2, 2)}})
    monkeypatch.undo()
    folder, found = tmp_path / "run", list[PhaseRow]()
    assert not read(folder).phases

    def after(bench: runner.Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
        found.extend(profile_rows(bench, journal, rows, Quiet(), repeats=1, traces=False))

    session.resume(folder, Quiet(), after)
    assert {"index", "attend", "qk", "softmax", "av", "other"} <= {phase.phase for phase in found}


def test_cells_timed_on_other_tensors_are_not_profiled(profiled: Any, tmp_path: Path) -> None:
    progress, wrong = Quiet(), list[PhaseRow]()

    def after(bench: runner.Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
        others = [row.model_copy(update={"heads_timed": 1}) for row in rows]
        wrong.extend(profile_rows(bench, journal, others, progress, repeats=1, traces=False))

    session.start(Request(methods={"sta": {"tile": (2, 2, 2)}}, **GRID), tmp_path / "other", Quiet(), after)
    assert not wrong
    assert "sta is not profiled: it was timed on other tensors, 1 heads" in progress.notes


def test_phases_say_what_they_compute_and_move(profiled: Any) -> None:
    outcome, written, _ = profiled({"vmoba": {}}, layers=[0], direction="fwdbwd")
    (row,) = outcome.rows
    rows = {(p.pass_, p.phase): p for p in written}
    attend, back, score = rows["fwd", "attend"], rows["bwd", "attend"], rows["fwd", "score"]
    assert attend.flops is not None
    assert back.flops is not None
    assert attend.flops + back.flops == row.flops_algorithmic
    assert attend.tflops == pytest.approx(attend.flops / attend.time_ms / 1e9)
    assert attend.mfu is None  # a CPU has no datasheet here
    assert attend.mfu_probe is not None
    assert 0 < attend.mfu_probe < 1.5
    assert rows["fwd", "qk"].flops == attend.flops / 2
    assert (score.flops or 0) + (rows["fwd", "pool"].flops or 0) == row.flops_selection
    assert score.tbs == pytest.approx((score.bytes or 0) / score.time_ms / 1e9)
    assert back.bytes is None


def test_what_a_fused_kernel_does_inside_is_ablated_and_modelled(
    profiled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: dict[Part, list[float]] = {"qk": [2.0], "softmax": [3.0], "whole": [6.0]}
    gpu = peak_of("NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(run_module, "record_launches", lambda call: [len])
    monkeypatch.setattr(run_module, "measure_ablation", lambda launches, stopwatch: ablation_of(samples))
    monkeypatch.setattr(run_module.Ceilings, "measured", lambda *_: run_module.Ceilings(gpu, Probe(500.0, 2.0), True))
    outcome, written, _ = profiled({"full": {}})
    (row,) = outcome.rows
    parts = {(p.provenance, p.phase): p for p in written if p.parent == "attend"}
    assert len(parts) == 6
    attend = next(p for p in written if p.phase == "attend")
    for phase, ms in {"qk": 2.0, "softmax": 1.0, "av": 3.0}.items():
        ablated, modelled = parts["ablated", phase], parts["modelled", phase]
        assert ablated.time_ms == ms
        assert "the whole build took 6 ms by itself" in ablated.complaint
        assert ablated.note
        assert modelled.note
        assert modelled.time_lo_ms <= modelled.time_ms <= modelled.time_hi_ms
        assert (ablated.engine, modelled.engine) == (row.engine, row.engine)
    assert sum(parts["modelled", phase].time_ms for phase in ("qk", "softmax", "av")) == pytest.approx(attend.time_ms)
    assert attend.mfu == pytest.approx((attend.tflops or 0) / 989.4)
    assert attend.mfu_probe == pytest.approx((attend.tflops or 0) / 500.0)
    assert parts["ablated", "qk"].tflops is not None
    assert parts["modelled", "qk"].tflops is None
    # What the whole build takes beyond one without values is no time of the products alone: it has no rate.
    assert parts["ablated", "av"].flops == parts["ablated", "qk"].flops
    assert (parts["ablated", "av"].tflops, parts["ablated", "av"].mfu, parts["ablated", "av"].mfu_probe) == (None,) * 3


def test_without_builds_or_peaks_the_measured_phases_stand(profiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **options: Any) -> Any:
        raise Unsupported("no such builds")

    for name in ("measure_ablation", "record_launches"):
        monkeypatch.setattr(run_module, name, refuse)
    monkeypatch.setattr(run_module.Ceilings, "measured", refuse)
    monkeypatch.setattr(run_module.Work, "of", refuse)
    _, written, progress = profiled({"full": {}})
    assert {p.provenance for p in written} == {"measured"}
    assert {note for note in progress.notes if "no such builds" in note} == {
        "no peaks were measured: no such builds", "full: no bytes and FLOPs of phases: no such builds",
        "full: no ablated builds: no such builds",
    }  # fmt: skip


def test_a_phase_written_twice_counts_as_last_written(sta_run: Path) -> None:
    journal, records = Journal.resume(sta_run)
    old = next(record for record in records if isinstance(record, PhaseRow) and record.phase == "attend")
    fields = old.model_dump(by_alias=True)
    with journal:
        journal.append(PhaseRow.model_validate({**fields, "time_ms": 7.0}))
        journal.append(PhaseRow.model_validate({**fields, "time_ms": 5.0, "provenance": "modelled"}))
    table = attnbench.load_phases(sta_run)
    attend = table[table["phase"] == "attend"].set_index("provenance")["time_ms"]
    assert attend.to_dict() == {"measured": 7.0, "modelled": 5.0}
    assert sum(isinstance(record, PhaseRow) for record in read_journal(sta_run / JOURNAL)) == len(table) + 1


def test_without_profiles_the_table_is_empty_and_has_its_columns(profiled: Any, tmp_path: Path) -> None:
    session.start(Request(methods={"sta": {"tile": (2, 2, 2)}}, **GRID), tmp_path / "plain", Quiet())
    table = attnbench.load_phases(tmp_path / "plain")
    assert isinstance(table, pd.DataFrame)
    assert len(table) == 0
    assert {"pass", "phase", "parent", "time_ms", "provenance", "engine"} <= set(table.columns)
    with pytest.raises(BadInput, match="no such file or folder"):
        attnbench.load_phases(tmp_path / "nothing")


@pytest.mark.parametrize(
    "changes", [{"pass": "both"}, {"provenance": "guessed"}, {"time_ms": -1.0}, {"time_ms": float("nan")}, {"share": 1}]
)
def test_rows_that_say_nothing_sensible_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        phase_row(**changes)


def test_shares_leave_out_parts_and_what_was_not_measured() -> None:
    rows = [
        phase_row(phase="attend", time_ms=6.0), phase_row(phase="qk", parent="attend", time_ms=3.0), phase_row(),
        phase_row(phase="qk", parent="attend", provenance="modelled", time_ms=1.0),
    ]  # fmt: skip
    assert shares(rows) == [0.75, 0.375, 0.25, None]


def test_long_calls_are_recorded_fewer_times() -> None:
    @dataclasses.dataclass
    class Timed:
        seconds: float

    def repeats(device: str, seconds: float, asked: int | None = None) -> int:
        return repeats_for(torch.device(device), Timed(seconds), asked)  # type: ignore[arg-type]  # all it looks at

    assert [repeats("cpu", s) for s in (0.0, 0.1, 10.0, 100.0)] == [CPU_REPEATS, CPU_REPEATS, 3, 1]
    assert repeats("cuda", 100.0) == GPU_REPEATS
    assert repeats("cpu", 100.0, 4) == 4


def test_the_command_prints_phases_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(profile_command)
    monkeypatch.chdir(tmp_path)
    words = [
        "--grid", "3x5x7", "--heads", "2", "--head-dim", "32", "--inputs", "gaussian", "--device", "cpu", "--rounds",
        "3", "--repeats", "2", "--method", "vmoba", "--layers", "1",
    ]  # fmt: skip

    def call(*more: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", ["profile", *words, *more])
        with pytest.raises(SystemExit) as exit_:
            app(prog_name="profile")
        return exit_.value.code, capsys.readouterr().out

    code, said = call("--out", "shown")
    assert code == 0
    for word in ("vmoba layer 1, engine reference", "pool", "of attend: qk", "measured", "share"):
        assert word in said
    assert len(list((tmp_path / "shown" / "traces").glob("*.json.gz"))) == 1
    code, said = call("--out", "machine", "--json", "--no-trace")
    assert code == 0
    document = json.loads(said)
    assert {row["row_id"] for row in document["rows"]} == {phase["row_id"] for phase in document["phases"]}
    assert {"pool", "score", "select", "attend"} <= {phase["phase"] for phase in document["phases"]}
    assert not (tmp_path / "machine" / "traces").exists()
