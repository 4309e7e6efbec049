"""Setting up: pinned, whole or absent, continued, alone. ``pip`` and ``venv`` are scripts that note their calls."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attnbench.clips.vbench import builder
from attnbench.clips.vbench.builder import build, pick_python
from attnbench.clips.vbench.environment import MARKER, default_folder, find, lock_digest, lock_text
from attnbench.kernels.errors import BadInput

STUBS = Path(__file__).with_name("stubs")

# Plays the interpreter that builds: answers its version, makes an environment whose python plays pip.
BASE = """#!/bin/sh
if [ "$1" = -c ]; then echo 3.11; exit; fi
echo "venv" >> {log}
mkdir -p "$3/bin"; cp {inner} "$3/bin/python"
"""
INNER = """#!/bin/sh
if [ "$1" = -m ]; then
    echo "$*" >> {log}
    if [ -e {hang} ]; then echo $$ > {hang}; exec sleep 600; fi
    if [ -e {trouble} ]; then cat {trouble}; exit 1; fi
    exit 0
fi
PYTHONPATH={stubs} exec {python} -S "$@"
"""


class Bench:
    """Where an environment is built, with what, and what was called."""

    def __init__(self, root: Path) -> None:
        self.folder, self.log, self.trouble = root / "cache" / "vbench", root / "log", root / "trouble"
        self.hang = root / "hang"
        self.base, inner = root / "python3.11", root / "inner"
        self.log.touch()
        places = {"log": self.log, "trouble": self.trouble, "hang": self.hang, "inner": inner}
        inner.write_text(INNER.format(**places, stubs=STUBS, python=sys.executable))
        self.base.write_text(BASE.format(**places))
        for script in (self.base, inner):
            script.chmod(0o755)

    @property
    def partial(self) -> Path:
        return self.folder.with_name("vbench.partial")

    def build(self) -> Any:
        return build(self.folder, str(self.base))

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_torch_comes_with_what_it_needs_and_the_rest_as_pinned(bench: Bench) -> None:
    made = bench.build()
    venv, torch, rest = bench.calls()
    assert venv == "venv"
    assert torch.endswith("lock.txt torch==2.13.0")
    assert "--constraint" in torch
    assert "--no-deps" not in torch
    assert "--no-deps --requirement" in rest
    assert (bench.folder / "lock.txt").read_text() == lock_text()
    assert made == find(bench.folder)
    assert made.imports["imaging_quality"] == "ImportError: no pyiqa here"
    assert not bench.partial.exists()


def test_a_second_build_finds_the_first(bench: Bench) -> None:
    first = bench.build()
    assert bench.build() == first
    assert bench.calls().count("venv") == 1


def test_a_build_that_failed_is_gone_on_with(bench: Bench) -> None:
    bench.trouble.write_text("ERROR: No matching distribution found for vbench==0.1.5\n")
    with pytest.raises(BadInput, match=r"pip failed \(ERROR: No matching distribution .*continues from here"):
        bench.build()
    assert not bench.folder.exists()
    assert "No matching distribution" in (bench.partial / "pip.log").read_text()
    bench.trouble.unlink()
    bench.build()
    assert bench.calls().count("venv") == 1


def test_a_package_that_was_half_installed_is_installed_again(bench: Bench) -> None:
    bench.trouble.write_text("ERROR: stop\n")
    with pytest.raises(BadInput):
        bench.build()
    packages = Path("lib") / "python3.11" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info"):
        (bench.partial / packages / name).mkdir(parents=True)
        (bench.partial / packages / name / "METADATA").touch()
    (bench.partial / packages / "whole-1.dist-info" / "RECORD").touch()
    bench.trouble.unlink()
    bench.build()
    assert [path.name for path in (bench.folder / packages).iterdir()] == ["whole-1.dist-info"]


def test_the_lock_is_held_as_long_as_pip_runs(bench: Bench, waiting: ModuleType) -> None:
    """It goes on when the builder is killed, and must not share the folder with the next one's."""
    bench.hang.touch()
    code = "from attnbench.clips.vbench.builder import build; from pathlib import Path; "
    code += f"build(Path({str(bench.folder)!r}), "
    process = subprocess.Popen([sys.executable, "-c", f"{code}{str(bench.base)!r})"])
    waiting.until(lambda: bench.hang.read_text().strip(), "the start of pip")
    pip = int(bench.hang.read_text())
    process.kill()
    process.wait()
    with pytest.raises(BadInput, match=f"process {process.pid} is building"):
        bench.build()
    bench.hang.unlink()
    os.kill(pip, signal.SIGKILL)
    waiting.until_gone(pip)
    bench.build()
    assert bench.calls().count("venv") == 1


def test_a_partial_environment_of_another_lock_is_thrown_away(bench: Bench) -> None:
    bench.trouble.write_text("ERROR: stop\n")
    with pytest.raises(BadInput):
        bench.build()
    (bench.partial / "lock.txt").write_text("vbench==0.1.4\n")
    (bench.partial / "old").touch()
    bench.trouble.unlink()
    bench.build()
    assert not (bench.folder / "old").exists()
    assert bench.calls().count("venv") == 2


def test_the_marker_comes_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "ask_imports", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.build()
    assert not bench.folder.exists()
    assert not (bench.partial / MARKER).exists()


def test_an_environment_that_cannot_run_is_not_finished(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"error": "OSError: libtorch is gone", "versions": {}, "imports": {}}
    monkeypatch.setattr(builder, "ask_imports", lambda *arguments: answer)
    with pytest.raises(BadInput, match="does not work: OSError: libtorch is gone"):
        bench.build()
    assert not bench.folder.exists()


def test_two_cannot_build_at_once(bench: Bench) -> None:
    bench.folder.parent.mkdir()
    with bench.folder.with_name("vbench.lock").open("w") as held:
        held.write("4711")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="process 4711 is building"):
            bench.build()
    assert bench.calls() == []
    bench.build()


def test_a_full_disk_is_said_before_and_during(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.trouble.write_text("ERROR: Could not install packages: [Errno 28] No space left on device\n")
    with pytest.raises(BadInput, match="is full; VBench's environment wants 3 GiB"):
        bench.build()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**30))
    with pytest.raises(BadInput, match=r"1\.0 GiB are free"):
        bench.build()


def test_a_python_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be run"):
        pick_python(str(tmp_path / "python"))
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.9\n")
    other.chmod(0o755)
    with pytest.raises(BadInput, match=r"is version 3\.9; VBench's packages need 3\.11"):
        pick_python(str(other))


def test_without_a_fitting_python_the_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "PYTHON", "3.0")
    with pytest.raises(BadInput, match=r"there is no python3\.0; give one with --python"):
        pick_python(None)


def test_a_folder_that_is_something_else_is_left_alone(bench: Bench) -> None:
    bench.folder.mkdir(parents=True)
    (bench.folder / "mine.txt").touch()
    with pytest.raises(BadInput, match=r"is not a VBench environment: .* give another folder with --env") as error:
        bench.build()
    assert "remove" not in str(error.value), "it is the user's, and may hold anything"
    assert [path.name for path in bench.folder.iterdir()] == ["mine.txt"]


def test_a_file_in_the_place_of_the_environment_is_left_alone(bench: Bench) -> None:
    bench.folder.parent.mkdir(parents=True, exist_ok=True)
    bench.folder.write_text("mine")
    with pytest.raises(BadInput, match="is a file; give another folder with --env"):
        bench.build()
    assert bench.folder.read_text() == "mine"


def test_what_is_wrong_with_an_environment_is_one_sentence(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no VBench environment in .*; run attnbench vbench setup"):
        find(tmp_path / "nowhere")
    marker = fake.folder / MARKER
    whole = json.loads(marker.read_text())
    marker.write_text(json.dumps({**whole, "lock": "00000000"}))
    with pytest.raises(BadInput, match=f"was built from lock 00000000, and this attnbench pins {lock_digest()}"):
        find(fake.folder)
    marker.write_text("{")
    with pytest.raises(BadInput, match="cannot be read; remove the folder"):
        find(fake.folder)
    marker.write_text(json.dumps(whole))
    (fake.folder / "bin" / "python").unlink()
    with pytest.raises(BadInput, match="has lost its Python"):
        find(fake.folder)


def test_the_default_folder_is_named_by_the_pins() -> None:
    assert default_folder({"XDG_CACHE_HOME": "/c"}) == Path(f"/c/attnbench/vbench-{lock_digest()}")
    assert default_folder({"XDG_CACHE_HOME": "/c", "ATTNBENCH_VBENCH_ENV": "/e"}) == Path("/e")
