"""Capture q, k and v of a model that the caller runs: any that ``attnbench.patch`` takes, by whatever pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from attnbench.api import attention
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import whole_number
from attnbench.models.capture.collect import Collector, Complete, Taker, points_of
from attnbench.models.capture.write import check_target, room_for, write_capture
from attnbench.models.families.family import Place
from attnbench.models.replacement import Replacement


@contextmanager
def collected_from(model: Any, collector: Taker) -> Iterator[Replacement]:
    """Let a model run with its own attention until everything is collected, which ends the block.

    Raises:
        Unsupported: for a model that cannot be patched.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        collector.take(q, k, v, grid=place.grid, text=place.text, layer=place.layer, step=place.step)
        output: Tensor = attention(q, k, v, method="full", grid=place.grid, text=place.text, engine="sdpa")
        return output

    def keeps_own(place: Place) -> bool:
        return not collector.begin(place.layer, place.step)

    with suppress(Complete), Replacement(model, attend, keeps_own) as replacement:
        yield replacement


@contextmanager
def capturing(
    model: Any, out: Path | str, *, layers: Iterable[int], steps: Iterable[int], video_only: bool = False
) -> Iterator[None]:
    """Write q, k and v of a model that runs inside the ``with`` block, as ``attnbench capture`` does.

    ``with capturing(pipeline, "q.safetensors", layers=(0,), steps=(10,)): pipeline(prompt="…")`` serves models for
    which the command has no loader, such as MiniMax-H3. The block ends as soon as everything is collected. An exception
    in it leaves no file.

    Args:
        model: a transformer or a pipeline that ``attnbench.patch`` takes.
        out: a .safetensors file that does not exist yet.
        layers, steps: the calls to keep, every layer in every step, counted from 0.
        video_only: leave joint text tokens out.

    Raises:
        BadInput: for a file that cannot be written, layers or steps that are no whole numbers or that the model did not
            come to, or values that overflowed.
        Unsupported: for a model that cannot be patched.
    """
    path, numbers = Path(out), {"layers": tuple(layers), "steps": tuple(steps)}
    for name, given in numbers.items():
        if not given or any(whole_number(number) is None or number < 0 for number in given):
            raise BadInput(f"{name} is {given!r}; it must be whole numbers of at least 0, such as (0, 10)")
    check_target(path)
    points = points_of(numbers["layers"], numbers["steps"])
    collector = Collector(points, video_only=video_only, room=room_for(path))
    with collected_from(model, collector) as replacement:
        name = replacement.family.name
        if wrong := [layer for layer in numbers["layers"] if layer >= replacement.layers]:
            raise BadInput(f"layer {wrong[0]} does not exist: this model has layers 0 to {replacement.layers - 1}")
        yield
    layout = collector.layout()
    collector.refuse_overflow()
    write_capture(path, {point: collector.found[point] for point in points}, layout, {"model": name})
