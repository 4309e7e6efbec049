"""The interface of everything that makes clips, whatever the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from attnbench.api import select
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.metrics import Metric
from attnbench.clips.request import NO_FLOOR, ClipsRequest, Shot
from attnbench.kernels.engines import Task, dense_engines, get_engine
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid, whole_number
from attnbench.models.warm_up import DENSE_SHARE, dense_steps

AfterStep = Callable[[int], object]
"""Called with the number of each finished denoising step."""


@dataclass(frozen=True, slots=True)
class Take:
    """A clip that was made.

    Attributes:
        clip: its frames.
        engine: who ran the plans.
        settings: canonical JSON of the method's settings, defaults filled in.
        densities: mean density by layer; None where the method never ran.
    """

    clip: Clip
    engine: str
    settings: str = "{}"
    densities: tuple[float | None, ...] = ()


class Maker(Protocol):
    """A model with its weights.

    Attributes:
        model: its name.
        weights: where they came from.
        weights_path: the file or folder they were read from.
        steps: number of denoising steps of a clip.
        dense_steps: how many of the first steps always run the exact kernel, also for methods and the kernel floor.
        dtype: the dtype of matrix products and attention.
        device: "cpu" or "cuda".
        exact_engine: who runs full attention.
        floor_engine: another exact kernel, for the kernel floor; None for no floor.
        metrics: the metrics that can be taken of the clips.
    """

    model: str
    weights: str
    weights_path: Path
    steps: int
    dense_steps: int
    dtype: str
    device: str
    exact_engine: str
    floor_engine: str | None
    metrics: tuple[Metric, ...]

    def make(self, shot: Shot, after_step: AfterStep) -> Take:
        """Make a clip.

        Raises:
            BadInput: if the frames hold NaN, or the settings do not fit.
            Unsupported: if the engine cannot run the plan.
        """
        ...

    def passes(self, shot: Shot) -> int:
        """Return how many steps of the clip will be computed, which is what progress counts."""
        ...


def dense_of(request: ClipsRequest, steps: int) -> int:
    """Return how many steps are dense: what was asked for, by default a quarter.

    Raises:
        BadInput: if it is neither a number of steps nor a share, or leaves no step to the methods.
    """
    asked = DENSE_SHARE if request.dense_steps is None else request.dense_steps
    number = whole_number(asked)
    if (number is None and not 0 <= asked < 1) or (number is not None and number < 0):
        raise BadInput(f"dense steps {asked!r} must be a whole number of at least 0, or a share below 1 such as 0.25")
    chosen = dense_steps(steps, asked) if number is None else number
    if chosen >= steps:
        raise BadInput(f"dense steps {chosen} leave none of {steps} steps to the methods")
    return chosen


def layers_of(request: ClipsRequest, layers: int) -> frozenset[int]:
    """Return the layers that stay dense.

    Raises:
        BadInput: for a layer that the model does not have, or if no layer is left.
    """
    for layer in request.dense_layers:
        if not 0 <= layer < layers:
            raise BadInput(f"dense layer {layer} does not exist; the model's layers are 0 to {layers - 1}")
    chosen = frozenset(request.dense_layers)
    if len(chosen) == layers:
        raise BadInput(f"all {layers} layers are dense: the methods would never run")
    return chosen


def floor_of(request: ClipsRequest, exact: str, dense: str, q: Tensor, grid: Grid) -> str | None:
    """Return the engine of the kernel floor: what was asked for, by default the first that works; None for no floor.

    Args:
        request: what was asked for.
        exact: the engine of the exact clips.
        dense: the engine that ``exact`` is built on. It makes the floor only if it was asked for.
        q: zeros of the model's heads, dtype and device.
        grid: the tokens of q.

    Raises:
        BadInput: if it is the engine of the exact clips.
        Unsupported: if it is not available, or cannot run full attention.
    """
    if request.floor_engine == NO_FLOOR:
        return None
    plan, task = select(q, q, method="full", grid=grid), Task.of(q, q, q)
    if request.floor_engine in (None, "auto"):
        others = (name for name in dense_engines() if name != dense)
        return next((name for name in others if get_engine(name).lacks(plan, task) is None), None)
    if request.floor_engine == exact:
        raise BadInput(f"floor engine {exact!r} also makes the exact clips: name another exact engine, or none")
    engine = get_engine(request.floor_engine)
    if problem := engine.lacks(plan, task):
        raise Unsupported(f"floor engine {engine.name!r} cannot make the kernel floor: it {problem}")
    return engine.name
