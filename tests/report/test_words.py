from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.report.words import differing_settings, file_stem, number, short_settings, span, times, tiny

Maker = Callable[..., Any]


@given(st.floats(1e-9, 1e9))
def test_number_is_within_half_a_unit_of_the_third_digit(value: float) -> None:
    written = float(number(value).replace(",", ""))
    assert abs(written - value) <= max(0.00501 * value, 0.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.01234, "0.0123"), (1.0, "1.00"), (12.34, "12.3"), (812.4, "812"), (28400.0, "28,400")],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_small_errors_are_written_as_powers_of_ten_and_large_ones_are_not() -> None:
    assert [tiny(value) for value in (None, 0.0, 1.3e-7, 0.0021, 0.31)] == ["–", "0", "1.3e-07", "0.00210", "0.310"]


def test_a_ratio_has_a_sign_and_a_missing_one_does_not() -> None:
    assert times(2.944) == "2.94×"
    assert times(None) == "–"


def test_the_interval_has_the_decimals_of_the_median(row_of: Maker) -> None:
    assert span(row_of(latency_ms=12.34, latency_lo_ms=11.987, latency_hi_ms=13.0)) == "[12.0, 13.0]"
    assert span(row_of(latency_ms=12.34, latency_lo_ms=None)) == ""
    assert span(row_of(verdict="oom")) == ""


def test_settings_are_written_in_words() -> None:
    settings = {
        "partition": [3, [9, 10], [7, 15, 20]],
        "scope": "head",
        "share": 0.25,
        "topk": None,
        "causal": False,
    }
    assert short_settings(json.dumps(settings)) == "partition 3 | 9×10 | 7×15×20, scope head, share 0.25, causal no"
    assert short_settings("{}") == ""


@given(st.text(max_size=200), st.integers(2, 40))
def test_any_text_is_cut_to_size(text: str, most: int) -> None:
    assert len(short_settings(text, most)) <= most


def test_only_settings_that_differ_are_told() -> None:
    three, five = '{"tile":[6,8,8],"window":[3,3,3]}', '{"tile":[6,8,8],"window":[5,5,5]}'
    assert differing_settings(three, [three, five]) == "window 3×3×3"
    assert differing_settings(three, [three, three]) == ""


@given(st.text())
def test_a_run_id_becomes_one_safe_file_name(run_id: str) -> None:
    stem = file_stem(run_id)
    assert stem
    assert not set(stem) & set('/\\ \0\n<>:"|?*')
    assert stem not in (".", "..")
    assert not stem.startswith(".")
