"""Options that have a new name: the old one works for one more version, and says what to type instead."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType

_LAYERS = {"--layer": "--layers"}

OLD_WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("run", "profile", "sweep", "calibrate", "gate", "flops", "show"), _LAYERS),
        "clips": {"--steps": "--sampler-steps", "--dense-layer": "--dense-layers"},
        "train": {"--steps": "--train-steps"},
        "compare": {"--seed": "--seeds"},
    }
)
"""By command: the old word, and the one that took its place."""


class OldWord(UserWarning):
    """An option was given by a name that goes with the next version."""


def in_new_words(command: str, typed: Sequence[str]) -> list[str]:
    """Return the words after a command with each old option by its new name.

    Warns:
        OldWord: for each old name.
    """
    known, words = OLD_WORDS.get(command, {}), list(typed)
    for place, word in enumerate(words):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name in known:
            warnings.warn(
                f"{name} of {command} is now {known[name]}; the old name goes with the next version",
                OldWord,
                stacklevel=2,
            )
            words[place] = f"{known[name]}{equals}{value}"
    return words
