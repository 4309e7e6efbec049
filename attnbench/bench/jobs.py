"""From what the user asked to the cells that will be measured. Everything wrong with a request is found here."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from attnbench.bench.packages import package_contents
from attnbench.bench.request import Request
from attnbench.bench.sweep.knobs import turn
from attnbench.inputs.seeds import SEEDS
from attnbench.inputs.shapes import Shape, resolve_shape
from attnbench.inputs.spec import check_inputs_spec
from attnbench.kernels.engines import get_engine
from attnbench.kernels.errors import BadInput
from attnbench.machine.device import device_name, dtype_name, resolve_device, resolve_dtype
from attnbench.machine.timers import check_timer
from attnbench.methods import Cycle, Method, get_method, make_settings
from attnbench.methods.entries import Entry
from attnbench.methods.per_head import check_per_head
from attnbench.report.words import differing_settings
from attnbench.results.conditions import contents_of
from attnbench.results.records.cells import Cell, canonical_json, inputs_content
from attnbench.results.records.older import layers_alike


@dataclass(frozen=True)
class Job:
    """One cell to be: a method with settled settings, and the layer it is planned for.

    Attributes:
        told: the settings that tell it from other cells of its method, in words; empty if there are none.
        given: canonical JSON of the settings that were asked for. Jobs that come to the same are equal without it.
        alike: how many of the model's layers the cell stands for; None without a model.
        density: what the method's density setting is moved to keep on the cell's inputs; None leaves it alone.
    """

    method: Method
    settings: Any
    layer: int
    told: str = ""
    given: str = dataclasses.field(default="{}", compare=False)
    alike: int | None = dataclasses.field(default=None, compare=False)
    density: float | None = None

    @property
    def label(self) -> str:
        """Short name for progress lines."""
        layer = "" if self.layer == 0 else f"layer {self.layer}"
        return " ".join(filter(None, [self.method.name, layer, self.told]))

    def arguments(self, shape: Shape) -> dict[str, Any]:
        """Return the keyword arguments of ``attnbench.attention``."""
        values = {field.name: getattr(self.settings, field.name) for field in dataclasses.fields(self.settings)}
        layout = shape.layout
        where = {"method": self.method, "grid": layout.grid, "text": layout.text, "layer": self.layer}
        return where | ({} if self.step is None else {"step": self.step}) | values

    @property
    def cycle(self) -> Cycle | None:
        """The steps of a method that has a state; None for the others."""
        return self.method.cycle_of(self.settings, self.layer)

    @property
    def step(self) -> int | None:
        """The denoising step that is measured; None for methods that have no state."""
        return None if self.cycle is None else self.cycle.steady


@dataclass(frozen=True)
class Agenda:
    """A checked request."""

    request: Request
    shape: Shape
    dtype: torch.dtype
    device: torch.device
    direction: Literal["fwd", "fwdbwd"]
    jobs: tuple[Job, ...]

    @cached_property
    def contents(self) -> dict[str, str]:
        """The digests of the file that inputs are read from, and of packages that take part, where there are some."""
        return contents_of({"inputs": check_inputs_spec(self.request.inputs).path}) | package_contents(self.request)

    def cell(self, job: Job, engine: str, asked: str | None = None) -> Cell:
        """Return the cell of a job when that engine runs it.

        Args:
            job: one of the agenda's, or the dense baseline.
            engine: who runs it.
            asked: the engine that was asked for; by default the request's.
        """
        shape = self.shape
        asked = asked or self.request.engine
        return Cell(
            method=job.method.name,
            settings_given=job.given,
            density_asked=job.density,
            engine_asked=None if asked == "auto" else asked,
            gpus=self.request.gpus,
            parallel=self.request.parallel,
            inputs_content=inputs_content(self.contents.get("inputs"), check_inputs_spec(self.request.inputs).part),
            settings=canonical_json(dataclasses.asdict(job.settings)),
            layer=job.layer,
            step=job.step,
            grid=str(shape.layout.grid),
            text_tokens=shape.layout.text,
            batch=shape.batch,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            dtype=dtype_name(self.dtype),
            direction=self.direction,
            inputs=self.request.inputs,
            seed=self.request.seed,
            engine=engine,
            device=device_name("cuda" if self.device.type == "cuda" else "cpu"),
        )


def make_agenda(request: Request) -> Agenda:
    """Check a request and list its cells: every method at each of its distinct layers, or at the layers asked for.

    Raises:
        BadInput: quoting what cannot be used.
        Unsupported: for an engine that is not available.
    """
    if not request.methods:
        raise BadInput("no method was given; name at least one, as --method vmoba")
    shape = resolve_shape(
        res=request.res,
        frames=request.frames,
        height=request.height,
        width=request.width,
        model=request.model,
        grid=request.grid,
        text_tokens=request.text_tokens,
        heads=request.heads,
        kv_heads=request.kv_heads,
        head_dim=request.head_dim,
        batch=request.batch,
    )
    device = resolve_device(request.device)
    dtype = resolve_dtype(request.dtype, device)
    if request.direction not in ("fwd", "fwdbwd"):
        raise BadInput(f"direction {request.direction!r} must be fwd or fwdbwd")
    if request.engine != "auto":
        get_engine(request.engine)
    if request.rounds is not None and request.rounds < 1:
        raise BadInput(f"rounds {request.rounds} must be at least 1")
    if not 0 <= request.seed < SEEDS:
        raise BadInput(f"seed {request.seed} must be a whole number from 0 to {SEEDS - 1}")
    if not request.budget > 0:
        raise BadInput(f"budget {request.budget:g} must be a number of seconds above 0")
    if request.rounds is not None and request.precision is not None:
        raise BadInput("--rounds and --precision both say when to stop: leave one of them out")
    if request.timer is not None:
        check_timer(request.timer, device)
    if request.cell_timeout is not None and not 0 < request.cell_timeout < float("inf"):
        raise BadInput(f"cell timeout {request.cell_timeout:g} must be a number of seconds above 0")
    check_inputs_spec(request.inputs)
    _check_size(shape, dtype)
    return Agenda(request, shape, dtype, device, request.direction, tuple(_jobs(request, shape)))  # type: ignore[arg-type]  # checked above


def _jobs(request: Request, shape: Shape) -> list[Job]:
    """Return the cells of all entries; settings that come to the same are measured once."""
    jobs: list[Job] = []
    for entry in request.methods:
        made = _jobs_of(entry, shape, request.layers, request.density)
        if request.direction == "fwdbwd" and not made[0].method.has_gradient:
            raise BadInput(f"method {entry.method!r} has no gradient: leave it out of --direction fwdbwd")
        jobs += [job for job in made if job not in jobs]
    alike = {job.method.name: [_canonical(each) for each in jobs if each.method == job.method] for job in jobs}
    return [dataclasses.replace(job, told=differing_settings(_canonical(job), alike[job.method.name])) for job in jobs]


def _canonical(job: Job) -> str:
    return canonical_json(dataclasses.asdict(job.settings))


def _jobs_of(entry: Entry, shape: Shape, layers: list[int] | None, density: float | None) -> list[Job]:
    method = get_method(entry.method)
    asked = make_settings(method, entry.settings)
    settings = method.resolve(asked, shape.layout)
    if density is not None:  # which settings it comes to is found on the inputs; here, whether there may be any
        turned = turn(entry.method, entry.settings, shape.layout, density, by="--density")
        settings = method.resolve(make_settings(method, turned), shape.layout)
    check_per_head(method, settings, shape.heads)
    given = canonical_json({name: getattr(asked, name) for name in entry.settings})
    for layer in layers or ():
        if not 0 <= layer < max(shape.layers, 1) and shape.model is not None:
            raise BadInput(f"layer {layer} is not one of the {shape.layers} layers of {shape.model}")
        if layer < 0:
            raise BadInput(f"layer is {layer}; it must be a whole number of at least 0")
    # A bare grid names no model; three layers show every partition of the methods that take turns.
    count = shape.layers if shape.model is not None else 3
    kinds = method.stand_ins(settings, count)
    chosen = list(dict.fromkeys(layers or kinds))
    alike = layers_alike(chosen, kinds) if shape.model is not None else {}
    return [Job(method, settings, layer, given=given, alike=alike.get(layer), density=density) for layer in chosen]


def _check_size(shape: Shape, dtype: torch.dtype) -> None:
    """Refuse what cannot even be made: q, k and v of one head, which are made in main memory."""
    needed = 3 * shape.batch * shape.tokens * shape.head_dim * dtype.itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise BadInput(
            f"grid {shape.grid} with batch {shape.batch} and head_dim {shape.head_dim} needs {needed / 2**30:,.0f} GiB "
            f"for q, k and v of one head; this machine has {memory / 2**30:,.0f} GiB"
        )
