from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import attnbench
from attnbench.kernels import plugins
from attnbench.kernels.errors import BadInput
from attnbench.methods import Method, check_method, get_method, method_names, registry
from attnbench.methods.registry import BUILT_IN

GROUP = "attnbench.methods"
Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Pretend that packages are installed which register the given methods: names and values of entry points."""

    def forget() -> None:
        registry._third_party.cache_clear()
        get_method.cache_clear()

    def pretend(*pairs: tuple[str, str]) -> None:
        points = [EntryPoint(name, value, GROUP) for name, value in pairs]
        monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == GROUP else [])
        forget()

    forget()
    yield pretend
    forget()


@dataclass(frozen=True)
class Some:
    some: int = 3


def method(settings: Any = Some) -> Method:
    return replace(get_method("full"), name="mine", settings=settings)


def test_built_in_methods_come_first_and_under_their_names(register: Register) -> None:
    register(("abacus", "x:METHOD"), ("zebra", "y:METHOD"))
    assert method_names()[: len(BUILT_IN)] == tuple(BUILT_IN)
    assert {"full", "moba", "vmoba", "sliding-window", "sta"} <= BUILT_IN.keys()
    assert method_names()[len(BUILT_IN) :] == ("abacus", "zebra")
    for name in BUILT_IN:
        assert get_method(name).name == name


def test_every_built_in_method_names_its_source() -> None:
    for name in registry.BUILT_IN:
        found = get_method(name)
        assert found.summary
        assert "\n" not in found.summary
        assert found.source.title
        assert found.source.url.startswith("https://")
        assert found.source.section


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="unknown method 'vmoab': did you mean 'vmoba'"):
        get_method("vmoab")


def test_reserved_names_are_the_arguments_of_attention() -> None:
    parameters = inspect.signature(attnbench.attention).parameters.values()
    assert {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} == registry.RESERVED
    for parameter in inspect.signature(attnbench.select).parameters.values():
        assert parameter.kind is parameter.VAR_KEYWORD or parameter.name in registry.RESERVED


@pytest.mark.parametrize("name", sorted(registry.RESERVED))
def test_a_setting_that_could_not_be_passed_is_refused(name: str) -> None:
    settings: Any = dataclass(frozen=True)(type("Settings", (), {"__annotations__": {name: int}, name: 0}))
    with pytest.raises(BadInput, match=f"method 'mine' has a setting '{name}', which is an argument of attnbench.atte"):
        check_method("mine", method(settings=settings))


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(BadInput, match=r"method 'mine' is a dict; it must be an attnbench\.methods\.Method"):
        check_method("mine", {"name": "mine"})
    assert check_method("mine", method()).settings is Some


def test_a_method_must_go_by_its_name() -> None:
    with pytest.raises(BadInput, match="method 'yours' calls itself 'mine'; the two names must be the same"):
        check_method("yours", method())


@dataclass
class Melting:
    some: int = 3


class Plain:
    some: int = 3


@dataclass(frozen=True)
class Required:
    some: int


@pytest.mark.parametrize("settings", [Melting, Plain, dict, Some(), Melting()])
def test_settings_must_be_a_frozen_dataclass(settings: type) -> None:
    with pytest.raises(BadInput, match="the settings of method 'mine' must be a frozen dataclass"):
        check_method("mine", method(settings=settings))


def test_every_setting_needs_a_default() -> None:
    with pytest.raises(BadInput, match="setting 'some' of method 'mine' needs a default"):
        check_method("mine", method(settings=Required))

    @dataclass(frozen=True)
    class Made:
        some: tuple[int, ...] = field(default_factory=tuple)

    assert check_method("mine", method(settings=Made)).settings is Made


def test_a_name_that_two_packages_claim_is_refused_only_where_it_is_asked_for(register: Register) -> None:
    register(("twice", "one_package:METHOD"), ("twice", "another:METHOD"), ("once", "one_package:OTHER"))
    assert method_names()[len(BUILT_IN) :] == ("once", "twice")
    with pytest.raises(
        BadInput, match="two methods are named 'twice': one_package:METHOD and another:METHOD; uninstall"
    ):
        get_method("twice")
    register(("sta", "one_package:METHOD"))
    assert method_names() == tuple(BUILT_IN)
    assert get_method("sta").name == "sta"
    assert "attnbench.methods.sta:METHOD and one_package:METH" in registry.name_problems()["sta"]
    register(("twice", "one_package:METHOD"), ("twice", "one_package:METHOD"))  # the same one found on two paths
    assert method_names()[len(BUILT_IN) :] == ("twice",)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'broken_plugin'"),
        ("METHOD = 1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ImportError('needs a library\\n\\n  version 2 or newer')",
         "ImportError: needs a library version 2 or newer"),
        ("METHODS = []", "AttributeError: module 'broken_plugin' has no attribute 'METHOD'"),
    ],
)  # fmt: skip
def test_a_package_that_cannot_be_imported_is_named_in_one_sentence(
    source: str | None, reason: str, register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source is not None:
        (tmp_path / "broken_plugin.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "broken_plugin", raising=False)
    register(("broken", "broken_plugin:METHOD"))
    assert "broken" in method_names()  # listing names imports nothing
    with pytest.raises(BadInput) as caught:
        get_method("broken")
    assert str(caught.value) == f"method 'broken' (broken_plugin:METHOD) cannot be loaded: {reason}"


def test_a_registered_object_is_checked(register: Register) -> None:
    register(("broken", "json:dumps"))
    with pytest.raises(BadInput, match="method 'broken' is a function; it must be an attnbench"):
        get_method("broken")
