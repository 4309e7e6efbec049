"""``--on``: which engine starts the cells of a suite, and with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.methods.entries import parse_entry
from attnbench.results.records.cells import Record
from attnbench.results.records.faults import typed_fault

Text = Annotated[str | None, BeforeValidator(lambda given: given if given is None else str(given))]
Count = Annotated[int | None, Field(ge=1)]


class Local(Record):
    """This machine: one cell at a time on each of its GPUs; without a GPU, one at a time."""

    gpus: Count = Field(default=None, description="how many GPUs to use; all that CUDA_VISIBLE_DEVICES shows")


class Slurm(Record):
    """A Slurm cluster, through submitit: one job a cell."""

    partition: Text = None
    account: Text = None
    qos: Text = None
    constraint: Text = Field(default=None, description="of nodes, as h100: so that all cells get the same GPU")
    gpus_per_node: Literal[0, 1] = Field(default=1, description="GPUs of a job: one, or none for cells on a CPU")
    cpus_per_task: int = Field(default=8, ge=1)
    mem_gb: float | None = Field(default=None, gt=0)
    timeout_min: int = Field(default=60, ge=1, description="minutes after which Slurm ends the job of a cell")
    jobs: Count = Field(default=None, description="jobs at once; by default all")
    cluster: Literal["slurm", "local", "debug"] = Field(
        default="slurm", description="submitit's executor: local starts processes here, and debug runs in this one"
    )


class Ray(Record):
    """A Ray cluster: one task a cell."""

    address: Text = Field(default=None, description="of the cluster; local begins one on this machine")
    gpus: Annotated[int | None, Field(ge=0)] = Field(default=None, description="with address=local: GPUs that it has")
    accelerator: Text = Field(default=None, description="the GPUs to use where there are several kinds, as H100")


Settings = Local | Slurm | Ray
ENGINES: Mapping[str, type[Settings]] = {"local": Local, "slurm": Slurm, "ray": Ray}
"""The settings that each engine of ``--on`` takes."""


def read_where(text: str) -> Settings:
    """Read ``NAME`` or ``NAME:setting=value,…``, as slurm:partition=gpu,timeout_min=30.

    Raises:
        BadInput: quoting an engine, a setting or a value that there is none of.
    """
    entry = parse_entry(text, "--on", "partition=gpu")
    if entry.method not in ENGINES:
        raise unknown_name("engine of --on", entry.method, ENGINES)
    settings: type[Any] = ENGINES[entry.method]
    for name in entry.settings:
        if name not in settings.model_fields:
            raise unknown_name(f"setting of --on {entry.method}", name, settings.model_fields)
    try:
        made: Settings = settings.model_validate(entry.settings)
    except ValidationError as error:
        raise BadInput(f"--on {text!r}: {typed_fault(error)}") from error
    if isinstance(made, Ray) and made.gpus is not None and made.address != "local":
        raise BadInput(f"--on {text!r}: gpus is for address=local; a cluster knows its GPUs")
    return made
