"""The request as it was typed, and the clips that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from attnbench.clips.fidelity import MINI_METRICS
from attnbench.clips.metrics.metrics import METRICS, Metric
from attnbench.clips.prompts import check_prompts
from attnbench.inputs.seeds import SEEDS
from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.methods import make_settings
from attnbench.methods.entries import Entry, as_entries
from attnbench.methods.registry import find_method
from attnbench.mini.prompts import mini_prompt
from attnbench.models import MODEL_NAMES
from attnbench.results.records.cells import Record
from attnbench.results.records.clips import Role
from attnbench.results.records.faults import typed_fault

MINI = "mini"
MINI_PROMPT = "3 moving north-east"
NO_FLOOR = "none"


class ClipsRequest(Record):
    """The arguments of ``attnbench clips``, as typed; None means the default."""

    command: Literal["clips"] = "clips"
    model: str = MINI
    weights: str | None = None
    methods: Annotated[list[Entry], BeforeValidator(as_entries)] = Field(description="methods with their settings")
    prompts: list[str] = Field(default_factory=list)
    seeds: int = 2
    seed: int = Field(default=0, description="the first seed")
    steps: int | None = None
    dense_steps: int | float | None = Field(default=None, description="a number, or a share below 1")
    dense_layers: list[int] = Field(default_factory=list)
    engine: str = "auto"
    strict: bool = Field(default=False, description="refuse plain torch on a GPU where auto would fall to it")
    floor_engine: str | None = None
    dtype: str | None = None
    device: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False, description="frames a second")
    metrics: list[str] | None = None
    players: int | None = Field(default=None, ge=0, description="prompts and seeds that H.264 is written of")


@dataclass(frozen=True, slots=True)
class Shot:
    """One clip to make.

    Attributes:
        prompt: what the clip should show.
        seed: seed of the noise.
        role: "exact", full attention; "kernel-floor", by another exact kernel; "method".
        method: name of the method.
        engine: the engine that runs the plans; "auto" for the first that can.
        settings: the settings that were given for the method.
        number: the number of this entry among the request's entries of the method, from 0.
    """

    prompt: str
    seed: int
    role: Role
    method: str = "full"
    engine: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    @property
    def label(self) -> str:
        """Short name for lines of progress."""
        name = f"{self.method}/{self.engine}" if self.role != "method" else self.method
        return f"{name}, {self.prompt!r}, seed {self.seed}"


def read_request(**fields: Any) -> ClipsRequest:
    """Return the request with these fields, checked as far as that is possible without the model.

    Raises:
        BadInput: if a field cannot be used; the message quotes it.
        Unsupported: for an engine that is not available.
    """
    try:
        request = ClipsRequest.model_validate(fields)
    except ValidationError as error:
        raise BadInput(typed_fault(error)) from error
    if request.model not in (MINI, *MODEL_NAMES):
        raise unknown_name("model", request.model, (MINI, *MODEL_NAMES))
    if request.model == MINI:
        request = request.model_copy(update={"prompts": _mini_prompts(request)})
    elif not request.prompts:
        raise BadInput(f"model {request.model!r} needs a prompt: give --prompt TEXT, or --prompts FILE")
    check_prompts(request.prompts)
    for entry in request.methods:
        make_settings(find_method(entry.method), entry.settings)
    metrics_of(request)
    if not 1 <= request.seeds < SEEDS:
        raise BadInput(f"seeds {request.seeds} must be from 1 to {SEEDS - 1}")
    if not 0 <= request.seed <= SEEDS - request.seeds - 1:
        raise BadInput(f"seed {request.seed} must be a whole number from 0 to {SEEDS - request.seeds - 1}")
    return request


def _mini_prompts(request: ClipsRequest) -> list[str]:
    for name in ("frames", "height", "width"):
        if getattr(request, name) is not None:
            raise BadInput(f"{name} {getattr(request, name)} cannot be chosen: clips of the mini model have one size")
    return [mini_prompt(text)[0] for text in request.prompts] or [MINI_PROMPT]


def metrics_of(request: ClipsRequest) -> tuple[Metric, ...]:
    """Return the metrics asked for, or all that the model has.

    Raises:
        BadInput: for a metric that does not exist; the message names the closest one.
    """
    known = {metric.name: metric for metric in (*METRICS, *(MINI_METRICS if request.model == MINI else ()))}
    if request.metrics is None:
        return tuple(known.values())
    for name in request.metrics:
        if name not in known:
            raise unknown_name("metric", name, known)
    return tuple(known[name] for name in dict.fromkeys(request.metrics))


def seeds_of(request: ClipsRequest) -> list[int]:
    """Return the seeds of each prompt's pairs."""
    return list(range(request.seed, request.seed + request.seeds))


def shots_of(request: ClipsRequest, prompt: str, exact_engine: str, floor_engine: str | None) -> Iterator[Shot]:
    """Yield the clips of a prompt in the order they are made: for each seed the exact one, the floor, each method.

    If there is a single seed, an exact clip of the next seed is added for the seed floor.
    """
    for seed in seeds_of(request):
        yield Shot(prompt, seed, "exact", engine=exact_engine)
        if floor_engine is not None:
            yield Shot(prompt, seed, "kernel-floor", engine=floor_engine)
        for place, entry in enumerate(request.methods):
            number = sum(other.method == entry.method for other in request.methods[:place])
            yield Shot(prompt, seed, "method", entry.method, request.engine, entry.settings, number)
    if request.seeds == 1:
        yield Shot(prompt, request.seed + 1, "exact", engine=exact_engine)


def seed_pairs(request: ClipsRequest) -> list[tuple[int, int]]:
    """Return the pairs of seeds whose exact clips are compared: each with the next, and the last with the first.

    Two seeds make one pair, because the order within a pair does not matter.
    """
    first = seeds_of(request)
    if len(first) == 1:
        return [(first[0] + 1, first[0])]
    pairs = [(after, before) for before, after in zip(first, [*first[1:], first[0]], strict=True)]
    return pairs[:1] if len(first) == 2 else pairs
