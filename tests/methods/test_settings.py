from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import get_method, make_settings
from attnbench.methods.registry import BUILT_IN


def test_published_defaults() -> None:
    defaults = {name: asdict(get_method(name).settings()) for name in BUILT_IN}
    assert defaults["full"] == {}
    assert defaults["sliding-window"] == {"window": None, "width": None}
    assert defaults["sta"] == {"tile": (6, 8, 8), "window": (3, 3, 3)}
    assert defaults["moba"] == {"blocks": None, "block_size": None, "topk": 15, "causal": False}
    assert defaults["vmoba"] == {
        "partition": None, "select": "threshold", "scope": "head", "threshold": 0.25, "topk": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "setting", "value", "wanted"),
    [
        *(("vmoba", "threshold", value, "a number above 0 and at most 1")
          for value in (0, 0.0, -0.1, 1.5, "a", True, None, float("nan"), float("inf"), [0.5])),
        *(("vmoba", "topk", value, "a whole number of at least 1") for value in (0, -1, 2.0, "3", True)),
        *(("vmoba", "topk", value, "3 whole numbers of at least 1") for value in ((1, 2), [1, 2, 0], (1, 2, 3, 4), ())),
        *(("vmoba", "select", value, "one of threshold, topk") for value in ("best", None, 1)),
        *(("vmoba", "scope", value, "one of head, query") for value in ("heads", "global", True)),
        *(("vmoba", "partition", value, "three blocks in the order 1-D, 2-D, 3-D, such as (3, (6, 8), (8, 12, 8))")
          for value in (3, "3", (3, (6, 8)), (3, (6, 8), (8, 12)), ((6, 8), 3, (8, 12, 8)), (0, (6, 8), (8, 12, 8)),
                        (3, (6, -8), (8, 12, 8)), (3, (6, 8), (8, 12, 8.0)), (3, (6, 8), (8, True, 8)),
                        ((3, 3), (6, 8), (8, 12, 8)), {"1d": 3})),
        *(("moba", "topk", value, "a whole number of at least 1") for value in (0, -3, 1.5, "2", True, None, [3])),
        *(("moba", "blocks", value, "a whole number of at least 1") for value in (0, 2.5, "60", False)),
        *(("moba", "block_size", value, "a whole number of at least 1") for value in (0, -1, True)),
        *(("moba", "causal", value, "true or false") for value in ("yes", 1, None)),
        *(("sta", name, value, "3 whole numbers of at least 1") for name in ("tile", "window")
          for value in ((1, 2), (0, 3, 3), (-1, 3, 3), (3, 3, 3.0), "3,3,3", 3, None, (True, 3, 3))),
        *(("sliding-window", "window", value, "3 whole numbers of at least 0")
          for value in ((1, 2), (-1, 0, 0), (1, 2, 3, 4), "1", 7, (0.5, 1, 1))),
        *(("sliding-window", "width", value, "a whole number of at least 0") for value in (-1, 1.0, "9", True, (3,))),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_quoted(method: str, setting: str, value: object, wanted: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_settings(get_method(method), {setting: value})
    assert str(caught.value).startswith(f"{setting} is {value!r}; it must be {wanted}")


@pytest.mark.parametrize(
    ("method", "setting", "answer"),
    [
        ("vmoba", "treshold", "unknown setting of 'vmoba' 'treshold': did you mean 'threshold'?"),
        ("sta", "windows", "unknown setting of 'sta' 'windows': did you mean 'window'? known: tile, window"),
        ("moba", "zzz", "unknown setting of 'moba' 'zzz': known: block_size, blocks, causal, topk"),
        ("full", "topk", "unknown setting 'topk': method 'full' has no settings"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest(method: str, setting: str, answer: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_settings(get_method(method), {setting: 1})
    assert str(caught.value).startswith(answer)


def test_a_window_has_one_form() -> None:
    with pytest.raises(BadInput, match=r"window is \(1, 1, 1\) and width is 3; give one of them"):
        make_settings(get_method("sliding-window"), {"window": (1, 1, 1), "width": 3})
    with pytest.raises(BadInput, match=r"width is 0; give one of them"):
        make_settings(get_method("sliding-window"), {"window": (1, 1, 1), "width": 0})


@pytest.mark.parametrize(
    ("method", "given_settings"),
    [
        ("full", {}),
        ("moba", {}),
        ("moba", {"block_size": 7, "topk": 3, "causal": True}),
        ("vmoba", {}),
        ("vmoba", {"select": "topk"}),
        ("vmoba", {"partition": (2, (3, 4), (2, 3, 4)), "topk": (1, 2, 3), "select": "topk", "threshold": 1}),
        ("sliding-window", {}),
        ("sliding-window", {"width": 0}),
        ("sta", {"tile": (1, 2, 3), "window": (1, 3, 5)}),
    ],
)
def test_settings_survive_json(method: str, given_settings: dict[str, Any]) -> None:
    """Results store settings as JSON, which knows lists but no tuples."""
    chosen, layout = get_method(method), Layout(Grid(7, 9, 11), (3, 0))
    resolved = chosen.resolve(make_settings(chosen, given_settings), layout)
    read = make_settings(chosen, json.loads(json.dumps(asdict(resolved))))
    assert read == resolved
    assert hash(read) == hash(resolved)
    assert chosen.resolve(read, layout) == resolved


def test_one_frame_count_may_stand_in_brackets() -> None:
    method = get_method("vmoba")
    assert make_settings(method, {"partition": [[3], [6, 8], [8, 12, 8]]}).partition == (3, (6, 8), (8, 12, 8))
