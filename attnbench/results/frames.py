"""Records as data frames for users, and rows of data frames as plain values. One rule says what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from attnbench.kernels.errors import BadInput
from attnbench.results.records.cells import Environment, Record
from attnbench.results.records.faults import first_fault

if TYPE_CHECKING:
    import pandas as pd

Kind = TypeVar("Kind", bound=Record)


def frame_of(
    model: type[Record], records: Iterable[Record], environments: Mapping[str, Environment] | None = None
) -> pd.DataFrame:
    """Return a data frame with a row per record and the fields of ``model`` as columns.

    ``environments``, by run_id, become ``attrs["environments"]`` as plain dictionaries.
    """
    import pandas as pd

    columns = [field.alias or name for name, field in model.model_fields.items()]
    frame = pd.DataFrame([record.model_dump(by_alias=True) for record in records], columns=columns)
    if environments is not None:
        frame.attrs["environments"] = {run: each.model_dump() for run, each in environments.items()}
    return frame


def records_of(model: type[Kind], table: pd.DataFrame) -> list[Kind]:
    """Return the rows of a table as records; columns that are not fields of ``model`` are left out.

    This is the way back from a table of ``load_results``, ``load_phases`` or ``load_quality`` that was filtered.

    Raises:
        BadInput: if a row does not fit the schema.
    """
    names = {field.alias or name for name, field in model.model_fields.items()}
    found = []
    for number, row in enumerate(plain_rows(table)):
        try:
            found.append(model.model_validate({k: v for k, v in row.items() if k in names and v is not None}))
        except ValidationError as error:
            raise BadInput(f"row {number} of the table is not valid: {first_fault(error)}") from error
    return found


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries of plain Python values; what pandas calls missing becomes None."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return list(value)
    return None if value is None or value != value or str(value) in ("NaT", "<NA>") else value
