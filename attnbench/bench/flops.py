"""The FLOPs of an agenda's cells, and of whole forward passes with each method, without running any attention."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from attnbench import api
from attnbench.bench.jobs import Agenda
from attnbench.cost.flops.counts import CellFlops, PassFlops, counts_of
from attnbench.cost.flops.wan import WAN_MODELS, ForwardFlops, forward_flops
from attnbench.inputs.make import make_inputs
from attnbench.inputs.shapes import Shape
from attnbench.kernels.engines import Task, choose_engine
from attnbench.kernels.flop_formulas import flops_per_pair
from attnbench.methods.per_head import settings_of_heads
from attnbench.results.records.cells import canonical_json
from attnbench.results.run import Progress


def count_cells(agenda: Agenda, progress: Progress | None = None) -> list[CellFlops]:
    """Plan every job on the first head of the agenda's inputs, and count.

    Args:
        agenda: what is counted.
        progress: is told which plan is made.

    Raises:
        BadInput: if the inputs cannot be made.
        Unsupported: if the engine asked for cannot serve a plan.
    """
    request = agenda.request
    inputs = make_inputs(
        request.inputs, agenda.shape, heads=1, dtype=agenda.dtype, device=agenda.device, seed=request.seed
    )
    cells: list[CellFlops] = []
    for job in agenda.jobs:
        if progress is not None:
            label = f"{agenda.shape.model or agenda.shape.grid}: planning {job.method.name}, layer {job.layer}"
            progress.step(label, len(cells), len(agenda.jobs), None)
        first = settings_of_heads(job.method, job.arguments(agenda.shape), slice(0, 1))
        state: Any = None
        for step in () if job.cycle is None else job.cycle.warm:  # a state that only attention could make is left out
            state = api.select(inputs.q, inputs.k, v=inputs.v, **first | {"step": step, "state": state}).state
        alone = {"step": None} if job.cycle is not None and state is None else {"state": state}
        plan = api.select(inputs.q, inputs.k, v=inputs.v, **first | alone)
        engine = choose_engine(request.engine, plan, _task(agenda))
        counts = counts_of(
            plan,
            head_dim=agenda.shape.head_dim,
            executed_pairs=engine.executed_pairs(plan),
            direction=agenda.direction,
        )
        cells.append(
            CellFlops(
                method=job.method.name,
                settings=canonical_json(dataclasses.asdict(job.settings)),
                layer=job.layer,
                engine=engine.name,
                density=plan.density,
                pairs=plan.pairs * agenda.shape.heads,
                counts=counts.times(agenda.shape.heads),
            )
        )
    return cells


def dense_pass(shape: Shape) -> ForwardFlops | None:
    """Return the forward pass of the shape's model with full attention; None if it is not a Wan model as published."""
    config = WAN_MODELS.get(shape.model or "")
    if config is None or (config.heads, config.head_dim) != (shape.heads, shape.head_dim):
        return None
    return forward_flops(config, shape.grid, batch=shape.batch)


def method_passes(shape: Shape, cells: list[CellFlops]) -> list[PassFlops]:
    """Return the forward pass with each method of ``cells``; none if the shape is of no Wan model as published."""
    dense = dense_pass(shape)
    if dense is None:
        return []
    passes = []
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell for cell in cells if cell.method == method]
        each = flops_per_pair(shape.head_dim)
        a_layer = math.fsum(each * cell.pairs + cell.counts.selection + cell.counts.branch for cell in own) / len(own)
        density = math.fsum(cell.density for cell in own) / len(own)
        flops = dense.with_self_pairs(round(a_layer * shape.layers))
        passes.append(PassFlops(method, tuple(cell.layer for cell in own), density, flops))
    return passes


def _task(agenda: Agenda) -> Task:
    shape, backward = agenda.shape, agenda.direction == "fwdbwd"
    return Task(agenda.device, agenda.dtype, shape.head_dim, shape.heads, shape.kv_heads, backward, return_lse=False)
