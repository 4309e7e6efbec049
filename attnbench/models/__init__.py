"""Methods inside real models: load a model, and replace its self-attention."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.models.loaded import Loaded
    from attnbench.models.weights import load

MODEL_NAMES = ("wan", "hunyuan", "cogvideox", "ltx", "mochi")
"""Names of the model families that ``load`` and the command line accept."""

_HOMES = {"load": "attnbench.models.weights", "Loaded": "attnbench.models.loaded"}

__all__ = ["MODEL_NAMES", "Loaded", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'attnbench.models' has no attribute {name!r}")
