"""`attnbench ls`: the same facts for people and for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from attnbench.cli import ls as listing
from attnbench.cli import main
from attnbench.inputs.shapes import MODELS, RESOLUTIONS
from attnbench.inputs.spec import INPUT_SOURCES
from attnbench.kernels import engines
from attnbench.kernels.errors import BadInput
from attnbench.methods import get_method, method_names

Call = Callable[..., str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def ls(*words: str) -> str:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["attnbench", "ls", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 0
        return capsys.readouterr().out

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


def test_a_plugin_that_cannot_be_loaded_is_listed_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> object:
        if name == "broken":
            raise BadInput("method 'broken' cannot be loaded: ImportError: no")
        return get_method(name)

    monkeypatch.setattr("attnbench.methods.method_names", lambda: ("full", "broken", "sta"))
    monkeypatch.setattr("attnbench.methods.cards.get_method", load)
    listed = {row["name"]: row["keeps"] for row in listing.methods()}
    assert list(listed) == ["full", "broken", "sta"]
    assert listed["broken"] == "unusable: method 'broken' cannot be loaded: ImportError: no"
