"""Parse the values of settings that are typed as text."""

from __future__ import annotations

import ast
import json
from typing import Any


def parse_value(text: str) -> Any:
    """Return one value: JSON, a Python literal, or else the text itself."""
    words = {"none": None, "null": None, "true": True, "false": False}
    stripped = text.strip()
    if stripped.lower() in words:
        return words[stripped.lower()]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(stripped)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return stripped
