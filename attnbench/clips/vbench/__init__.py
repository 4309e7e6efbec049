"""VBench in an environment of its own: set it up, examine it, and run it as a subprocess.

Nothing here imports vbench.
"""

from __future__ import annotations

from attnbench.clips.vbench.builder import build
from attnbench.clips.vbench.dimensions import DEFAULT_DIMENSIONS, DIMENSIONS, PAPER_DIMENSIONS, Dimension, Weight
from attnbench.clips.vbench.environment import Environment, default_folder, find
from attnbench.clips.vbench.evaluation import evaluate
from attnbench.clips.vbench.records import DimensionRun, Evaluation, Score

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
