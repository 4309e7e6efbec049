"""Time a whole transformer step of Wan: with the model's own attention, with each method, and with none."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnbench.api import attention, select
from attnbench.bench.step.standins import capture_qkv, pass_through
from attnbench.kernels.engines import Task, choose_engine, dense_engines, get_engine
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout, whole_number
from attnbench.kernels.phases import during
from attnbench.machine.device import device_name, dtype_name, resolve_device, resolve_dtype
from attnbench.machine.stopwatch import Stopwatch
from attnbench.methods import get_method, make_settings
from attnbench.models.families.family import Qkv
from attnbench.models.patch import patch
from attnbench.models.random_wan import make_inputs, make_wan
from attnbench.models.replacement import Replacement
from attnbench.results.intervals import Interval, median_interval, ratio_interval
from attnbench.results.records.cells import Timer, canonical_json

_OWN = "own"
_SHORT = 4096
"""Tokens of a first trial of dense engines: full length would take some of them seconds a call."""


Observer = Callable[[str, Callable[[], object], Callable[[], None], float], None]
"""Takes a row's name, its step, what clears the step's gradients, and the median of its samples in milliseconds."""


Teller = Callable[[str, int, int], None]
"""Told what is worked on, how many of all parts are done, and how many there are."""


@dataclass
class _Variant:
    """One kind of self-attention: how to put it into the model, its attention by itself, and the samples of both."""

    name: str
    swap: Callable[[], AbstractContextManager[object]]
    alone: Callable[[], object]
    settings: str = "{}"
    density: float = 1.0
    step_ms: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)


def measure_step(
    methods: Mapping[str, Mapping[str, Any]],
    *,
    size: str = "tiny",
    grid: Grid | str | tuple[int, int, int] = (3, 8, 8),
    text_tokens: int = 512,
    batch: int = 1,
    dtype: str | None = None,
    device: str | None = None,
    direction: str = "fwd",
    checkpointing: bool = False,
    engine: str = "auto",
    rounds: int = 7,
    seed: int = 0,
    observe: Observer | None = None,
    tell: Teller = lambda label, done, total: None,
) -> StepReport:
    """Measure one step of a Wan transformer with random weights, text cross-attention included.

    Everything is timed in interleaved rounds: the model as it is, ``full`` by the fastest engine, the methods, and the
    model with its self-attention passed by. Weights are random, so densities of methods that select by the data are not
    those of a trained model; look at the rows' ``density``.

    Args:
        methods: settings by method.
        size: "1.3b", 30 layers of 12 heads of 128, or "tiny", for a CPU.
        grid: token grid; 21x30x52 is 81 frames of 480x832.
        text_tokens: text tokens of the cross-attention.
        batch: sequences.
        dtype: default bfloat16 on a GPU, float32 on a CPU.
        device: "cuda" or "cpu"; default the GPU where there is one.
        direction: "fwd", or "fwdbwd" for a training step without the optimizer: forward, MSE loss, backward.
        checkpointing: run every block forward again in the backward pass, as training at full size does for memory.
        engine: who runs the methods' plans.
        rounds: samples of each figure.
        seed: of weights and inputs.
        observe: given every row's step once all rounds are done, with its attention in place.
        tell: told of the progress.

    Raises:
        BadInput: for arguments that cannot be used.
        Unsupported: without diffusers, or if an engine cannot serve a method. All are tried before the first sample.
    """
    where, kind = resolve_device(device), Grid.of(grid)
    values = resolve_dtype(dtype, where)
    for name, count in (("text_tokens", text_tokens), ("batch", batch), ("rounds", rounds)):
        if (whole_number(count) or 0) < 1:
            raise BadInput(f"{name} is {count!r}; it must be a whole number of at least 1")
    if direction not in ("fwd", "fwdbwd"):
        raise BadInput(f"direction is {direction!r}; it must be fwd or fwdbwd")
    backward = direction == "fwdbwd"
    if checkpointing and not backward:
        raise BadInput("checkpointing is for training steps: use it with direction fwdbwd")
    for name, given in methods.items():
        make_settings(get_method(name), given)
    if engine != "auto":
        get_engine(engine)

    tell(f"Wan {size} with random weights", 0, 1)
    model = make_wan(size, where, values, seed)
    model.requires_grad_(backward)
    if checkpointing:
        model.enable_gradient_checkpointing()
    inputs = make_inputs(size, kind, batch, text_tokens, where, values, seed)
    qkv = capture_qkv(model, inputs)
    stopwatch = Stopwatch(where)
    passes = _Passes(backward, checkpointing)

    tell("dense engines", 0, 1)
    dense = _fastest_dense(model, qkv, kind, passes, stopwatch)
    own = _Variant(_OWN, nullcontext, passes.over(qkv, kind, {"method": "full", "engine": "sdpa"}))
    sparse = []
    for name, given in methods.items():
        tell(f"plans of {name}", 0, 1)
        sparse.append(_method_variant(model, name, given, engine, qkv, kind, passes))
    without = _Variant("none", lambda: Replacement(model, pass_through), lambda: None)
    variants = [own, dense, *sparse, without]
    call, clear = _step_calls(model, inputs, backward)
    for place, variant in enumerate(variants):
        # Compiles kernels, and fails before the first sample where something cannot run.
        tell(f"first step with {variant.name}", place, len(variants))
        with variant.swap():
            clear()
            call()
        variant.alone()
    for number in range(rounds):
        for place, variant in enumerate(variants if number % 2 == 0 else variants[::-1]):
            tell(
                f"round {number + 1} of {rounds}: {variant.name}",
                number * len(variants) + place,
                rounds * len(variants),
            )
            with variant.swap():
                variant.step_ms.append(stopwatch.time(call, clear, warm=False).cold_ms)
            clear()
            if variant is not without:
                variant.alone_ms.append(stopwatch.time(variant.alone, warm=False).cold_ms)

    if observe is not None:
        for variant in variants[:-1]:
            with variant.swap():
                observe(variant.name, call, clear, statistics.median(variant.step_ms))
            clear()
    baseline = min((own, dense), key=lambda variant: statistics.median(variant.step_ms))
    share = share_removed(baseline.step_ms, without.step_ms)
    return StepReport(
        size=size,
        grid=str(kind),
        text_tokens=text_tokens,
        batch=batch,
        layers=len(qkv),
        dtype=dtype_name(values),
        device=device_name("cuda" if where.type == "cuda" else "cpu"),
        direction=direction,
        checkpointing=checkpointing,
        timer=stopwatch.timer,
        rounds=rounds,
        baseline=baseline.name,
        without_ms=median_interval(without.step_ms),
        share=share,
        share_alone=ratio_interval(baseline.step_ms, baseline.alone_ms),
        rows=tuple(_row(variant, baseline, share.median) for variant in variants if variant is not without),
    )


def _row(variant: _Variant, baseline: _Variant, share: float) -> StepRow:
    faster = ratio_interval(variant.alone_ms, baseline.alone_ms)
    return StepRow(
        name=variant.name,
        settings=variant.settings,
        density=variant.density,
        step_ms=median_interval(variant.step_ms),
        attention_ms=median_interval(variant.alone_ms),
        step_speedup=ratio_interval(variant.step_ms, baseline.step_ms),
        attention_speedup=faster,
        predicted_speedup=amdahl(share, faster.median),
        samples_ms=tuple(variant.step_ms),
    )


def _step_calls(
    model: Any, inputs: Mapping[str, Tensor], backward: bool
) -> tuple[Callable[[], object], Callable[[], None]]:
    """Return the step to time, and what clears its gradients beforehand."""
    target = torch.zeros_like(inputs["hidden_states"], dtype=torch.float32)

    def forward() -> object:
        with torch.no_grad():
            return model(**inputs, return_dict=False)

    def train() -> None:
        with during("forward"):
            output = model(**inputs, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(output.float(), target)
        with during("backward"):
            loss.backward()

    def clear() -> None:
        model.zero_grad(set_to_none=True)

    return (train if backward else forward), clear


@dataclass(frozen=True)
class _Passes:
    """How often a step runs the self-attention of a layer, and which way."""

    backward: bool
    checkpointing: bool

    def over(self, qkv: list[Qkv], grid: Grid, arguments: Mapping[str, Any]) -> Callable[[], None]:
        """Return a call of the self-attention of all layers, on their q, k, v, as often as a step runs it."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            output: Tensor = attention(q, k, v, grid=grid, layer=layer, step=0, **arguments)
            return output

        def forward() -> None:
            with torch.no_grad():
                for layer, (q, k, v) in enumerate(qkv):
                    attend(layer, q, k, v)

        def both() -> None:
            for layer, tensors in enumerate(qkv):
                leaves = [x.detach().requires_grad_() for x in tensors]
                output = attend(layer, *leaves)
                if self.checkpointing:
                    output = attend(layer, *leaves)
                torch.autograd.grad(output, leaves, output.detach())

        return both if self.backward else forward


def _method_variant(
    model: Any, name: str, given: Mapping[str, Any], engine: str, qkv: list[Qkv], grid: Grid, passes: _Passes
) -> _Variant:
    """Prepare a method: the engine that serves all its layers, and the mean density of their plans."""
    method = get_method(name)
    arguments = {"method": method, **given}
    engines, densities = [], []
    for layer, (q, k, v) in enumerate(qkv):
        plan = select(q, k, grid=grid, layer=layer, step=0, **arguments)
        task = dataclasses.replace(Task.of(q, k, v), needs_grad=passes.backward)
        engines.append(choose_engine(engine, plan, task).name)
        densities.append(plan.density)
    settled = method.resolve(make_settings(method, given), Layout(grid))
    return _Variant(
        name="/".join([name, "+".join(dict.fromkeys(engines))]),
        swap=lambda: patch(model, method, engine=engine, **given),
        alone=passes.over(qkv, grid, {**arguments, "engine": engine}),
        settings=canonical_json(dataclasses.asdict(settled)),
        density=statistics.fmean(densities),
    )


def _fastest_dense(model: Any, qkv: list[Qkv], grid: Grid, passes: _Passes, stopwatch: Stopwatch) -> _Variant:
    """Return ``full`` by the engine that runs the attention of one layer in the least time.

    A short sequence first shows which engines need not be tried at full length.
    """
    few = min(grid.tokens, _SHORT)
    plan = select(*qkv[0][:2], method="full", grid=grid)
    task = dataclasses.replace(Task.of(*qkv[0]), needs_grad=passes.backward)
    names = [name for name in dense_engines() if get_engine(name).supports(plan, task) is None]

    def times(names: list[str], tensors: Qkv, grid: Grid) -> dict[str, float]:
        calls = {name: passes.over([tensors], grid, {"method": "full", "engine": name}) for name in names}
        for call in calls.values():
            call()
        return {name: min(stopwatch.time(call, warm=False).cold_ms for _ in range(3)) for name, call in calls.items()}

    q, k, v = (x[:, :, :few] for x in qkv[0])
    short = times(names, (q, k, v), Grid(1, 1, few))
    close = [name for name in names if short[name] <= 2 * min(short.values())]
    whole = times(close, qkv[0], grid)
    fastest = min(whole, key=whole.__getitem__)  # sdpa runs everywhere, so there is one
    return _Variant(
        name=f"full/{fastest}",
        swap=lambda: patch(model, "full", engine=fastest),
        alone=passes.over(qkv, grid, {"method": "full", "engine": fastest}),
    )


@dataclass(frozen=True, slots=True)
class StepRow:
    """A transformer step with one kind of self-attention.

    Attributes:
        name: "own" for the model's own attention, otherwise method/engine.
        settings: the method's settings, canonical JSON.
        density: fraction of (query, key) pairs kept, mean over the layers.
        step_ms: the whole step.
        attention_ms: the self-attention of all layers by itself, on the q, k, v that the model made.
        step_speedup: the baseline's step over this one.
        attention_speedup: the baseline's self-attention over this one.
        predicted_speedup: of the step, by Amdahl's law from the share of self-attention and ``attention_speedup``.
        samples_ms: every sample of the step, in the order taken.
    """

    name: str
    settings: str
    density: float
    step_ms: Interval
    attention_ms: Interval
    step_speedup: Interval
    attention_speedup: Interval
    predicted_speedup: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One transformer step, dense and with methods, measured in the same rounds.

    Attributes:
        size: of the model, a name of ``attnbench.models.random_wan.SIZES``.
        grid: T x H x W, as 21x30x52.
        text_tokens: tokens of the cross-attention; no part of the self-attention.
        batch: sequences.
        layers: transformer blocks.
        dtype, device: of the model; the device by name.
        direction: "fwd", or "fwdbwd": forward, MSE loss and backward, without the optimizer.
        checkpointing: whether blocks ran forward once more in the backward pass.
        timer: clock that took the samples.
        rounds: samples of each figure.
        baseline: name of the row with the fastest dense step.
        without_ms: the step with self-attention left out: v is passed on. Projections and norms stay.
        share: of self-attention in the baseline's step: 1 - without_ms / step_ms.
        share_alone: the same from the other side: attention_ms / step_ms of the baseline.
        rows: dense ones first.
    """

    size: str
    grid: str
    text_tokens: int
    batch: int
    layers: int
    dtype: str
    device: str
    direction: str
    checkpointing: bool
    timer: Timer
    rounds: int
    baseline: str
    without_ms: Interval
    share: Interval
    share_alone: Interval
    rows: tuple[StepRow, ...]

    def row(self, name: str) -> StepRow:
        """Return the row of that name.

        Raises:
            BadInput: if there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise BadInput(f"no row is named {name!r}; there are {', '.join(row.name for row in self.rows)}")


def amdahl(share: float, speedup: float) -> float:
    """Return the speed-up of a whole of which ``share`` becomes ``speedup`` times as fast and the rest stays.

    Raises:
        BadInput: for a speed-up of 0 or below.
    """
    if not speedup > 0:
        raise BadInput(f"speedup is {speedup!r}; it must be above 0")
    return 1 / (1 - share + share / speedup)


def share_removed(whole: list[float], without: list[float]) -> Interval:
    """Return 1 - without / whole of the medians: the share of what was left out.

    Noise can make it negative where the share is small.
    """
    left = ratio_interval(whole, without)
    return Interval(1 - left.median, 1 - left.hi, 1 - left.lo, left.kind)
