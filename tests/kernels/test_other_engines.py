"""Engines from packages of their own: found, checked, refused by name, and never in the way of ours."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.kernels import engines, plugins
from attnbench.kernels.engines import ENGINES, Engine, Task, choose_engine, dense_engines, get_engine, known_engines
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.machine.doctor import examine

GROUP = "attnbench.engines"
PACKAGE = Path(__file__).resolve().parent.parent / "plugins" / "attnbench_plain_engine"
TASK = Task(torch.device("cpu"), torch.float32, 8, 4, 2, False, False)
Register = Callable[..., None]


def sparse_plan() -> Plan:
    offsets = torch.tensor([0, 10, 24])
    keep = torch.ones(2, 2, dtype=torch.bool).tril()[None, None]
    return Plan(Layout(Grid(2, 3, 4)), 2, 4, BlockPattern(offsets, offsets, keep))


def qkv() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, 24, 8, generator=random) for heads in (4, 2, 2)]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Pretend that packages are installed which register engines: each a name with an engine, or with what to load."""
    holder = ModuleType("pretended_engines")
    monkeypatch.setitem(sys.modules, "pretended_engines", holder)

    def pretend(**loaded: object) -> None:
        points = []
        for number, (name, value) in enumerate(loaded.items()):
            if not isinstance(value, str):
                setattr(holder, f"engine_{number}", value)
                value = f"pretended_engines:engine_{number}"
            points.append(EntryPoint(name, value, GROUP))
        pretend_points(points)

    def pretend_points(points: list[EntryPoint]) -> None:
        monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == GROUP else [])
        engines._others.engines = None

    pretend.points = pretend_points  # type: ignore[attr-defined]  # a second way to call the fixture
    yield pretend
    engines._others.engines = None


def theirs(name: str = "theirs", **changes: Any) -> Engine:
    return replace(ENGINES["reference"], name=name, tested=False, **changes)


def test_it_is_listed_before_the_reference_and_runs_when_asked_for(register: Register) -> None:
    register(theirs=theirs())
    names = [engine.name for engine in known_engines()]
    assert names == [*list(ENGINES)[: names.index("theirs")], "theirs", *list(ENGINES)[names.index("theirs") :]]
    assert names.index("theirs") == names.index("reference") - 1
    assert get_engine("theirs").name == "theirs"
    out = attnbench.attention(*qkv(), method="moba", grid=(2, 3, 4), engine="theirs")
    assert torch.equal(out, attnbench.attention(*qkv(), method="moba", grid=(2, 3, 4)))


def test_auto_takes_it_only_where_it_says_that_it_was_tested(register: Register) -> None:
    register(theirs=theirs(dense=True))
    assert choose_engine("auto", sparse_plan(), TASK).name == "reference"
    assert "theirs" not in dense_engines()
    register(theirs=replace(theirs(dense=True), tested=True))
    assert choose_engine("auto", sparse_plan(), TASK).name == "theirs"
    assert dense_engines() == ["sdpa", "theirs", "reference"]


def test_an_engine_is_untested_unless_it_says_otherwise() -> None:
    given = {name: getattr(ENGINES["sdpa"], name) for name in (
        "name", "summary", "available", "version", "supports", "attend", "executed_pairs", "dense",
    )}  # fmt: skip
    assert not Engine(**given).tested


@pytest.mark.parametrize("name", ["triton", "reference", "auto"])
def test_a_name_of_ours_stays_ours(name: str, register: Register) -> None:
    register(**{name: "their_package:ENGINE"})
    assert [engine.name for engine in known_engines()] == list(ENGINES)
    attnbench.attention(*qkv(), method="moba", grid=(2, 3, 4))


def test_a_name_that_two_packages_claim_is_unusable_and_hides_no_other(register: Any) -> None:
    register.points([EntryPoint("twice", "one:ENGINE", GROUP), EntryPoint("twice", "another:ENGINE", GROUP)])
    (found,) = (engine for engine in known_engines() if engine.name == "twice")
    said = "two engines are named 'twice': one:ENGINE and another:ENGINE; uninstall"
    assert (found.available() or "").startswith(said)
    attnbench.attention(*qkv(), method="moba", grid=(2, 3, 4))
    with pytest.raises(Unsupported, match=said):
        attnbench.attention(*qkv(), method="moba", grid=(2, 3, 4), engine="twice")


def raising(*asked: object) -> str | None:
    raise OSError("bad library\n\n of 2019")


@pytest.mark.parametrize(
    ("loaded", "reason"),
    [
        ("nowhere_to_be_found:ENGINE", "engine 'broken' (nowhere_to_be_found:ENGINE) cannot be loaded: "
         "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ({"name": "broken"}, "engine 'broken' is a dict; it must be an attnbench.kernels.engines.Engine"),
        (theirs("other"), "engine 'broken' calls itself 'other'; the two names must be the same"),
        (theirs("broken", available=raising), "OSError: bad library of 2019"),
    ],
)  # fmt: skip
def test_a_broken_package_hides_no_other_engine(
    loaded: object, reason: str, register: Register, tmp_path: Path
) -> None:
    register(broken=loaded, good=theirs("good"))
    assert choose_engine("auto", sparse_plan(), TASK).name == "reference"
    assert get_engine("good").name == "good"
    with pytest.raises(Unsupported) as caught:
        get_engine("broken")
    assert str(caught.value) == f"engine 'broken' is not available: {reason}"
    found = {finding.name: finding for finding in examine(tmp_path) if finding.group == "engine"}
    assert found["good"].usable
    assert not found["broken"].usable
    assert found["broken"].remedy == reason


def test_a_version_that_cannot_be_told_is_unknown(register: Register) -> None:
    register(theirs=theirs(version=raising))
    assert get_engine("theirs").version() == "unknown"


def test_a_typing_error_is_answered_with_its_name(register: Register) -> None:
    register(theirs=theirs())
    with pytest.raises(BadInput, match="unknown engine 'theris': did you mean 'theirs'"):
        get_engine("theris")


def test_compiled_code_runs_it(register: Register) -> None:
    register(theirs=theirs())
    torch.compiler.reset()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attnbench.attention(q, k, v, method="full", grid=(2, 3, 4), engine="theirs")

    expected = attend(*qkv())
    torch.testing.assert_close(torch.compile(attend, backend="aot_eager")(*qkv()), expected)
    torch.compiler.reset()


CALL = """
import json, sys, torch, attnbench
from attnbench.cli import main
random = torch.Generator().manual_seed(0)
q, k, v = (torch.randn(1, heads, 105, 8, generator=random) for heads in (4, 2, 2))
where = dict(method="vmoba", grid=(3, 5, 7), layer=2)
theirs, ours = (attnbench.attention(q, k, v, engine=engine, **where) for engine in ("plain", "reference"))
print(float((theirs - ours).abs().max()))
sys.argv = ["attnbench", "ls", "engines", "--json"]
main()
"""


def test_an_installed_package_is_found(tmp_path: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip to install a package with")
    source, site = shutil.copytree(PACKAGE, tmp_path / "source"), tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    options = ["--disable-pip-version-check", "--root-user-action=ignore", "--target", site, source]
    subprocess.run([*command, *options], check=True, timeout=300)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", CALL], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    error, listed = done.stdout.splitlines()
    assert float(error) < 1e-5
    rows = {row["name"]: row for row in json.loads(listed)}
    assert (rows["plain"]["here"], rows["plain"]["version"]) == ("yes", "0.3.0")
