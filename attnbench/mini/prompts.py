"""Prompts of the mini model: a class and a direction."""

from __future__ import annotations

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.mini.data import CLASSES, DIRECTIONS

_TURN = 3
"""Directions between one class and the next if none is asked for: coprime to 8, so that all occur."""


def mini_prompt(text: str) -> tuple[str, int, int]:
    """Read a prompt of the mini model, such as "3 moving north-east". "moving" may be left out.

    Returns:
        The prompt as it is recorded, and the indices of class and direction in CLASSES and DIRECTIONS.

    Raises:
        BadInput: if it is not a class and a direction; the message names the closest ones.
    """
    words = [word for word in text.lower().split() if word != "moving"]
    if len(words) != 2:
        raise BadInput(
            f"prompt {text!r} must be a class and a direction for the mini model, like '3 moving north-east'"
        )
    return _mini(*words)


def class_prompts(text: str) -> list[str]:
    """Return the prompts of a list of classes such as "3,circle:north", or of "all" fifteen.

    A class without a direction gets one that follows from its label.

    Raises:
        BadInput: for an unknown class or direction.
    """
    parts = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not parts:
        raise BadInput(f"--classes {text!r} names no class; known: {', '.join(CLASSES)}, or all")
    prompts = []
    for part in CLASSES if parts == ["all"] else parts:
        name, colon, direction = part.partition(":")
        if name not in CLASSES:
            raise unknown_name("class", name, CLASSES)
        prompts.append(
            _mini(name, direction if colon else DIRECTIONS[_TURN * CLASSES.index(name) % len(DIRECTIONS)])[0]
        )
    return prompts


def _mini(name: str, direction: str) -> tuple[str, int, int]:
    for kind, given, known in (("class", name, CLASSES), ("direction", direction, DIRECTIONS)):
        if given not in known:
            raise unknown_name(kind, given, known)
    return f"{name} moving {direction}", CLASSES.index(name), DIRECTIONS.index(direction)
