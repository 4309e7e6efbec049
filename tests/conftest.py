"""Settings of the whole suite. Fixtures live beside the tests that use them, or here if several rooms do."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from attnbench.bench import rounds, stability
from attnbench.bench.profile import call as profile_call
from attnbench.cli import main
from attnbench.machine import stopwatch
from attnbench.machine.clock import Clock
from tests.sharing import sharing

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.kernels.plan import Plan
    from tests.projects import Project

# One thread, here and in what tests start: small tensors gain nothing from more, and workers that each use every core
# wait for one another, a test of 4 s for 162. The variable alone comes too late for torch, which has read it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
os.environ.pop("COLUMNS", None)  # workers of pytest-xdist have it, and tables would be cut to it
os.environ["ATTNBENCH_NOISE"] = os.devnull  # else what was calibrated on this machine would decide comparisons

if not torch.cuda.is_available() and importlib.util.find_spec("triton") is not None:
    # The tests of kernels need Triton's interpreter, and Triton's own functions take their form when it is imported,
    # as torch.utils.flop_counter and diffusers do. The switch stays off for all other tests.
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module("triton")
    if before is None:
        del os.environ["TRITON_INTERPRET"]

# A deadline would fail tests on a busy machine; a derandomised suite says the same thing twice.
settings.register_profile("attnbench", max_examples=30, deadline=None, derandomize=True, print_blob=True)
settings.load_profile("attnbench")


@pytest.fixture(autouse=True, scope="module")
def tiny_calls() -> Iterator[None]:
    """Spare the calls of tests, which take microseconds, what takes longer than they do.

    That is to flush a whole cache before each, to repeat each thirty times for its stability, and twenty times back to
    back.
    """
    with pytest.MonkeyPatch.context() as patch:
        for place in (stopwatch, profile_call):
            patch.setattr(place, "cache_bytes", lambda device: 2**16)
        patch.setattr(stability, "MOST_CALLS", stability.LEAST_CALLS)
        patch.setattr(rounds, "MOST_EAGER", 4)
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Let other packages warn among themselves on a machine with a GPU: their versions there are not those tested."""
    if torch.cuda.is_available():
        config.addinivalue_line("filterwarnings", "default:::(?!attnbench|tests)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``gpu`` where there is no GPU."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests that need the GPU alone last: each waits for all that run, and those behind it wait for it.

    They are a group of pytest-xdist: one worker loads and compiles what they need, where ``--dist loadgroup`` is given.
    """
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("alone") is not None:
                item.add_marker(pytest.mark.xdist_group("alone"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let tests marked ``alone`` have the GPU to themselves where several processes run tests."""
    if not torch.cuda.is_available():
        return (yield)
    with sharing(Path(tempfile.gettempdir()), alone=item.get_closest_marker("alone") is not None):
        return (yield)


def _beside(name: str) -> ModuleType:
    """Load a module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"tests_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def hand_clock() -> Callable[[list[float]], Clock]:
    """Return what makes a clock whose hands stand where the first number of a list says, in seconds."""
    return lambda now: Clock(lambda: round(now[0] * 1e9), lambda: round(now[0] * 1e9))


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return what calls the command line in this process, and returns exit code, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attnbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A throw-away project with a method of its own, in a git repository of its own."""
    root = tmp_path / "project"
    root.mkdir()
    made: Project = _beside("projects").Project(root)
    return made


@pytest.fixture(scope="session")
def random_plan() -> Callable[..., Plan]:
    """Return ``random_plan`` of plans.py: a plan with ragged blocks anywhere, from a seed."""
    found: Callable[..., Plan] = _beside("plans").random_plan
    return found


@pytest.fixture(scope="session")
def power_law() -> Callable[..., pd.DataFrame]:
    """Return ``make_power_law`` of curves.py: a sweep whose true speed-up is known."""
    found: Callable[..., pd.DataFrame] = _beside("curves").make_power_law
    return found


@pytest.fixture(scope="session")
def hostile() -> ModuleType:
    """Return hostile.py: journals and videos that something happened to, from a seed."""
    return _beside("hostile")


@pytest.fixture(scope="session")
def waiting() -> ModuleType:
    """Return waiting.py, which waits for what other processes do."""
    return _beside("waiting")


@pytest.fixture(scope="session")
def histories() -> ModuleType:
    """Return histories.py, which writes journals of the same cells over days."""
    return _beside("histories")


Install = Callable[..., Path]
"""(name of a package, its source, group=, **objects by the names they are registered under) -> its folder."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install packages for one test, found through their entry points, here and in the processes that are started."""
    from attnbench.kernels import engines
    from attnbench.methods import get_method, registry

    site = tmp_path / "site"
    installed: list[str] = []

    def forget() -> None:
        registry._third_party.cache_clear()
        get_method.cache_clear()
        engines._others.engines = None

    def make(package: str, source: str, *, group: str = "attnbench.methods", **points: str) -> Path:
        folder = site / f"{package}-1.0.dist-info"
        folder.mkdir(parents=True)
        (site / f"{package}.py").write_text(source)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {package}:{attribute}" for name, attribute in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
        installed.append(package)
        importlib.invalidate_caches()
        forget()
        return site

    monkeypatch.syspath_prepend(str(site))
    yield make
    forget()
    for package in installed:
        sys.modules.pop(package, None)
