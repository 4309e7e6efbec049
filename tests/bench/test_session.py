"""Whole runs: planted defects lose their latency, and what was interrupted is finished without losing a sample."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.bench import baseline, session
from attnbench.bench import bench as runner
from attnbench.bench.jobs import make_agenda
from attnbench.bench.request import Request
from attnbench.kernels import engines
from attnbench.kernels.engines import Engine
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.engines.sdpa import SDPA
from attnbench.kernels.errors import BadInput
from attnbench.kernels.plan import Plan
from attnbench.machine.environment import collect_environment
from attnbench.machine.stopwatch import Stopwatch
from attnbench.machine.telemetry import Reading
from attnbench.machine.timers import Timing
from attnbench.results.journal import JOURNAL, JournalRecord, read_journal
from attnbench.results.load import load_results
from attnbench.results.records.cells import Row, RunHeader, Sample

METHODS: dict[str, dict[str, Any]] = {
    "moba": {"blocks": 5, "topk": 2}, "vmoba": {}, "sliding-window": {"window": (1, 1, 1)}, "sta": {"tile": (2, 2, 2)},
}  # fmt: skip
TWO = {name: METHODS[name] for name in ("moba", "sta")}


class Quiet:
    """Progress that is kept for the test to look at."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.folder: str | None = None

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, folder: str) -> None:
        self.folder = folder


@pytest.fixture(autouse=True)
def two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the engines of every machine; sdpa is the one dense engine."""
    use(monkeypatch, SDPA, dataclasses.replace(REFERENCE, dense=False))


def use(monkeypatch: pytest.MonkeyPatch, *chosen: Engine) -> None:
    monkeypatch.setattr(engines, "ENGINES", {engine.name: engine for engine in chosen})


def request(**changes: Any) -> Request:
    fields: dict[str, Any] = {
        "methods": TWO, "grid": "3x5x7", "heads": 2, "head_dim": 32, "inputs": "gaussian", "device": "cpu", "rounds": 3,
    }  # fmt: skip
    return Request(**fields | changes)


def run(folder: Path, **changes: Any) -> tuple[Row, ...]:
    return session.start(request(**changes), folder, Quiet()).rows


def journal(folder: Path) -> list[JournalRecord]:
    return list(read_journal(folder / JOURNAL))


def samples(folder: Path) -> list[Sample]:
    return [record for record in journal(folder) if isinstance(record, Sample)]


# Planted defects.


def right(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    return REFERENCE.attend(q, k, v, plan, scale, False)[0]


def dropped_block(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    """Of the queries, or query blocks, that keep several key blocks, every fourth loses one that most of them keep."""
    pattern = plan.pattern
    keep = pattern.keep.clone()
    for chosen in keep.flatten(0, 1):
        rows = (chosen.sum(1) > 1).nonzero().squeeze(1)[::4]
        chosen[rows, int(chosen[rows].sum(0).argmax())] = False
    return right(q, k, v, dataclasses.replace(plan, pattern=dataclasses.replace(pattern, keep=keep)), scale)


def swapped_heads(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    return right(q, k, v, plan, scale).flip(1)


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    return right(q, k, v, plan, 1.05 * scale)


def nan_in_a_row(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    output = right(q, k, v, plan, scale).clone()
    output[:, 0, -1, 0] = math.nan
    return output


def unwritten_row(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    output = right(q, k, v, plan, scale).clone()
    output[:, :, 3] = 0
    return output


def transposed_order(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    """An arrangement that is not undone: every row is right and in the wrong place."""
    return right(q, k, v, plan, scale).flip(2)


Attend = Callable[[Tensor, Tensor, Tensor, Plan, float], Tensor]
FAULTS: list[Attend] = [dropped_block, swapped_heads, wrong_scale, nan_in_a_row, unwritten_row, transposed_order]


def faulty(attend: Attend, name: str = "faulty") -> Engine:
    return dataclasses.replace(
        REFERENCE, name=name, dense=False,
        attend=lambda q, k, v, plan, scale, return_lse: (attend(q, k, v, plan, scale), None),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_defect_is_incorrect_and_has_no_latency(
    fault: Attend, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, SDPA, faulty(fault))
    rows = run(tmp_path, methods=METHODS, engine="faulty", dtype=dtype, grid="7x5x6")
    assert len(rows) == 6
    for row in rows:
        assert row.verdict == "incorrect", (row.method, row.layer)
        assert any(character.isdigit() for character in row.reason)
        assert "rounding explains" in row.reason
        timed = (row.latency_ms, row.latency_lo_ms, row.latency_hi_ms, row.latency_warm_ms, row.speedup, row.baseline)
        assert timed == (None,) * 6
        assert row.samples_ms == []
    incorrect = {row.cell_id for row in rows}
    assert incorrect.isdisjoint(sample.cell_id for sample in samples(tmp_path)), "what is incorrect is not timed"
    table = load_results(tmp_path)
    assert set(table["verdict"]) == {"incorrect"}
    assert table["latency_ms"].isna().all()


@pytest.mark.parametrize("direction", ["fwd", "fwdbwd"])
@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", *(pytest.param(each, marks=pytest.mark.slow) for each in ("float16", "float64"))]
)
def test_engines_without_a_defect_pass_with_room_to_spare(dtype: str, direction: str, tmp_path: Path) -> None:
    rows = run(tmp_path, methods={"full": {}, **METHODS}, dtype=dtype, direction=direction, rounds=1)
    assert [row.verdict for row in rows] == ["ok"] * 7
    for row in rows:
        assert row.numerical_error is not None
        assert row.numerical_tolerance is not None
        assert row.twin_error is not None
        assert 0 < row.numerical_error < row.numerical_tolerance / 2
        assert 0 < row.twin_error < 0.5
        assert row.latency_ms is not None


class _Skewed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 1.05


def wrong_dq(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
    skewed: Tensor = _Skewed.apply(q)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return right(skewed, k, v, plan, scale)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_wrong_gradient_is_incorrect_only_where_gradients_are_asked_for(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, SDPA, faulty(wrong_dq))
    for row in run(tmp_path / "both", engine="faulty", dtype=dtype, direction="fwdbwd"):
        assert (row.verdict, row.latency_ms) == ("incorrect", None)
        assert "dq by " in row.reason
    for row in run(tmp_path / "forward", engine="faulty", dtype=dtype):
        assert row.verdict == "ok"


def test_a_gradient_that_is_not_finite_at_full_size_is_incorrect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * math.inf

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        small = q.shape[2] < 7 * 5 * 6
        skewed: Tensor = q if small else Infinite.apply(q)  # type: ignore[no-untyped-call]  # as above
        return right(skewed, k, v, plan, scale)

    use(monkeypatch, SDPA, faulty(attend))
    (row,) = run(tmp_path, methods={"moba": METHODS["moba"]}, grid="7x5x6", engine="faulty", direction="fwdbwd")
    assert (row.verdict, row.reason) == ("incorrect", "the gradients are not finite")


def test_an_engine_that_returns_what_it_returned_before_is_incorrect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[tuple[int, ...], Tensor] = {}

    def stale(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        if tuple(q.shape) not in kept:
            kept[tuple(q.shape)] = right(q, k, v, plan, scale)
        return kept[tuple(q.shape)]

    use(monkeypatch, SDPA, faulty(stale))
    rows = {row.method: row for row in run(tmp_path, engine="faulty", heads=1, grid="7x5x6")}
    assert (rows["moba"].verdict, rows["sta"].verdict) == ("incorrect", "incorrect")
    assert "timed call" in rows["moba"].reason, "the first call of a shape is right, those on other inputs are not"


def test_a_defect_that_needs_several_heads_is_found_before_they_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin runs with two heads at most; only the third head of the run's own tensors shows this defect."""

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        output = right(q, k, v, plan, scale).clone()
        output[:, 2:] = 0
        return output

    use(monkeypatch, SDPA, faulty(attend))
    for row in run(tmp_path, engine="faulty", heads=3):
        assert (row.verdict, row.heads_timed) == ("incorrect", 3)
        assert "sampled rows differ" in row.reason


def test_one_failing_cell_leaves_the_others_their_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        if plan.k_order is not None:
            raise RuntimeError("can't allocate memory: you tried to allocate 123 bytes")
        return right(q, k, v, plan, scale)

    use(monkeypatch, SDPA, faulty(attend))
    rows = {row.method: row for row in run(tmp_path, engine="faulty")}
    assert (rows["moba"].verdict, rows["sta"].verdict, rows["sta"].latency_ms) == ("ok", "oom", None)
    assert "can't allocate memory" in rows["sta"].reason


# Rows.


def test_rows_say_what_the_journal_holds(tmp_path: Path) -> None:
    progress = Quiet()
    outcome = session.start(request(methods={"full": {}, **TWO}, rounds=7), tmp_path / "run", progress)
    assert progress.folder == str(outcome.folder) == str(tmp_path / "run")
    records = journal(tmp_path / "run")
    assert isinstance(records[0], RunHeader)
    assert records[0].request["methods"] == [
        {"method": "full", "settings": {}},
        {"method": "moba", "settings": {"blocks": 5, "topk": 2}},
        {"method": "sta", "settings": {"tile": [2, 2, 2]}},
    ]
    by_cell: dict[str, list[float]] = {}
    for sample in samples(tmp_path / "run"):
        by_cell.setdefault(sample.cell_id, []).append(sample.cold_ms)
    full, *others = outcome.rows
    for row in outcome.rows:
        assert row.run_id == records[0].run_id
        assert row.samples_ms == by_cell[row.cell_id]
        assert len(row.samples_ms) == 7
        assert row.latency_ms == statistics.median(row.samples_ms)
        assert row.interval == "bootstrap95"
        assert row.latency_lo_ms is not None
        assert row.latency_hi_ms is not None
        assert min(row.samples_ms) <= row.latency_lo_ms <= row.latency_ms <= row.latency_hi_ms <= max(row.samples_ms)
        assert (row.timer, row.threads, row.heads_timed, row.latency_warm_ms) == ("wall", 1, 2, None)
        assert (row.baseline, row.baseline_ms) == ("full/sdpa", full.latency_ms)
        assert row.baseline_ms is not None
        assert row.density is not None
        assert row.speedup == pytest.approx(row.baseline_ms / row.latency_ms)
        assert row.translation == pytest.approx(row.baseline_ms / row.latency_ms * row.density)
    assert full.speedup == 1
    assert [row.cell_id for row in load_results(tmp_path).itertuples()] == [row.cell_id for row in outcome.rows]
    assert all(row.density is not None and row.density < 0.9 for row in others)


def test_below_six_samples_the_interval_is_the_extremes_and_says_so(tmp_path: Path) -> None:
    for row in run(tmp_path, rounds=5):
        assert (row.interval, row.latency_lo_ms, row.latency_hi_ms) == (
            "min-max", min(row.samples_ms), max(row.samples_ms),
        )  # fmt: skip


def test_a_tiny_budget_times_one_head_three_times_and_says_so(tmp_path: Path) -> None:
    for row in run(tmp_path, heads=4, rounds=None, budget=1e-6):
        assert (row.verdict, row.heads, row.heads_timed, len(row.samples_ms)) == ("ok", 4, 1, 3)
        assert row.flops_dense == 4 * 32 * 105**2


def test_the_newest_run_is_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    latest = tmp_path / "results" / "latest"
    folders = [session.start(request(rounds=1), None, Quiet()).folder for _ in range(2)]
    assert folders[0] != folders[1]
    assert all(folder.parent == Path("results/runs") for folder in folders)
    assert latest.resolve() == (tmp_path / folders[1]).resolve()
    assert not latest.readlink().is_absolute(), "so that the folder can be moved"
    session.start(request(rounds=1), tmp_path / "elsewhere", Quiet())
    assert latest.resolve() == (tmp_path / folders[1]).resolve()


def test_a_folder_named_latest_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "latest").mkdir(parents=True)
    (tmp_path / "results" / "latest" / "mine").write_text("")
    progress = Quiet()
    outcome = session.start(request(rounds=1), None, progress)
    assert [row.verdict for row in outcome.rows] == ["ok", "ok"]
    assert "does not point to this run" in progress.notes[-1]
    assert (tmp_path / "results" / "latest" / "mine").exists()


@pytest.mark.parametrize(
    "changes", [{"methods": {"sta": {"tile": "x"}}}, {"inputs": "video:gone.mp4"}, {"layers": [-1]}, {"heads": 0}]
)
def test_a_bad_request_writes_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        run(tmp_path / "run", **changes)
    assert list(tmp_path.iterdir()) == []


# Going on after an interruption.


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let Ctrl-C come during timed call number ``count + 1``."""
    real = Stopwatch.time
    taken: list[Timing] = []

    def time(
        self: Stopwatch, call: Callable[[], object], prepare: Callable[[], object] = lambda: None, *, warm: bool = True
    ) -> Timing:
        if not warm:  # no sample
            return real(self, call, prepare, warm=False)
        if len(taken) == count:
            raise KeyboardInterrupt
        taken.append(real(self, call, prepare))
        return taken[-1]

    monkeypatch.setattr(Stopwatch, "time", time)


def interrupted(folder: Path, count: int, **changes: Any) -> list[Sample]:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, count)
        with pytest.raises(KeyboardInterrupt):
            run(folder, **changes)
    return samples(folder)


def assert_whole(folder: Path, cells: int, rounds: int) -> None:
    """Every cell has one ok row that holds one sample of each round, and no sample was taken twice."""
    rows = [record for record in journal(folder) if isinstance(record, Row)]
    assert Counter(row.verdict for row in rows) == {"ok": cells}
    assert len({row.cell_id for row in rows}) == cells
    taken = Counter((sample.cell_id, sample.round) for sample in samples(folder))
    assert set(taken.values()) == {1}
    for row in rows:
        mine = [sample.cold_ms for sample in samples(folder) if sample.cell_id == row.cell_id]
        assert sorted(row.samples_ms) == sorted(mine)
        assert len(mine) == rounds


@pytest.mark.parametrize("count", [0, 4, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 8))])
@pytest.mark.parametrize("methods", [TWO, {"full": {}, **TWO}])
def test_an_interrupted_run_is_finished_with_the_samples_it_had(
    count: int, methods: dict[str, Any], tmp_path: Path
) -> None:
    before = interrupted(tmp_path, count, methods=methods)
    assert len(before) == count
    progress = Quiet()
    outcome = session.resume(tmp_path, progress)
    assert [row.verdict for row in outcome.rows] == ["ok"] * len(methods)
    assert samples(tmp_path)[:count] == before
    assert_whole(tmp_path, len(methods), 3)
    assert count == 0 or f"resumed: {count} of {count} earlier samples count" in progress.notes
    assert len({row.baseline_ms for row in outcome.rows}) == 1


def age(folder: Path, of: Request) -> None:
    """Write a journal as an attnbench before schema 3 did: cells are known by what ran."""
    bench = runner.Bench(make_agenda(of), Quiet())
    cells = {cell.identity: cell for cell in (*bench.dense_cells().values(), *(each.cell for each in bench.trials))}
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    for line in lines:
        if "cell_id" in line:
            line["cell_id"] = cells[line["cell_id"]].legacy_identity
        if "schema_version" in line:
            line["schema_version"] = 2
        for name in ("settings_given", "engine_asked", "inputs_content"):
            line.pop(name, None)
    (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("count", [5, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 8))])
@pytest.mark.parametrize("methods", [TWO, {"full": {}, **TWO}])
def test_a_run_that_an_older_attnbench_began_is_finished_with_its_samples(
    count: int, methods: dict[str, Any], tmp_path: Path
) -> None:
    interrupted(tmp_path, count, methods=methods)
    age(tmp_path, request(methods=methods))
    progress = Quiet()
    rows = session.resume(tmp_path, progress).rows
    assert [row.verdict for row in rows] == ["ok"] * len(methods)
    assert f"resumed: {count} of {count} earlier samples count" in progress.notes
    assert len(samples(tmp_path)) == 9, "two cells and the baseline, three rounds"


def test_rows_of_an_older_attnbench_are_not_measured_again(tmp_path: Path) -> None:
    before = run(tmp_path)
    age(tmp_path, request())
    progress = Quiet()
    after = session.resume(tmp_path, progress).rows
    assert [row.cell_id for row in after] == [row.cell_id for row in before]
    assert progress.notes == ["nothing left to do: every cell of this run has its row"]


def test_a_run_is_interrupted_and_resumed_until_it_is_whole(tmp_path: Path) -> None:
    interrupted(tmp_path, 2)
    for _ in range(10):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, 2)
            try:
                session.resume(tmp_path, Quiet())
            except KeyboardInterrupt:
                continue
            break
    assert_whole(tmp_path, 2, 3)
    assert len(samples(tmp_path)) == 9, "two cells and the baseline, three rounds"


@pytest.mark.parametrize("count", [4, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 8))])
@pytest.mark.parametrize("methods", [TWO, {"full": {}, **TWO}])
def test_the_dense_baseline_stays_the_same(
    count: int, methods: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two dense engines are as fast as one another, and after the interruption the other one happens to be chosen."""
    other = dataclasses.replace(SDPA, name="other")
    use(monkeypatch, SDPA, other, dataclasses.replace(REFERENCE, dense=False))
    monkeypatch.setattr(baseline, "promising_engines", lambda *arguments: ["other"])
    interrupted(tmp_path, count, methods=methods)
    monkeypatch.setattr(baseline, "promising_engines", lambda *arguments: ["sdpa"])
    outcome = session.resume(tmp_path, Quiet())
    assert {row.baseline for row in outcome.rows} == {"full/other"}
    assert_whole(tmp_path, len(methods), 3)
    assert len({sample.cell_id for sample in samples(tmp_path)}) == len(methods) + 1


def test_a_crash_between_two_rows_is_finished_without_measuring_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    path = tmp_path / JOURNAL
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    interrupt_after(monkeypatch, 0)  # at the first sample
    session.resume(tmp_path, Quiet())
    assert_whole(tmp_path, 2, 3)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    rows = run(tmp_path)
    before = (tmp_path / JOURNAL).read_bytes()
    progress = Quiet()
    assert session.resume(tmp_path, progress).rows == rows
    assert "nothing left to do" in progress.notes[-1]
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_the_heads_that_were_timed_stay_the_same(tmp_path: Path) -> None:
    before = interrupted(tmp_path, 4, heads=4, rounds=None, budget=1e-6)
    assert {sample.heads_timed for sample in before} == {1}
    text = (tmp_path / JOURNAL).read_text()
    assert '"budget": 1e-06' in text
    (tmp_path / JOURNAL).write_text(text.replace('"budget": 1e-06', '"budget": 1e6'))
    rows = session.resume(tmp_path, Quiet()).rows
    assert [row.heads_timed for row in rows] == [1, 1]
    kept = {sample.cold_ms for sample in before}
    assert kept <= {value for row in rows for value in row.samples_ms} | {s.cold_ms for s in samples(tmp_path)}
    assert all(len(row.samples_ms) >= 3 for row in rows)


def test_a_run_does_not_go_on_with_another_number_of_threads(tmp_path: Path) -> None:
    interrupted(tmp_path, 5)
    written = (tmp_path / JOURNAL).read_bytes()
    torch.set_num_threads(2)
    try:
        with pytest.raises(BadInput, match="was measured with threads 1 and this is threads 2"):
            session.resume(tmp_path, Quiet())
    finally:
        torch.set_num_threads(1)
    assert (tmp_path / JOURNAL).read_bytes() == written


def test_a_run_does_not_go_on_with_other_code(tmp_path: Path) -> None:
    interrupted(tmp_path, 5)
    first, *rest = (tmp_path / JOURNAL).read_text().splitlines(keepends=True)
    header = json.loads(first)
    header["environment"]["git_commit"] = "0" * 40
    (tmp_path / JOURNAL).write_text("".join([json.dumps(header) + "\n", *rest]))
    with pytest.raises(BadInput, match=r"was measured with git_commit 0{40} and this is git_commit"):
        session.resume(tmp_path, Quiet())


def test_what_failed_is_tried_again_and_what_is_incorrect_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        if plan.k_order is not None:
            raise RuntimeError("out of order")
        return wrong_scale(q, k, v, plan, scale)

    use(monkeypatch, SDPA, faulty(attend))
    first = {row.method: row.verdict for row in run(tmp_path, engine="faulty")}
    assert first == {"moba": "incorrect", "sta": "error"}
    use(monkeypatch, SDPA, faulty(right))
    assert Counter(row.verdict for row in session.resume(tmp_path, Quiet()).rows) == {"incorrect": 1, "ok": 1}
    table = load_results(tmp_path)
    assert sorted(table["verdict"]) == ["incorrect", "ok"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("device", "another machine", "was measured on 'another machine' and this is"),
        (
            "packages",
            {"torch": "1.0", "gone": "3"},
            "with .*gone 3.*torch 1.0.* and this is .*gone absent",
        ),
    ],
)
def test_results_of_another_device_or_torch_are_not_gone_on_with(
    field: str, value: object, said: str, tmp_path: Path
) -> None:
    interrupted(tmp_path, 2)
    path = tmp_path / JOURNAL
    first, *others = path.read_text().splitlines()
    fields = json.loads(first)
    fields["environment"][field] = value
    text = "\n".join([json.dumps(fields), *others]) + "\n"
    path.write_text(text)
    with pytest.raises(BadInput, match=said) as error:
        session.resume(tmp_path, Quiet())
    assert repr(str(tmp_path)) in str(error.value)
    assert path.read_text() == text


def test_packages_that_came_or_went_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path, 2)
    here = collect_environment("cpu", [])
    more = here.model_copy(update={"packages": {**here.packages, "transformers-of-tomorrow": "9"}})
    monkeypatch.setattr(session, "collect_environment", lambda kind, command: more)
    said = "was measured with transformers-of-tomorrow absent and this is transformers-of-tomorrow 9"
    with pytest.raises(BadInput, match=said):
        session.resume(tmp_path, Quiet())


def test_a_run_of_an_older_attnbench_goes_on_where_what_it_says_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path, 2)
    path = tmp_path / JOURNAL
    first, *others = path.read_text().splitlines()
    header = json.loads(first) | {"schema_version": 1}
    del header["contents"], header["environment"]["git_changes"], header["environment"]["packages"]["numpy"]
    path.write_text("\n".join([json.dumps(header), *others]) + "\n")
    quiet = Quiet()
    session.resume(tmp_path, quiet)
    assert any("whether files that it reads were replaced since cannot be told" in note for note in quiet.notes)
    assert_whole(tmp_path, 2, 3)


def test_inputs_that_were_replaced_are_not_gone_on_with(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    bundled = Path(str(resources.files("attnbench.inputs.data") / "big_buck_bunny.mp4"))
    shutil.copy(bundled, clip)
    interrupted(tmp_path / "run", 2, inputs=f"video:{clip}")
    written = (tmp_path / "run" / JOURNAL).read_bytes()
    clip.write_bytes(bundled.read_bytes() + bytes(8))
    with pytest.raises(
        BadInput, match=r"was measured with content of inputs \w{12} and this is content of inputs \w{12}"
    ):
        session.resume(tmp_path / "run", Quiet())
    assert (tmp_path / "run" / JOURNAL).read_bytes() == written
    shutil.copy(bundled, clip)
    session.resume(tmp_path / "run", Quiet())
    assert_whole(tmp_path / "run", 2, 3)


def test_a_request_that_this_version_does_not_know_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 1)
    path = tmp_path / JOURNAL
    path.write_text(path.read_text().replace('"request": {', '"request": {"colour": "red", ', 1))
    with pytest.raises(BadInput, match="colour 'red' cannot be used"):
        session.resume(tmp_path, Quiet())


def test_a_journal_without_its_first_line_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("")
    with pytest.raises(BadInput, match="has no whole first line; delete it and start a new run"):
        session.resume(tmp_path, Quiet())


# A GPU that was slowed down; what it says is made up, the timing is the CPU's.

COOL, HOT, CAPPED = 0x1, 0x40, 0x4


def says(monkeypatch: pytest.MonkeyPatch, *reasons: int) -> None:
    """Let the GPU give these clock reasons one after the other, the last one for ever."""
    left = list(reasons)

    def read(device: torch.device) -> Reading:
        return Reading(1500.0, 400.0, 70.0, left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr(runner, "read", read)


def test_a_slow_down_takes_the_latency_and_a_power_cap_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, HOT)
    for row in run(tmp_path / "hot"):
        assert (row.verdict, row.latency_ms, row.samples_ms) == ("throttled", None, [])
        assert "hardware thermal slow-down" in row.reason
        assert (row.sm_clock_mhz, row.power_w, row.temperature_c) == (1500, 400, 70)
    says(monkeypatch, CAPPED)
    for row in run(tmp_path / "capped"):
        assert (row.verdict, row.power_capped) == ("ok", True)
        assert row.latency_ms is not None


def test_a_slow_down_in_fewer_than_half_of_the_samples_is_let_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, *[HOT] * 3, COOL)  # the first of three rounds of two cells and the baseline
    assert [row.verdict for row in run(tmp_path)] == ["ok", "ok"]


def test_a_slowed_down_baseline_gives_no_speed_ups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, HOT, COOL, COOL, COOL, COOL, HOT, HOT, COOL)  # baseline first, then last, then first
    progress = Quiet()
    rows = session.start(request(), tmp_path, progress).rows
    for row in rows:
        assert (row.verdict, row.baseline, row.speedup, row.translation) == ("ok", None, None, None)
        assert row.latency_ms is not None
    assert "no speed-ups: the dense baseline is throttled" in progress.notes[-1]


def test_throttled_samples_do_not_come_back_by_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, HOT)
    run(tmp_path, methods={"sta": METHODS["sta"]})
    hot = {sample.cold_ms for sample in samples(tmp_path) if sample.clock_reasons == HOT}
    says(monkeypatch, COOL)
    (row,) = session.resume(tmp_path, Quiet()).rows
    assert row.verdict == "ok"
    assert hot.isdisjoint(row.samples_ms)
    assert len(row.samples_ms) == 3


def test_a_slow_down_before_an_interruption_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, HOT)
    interrupted(tmp_path, 7)  # two rounds of three, and the baseline of the third
    says(monkeypatch, COOL)
    assert [row.verdict for row in session.resume(tmp_path, Quiet()).rows] == ["throttled", "throttled"]
