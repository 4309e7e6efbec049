"""VBench in an environment of its own: set up, looked at and run as a subprocess. Nothing here imports vbench."""

from __future__ import annotations

from attnbench.vbench.builder import build
from attnbench.vbench.dimensions import DEFAULT_DIMENSIONS, DIMENSIONS, PAPER_DIMENSIONS, Dimension, Weight
from attnbench.vbench.environment import Environment, default_folder, find
from attnbench.vbench.records import DimensionRun, Evaluation, Score
from attnbench.vbench.run import evaluate

__all__ = [
    "DEFAULT_DIMENSIONS",
    "DIMENSIONS",
    "PAPER_DIMENSIONS",
    "Dimension",
    "DimensionRun",
    "Environment",
    "Evaluation",
    "Score",
    "Weight",
    "build",
    "default_folder",
    "evaluate",
    "find",
]
