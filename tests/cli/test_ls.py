"""`attnbench ls`: the same facts for people and for machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbench.cli import ls as listing
from attnbench.inputs.presets import MODELS, RESOLUTIONS
from attnbench.inputs.spec import INPUT_SOURCES
from attnbench.kernels import engines
from attnbench.methods import method_names
from attnbench.methods.registry import BUILT_IN

Call = Callable[..., str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]) -> Call:
    def ls(*words: str) -> str:
        monkeypatch.setenv("COLUMNS", "200")
        code, out, _ = command_line("ls", *words)
        assert code == 0
        return out

    return ls


NAMES: dict[str, Callable[[], list[str]]] = {
    "shapes": lambda: list(RESOLUTIONS),
    "methods": lambda: list(method_names()),
    "engines": lambda: list(engines.ENGINES),
    "models": lambda: list(MODELS),
    "inputs": lambda: list(INPUT_SOURCES),
}


def test_every_kind_has_a_test() -> None:
    assert NAMES.keys() == listing.LISTINGS.keys()


@pytest.mark.parametrize("kind", NAMES)
def test_everything_is_listed_once_in_both_forms(kind: str, call: Call) -> None:
    records: list[dict[str, Any]] = json.loads(call(kind, "--json"))
    assert [record["name"] for record in records] == NAMES[kind]()
    assert len({tuple(record) for record in records}) == 1, "the same columns in each"
    heading, *lines = call(kind).splitlines()
    assert heading.split()[0] == "name"
    starts = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert starts == NAMES[kind]()


def test_shapes_are_the_token_grids_of_wan(call: Call) -> None:
    shapes = {shape["name"]: shape for shape in json.loads(call("shapes", "--json"))}
    assert (shapes["480p"]["grid"], shapes["480p"]["tokens"]) == ("21x30x52", 32_760)
    assert (shapes["720p"]["grid"], shapes["720p"]["tokens"]) == ("21x45x80", 75_600)


def test_methods_are_listed_with_defaults_and_source(call: Call) -> None:
    methods = {method["name"]: method for method in json.loads(call("methods", "--json"))}
    assert "topk=15" in methods["moba"]["settings"]
    assert all("https://" in method["source"] for method in methods.values())
    assert "(6, 8, 8)" in call("methods")


def test_an_engine_that_is_not_here_says_why(call: Call) -> None:
    for engine in json.loads(call("engines", "--json")):
        problem = engines.ENGINES[engine["name"]].available()
        assert engine["here"] == ("yes" if problem is None else f"no: {problem}")
        assert bool(engine["version"]) == (problem is None)


BROKEN = """
import dataclasses, sys
from attnbench.methods import get_method
SOURCELESS = dataclasses.replace(get_method("full"), name="sourceless", source=None)
"""


def test_plugins_that_are_broken_are_listed_beside_the_others(call: Call, install: Any) -> None:
    install("leaves_quietly", "import os; os._exit(0)", quiet="METHOD")
    install("leaves", "import sys; sys.exit(0)", polite="METHOD", twice="METHOD")
    install("also", BROKEN, sourceless="SOURCELESS", twice="METHOD", full="METHOD")
    listed = {row["name"]: row for row in json.loads(call("methods", "--json"))}
    assert list(listed) == [*BUILT_IN, "polite", "quiet", "sourceless", "twice"]
    assert "of package leaves) cannot be loaded: importing it called sys.exit(0)" in listed["polite"]["keeps"]
    assert listed["quiet"]["keeps"].endswith("its process ended with exit code 0 and left no result")
    assert listed["twice"]["keeps"].startswith("unusable: two methods are named 'twice'")
    assert listed["sourceless"]["source"] == ""
    assert listed["full"]["source"], "attnbench's own is listed"


def test_a_broken_plugin_is_warned_of_by_the_name_of_its_package(
    install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    install("leaves", "import sys; sys.exit(0)", polite="METHOD", full="METHOD")
    listing.methods()
    said = capsys.readouterr().err
    assert "method 'polite' (leaves:METHOD of package leaves) cannot be loaded" in said
    assert "two methods are named 'full': attnbench.methods.full:METHOD and leaves:METHOD of package leaves" in said


@pytest.mark.parametrize("command", [["check", "quiet"], ["flops", "--method", "quiet"]])
def test_a_package_that_ends_the_process_while_it_is_imported_is_no_success(
    command: list[str], install: Any, tmp_path: Path
) -> None:
    site = install("leaves_quietly", "import os; os._exit(0)", quiet="METHOD")
    program = [sys.executable, "-c", "from attnbench.cli import main; main()", *command]
    done = subprocess.run(
        program, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}
    )
    assert done.returncode == 1
    assert re.search(
        r"attnbench: code of another package \(.*leaves_quietly\.py, line 1\) called os\._exit\(0\): that is no result",
        done.stderr,
    )


@pytest.mark.parametrize("kind", ["methods", "models"])
def test_a_narrow_terminal_has_whole_names_and_says_what_is_left_out(
    kind: str, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = command_line("ls", kind)
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "left out because the terminal is too narrow: source"
    assert [line.split()[0] for line in lines[1:-1] if not line.startswith(" ")] == NAMES[kind]()
