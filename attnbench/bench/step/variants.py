"""What can stand in the place of a model's self-attention: its own, the dense baseline, a method, and nothing."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from attnbench.api import select
from attnbench.bench.baseline import Attempt, find_dense
from attnbench.bench.calls import forward_call
from attnbench.bench.step.model import StepModel, Swap
from attnbench.bench.step.standins import pass_through
from attnbench.bench.trial import classified
from attnbench.bench.verify import check_rows
from attnbench.kernels.engines import Task, choose_engine
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Layout
from attnbench.machine.stopwatch import Stopwatch
from attnbench.methods import Method, get_method, make_settings
from attnbench.models.patch import patch
from attnbench.models.replacement import Replacement
from attnbench.results.records.cells import canonical_json

OWN = "own"
"""Name of the model's own attention in the records of a step."""


@dataclass
class Variant:
    """One kind of self-attention, and its samples.

    Attributes:
        name: "own", or method/engine.
        swap: puts it into a model while the context lasts.
        alone: runs the self-attention of all layers by itself, as often as a step does; None where there is none.
        settings: of the method, canonical JSON.
        density: fraction of pairs kept, mean over the layers.
        graphs: whether each call is the replay of a CUDA graph.
        step_ms, alone_ms: samples, in the order taken.
        eager_ms: a step among steps back to back; None if it was not measured.
    """

    name: str
    swap: Swap
    alone: Callable[[], object] | None
    settings: str = "{}"
    density: float = 1.0
    graphs: bool = False
    step_ms: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)
    eager_ms: float | None = None


def own_attention(of: StepModel) -> Variant:
    """Return the model as it is; diffusers' attention is torch's."""
    return Variant(OWN, lambda model: nullcontext(), of.attention_alone({"method": "full", "engine": "sdpa"}))


def no_attention() -> Variant:
    """Return the model with self-attention left out: v is passed on."""
    return Variant("none", lambda model: Replacement(model, pass_through, spreads=True), None)


def dense_baseline(of: StepModel, stopwatch: Stopwatch) -> Variant:
    """Return ``full`` by the engine that runs the attention of one layer in the least time.

    Raises:
        Unsupported: if no dense engine runs it.
    """
    q, k, v = of.qkv[0]
    plan = select(q, k, method="full", grid=of.case.token_grid)
    task = dataclasses.replace(Task.of(q, k, v), needs_grad=of.case.backward)

    def attempt(name: str) -> Attempt:
        arguments = {"method": "full", "engine": name}
        call = of.attention_alone(arguments, layers=1)
        tried = Attempt()
        with classified() as failure:
            output = forward_call(q, k, v, {**arguments, "grid": of.case.token_grid}).run()
            checked = check_rows(q, k, v, output, plan, q.shape[3] ** -0.5, of.case.seed)
            call()  # compiles kernels
            seconds = min(stopwatch.time(call, warm=False).cold_ms for _ in range(2)) / 1e3
            tried = Attempt(seconds, checked.problem or "")
        return tried if failure.verdict is None else Attempt(problem=failure.reason)

    found = find_dense(plan, task, (q, k, v), attempt)
    if found.engine is None:
        raise Unsupported(f"no dense engine runs the step's self-attention: {found.complaint}")
    engine = found.engine
    return Variant(
        name=f"full/{engine}",
        swap=lambda model: patch(model, "full", engine=engine),
        alone=of.attention_alone({"method": "full", "engine": engine}),
    )


def as_graphs(of: StepModel, variant: Variant, name: str, given: Mapping[str, Any]) -> Variant:
    """Return a method that each call replays as a CUDA graph: the same as ``variant`` otherwise."""
    calls = _calls(of, get_method(name), given, graphs=True)
    return dataclasses.replace(variant, **calls, graphs=True, step_ms=[], alone_ms=[])


def with_method(of: StepModel, name: str, given: Mapping[str, Any]) -> Variant:
    """Return a method with the engines that serve its layers, and the mean density of their plans.

    Raises:
        BadInput: for settings that do not fit the grid.
        Unsupported: if the engine cannot serve a layer.
    """
    method, grid, engine = get_method(name), of.case.token_grid, of.case.engine
    engines, densities = [], []
    for layer, (q, k, v) in enumerate(of.qkv):
        plan = select(q, k, v=v, method=method, grid=grid, layer=layer, step=0, **given)
        task = dataclasses.replace(Task.of(q, k, v), needs_grad=of.case.backward)
        engines.append(choose_engine(engine, plan, task).name)
        densities.append(plan.density)
    resolved = method.resolve(make_settings(method, given), Layout(grid))
    return Variant(
        name="/".join([name, "+".join(dict.fromkeys(engines))]),
        **_calls(of, method, given),
        settings=canonical_json(dataclasses.asdict(resolved)),
        density=statistics.fmean(densities),
    )


def _calls(of: StepModel, method: Method, given: Mapping[str, Any], *, graphs: bool = False) -> dict[str, Any]:
    """Return how a variant puts a method into the model, and how it calls it alone."""
    engine = of.case.engine
    return {
        "swap": lambda model: patch(model, method, engine=engine, graphs=graphs, **given),
        "alone": of.attention_alone({"method": method, "engine": engine, **given}, graphs=graphs),
    }
