"""A whole step from the command line to the page: what is asked of the measurement, written, and said."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from attnbench import cli as command_line
from attnbench import select
from attnbench.bench.profile.call import Profile
from attnbench.bench.step import session as end_to_end
from attnbench.bench.step.case import StepCase
from attnbench.bench.step.measure import phases_of
from attnbench.bench.step.session import StepRequest, check_request, grid_of, run_step, size_of
from attnbench.cli.profile import profile as profile_command
from attnbench.cli.report import report as report_command
from attnbench.kernels.engines import Task, choose_engine
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.phases import phase
from attnbench.methods.entries import Entry
from attnbench.report.html.steps import step_sections
from attnbench.results.journal import JOURNAL, Journal, read_journal
from attnbench.results.load import load_steps
from attnbench.results.records.steps import StepRecord
from attnbench.results.run import NoProgress


def made_up(case: StepCase, run_id: str, profile: Profile | None, share: float = 0.6) -> list[StepRecord]:
    def record(name: str, step: float, attention: float, density: float, **more: Any) -> StepRecord:
        return StepRecord(
            run_id=run_id, size=case.size, grid=str(case.grid), text_tokens=512, batch=case.batch, layers=30,
            dtype="bfloat16", device="NVIDIA H100", direction=case.direction, checkpointing=case.checkpointing,
            engine_asked=case.engine, seed=case.seed, timer="events", rounds=case.rounds,
            baseline="full/flash4", without_ms=40.0, share=share, share_lo=0.9 * share, share_hi=1.1 * share,
            share_alone=0.58, name=name, settings='{"threshold":0.25}', density=density, step_ms=step,
            step_lo_ms=0.9 * step, step_hi_ms=1.1 * step, attention_ms=attention, attention_lo_ms=0.9 * attention,
            attention_hi_ms=1.1 * attention, step_speedup=100 / step, step_speedup_lo=90 / step,
            step_speedup_hi=110 / step, attention_speedup=60 / attention, predicted_speedup=1.7,
            step_eager_ms=step + (10.0 if name == "full/flash4" else 2.0),
            samples_ms=[step, step], **more,
        )  # fmt: skip

    seen = {} if profile is None else {"phases_ms": phases_of(profile), "complaint": profile.complaint}
    return [
        record("own", 120.0, 70.0, 1.0), record("full/flash4", 100.0, 60.0, 1.0),
        record("vmoba/triton", 62.0, 20.0, 0.2, **seen),
    ]  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of the measurement, whose result is made up."""
    found: list[dict[str, Any]] = []

    def step() -> None:
        with phase("attend"):
            time.sleep(0.02)

    def measure(methods: Any, case: StepCase, run_id: str, observe: Any, progress: Any) -> list[StepRecord]:
        found.append({"methods": methods, **vars(case)})
        progress.step("round 1 of 2: vmoba/triton", 0, 2, None)
        return made_up(case, run_id, observe("vmoba/triton", step, lambda: None, 1e6))

    monkeypatch.setattr(end_to_end, "measure_step", measure)
    monkeypatch.setattr("attnbench.bench.profile.call.cache_bytes", lambda device: 2**16)
    return found


def test_records_say_what_was_measured_and_are_read_back(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    request = StepRequest({"vmoba": {"threshold": 0.3}}, device="cpu", direction="fwdbwd", rounds=2, seed=3)
    folder, records = run_step(request, tmp_path / "run", NoProgress())
    assert asked == [
        {"methods": {"vmoba": {"threshold": 0.3}}, "size": "tiny", "grid": grid_of(request, "cpu"),
         "text_tokens": 512, "batch": 1, "dtype": None, "device": "cpu", "direction": "fwdbwd", "checkpointing": False,
         "engine": "auto", "rounds": 2, "seed": 3, "heads": None, "graphs": False}
    ]  # fmt: skip
    assert load_steps(folder) == records
    assert [record.name for record in records] == ["own", "full/flash4", "vmoba/triton"]
    vmoba = records[2]
    assert (vmoba.step_ms, vmoba.attention_ms, vmoba.density, vmoba.seed) == (62.0, 20.0, 0.2, 3)
    assert (vmoba.step_lo_ms, vmoba.step_hi_ms) == (0.9 * 62.0, 1.1 * 62.0)
    assert vmoba.step_speedup == pytest.approx(100 / 62)
    assert {record.share for record in records} == {0.6}
    assert 20 <= vmoba.phases_ms["fwd attend"] < 20_000
    assert "less than the unprofiled 1e+06 ms" in vmoba.complaint
    assert (records[0].phases_ms, records[0].complaint) == ({}, "")
    with pytest.raises(BadInput, match="attnbench step, which is not resumed"):
        Journal.resume(folder)
    with pytest.raises(BadInput, match="holds a run already"):
        run_step(request, folder, NoProgress())
    assert len(asked) == 1  # refused before anything was measured


@pytest.mark.parametrize(
    ("given", "device", "size", "grid"),
    [
        ({}, "cuda", "1.3b", "21x30x52"),
        ({"res": "720p"}, "cuda", "1.3b", "21x45x80"),
        ({}, "cpu", "tiny", "3x8x8"),
        ({"grid": "2x3x4"}, "cpu", "tiny", "2x3x4"),
        ({"model": "tiny"}, "cuda", "tiny", "3x8x8"),
        ({"model": "wan2.1-1.3b", "frames": 5}, "cpu", "1.3b", "2x30x52"),
    ],
)
def test_sizes_and_grids_follow_the_device_unless_given(
    given: dict[str, Any], device: str, size: str, grid: str
) -> None:
    request = StepRequest({}, **given)
    assert (size_of(request, device), str(grid_of(request, device))) == (size, grid)


def test_models_without_a_step_are_refused() -> None:
    with pytest.raises(BadInput, match=r"wan2\.1-14b has no step .* wan2\.1-1\.3b or tiny"):
        size_of(StepRequest({}, model="wan2.1-14b"), "cuda")


def test_a_step_has_a_video_by_pixels_and_its_own_length_of_text(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    request = StepRequest({}, model="tiny", device="cpu", height=64, width=96, frames=9, text_tokens="77")
    run_step(request, tmp_path / "a", NoProgress())
    assert (str(asked[0]["grid"]), asked[0]["text_tokens"]) == ("3x4x6", 77)
    with pytest.raises(BadInput, match=r"--text-tokens '226\+0' must be a number"):
        run_step(dataclasses.replace(request, text_tokens="226+0"), tmp_path / "b", NoProgress())
    with pytest.raises(BadInput, match="--height 64 needs --width too"):
        run_step(dataclasses.replace(request, width=None), tmp_path / "b", NoProgress())
    assert not (tmp_path / "b").exists()


def test_a_training_step_of_the_large_model_runs_blocks_again_unless_told_not_to(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    for place, given in enumerate(({}, {"checkpointing": False}, {"direction": "fwd"})):
        fields: dict[str, Any] = {"model": "wan2.1-1.3b", "device": "cpu", "direction": "fwdbwd", **given}
        run_step(StepRequest({}, **fields), tmp_path / str(place), NoProgress())
    assert [each["checkpointing"] for each in asked] == [True, False, False]
    assert [each["rounds"] for each in asked] == [3, 3, 5]


def test_the_page_says_what_share_self_attention_is(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    _, records = run_step(
        StepRequest({}, model="wan2.1-1.3b", device="cpu", direction="fwdbwd"), tmp_path / "a", NoProgress()
    )
    (section,) = step_sections(records)
    assert section.title == "A training step of Wan 2.1 1.3B, 21×30×52 tokens"
    assert section.finding == (
        "Self-attention is 60.0% of the step of full/flash4 (54.0% to 66.0%; timed by itself 58.0%). Without it the "
        "step takes 40.0 ms: no method can make it more than 2.50× as fast."
    )
    assert section.lines[2].cells[:2] == (("0.200", ""), ("62.0", "[55.8, 68.2]"))
    assert section.lines[2].cells[3] == ("1.72×", "(64.0 ms)")
    assert section.lines[2].cells[6] == ("1.70×", "")
    phases = {"fwd attend": 20.0, "fwd other": 10.0, "fwd gap": 0.5, "bwd attend": 30.0, "bwd other": 15.0}
    (section,) = step_sections([records[2].model_copy(update={"phases_ms": phases})])
    assert section.lines[0].phases == "attend 50.0 ms, gaps 0.500 ms, rest of the model 25.0 ms"
    lost = [record.model_copy(update={"share": -0.02}) for record in records]
    (section,) = step_sections(lost)
    assert "is not above zero" in section.finding
    assert section.lines[2].cells[6] == ("–", "")


def test_a_step_whose_wall_clock_is_not_known_has_no_column_for_it() -> None:
    records = made_up(StepCase(device="cpu"), "r", None)
    (section,) = step_sections([record.model_copy(update={"step_eager_ms": None}) for record in records])
    assert "by wall clock" not in section.columns
    assert {len(line.cells) for line in section.lines} == {len(section.columns)}
    assert section.lines[2].cells[3] == ("20.0", "[18.0, 22.0]")


def test_graphs_of_methods_with_a_state_are_refused_before_anything_is_made() -> None:
    with pytest.raises(BadInput, match="'svg2' keeps a state from step to step, which CUDA graphs cannot"):
        check_request(StepRequest([Entry("svg2")], device="cpu", graphs=True))


def test_the_command_prints_json_for_machines(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(profile_command)
    monkeypatch.setattr(
        sys, "argv", ["attnbench", "--end-to-end", "--device", "cpu", "--out", str(tmp_path / "a"), "--json"]
    )
    app(prog_name="attnbench", standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in document["steps"]] == ["own", "full/flash4", "vmoba/triton"]
    assert document["folder"] == str(tmp_path / "a")
    assert {entry.method for entry in asked[0]["methods"]} >= {"vmoba", "sta"}


def test_the_command_and_its_alias_do_the_same(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--grid", "2x3x4", "-mvmoba", "--set", "threshold=0.3", "--direction", "fwdbwd", "--device", "cpu"]
    said = []
    for place, command in enumerate((["step"], ["profile", "--end-to-end"])):
        monkeypatch.setattr(sys, "argv", ["attnbench", *command, *words, "--out", str(tmp_path / str(place)), "--json"])
        command_line.app(sys.argv[1:], prog_name="attnbench", standalone_mode=False)
        said.append(json.loads(capsys.readouterr().out)["steps"])
    for steps in said:
        for each in steps:
            del each["run_id"], each["phases_ms"], each["complaint"]
    assert asked[0] == asked[1]
    assert said[0] == said[1] != []
    requests = [next(iter(read_journal(tmp_path / place / JOURNAL))).request for place in "01"]
    assert requests[0] == requests[1]
    assert requests[0]["command"] == "step"


def test_the_command_measures_a_real_step_and_the_report_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    for place in ("attnbench.machine.stopwatch", "attnbench.bench.profile.call"):
        monkeypatch.setattr(f"{place}.cache_bytes", lambda device: 2**16)
    monkeypatch.setattr("attnbench.bench.baseline.dense_engines", lambda: ["sdpa"])
    monkeypatch.chdir(tmp_path)
    words = ["--end-to-end", "--grid", "2x3x4", "--method", "sta", "--set", "sta.tile=1,2,2", "--device", "cpu"]

    def call(command: Any, *more: str) -> str:
        app = typer.Typer()
        app.command()(command)
        monkeypatch.setattr(sys, "argv", ["attnbench", *more])
        with pytest.raises(SystemExit) as exit_:
            app(prog_name="attnbench")
        assert exit_.value.code == 0
        return capsys.readouterr().out

    said = call(profile_command, *words, "--rounds", "1", "--out", "shown")
    for word in ("sta/reference", "rest of the model", "self-attention"):
        assert word in said
    own, *_, sta = load_steps(Path("shown"))
    assert (own.name, set(own.phases_ms)) == ("own", {"fwd other"})
    assert {"fwd attend", "fwd other"} <= set(sta.phases_ms)
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])
    call(report_command, "shown", "--out", "page.html")
    page = Path("page.html").read_text()
    assert "A step of Wan 2.1 tiny with 2 heads, 2×3×4 tokens" in page
    assert "sta/reference" in page


@pytest.mark.parametrize("more", [["--heads", "2"], ["--repeats", "3"], ["--resume", "there"], ["--no-trace"]])
def test_options_of_other_profiles_are_refused(more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(profile_command)
    monkeypatch.setattr(sys, "argv", ["attnbench", "--end-to-end", *more])
    with pytest.raises(BadInput, match=f"leave out {more[0]}"):
        app(prog_name="attnbench", standalone_mode=False)
    monkeypatch.setattr(sys, "argv", ["attnbench", "--checkpointing"])
    with pytest.raises(BadInput, match="--checkpointing is for --end-to-end"):
        app(prog_name="attnbench", standalone_mode=False)


def test_a_profile_prints_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    command = ["profile", "--method=full", "--grid=2x4x4", "--heads=1", "--rounds=1", "--no-trace", "--out=run"]
    program = [sys.executable, "-c", "from attnbench.cli import main; main()", *command]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    assert [line for line in done.stderr.splitlines() if not line.startswith("attnbench: ")] == []


def test_the_folder_is_taken_before_anything_is_measured_and_given_back_if_that_fails(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **options: Any) -> list[StepRecord]:
        (taken,) = (path.parent for path in tmp_path.rglob(JOURNAL))
        with pytest.raises(BadInput, match="holds a run already"):
            run_step(StepRequest({}, device="cpu"), taken, NoProgress())  # a second one at the same time
        raise KeyboardInterrupt

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(end_to_end, "measure_step", fail)
    for name in ("run", "mine"):
        with pytest.raises(KeyboardInterrupt):
            run_step(StepRequest({}, device="cpu"), tmp_path / name, NoProgress())
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "out of memory.* Tried to allocate 9"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "out of memory.* tried 9"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_step_that_does_not_fit_is_said_in_one_sentence(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*given: Any, **options: Any) -> list[StepRecord]:
        raise error

    monkeypatch.setattr(end_to_end, "measure_step", fail)
    with pytest.raises(BadInput, match=f"a step of Wan tiny at 3x8x8 runs {said}.*smaller --res or --grid"):
        run_step(StepRequest({}, device="cpu"), tmp_path / "run", NoProgress())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"grid": "2x129x4"}, "grid '2x129x4'.* at most 128"),
        ({"model": "wan2.1-1.3b", "grid": "1x2x1025"}, "grid '1x2x1025'.* at most 1,024"),
        ({"seed": -1}, "seed -1 must be a whole number from 0 to 4294967295"),
    ],
)
def test_what_the_model_cannot_be_asked_for_is_refused_at_once(
    asked: list[dict[str, Any]], tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        run_step(StepRequest({}, device="cpu", **given), tmp_path / "run", NoProgress())
    assert asked == []
    run_step(StepRequest({}, device="cpu", grid="1x128x1"), tmp_path / "run", NoProgress())


def test_a_method_may_stand_right_after_its_short_option(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.command()(profile_command)
    monkeypatch.setattr(
        sys, "argv", ["attnbench", "--end-to-end", "-msta", "--device=cpu", "--out", str(tmp_path / "a"), "--json"]
    )
    app(prog_name="attnbench", standalone_mode=False)
    assert [entry.method for entry in asked[0]["methods"]] == ["sta"]


@pytest.mark.parametrize("strict", [False, True])
def test_strict_steps_refuse_plain_torch_while_they_are_measured(
    strict: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*given: Any, **more: Any) -> list[StepRecord]:
        choose_engine("auto", sparse, dataclasses.replace(task, device=torch.device("cuda")))
        return []

    q = torch.zeros(1, 1, 32, 8)
    sparse, task = select(q, q, method="moba", grid=(2, 4, 4), blocks=4, topk=2), Task.of(q, q, q)
    monkeypatch.setattr("attnbench.kernels.engines._warn_once", lambda text: None)
    monkeypatch.setattr(
        "attnbench.kernels.engines._unavailable", lambda name: None if name == "reference" else "is off"
    )
    monkeypatch.setattr(end_to_end, "measure_step", measure)
    refused = pytest.raises(Unsupported, match="reference is plain torch") if strict else nullcontext()
    with refused:
        run_step(StepRequest([], device="cpu", strict=strict), tmp_path / "run", NoProgress())
    assert choose_engine("auto", sparse, dataclasses.replace(task, device=torch.device("cuda"))).name == "reference"
