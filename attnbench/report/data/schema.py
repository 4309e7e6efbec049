"""The JSON Schema of a report's data."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import TypeAdapter

from attnbench.report.data.figure import Axis, Bar, Figure, Heat, Point, Series, Strip
from attnbench.report.data.page import Chosen, MethodMark, PageData
from attnbench.report.data.table import Column, Table
from attnbench.report.flag_words import FlagWords
from attnbench.report.traits import TraitWords

_PARTS = (
    PageData,
    MethodMark,
    FlagWords,
    TraitWords,
    Chosen,
    Table,
    Column,
    Figure,
    Axis,
    Series,
    Point,
    Bar,
    Heat,
    Strip,
)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of what ``attnbench.report.data.page.to_json`` writes.

    Fields that hold their default are left out of the data. Descriptions are those of the docstrings.
    """
    schema = TypeAdapter(PageData).json_schema()
    for part in _PARTS:
        found = schema if part is PageData else schema["$defs"][part.__name__]
        found["description"] = (inspect.getdoc(part) or "").split("\n")[0]
        told = _meanings(part)
        for name, field in found["properties"].items():
            field.pop("title", None)
            if name in told:
                field["description"] = told[name]
    return schema


def _meanings(part: type) -> dict[str, str]:
    """Return what the docstring of a class says of each field."""
    _, _, attributes = (inspect.getdoc(part) or "").partition("Attributes:\n")
    found = {}
    for names, meaning in re.findall(r"^    ([\w, ]+): (.+(?:\n        .+)*)", attributes, re.MULTILINE):
        for name in names.split(", "):
            found[name] = re.sub(r"\s+", " ", meaning)
    return found
