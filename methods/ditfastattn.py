"""DiTFastAttn: a window in raster order, to which each step adds what the last full step had beyond its window.

A step of a layer is of one kind. "full" runs full attention and keeps the residual: full attention minus that of the
window. "window" runs the window and adds the residual. "share" runs nothing and returns the last output. Without a
schedule, a call that has no state runs full attention, and later ones the window; a call that names no step and has no
state stands alone, and runs the window without a residual. The published search also reuses one half of the batch of
classifier-free guidance, which does not change attention, and it reuses outputs behind the output projection, where we
reuse them before it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BadInput,
    BlockPattern,
    BranchCall,
    Call,
    Cycle,
    DensitySetting,
    Finished,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    as_ints,
    as_state,
    band,
    bounding_boxes,
    main,
    named_once,
    partition_ranges,
    quoted,
    quoted_path,
    remembered,
    whole,
)

DEFAULT_DENSITY = 0.5
KINDS = ("full", "window", "share")
STEPS = 50
"""Denoising steps of a clip where no schedule says how many there are."""

MOST_STEP = 9_999
"""A schedule beyond it is a mistake, and would take as long to follow."""

_RANGE = 128


@dataclass(frozen=True)
class DiTFastAttn(Recipe):
    """Settings.

    Attributes:
        width: half-width of the window in raster order; by default the one nearest to density .5.
        schedule: a JSON file of kinds of steps, {layer: {step: "full", "window" or "share"}}; a step that is missing is
            full.
    """

    width: int | None = None
    schedule: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width is not None:
            object.__setattr__(self, "width", as_ints("width", self.width, low=0))
        if self.schedule is not None:
            read_schedule(self.schedule)


def resolve(settings: DiTFastAttn, layout: Layout) -> DiTFastAttn:
    """Choose the default width."""
    return settings if settings.width is not None else replace(settings, width=width_for(layout, DEFAULT_DENSITY))


def width_for(layout: Layout, density: float) -> int:
    """Return the half-width whose window comes nearest to a density of the video's pairs."""
    n = layout.grid.tokens
    low, high = 0, n - 1
    while low < high:  # the least width that reaches the density
        middle = (low + high) // 2
        low, high = (low, middle) if _density(n, middle) >= density else (middle + 1, high)
    return min((max(low - 1, 0), low), key=lambda width: (abs(_density(n, width) - density), width))


def _density(n: int, width: int) -> float:
    return (n * (2 * width + 1) - width * (width + 1)) / n**2


def kind_of(settings: DiTFastAttn, call: Call) -> str:
    """Return what a call runs: "full", "window" or "share".

    Raises:
        BadInput: if the schedule needs a step or a state that is missing.
    """
    if settings.schedule is None:
        return "full" if call.state is None and call.step is not None else "window"
    if call.step is None:
        raise BadInput("ditfastattn runs a schedule by steps; pass the step of the call")
    steps = read_schedule(settings.schedule).get(str(call.layer), {})
    kind = steps.get(str(call.step), "full")
    if kind != "full" and call.state is None:
        raise BadInput(
            f"step {call.step} of layer {call.layer} is {kind!r} in {settings.schedule!r}; "
            "pass plan.state of the step before as its state"
        )
    return kind


def alike(settings: DiTFastAttn, layers: int) -> tuple[int, ...]:
    """Layers whose steps are of the same kinds in the schedule are alike; without one all are."""
    lines = [_sparse_steps(settings, layer) for layer in range(layers)]
    return tuple(lines.index(line) for line in lines)


def distinct_layers(settings: DiTFastAttn, layers: int) -> tuple[int, ...]:
    """The first layer of each line of the schedule."""
    return tuple(dict.fromkeys(alike(settings, layers)))


def _sparse_steps(settings: DiTFastAttn, layer: int) -> Mapping[int, str]:
    """Return the steps of a layer that are not full in the schedule, and what each is."""
    steps = {} if settings.schedule is None else read_schedule(settings.schedule).get(str(layer), {})
    return {int(step): kind for step, kind in steps.items() if kind != "full"}


def plan(settings: DiTFastAttn, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the window, everything or nothing; a full step keeps the window too, for its residual."""
    settings = resolve(settings, call.layout)
    assert settings.width is not None
    if call.state is not None:
        as_state(
            "ditfastattn", call.state, dict.fromkeys(("residual", "output"), ((q.dtype,), tuple(q.shape))), q.device
        )
    kind, (batch, heads), (shape, text) = kind_of(settings, call), q.shape[:2], call.layout.numbers
    window = Plan(call.layout, batch, heads, _window(settings.width, shape, text, q.device))
    if kind == "window":
        return replace(window, kept=(kind, None), state=call.state)
    pattern = _one_block(kind == "full", shape, text, q.device)
    if kind == "share":
        return Plan(call.layout, batch, heads, pattern, kept=(kind, None), state=call.state)
    flops = 4 * q.shape[3] * batch * heads * _pairs_of_window(settings.width, shape, text, q.device)
    return Plan(call.layout, batch, heads, pattern, branch_flops=flops, kept=(kind, window), state=call.state)


def finish(settings: DiTFastAttn, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Finished:
    """Add the residual, make it, or return the last output."""
    kind, window = call.plan.kept
    if kind == "share":
        return Finished(call.state["output"].to(output.dtype), call.state)
    if kind == "full":
        narrow, _ = call.attend(window)
        return Finished(output, {"residual": output - narrow, "output": output})
    if call.state is None:
        return Finished(output, None)
    added = output + call.state["residual"].to(output.dtype)
    return Finished(added, {"residual": call.state["residual"], "output": added})


_MOST_BYTES = 2**24
"""Of a schedule: kinds of 100 layers in 1,000 steps are 2 MB."""


def read_schedule(path: str) -> Mapping[str, Mapping[str, str]]:
    """Return the kinds of steps of a schedule file, {layer: {step: kind}}.

    Raises:
        BadInput: for a file that cannot be read, or that holds something else.
    """
    return _load(path).layers


@dataclass(frozen=True, slots=True)
class _Schedule:
    layers: Mapping[str, Mapping[str, str]]
    steps: int


def _load(path: str) -> _Schedule:
    if not isinstance(path, str):
        raise BadInput(f"schedule is {quoted(path)}; it must be the path of a JSON file")
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MOST_BYTES:
            raise ValueError(f"it must be a file of up to {_MOST_BYTES // 2**20} MiB")
        return _read(path, about.st_mtime_ns)
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error  # an OSError quotes the path too
        raise BadInput(f"schedule {quoted_path(path)} cannot be used: {why}") from error


@lru_cache(16)
def _read(path: str, changed: int) -> _Schedule:
    with open(path, encoding="utf-8") as stream:
        found: Any = json.load(stream, object_pairs_hook=named_once)
    layers = found if isinstance(found, dict) else {}
    good = bool(layers) and all(
        _is_number(layer)
        and isinstance(steps, dict)
        and all(_is_number(s) and kind in KINDS for s, kind in steps.items())
        for layer, steps in layers.items()
    )
    if not good:
        raise ValueError(f"it must be an object of layers, each an object of steps: {', '.join(KINDS)}")
    for layer, steps in layers.items():
        if steps.get("0", "full") != "full":
            raise ValueError(f"step 0 of layer {layer} is {steps['0']!r}; it must be full: no step is before it")
        if any(int(step) > MOST_STEP for step in steps):
            raise ValueError(f"layer {layer} names step {max(map(int, steps))}; steps are at most {MOST_STEP}")
    return _Schedule(layers, 1 + max((int(step) for steps in layers.values() for step in steps), default=0))


def _is_number(name: str) -> bool:
    """Return whether a name is a number as it is looked up: without signs, spaces and zeros in front."""
    return name.isascii() and name.isdecimal() and (name == "0" or name[0] != "0")


@remembered(8)
def _pairs_of_window(width: int, shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> int:
    """Return how many pairs of a head are in the window, counted once: counting waits for the device."""
    return Plan(Layout(Grid(*shape), text), 1, 1, _window(width, shape, text, device)).pairs


@remembered(8)
def _window(width: int, shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> BlockPattern:
    layout, rule = Layout(Grid(*shape), text), band(width)
    partition = partition_ranges(layout, _RANGE, device)
    block = torch.repeat_interleave(partition.sizes)
    is_text = (block < partition.video.start) | (block >= partition.video.stop)
    boxes = bounding_boxes(rule.positions(layout, device), is_text, partition.offsets)
    some, _ = rule.classify((boxes.low[:, None], boxes.high[:, None]), (boxes.low[None], boxes.high[None]))
    keep = some | boxes.text[:, None] | boxes.text[None]
    return BlockPattern(partition.offsets, partition.offsets, keep[None, None], rule)


@remembered(16)
def _one_block(kept: bool, shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> BlockPattern:
    partition = whole(Layout(Grid(*shape), text), device)
    keep = torch.full((1, 1, 1, 1), kept, device=device)
    return BlockPattern(partition.offsets, partition.offsets, keep, is_full=kept)


def width_at(settings: DiTFastAttn, layout: Layout, density: float) -> dict[str, int]:
    """Choose the width that comes nearest."""
    return {"width": width_for(layout, density)}


def cycle(settings: DiTFastAttn, layer: int) -> Cycle:
    """The first full step makes the residual; the first window step after it is the steady one.

    A schedule says how many steps are of each kind: those from the first of a clip to the last that it names for any
    layer, but for the dense steps of a recipe. Steps that share are the third kind or, where no step is a window, the
    steady one. Without a schedule one of 50 steps is full; where all are, the steady one is as the refresh is.
    """
    first = 0 if settings.schedule is None else settings.dense_steps
    sparse = _sparse_steps(settings, layer)
    kinds = [] if settings.schedule is None else [sparse.get(step, "full") for step in range(first, _steps(settings))]
    later = kinds[1:]
    if not {"window", "share"} & set(later):
        return Cycle(warm=(first,), steady=first + 1, refresh=first, every=STEPS, anew=True)
    steady = first + 1 + later.index("window" if "window" in later else "share")
    found = Cycle(tuple(range(first, steady)), steady, first, len(kinds) / max(1, kinds.count("full")), anew=True)
    if not {"window", "share"} <= set(later):
        return found
    return replace(found, other=first + 1 + later.index("share"), other_every=len(kinds) / later.count("share"))


def _steps(settings: DiTFastAttn) -> int:
    """Return how many steps a clip has: up to the last that the schedule names for any layer."""
    assert settings.schedule is not None
    return _load(settings.schedule).steps


def twin(settings: DiTFastAttn, layout: Layout, layer: int) -> tuple[DiTFastAttn, Layout]:
    """Up to 5 × 7 × 11 tokens, with a width in proportion."""
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (5, 7, 11), strict=True))
    small = Layout(Grid(t, h, w), layout.few_text)
    assert settings.width is not None
    width = round(settings.width * small.grid.tokens / layout.grid.tokens)
    return replace(settings, width=width), small


METHOD = Method(
    name="ditfastattn",
    summary="a window in raster order, with the residual of the last full step; or the last output again",
    source=Source(
        "DiTFastAttn: Attention Compression for Diffusion Transformer Models (NeurIPS 2024)",
        "https://arxiv.org/abs/2406.08552",
        "section 3; the rule of github.com/thu-nics/DiTFastAttn at 91bfbae",
    ),
    settings=DiTFastAttn,
    plan=plan,
    resolve=resolve,
    distinct_layers=distinct_layers,
    alike=alike,
    twin=twin,
    finish=finish,
    density_setting=DensitySetting(("width",), width_at),
    has_gradient=False,
    cycle=cycle,
)

if __name__ == "__main__":
    main(METHOD)
