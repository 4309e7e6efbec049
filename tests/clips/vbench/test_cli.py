"""The commands: what they print, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from attnbench.cli.vbench import vbench
from attnbench.kernels.errors import BadInput

Call = Callable[..., Result]


@pytest.fixture
def call(fake: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNBENCH_VBENCH_ENV", str(fake.folder))
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(weights))
    return lambda *words: CliRunner().invoke(vbench, [str(word) for word in words])


@pytest.fixture
def clips(tmp_path: Path, make_clip: Callable[..., Path]) -> Path:
    return make_clip(tmp_path / "clips" / "a.mp4").parent


def test_run_prints_a_line_for_each_dimension(call: Call, fake: Any, clips: Path, tmp_path: Path) -> None:
    fake.tell(temporal_flickering={"values": [0.987654]})
    done = call("run", clips, "--dimension", "dynamic_degree", "--out", "scores")
    assert done.exit_code == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "0.9877" in lines["temporal_flickering"]
    assert "random weights stood in" in lines["dynamic_degree"]
    assert "16 frames a second, h264, yuv420p" in done.stdout
    assert (tmp_path / "scores" / "vbench.json").is_file()


def test_run_without_a_folder_for_scores_makes_one_named_by_the_time(call: Call, clips: Path, tmp_path: Path) -> None:
    assert call("run", clips, "--dimension", "temporal_flickering").exit_code == 0
    (written,) = (tmp_path / "results" / "vbench").glob("*/vbench.json")
    assert len(json.loads(written.read_text())["scores"]) == 1


def test_run_as_json_is_the_record(call: Call, clips: Path, tmp_path: Path) -> None:
    done = call("run", clips, "--dimension", "motion_smoothness", "--out", "scores", "--json")
    said = json.loads(done.stdout)
    assert said.pop("folder") == "scores"
    assert said == json.loads((tmp_path / "scores" / "vbench.json").read_text())


def test_run_that_measured_nothing_exits_with_1(call: Call, fake: Any, clips: Path) -> None:
    fake.tell(temporal_flickering={"raise": "broken"})
    done = call("run", clips, "--dimension", "temporal_flickering", "--out", "scores")
    assert done.exit_code == 1
    assert "temporal_flickering failed: RuntimeError: broken" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "tpu"), "--device 'tpu': known are cpu and cuda"),
        (("--dimension", "color"), "needs the objects of VBench's own prompts"),
        (("--fps", "24"), "--fps asks for 24"),
        (("--prompts", "nothing.json"), "cannot be read"),
        (("--env", "nowhere"), "there is no VBench environment"),
    ],
)
def test_run_refuses_before_anything_is_written(
    words: tuple[str, ...], said: str, call: Call, clips: Path, tmp_path: Path
) -> None:
    done = call("run", clips, "--out", "scores", *words)
    assert isinstance(done.exception, BadInput)
    assert said in str(done.exception)
    assert not (tmp_path / "scores").exists()


def test_doctor_names_files_and_addresses(call: Call, weights: Path) -> None:
    (weights / "amt_model/amt-s.pth").unlink()
    findings = {finding["name"]: finding for finding in json.loads(call("doctor", "--json").stdout)["findings"]}
    assert findings["vbench"]["usable"]
    assert "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth" in findings["amt_model/amt-s.pth"]["remedy"]
    assert "amt_model/amt-s.pth" in call("doctor").stdout


def test_setup_finds_what_is_there(call: Call, fake: Any) -> None:
    done = call("setup")
    assert (done.exit_code, done.stdout.strip()) == (0, f"VBench's environment is in {fake.folder}")
