"""What docs/sweep.md says of measured points."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from attnbench.results.break_even import Curve
from attnbench.results.crossings import BreakEven
from attnbench.results.load import Results, read
from tests.committed import RESULTS

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "break_even_page.py"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_each_setting_and_number_of_heads_has_a_line(page: dict[str, Any]) -> None:
    lines = page["table"](read(RESULTS / "h200" / "480p-video-fwd.jsonl.gz")).splitlines()
    assert lines[0].startswith("| method | heads | faster in GPU time | faster by the wall clock | speed-up at 32,760")
    named = [line.split(" | ")[0].strip("| ") for line in lines[2:]]
    assert named[:2] == ["`vmoba`", "`vmoba` `scope query, select topk`"]
    assert len(set(named)) == len(named) == 5  # full is what they are compared with
    assert all(" | 12 | everywhere | everywhere | " in line for line in lines[2:])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (BreakEven("none"), "–"),
        (BreakEven("faster"), "everywhere"),
        (BreakEven("slower"), "nowhere"),
        (BreakEven("crosses", 9120.4, 8000.0, 10000.0, "above", (9120.4,)), "from 9,120 (8,000 to 10,000)"),
        (BreakEven("crosses", 9120.4, None, 10000.0, "below", (9120.4,)), "up to about 9,120"),
        (BreakEven("several", crossings=(3000.0, 5000.0)), "no one place: 3,000 and 5,000"),
    ],
)
def test_a_break_even_is_said_in_a_few_words(page: dict[str, Any], found: BreakEven, words: str) -> None:
    line = page["_line"]("sta", 3, Curve("sta", 0, (0,), "tokens", (), found), 4096)
    assert line[2:] == (words, "–", "–", "–")


def test_a_method_that_is_faster_within_its_interval_only_is_not_said_to_be_faster(page: dict[str, Any]) -> None:
    place = page["_place"]
    assert (place(BreakEven("faster"), clearly=False), place(BreakEven("slower"), clearly=False)) == (
        "about everywhere", "nowhere",
    )  # fmt: skip


def test_without_points_there_is_a_sentence(page: dict[str, Any]) -> None:
    assert page["table"](Results()) == page["NONE_YET"]
