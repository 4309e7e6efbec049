"""How ``--set`` and ``--method`` are read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.cli.options import parse_settings, unique_methods
from attnbench.kernels.errors import BadInput
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


def test_settings_go_to_the_method_they_name() -> None:
    assert parse_settings(None, ["moba", "sta"]) == {"moba": {}, "sta": {}}
    assert parse_settings(["topk=8", "causal=true"], ["moba"]) == {"moba": {"topk": 8, "causal": True}}
    pairs = ["moba.topk=8", "sliding-window.width=3", " moba.blocks = 4"]
    expected: dict[str, Any] = {"moba": {"topk": 8, "blocks": 4}, "sliding-window": {"width": 3}, "sta": {}}
    assert parse_settings(pairs, ["moba", "sliding-window", "sta"]) == expected


def test_the_last_of_equal_settings_counts_and_values_may_hold_equals_signs() -> None:
    assert parse_settings(["topk=8", "topk=9"], ["moba"]) == {"moba": {"topk": 9}}
    assert parse_settings(["select=a=b"], ["vmoba"]) == {"vmoba": {"select": "a=b"}}


@pytest.mark.parametrize(
    ("pair", "methods", "said"),
    [
        ("topk", ["moba"], "--set 'topk' must be name=value or method.name=value"),
        ("=8", ["moba"], "--set '=8' must be"),
        ("moba.=8", ["moba"], "--set 'moba.=8' must be"),
        ("topk=8", ["moba", "vmoba"], "names no method and 2 are run: write METHOD.topk=8"),
        ("sta.tile=8", ["moba"], "is for method 'sta', which is not run; run: moba"),
    ],
)
def test_settings_that_belong_nowhere_are_quoted(pair: str, methods: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_settings([pair], methods)


def test_methods_are_those_asked_for_each_once_or_the_built_in_ones() -> None:
    assert unique_methods(["sta", "moba", "sta"]) == ["sta", "moba"]
    assert unique_methods(None) == unique_methods([]) == ["full", "moba", "vmoba", "sliding-window", "sta"]
    with pytest.raises(BadInput, match=r"unknown method 'mob': did you mean 'moba'\?"):
        unique_methods(["sta", "mob"])
