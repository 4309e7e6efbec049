"""The prompts of clips: lines of a file, or a class and a direction for the mini model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnbench.inputs.files import read_named
from attnbench.kernels.errors import BadInput
from attnbench.mini.prompts import class_prompts
from attnbench.models.prompt_text import check_text


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a text file, one per line. Empty lines are skipped.

    Raises:
        BadInput: if it cannot be read, or holds no prompt.
    """
    try:
        text = read_named(path).decode("utf-8-sig")  # without the mark that some editors put first
    except UnicodeDecodeError as error:
        raise BadInput(f"prompts {str(path)!r} are not text in UTF-8; give one prompt per line") from error
    except OSError as error:
        raise BadInput(f"prompts {str(path)!r} cannot be read: {error.strerror}") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise BadInput(f"prompts {str(path)!r} are empty; give one prompt per line")
    return prompts


def check_prompts(prompts: list[str]) -> None:
    """Refuse prompts that are empty, not text, or repeated: clips are identified by prompt and seed.

    Raises:
        BadInput: quoting the prompt.
    """
    for place, prompt in enumerate(prompts):
        if not prompt.strip():
            raise BadInput(f"prompt number {place + 1} is empty; say what the clip should show")
        check_text(prompt)
        if prompt in prompts[:place]:
            raise BadInput(f"prompt {prompt!r} is given twice; give it once, and raise --seeds for more clips of it")


def asked_prompts(model: str, given: Sequence[str] | None, file: Path | None, classes: str | None) -> list[str]:
    """Return the prompts that were asked for in one of three ways; none if in no way.

    Args:
        model: that makes the clips.
        given: prompts as typed.
        file: with a prompt a line.
        classes: of the mini model, as "3,circle:west" or "all".

    Raises:
        BadInput: for more than one way, a file that cannot be read, classes of another model, or an unknown class.
    """
    if sum(each is not None for each in (given, file, classes)) > 1:
        raise BadInput("give prompts in one way: --prompt, --prompts or --classes")
    if classes is not None and model != "mini":
        raise BadInput(f"--classes {classes!r} is for the mini model; {model!r} takes --prompt or --prompts")
    if classes is not None:
        return class_prompts(classes)
    return read_prompts(file) if file is not None else list(given or ())
