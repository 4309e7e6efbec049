"""What clips are asked to show: lines of a file, or a class and a direction of the mini model."""

from __future__ import annotations

from pathlib import Path

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.models.prompts import check_text

_TURN = 3
"""Directions between one class and the next, where none is asked for: prime to 8, so that all come up."""


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a text file, one a line; empty lines are left out.

    Raises:
        BadInput: if it cannot be read, or holds no prompt.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # without the mark that some editors put first
    except UnicodeDecodeError as error:
        raise BadInput(f"prompts {str(path)!r} are not text in UTF-8; give one prompt a line") from error
    except OSError as error:
        raise BadInput(f"prompts {str(path)!r} cannot be read: {error.strerror}") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise BadInput(f"prompts {str(path)!r} are empty; give one prompt a line")
    return prompts


def check_prompts(prompts: list[str]) -> None:
    """Refuse prompts that are empty, no text, or come twice: clips are told apart by prompt and seed.

    Raises:
        BadInput: quoting the prompt.
    """
    for place, prompt in enumerate(prompts):
        if not prompt.strip():
            raise BadInput(f"prompt number {place + 1} is empty; say what the clip shall show")
        check_text(prompt)
        if prompt in prompts[:place]:
            raise BadInput(f"prompt {prompt!r} comes twice; give each once, and more --seeds for more clips of it")


def mini_prompt(text: str) -> tuple[str, int, int]:
    """Read a prompt of the mini model, as "3 moving north-east"; "moving" may be left out.

    Returns:
        The prompt as it is recorded, and the places of class and direction in CLASSES and DIRECTIONS.

    Raises:
        BadInput: if it is no class and direction, with the closest names.
    """
    words = [word for word in text.lower().split() if word != "moving"]
    if len(words) != 2:
        raise BadInput(f"prompt {text!r} must be a class and a direction for the mini model, as '3 moving north-east'")
    return _mini(*words)


def class_prompts(text: str) -> list[str]:
    """Return the prompts of classes with commas between them, as "3,circle:north", or of "all" fifteen.

    A class without a direction gets one by its place among the classes.

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
