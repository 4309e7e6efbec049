"""The engine that ``--on`` asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from attnbench.scale.drive import Engine
from attnbench.scale.local import LocalEngine
from attnbench.scale.ray import RayEngine
from attnbench.scale.slurm import SlurmEngine
from attnbench.scale.where import Local, Settings, Slurm


@contextlib.contextmanager
def opened(settings: Settings, folder: Path) -> Iterator[Engine]:
    """Yield the engine with these settings; what it holds is given back in the end.

    Args:
        settings: of ``read_where``.
        folder: of the suite.

    Raises:
        BadInput: if it cannot be used here.
    """
    engine: Engine
    if isinstance(settings, Local):
        engine = LocalEngine.made(settings)
    elif isinstance(settings, Slurm):
        engine = SlurmEngine.made(settings, folder)
    else:
        engine = RayEngine.made(settings)
    try:
        yield engine
    finally:
        engine.close()
