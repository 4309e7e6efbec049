"""How ``--set`` and ``--method`` are read."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.cli import COMMANDS
from attnbench.cli.groups import group_of_option
from attnbench.cli.lazy import LazyCommands
from attnbench.cli.options import asked_methods
from attnbench.kernels.errors import BadInput
from attnbench.methods.registry import BUILT_IN
from attnbench.methods.values import parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        (" 8 ", 8),
        ("0.25", 0.25),
        ("-1", -1),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("none", None),
        ("null", None),
        ("[3, 6, 8]", [3, 6, 8]),
        ("3,6,8", (3, 6, 8)),
        ("(3, (6, 8), (8, 12, 8))", (3, (6, 8), (8, 12, 8))),
        ("topk", "topk"),
        ('"8"', "8"),
        ("'topk'", "topk"),
        ("", ""),
        ("(3, 6", "(3, 6"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_values_are_json_then_python_then_text(text: str, value: object) -> None:
    read = parse_value(text)
    assert (read, type(read)) == (value, type(value))


@given(st.text(max_size=40))
def test_any_text_is_some_value(text: str) -> None:
    parse_value(text)


def test_absurd_nesting_stays_text() -> None:
    deep = "(" * 5000 + ")" * 5000
    assert parse_value(deep) == deep


def asked(names: list[str] | None, pairs: list[str] | None = None) -> list[tuple[str, dict[str, Any]]]:
    return [(entry.method, entry.settings) for entry in asked_methods(names, pairs)]


def test_settings_go_to_the_method_they_name() -> None:
    assert asked(["moba", "sta"]) == [("moba", {}), ("sta", {})]
    assert asked(["moba"], ["topk=8", "causal=true"]) == [("moba", {"topk": 8, "causal": True})]
    pairs = ["moba.topk=8", "sliding-window.width=3", " moba.blocks = 4"]
    expected = [("moba", {"topk": 8, "blocks": 4}), ("sliding-window", {"width": 3}), ("sta", {})]
    assert asked(["moba", "sliding-window", "sta"], pairs) == expected


def test_the_last_of_equal_settings_counts_and_values_may_hold_equals_signs() -> None:
    assert asked(["moba"], ["topk=8", "topk=9"]) == [("moba", {"topk": 9})]
    assert asked(["vmoba"], ["select=a=b"]) == [("vmoba", {"select": "a=b"})]


def test_one_method_may_come_several_times_with_settings_of_its_own() -> None:
    assert asked(["vmoba", "vmoba:scope=query,select=topk"]) == [
        ("vmoba", {}), ("vmoba", {"scope": "query", "select": "topk"}),
    ]  # fmt: skip
    assert asked(["sta:tile=(2,2,3),window=[1,3,5]", "sta: tile = 1"]) == [
        ("sta", {"tile": (2, 2, 3), "window": [1, 3, 5]}), ("sta", {"tile": 1}),
    ]  # fmt: skip
    assert asked(["vmoba:partition=(3, (6, 8), (8, 12, 8)),select='a,b'"]) == [
        ("vmoba", {"partition": (3, (6, 8), (8, 12, 8)), "select": "a,b"})
    ]


def test_a_setting_goes_to_each_entry_that_does_not_set_it() -> None:
    entries = ["vmoba:topk=3", "vmoba", "vmoba:select=topk", "sta"]
    expected: list[tuple[str, dict[str, Any]]] = [
        ("vmoba", {"topk": 3}), ("vmoba", {"topk": 9}), ("vmoba", {"topk": 9, "select": "topk"}), ("sta", {}),
    ]  # fmt: skip
    assert asked(entries, ["vmoba.topk=9"]) == expected
    assert asked(entries[:2], ["topk=9"]) == expected[:2]
    assert asked(["vmoba", "vmoba:topk=9", "vmoba:topk=9"], ["topk=9"]) == [("vmoba", {"topk": 9})]


@pytest.mark.parametrize("text", ["vmoba:", "vmoba:topk", "vmoba:=3", "vmoba:topk=3,,select=topk"])
def test_an_entry_that_cannot_be_read_is_quoted(text: str) -> None:
    with pytest.raises(BadInput, match=f"method {re.escape(repr(text))}: .* must be setting=value"):
        asked([text])


@pytest.mark.parametrize(
    ("pair", "methods", "said"),
    [
        ("topk", ["moba"], "--set 'topk' must be name=value or method.name=value"),
        ("=8", ["moba"], "--set '=8' must be"),
        ("moba.=8", ["moba"], "--set 'moba.=8' must be"),
        ("topk=8", ["moba", "vmoba"], "names no method and 2 are run: write METHOD.topk"),
        ("sta.tile=8", ["moba"], "is for method 'sta', which is not run; run: moba"),
    ],
)
def test_settings_that_belong_nowhere_are_quoted(pair: str, methods: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        asked(methods, [pair])


def test_methods_are_those_asked_for_each_once_or_the_built_in_ones() -> None:
    assert [name for name, _ in asked(["sta", "moba", "sta"])] == ["sta", "moba"]
    assert [name for name, _ in asked(None)] == ["full", "moba", "vmoba", "sliding-window", "sta"]
    assert [name for name, _ in asked(["all"])] == list(BUILT_IN)
    assert asked(["sta:tile=1", "all"], ["moba.topk=8"])[0] == ("sta", {"tile": 1})
    assert ("moba", {"topk": 8}) in asked(["all"], ["moba.topk=8"])
    with pytest.raises(BadInput, match=r"unknown method 'mob': did you mean 'moba'\?"):
        asked(["sta", "mob"])


@pytest.mark.parametrize("command", COMMANDS)
def test_no_word_of_a_help_is_taken_for_a_style(command: str) -> None:
    """rich reads "[history]" as a style and prints nothing for it, unless the bracket is escaped."""
    home = importlib.import_module(f"attnbench.cli.{command}")
    functions = [each for _, each in inspect.getmembers(home, inspect.isfunction) if each.__module__ == home.__name__]
    assert functions
    for function in functions:
        assert not re.findall(r"(?<!\\)\[[a-z#/@]+\]", function.__doc__ or ""), function.__name__


def test_every_option_is_in_a_group_of_the_help() -> None:
    for name, command in LazyCommands(COMMANDS).items():
        for each in getattr(command, "commands", {"": command}).values():
            words = [max(option.opts, key=len) for option in each.params if option.param_type_name == "option"]
            assert [word for word in words if word != "--help" and group_of_option(word) is None] == [], name


def test_what_takes_long_can_be_quiet_and_shapes_are_said_alike() -> None:
    for name, command in LazyCommands(COMMANDS).items():
        words = {word for parameter in getattr(command, "params", ()) for word in parameter.opts}
        if name not in ("ls", "show", "doctor", "vbench"):  # of vbench, run takes long
            assert "--quiet" in words, name
        if {"--res", "--frames"} <= words:
            assert {"--height", "--width"} <= words, name
            assert "--text-tokens" in words or name == "capture", name  # the model's own text is captured
