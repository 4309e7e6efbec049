"""Calibrations from plan to tables, on cells that take a millisecond."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbench.bench import calibrate as calibration
from attnbench.bench import session
from attnbench.bench.calibrate import PLAN, Plan, judge_runs, make_plan, read_plan, resume, start, usual_case
from attnbench.bench.gate.together import measure_together
from attnbench.bench.request import Request
from attnbench.cli import main
from attnbench.kernels.errors import BadInput
from attnbench.machine.signals import Stopped
from attnbench.methods.entries import Entry
from attnbench.results.journal import JOURNAL
from attnbench.results.load import read
from attnbench.results.noise import find_noise, read_noise
from attnbench.results.run import NoProgress

SMALL: dict[str, Any] = {"grid": "2x3x4", "heads": 1, "head_dim": 16, "inputs": "gaussian", "rounds": 3}
REQUEST = Request(methods=[Entry("sta", {"tile": [1, 3, 2]})], **SMALL)
CLI = ["calibrate", "-m", "sta:tile=(1,3,2)", "--grid=2x3x4", "--heads=1", "--head-dim=16", "--inputs=gaussian"]
ALONE = [*CLI, "--run-by-run"]

Measured = list[tuple[str, float]]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNBENCH_NOISE", str(tmp_path / "noise"))


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    session.start(REQUEST, folder, NoProgress())
    return folder


@pytest.fixture
def measured(one_run: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """What was measured, in order; each run is a copy of one."""
    found: Measured = []

    def copy(request: Request, out: Path, progress: object) -> None:
        found.append((out.name, request.burnt_in))
        shutil.copytree(one_run, out)

    monkeypatch.setattr(session, "start", copy)
    return found


def test_runs_of_all_kinds_are_mixed() -> None:
    plan = make_plan(REQUEST, 8, [0.05, 0.01, 0.05])
    parts = plan.parts()
    assert parts == read_back(plan).parts()
    assert sorted(delay for _, delay in parts) == [0.0] * 8 + [0.01] * 2 + [0.05] * 2
    assert len({name for name, _ in parts}) == 12
    first = [delay for _, delay in parts[:6]]
    assert 0 < sum(delay > 0 for delay in first) < 4


def read_back(plan: Plan) -> Plan:
    return Plan.model_validate_json(plan.model_dump_json())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runs": 3}, "--runs 3 must be at least 4"),
        ({"delays": [0.0]}, "a delay of 0 must be a share"),
        ({"delays": [1.5]}, "a delay of 1.5 must be a share"),
        ({"request": REQUEST.model_copy(update={"methods": [Entry("full")]})}, "name a method"),
        ({"request": REQUEST.model_copy(update={"rounds": 0})}, "rounds 0 must be"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make_plan(**{"request": REQUEST, "runs": 4, "delays": [0.05], **change})


def test_a_cpu_gets_a_case_that_suits_it_unless_one_is_named() -> None:
    bare = Request(methods=[Entry("sta")], device="cpu")
    assert (usual_case(bare).grid, usual_case(bare).heads) == ("6x12x16", 1)
    named = bare.model_copy(update={"res": "480p", "heads": 2})
    assert usual_case(named) == named


def test_an_interrupted_calibration_goes_on_with_the_runs_that_are_missing(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, folder = make_plan(REQUEST, 4, [0.1]), tmp_path / "mine"
    copy: Callable[..., None] = session.start

    def die(request: Request, out: Path, progress: object) -> None:
        copy(request, out, progress)
        if len(measured) == 3:
            (out / JOURNAL).write_text("{")
            raise KeyboardInterrupt

    monkeypatch.setattr(session, "start", die)
    with pytest.raises(KeyboardInterrupt):
        start(plan, folder, NoProgress())
    monkeypatch.setattr(session, "start", copy)
    assert resume(folder, NoProgress()) == plan
    names = [name for name, _ in measured]
    assert names[2] == names[3], "the run that was begun is measured anew"
    assert sorted(set(names)) == sorted(f".{Path(name).name}.part" for name, _ in plan.parts())
    assert [delay for _, delay in measured if delay] == [0.1]
    assert len(measured) == 6
    count = len(measured)
    resume(folder, NoProgress())
    assert len(measured) == count, "nothing is left to do"
    assert not list(folder.rglob("*.part"))


def test_runs_that_are_slower_on_purpose_are_no_results(measured: Measured, tmp_path: Path) -> None:
    start(make_plan(REQUEST, 4, [0.1]), tmp_path / "mine", NoProgress())
    assert len(list((tmp_path / "mine").rglob(JOURNAL))) == 5
    (tmp_path / "same").mkdir()
    for folder in (tmp_path / "mine").glob("same-*"):
        shutil.copytree(folder, tmp_path / "same" / folder.name)
    assert read(tmp_path / "mine") == read(tmp_path / "same")


def test_a_folder_that_holds_something_is_refused(measured: Measured, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(BadInput, match="is not empty"):
        start(make_plan(REQUEST, 4, []), tmp_path / "mine", NoProgress())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert measured == []


def test_a_calibration_does_not_go_on_under_other_conditions(measured: Measured, tmp_path: Path) -> None:
    folder = start(make_plan(REQUEST, 4, []), tmp_path / "mine", NoProgress())
    path = folder / "same-01" / JOURNAL
    header, *lines = path.read_text().splitlines()
    changed = json.loads(header)
    changed["environment"]["packages"]["torch"] = "1.0"
    path.write_text("\n".join([json.dumps(changed), *lines, ""]))
    with pytest.raises(BadInput, match=r"torch 1\.0"):
        resume(folder, NoProgress())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "has no calibration.json"),
        ("{}", "is not a plan of attnbench calibrate"),
        (make_plan(REQUEST, 4, []).model_dump_json().replace('"schema_version":1', '"schema_version":9'), "newer"),
    ],
)
def test_what_is_no_calibration_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / PLAN).write_text(text)
    with pytest.raises(BadInput, match=said):
        read_plan(tmp_path)


def test_all_runs_are_judged(measured: Measured, tmp_path: Path) -> None:
    plan = make_plan(REQUEST, 4, [0.1])
    found = judge_runs(plan, start(plan, tmp_path / "mine", NoProgress()))
    assert (found.runs, found.slower.of, found.failed.of) == (4, 6, 6)
    assert [(each.delay, each.slower.of) for each in found.delayed] == [(0.1, 4)]
    assert found.model.speedup_sd == found.slower.count == 0, "runs that are copies do not differ"
    assert found.model.measured_at.startswith("20")


def call(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["attnbench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_the_command_measures_judges_and_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*ALONE, "--rounds=3", "--runs=4", "--delays=100", "--out=mine", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    model = read_noise(Path(found["stored"]))
    assert model.model_dump(mode="json") == found["noise"]
    assert (model.provenance, model.runs, model.cells) == ("measured", 4, 1)
    assert find_noise(model.device, "cpu") == model == read_noise(Path("mine/noise.json"))
    assert [each["delay"] for each in found["delayed"]] == [1.0]
    slower = read(Path("mine/.delayed/1-01") / JOURNAL)
    assert [header.request["burnt_in"] for header in slower.headers] == [1.0]

    shutil.rmtree(tmp_path / "noise")
    assert call("calibrate", "--resume=mine", "--no-install", "--markdown") == 0
    text = capsys.readouterr().out
    assert "| methods called slower | " in text
    assert "| 100 % | " in text
    assert model.device in text
    assert not (tmp_path / "noise").exists()
    assert call("calibrate", "--resume=mine", "--no-install", "--noise=mine/noise.json") == 0
    assert "intervals that hold the truth" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--delays=many"], "--delays 'many' must be numbers with commas"),
        (["--runs=2"], "--runs 2 must be at least 4"),
        (["--resume=mine", "--runs=5"], "leave out --runs"),
        (["--noise=gone.json"], "noise model 'gone.json' cannot be read"),
    ],
)
def test_the_command_refuses_what_cannot_be(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*CLI[: 1 if "--resume=mine" in words else None], *words) == 2
    assert said in capsys.readouterr().err


def test_without_delays_only_runs_without_a_change_are_measured(
    measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*ALONE, "--runs=4", "--delays=none", "--out=mine", "--markdown") == 0
    assert {delay for _, delay in measured} == {0.0}
    assert "delay" not in capsys.readouterr().out


@pytest.mark.parametrize(("signal", "code"), [(KeyboardInterrupt(), 130), (Stopped(15), 143)])
def test_an_interrupt_says_how_to_go_on(
    signal: KeyboardInterrupt, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(request: Request, out: Path, progress: object) -> None:
        raise signal

    monkeypatch.setattr(session, "start", stop)
    assert call(*ALONE, "--runs=4", "--out=mine") == code
    assert "whole runs are kept. Go on with: attnbench calibrate --resume mine" in " ".join(
        capsys.readouterr().err.split()
    )


def test_the_order_is_that_of_the_plan(measured: Measured, tmp_path: Path) -> None:
    plan = make_plan(REQUEST, 4, [0.02, 0.1])
    start(plan, tmp_path / "mine", NoProgress())
    assert measured == [(f".{Path(name).name}.part", delay) for name, delay in plan.parts()]
    assert calibration.DELAYS == (0.01, 0.02, 0.03, 0.05, 0.1)


def test_sessions_hold_runs_of_all_kinds_and_delays_in_random_order() -> None:
    plan = make_plan(REQUEST, 6, [0.01, 0.1], in_turns=True)
    sessions = plan.sessions()
    assert sessions == read_back(plan).sessions()
    assert len({name for name, _ in sessions}) == 6
    assert all([*places.values()][:2] == [0.0, 0.0] for _, places in sessions)
    slower = [[*places.values()][2] for _, places in sessions]
    assert sorted(slower) == [0.01] * 3 + [0.1] * 3
    assert slower not in (sorted(slower), [0.01, 0.1] * 3)
    assert all(len(places) == 2 for _, places in make_plan(REQUEST, 4, [], in_turns=True).sessions())


@pytest.mark.slow  # the small version is test_two_runs_take_turns
def test_runs_of_a_session_take_turns_and_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rounds=3", "--runs=4", "--delays=100", "--stability-calls=2", "--out=mine", "--json"]
    assert call(*CLI, *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["noise"]["pairs"], found["runs"]) == (4, 4)
    assert found["covered"]["of"] == 400
    assert [each["delay"] for each in found["delayed"]] == [1.0]
    for number in range(1, 5):
        session = tmp_path / "mine" / f"session-{number:02}"
        runs = [read(session / place / JOURNAL) for place in ("same-1", "same-2", ".delayed/1")]
        assert len({run.headers[0].in_turns for run in runs}) == 1
        assert runs[0].headers[0].in_turns
        used = [[sample.input_set for sample in each] for run in runs for each in run.samples.values()]
        assert used[0] == used[1] == used[2], "a round uses the same input set in every run"
    shutil.rmtree(tmp_path / "mine" / "session-03")
    assert call("calibrate", "--resume=mine", "--no-install", "--markdown") == 0
    assert "Pairs of runs that take turns deviate by" in capsys.readouterr().out
    assert (tmp_path / "mine" / "session-03" / "same-2" / JOURNAL).is_file()


def test_two_runs_take_turns(tmp_path: Path) -> None:
    requests = {"one": REQUEST, ".delayed/1": REQUEST.model_copy(update={"burnt_in": 1.0})}
    measure_together(requests, tmp_path)
    one, slower = (read(tmp_path / place / JOURNAL) for place in requests)
    assert one.headers[0].in_turns == slower.headers[0].in_turns != ""
    sets = [[sample.input_set for sample in each] for run in (one, slower) for each in run.samples.values()]
    assert sets[0] == sets[1], "a round uses the same input set in every run"
    assert not list(tmp_path.rglob("*.log"))


def test_sessions_that_were_measured_are_judged_and_resumed(
    one_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[float]] = []

    def copy(requests: dict[str, Request], folder: Path) -> None:
        begun.append([request.burnt_in for request in requests.values()])
        header, *lines = (one_run / JOURNAL).read_text().splitlines()
        for place in requests:
            name = f"{folder.name}{place}"
            told = {**json.loads(header), "in_turns": folder.name, "run_id": name}
            text = "\n".join([json.dumps(told), *lines, ""]).replace(json.loads(header)["run_id"], name)
            (folder / place).mkdir(parents=True)
            (folder / place / JOURNAL).write_text(text)

    monkeypatch.setattr(calibration, "measure_together", copy)
    monkeypatch.setattr("attnbench.results.calibration_in_turns.GATES", 30)
    plan = make_plan(REQUEST, 4, [0.1], in_turns=True)
    folder = start(plan, tmp_path / "mine", NoProgress())
    assert begun == [[0.0, 0.0, 0.1]] * 4
    found = judge_runs(plan, folder)
    assert (found.runs, found.model.pairs, found.model.pair_sd, found.pairs) == (4, 4, 0.0, 2)
    assert (found.covered.value, found.undecided.value, found.delayed[0].slower.value) == (1, 0, 0)
    shutil.rmtree(folder / "session-03")
    resume(folder, NoProgress())
    assert len(begun) == 5
    assert not list(folder.glob(".*.part"))


def test_a_run_of_a_session_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    plan = make_plan(REQUEST, 4, [], in_turns=True)
    broken = plan.model_copy(update={"request": REQUEST.model_copy(update={"inputs": "capture:gone.safetensors"})})
    with pytest.raises(BadInput, match=r"the run 'same-1' ended with exit code 1: .*gone\.safetensors"):
        start(broken, tmp_path / "mine", NoProgress())
