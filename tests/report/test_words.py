from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.report.gap_words import estimate_words
from attnbench.report.words import (
    differing_settings,
    file_name,
    file_stem,
    kinds_words,
    latency,
    number,
    short_settings,
    shortened,
    times,
    tiny,
    two_lines,
    with_interval,
)
from attnbench.results.means import Estimate

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


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((11.987, 13.0), ("12.3", "[12.0, 13.0]")),
        ((12.332, 12.352), ("12.34", "[12.33, 12.35]")),
        ((12.3399, 12.3401), ("12.3400", "[12.3399, 12.3401]")),
        ((12.34, 12.34 + 1e-13), ("12.3", "[12.3, 12.3]")),
        ((12.34, 12.34), ("12.3", "[12.3, 12.3]")),
        ((2.0, 30.0), ("12.3", "[2.0, 30.0]")),
        ((None, 13.0), ("12.3", "")),
    ],
)
def test_digits_follow_the_interval(
    ends: tuple[float | None, float | None], text: tuple[str, str], row_of: Maker
) -> None:
    assert latency(row_of(latency_ms=12.34, latency_lo_ms=ends[0], latency_hi_ms=ends[1])) == text
    assert latency(row_of(verdict="oom")) == ("–", "")


@given(st.floats(1e-6, 1e6), st.floats(1e-5, 0.5), st.floats(1e-5, 0.5))
def test_ends_that_differ_are_written_differently(value: float, below: float, above: float) -> None:
    low, high = value * (1 - below), value * (1 + above)
    written, ends = with_interval(value, low, high)
    lo, hi = (float(end.replace(",", "")) for end in ends.strip("[]").split(", "))
    assert lo < hi
    assert abs(float(written.replace(",", "")) - value) <= 0.51 * (high - low)
    assert len({len(text.partition(".")[2]) for text in (written, *ends.strip("[]").split(", "))}) == 1


@pytest.mark.parametrize(
    ("estimate", "signed", "text"),
    [
        (Estimate(30.9123, 30.91, 30.916, "bootstrap95", 8), False, "30.912 [30.910, 30.916]"),
        (Estimate(0.9912, None, None, None, 1), False, "0.991"),
        (Estimate(-0.12345, -0.13, -0.11, "bootstrap95", 8), True, "−0.123 [−0.130, −0.110]"),
        (Estimate(2e-6, 1e-6, 3e-6, "min-max", 3), False, "2.0e-06 (1.0e-06, 3.0e-06)"),
    ],
)
def test_estimates_are_written_by_the_same_rule(estimate: Estimate, signed: bool, text: str) -> None:
    assert estimate_words(estimate, signed=signed) == text


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


def test_long_names_keep_both_their_ends() -> None:
    names = [f"vmoba · scope query, select topk, threshold 0.25, topk {k}" for k in ("2×6×12", "3×15×30")]
    assert [shortened(name, 24) for name in names] == ["vmoba · sco… topk 2×6×12", "vmoba · sco…topk 3×15×30"]
    assert shortened("vmoba", 5) == "vmoba"
    for most in range(1, 60):
        assert len(shortened(names[0], most)) == most if most < len(names[0]) else shortened(names[0], most) == names[0]
        lines = two_lines(names[0], most)
        assert len(lines) <= 2
        assert all(len(line) <= most for line in lines)
    assert two_lines(names[0], 40) == ["vmoba · scope query, select topk,", "threshold 0.25, topk 2×6×12"]


def test_file_names_are_plain_words() -> None:
    assert file_name("waterfall", "720p", "vmoba · tile 6×8×8, layer 0") == "waterfall-720p-vmoba-tile-6x8x8-layer-0"
    assert re.fullmatch(r"[\w.-]{1,120}", file_name("a" * 500, "<b>../../c"))


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("0×10, 1×10, 2×10", "30 layers, 10 each like layers 0, 1 and 2"),
        ("0×1, 1×1", "layers 0 and 1"),
        ("0×1, 5×29", "30 layers, 1 like layer 0 and 29 like layer 5"),
        ("3×30", "layer 3"),
    ],
)
def test_layers_of_a_mean_are_told_in_words(layers: str, words: str) -> None:
    assert kinds_words(layers) == words
