"""Packages that only some engines need: they are imported when one is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from attnbench.kernels.errors import BadInput


def need(package: str, extra: str) -> Any:
    """Return a package of an extra.

    Raises:
        BadInput: saying how to get it, if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != package:
            raise BadInput(f"--on {extra}: {package} cannot be imported: {error}") from error
        raise BadInput(f"--on {extra} needs {package}: pip install 'attnbench[{extra}]'") from None
