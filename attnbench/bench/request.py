"""What was asked of a run, as typed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from attnbench.kernels.errors import BadInput
from attnbench.methods.entries import Entry, as_entries
from attnbench.results.records.cells import Record
from attnbench.results.records.faults import typed_fault


def _as_text(given: object) -> object:
    """A whole number is a number of tokens; anything else is checked as it stands."""
    return str(given) if type(given) is int else given


class Request(Record):
    """The arguments of a run, as typed; None means the default."""

    methods: Annotated[list[Entry], BeforeValidator(as_entries)] = Field(description="methods with their settings")
    res: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    model: str | None = None
    grid: str | None = None
    text_tokens: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        default=None, description="instead of the model's: a number, or two, before and after the video, as 226+0"
    )
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    batch: int = 1
    dtype: str | None = None
    direction: str = "fwd"
    inputs: str = "video"
    seed: int = 0
    engine: str = "auto"
    strict: bool = Field(default=False, description="refuse plain torch on a GPU where auto would fall to it")
    device: str | None = None
    layers: list[int] | None = None
    density: float | None = Field(
        default=None, gt=0, le=1, description="share of the pairs that each method's density setting is moved to keep"
    )
    gpus: int | None = Field(default=None, ge=2, description="ranks that hold the tokens together")
    parallel: str | None = Field(
        default=None, description="how they share the work: one of parallel.deal.WAYS or BALANCED"
    )
    rounds: int | None = None
    budget: float = 240.0
    stability_calls: int | None = Field(
        default=None, ge=1, description="how often a cell is called on the same inputs, the first call included"
    )
    burnt_in: float = Field(
        default=0.0, ge=0, le=1, description="share that calls are made slower by on purpose; set by calibrate alone"
    )
    timer: str | None = None
    precision: float | None = Field(default=None, gt=0, lt=1, description="half of an interval over its median")
    isolate: bool | None = None
    cell_timeout: float | None = None

    @property
    def seconds_a_cell(self) -> float:
        """Seconds after which a cell with a process of its own is stopped."""
        return min(600.0, 30.0 + 2.0 * self.budget) if self.cell_timeout is None else self.cell_timeout


def read_request(**fields: Any) -> Request:
    """Return the request of these fields.

    Raises:
        BadInput: quoting the first value that cannot be one.
    """
    try:
        return Request.model_validate(fields)
    except ValidationError as error:
        raise BadInput(typed_fault(error)) from error
