"""What a worker is asked to do, and the lines in which it answers. Both are JSON: nothing is pickled."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from attnbench.bench.request import Request
from attnbench.results.records.cells import Cell, Choices, Record, Row, Sample
from attnbench.results.records.faults import first_fault


class Profiling(Record):
    """What is recorded of each cell that is profiled."""

    repeats: int | None = Field(default=None, description="recorded calls; null for as many as are worth their time")
    traces: bool = Field(default=True, description="whether a Chrome trace is written")
    folder: str = Field(default="", description="of the run, for traces")


class Task(Record):
    """One piece of work for a process of its own."""

    do: Literal["show", "list", "choose", "measure", "profile"] = Field(
        description="show the method of a request; list its cells; choose what all cells share; measure its one cell; "
        "profile it"
    )
    request: Request
    run_id: str = ""
    threads: int = Field(description="CPU threads of torch")
    cells: int = Field(default=0, description="cells of the run that have processes of their own")
    choices: Choices | None = None
    samples: list[Sample] = Field(default_factory=list, description="that an earlier part of the run took of the cell")
    rows: list[Row] = Field(default_factory=list, description="of the cell that is profiled, and of its dense baseline")
    profiling: Profiling | None = None


class Listed(Record):
    """A cell of a request, before it is measured."""

    method: str = Field(description="name of the method")
    settings: dict[str, object] = Field(description="settings that were given")
    layer: int
    label: str = Field(description="short name for progress lines")
    cell: Cell


class Shown(Record):
    """A method in short."""

    summary: str
    title: str = Field(description="of the publication; empty without one")
    url: str
    settings: dict[str, str] = Field(description="defaults of the settings in words")


class Problem(Record):
    """Why a worker cannot do what it was asked: for want of the right input, or because code of a method failed."""

    kind: Literal["bad input", "unsupported", "error"]
    text: str


class Step(Record):
    """Progress, as ``Progress.step`` tells it."""

    label: str
    done: float
    total: float
    seconds_left: float | None = None


Kind = TypeVar("Kind", bound=Record)


def record_of(model: type[Kind], value: Any) -> Kind:
    """Return a record of what a worker gave.

    Raises:
        Unbelievable: if it is none.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Unbelievable(f"handed in what is no record: {first_fault(error, model.__name__)}") from None


class Unbelievable(Exception):
    """An answer that a worker of this run cannot have given."""
