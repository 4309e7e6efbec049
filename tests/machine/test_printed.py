"""The last words of a program can stand in a sentence."""

from __future__ import annotations

import pytest

from attnbench.machine.printed import last_words


@pytest.mark.parametrize(
    ("printed", "words"),
    [("", ""), ("one\n two \n\n", "two"), ("\x1b[31mred\x07\n", "[31mred"), ("x" * 900, "x" * 300)],
)
def test_last_words(printed: str, words: str) -> None:
    assert last_words(printed) == words
