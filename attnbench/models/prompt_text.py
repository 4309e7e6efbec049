"""Checks of prompts that apply to every model."""

from __future__ import annotations

from attnbench.kernels.errors import BadInput


def check_text(prompt: object) -> None:
    """Refuse a prompt that is not valid text, for example because it was typed in another encoding than the terminal's.

    Raises:
        BadInput: quoting the prompt.
    """
    if not isinstance(prompt, str):
        raise BadInput(f"prompt {prompt!r} must be one text")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"prompt {prompt!r} is not text in UTF-8") from error
