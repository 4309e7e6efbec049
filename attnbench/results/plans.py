"""What a folder of several runs is to hold, as a file in it: read back to resume."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from attnbench.inputs.files import read_file
from attnbench.kernels.errors import BadInput
from attnbench.results.records.cells import Record
from attnbench.results.records.faults import first_fault

SWEEP = "sweep.json"
"""The plan of a sweep."""


class Planned(Record):
    """A plan on disk. Each kind gives its own version as the default."""

    schema_version: int = Field(default=1, description="version of this file")


Kind = TypeVar("Kind", bound=Planned)


def read_plan(folder: Path, name: str, kind: type[Kind], what: str) -> Kind:
    """Return the plan in a folder.

    Args:
        folder: of the runs.
        name: of the file.
        kind: what it holds; the default of its version is the newest that can be read.
        what: that in words, as "a sweep".

    Raises:
        BadInput: if there is none, or one of a newer attnbench.
    """
    path = folder / name
    try:
        plan = kind.model_validate_json(read_file(path))
    except OSError as error:
        raise BadInput(f"nothing to resume: {str(folder)!r} has no {name}") from error
    except ValidationError as error:
        raise BadInput(f"{str(path)!r} is not {what}: {first_fault(error, 'it')}") from error
    if plan.schema_version > kind.model_fields["schema_version"].default:
        raise BadInput(f"{str(path)!r} is of version {plan.schema_version}, newer than this attnbench: upgrade it")
    return plan
