from __future__ import annotations

import itertools

from attnbench.methods.registry import BUILT_IN
from attnbench.report.flag_words import FLAG_WORDS
from attnbench.report.marks import _NAMES, _RESERVED, COLOURS, INK, MARKERS, mark_of
from attnbench.results.records.cells import FLAGS


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: str, other: str) -> float:
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_every_built_in_method_has_a_mark_of_its_own() -> None:
    marks = [mark_of(name) for name in {*BUILT_IN, *_NAMES}]
    assert len(set(marks)) == len(marks)
    assert set(BUILT_IN) <= {*_NAMES, "full"}
    assert len(_NAMES) <= _RESERVED


def test_a_mark_depends_on_the_name_alone() -> None:
    assert mark_of("vmoba") == mark_of("vmoba")
    assert mark_of("somebody's method") == mark_of("somebody's method")
    built_in = {mark_of(name) for name in _NAMES}
    assert not {mark_of(f"plugin-{number}") for number in range(200)} & built_in


def test_neighbours_differ_in_colour_and_marker() -> None:
    for one, other in itertools.pairwise(map(mark_of, _NAMES)):
        assert one.colour != other.colour
        assert one.marker != other.marker
    assert len(set(MARKERS)) == len(MARKERS)


def test_colours_can_be_read_on_their_ground() -> None:
    for light, dark in (*COLOURS, INK):
        assert _contrast(light, "#ffffff") >= 4.5
        assert _contrast(dark, "#14181d") >= 4.5


def test_every_flag_has_words_of_its_own() -> None:
    assert {each.name for each in FLAG_WORDS} == set(FLAGS)
    for words in zip(*((each.badge, each.meaning, each.said) for each in FLAG_WORDS), strict=True):
        assert len(set(words)) == len(FLAG_WORDS)
