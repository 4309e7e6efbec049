"""Write what docs say of the results journal from its records: the JSON Schema, and the tables of fields.

python scripts/write_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from attnbench.results.records.cells import Environment, PhaseRow, Row, RunHeader, Sample
from attnbench.results.records.clips import ClipRow, QualityRow
from attnbench.results.records.steps import StepRecord

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCHEMA = DOCS / "results-schema.json"
PAGE = DOCS / "results.md"
BEGIN = "<!-- begin: written by scripts/write_schema.py -->"
END = "<!-- end -->"

LINES: dict[str, type[BaseModel]] = {
    "run": RunHeader,
    "sample": Sample,
    "row": Row,
    "phase": PhaseRow,
    "step": StepRecord,
    "clip": ClipRow,
    "quality": QualityRow,
}
UNITS = {"ms": "ms", "mib": "MiB", "gib": "GiB", "mhz": "MHz", "w": "W", "c": "°C", "bytes": "bytes"}


def schema_text() -> str:
    """Return the JSON Schema of one line of a journal."""
    _, document = models_json_schema([(model, "validation") for model in LINES.values()])
    for kind, model in LINES.items():
        described = document["$defs"][model.__name__]
        described["properties"] = {"kind": {"const": kind, "type": "string"}, **described["properties"]}
        described["required"] = ["kind", *described["required"]]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of an attnbench results journal",
        "oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in LINES.values()],
        **document,
    }
    return json.dumps(schema, indent=2) + "\n"


def unit(name: str) -> str:
    """Return the unit that a field's name ends with, or nothing."""
    return UNITS.get(name.rpartition("_")[2], "") if "_" in name else ""


def values(described: dict[str, Any]) -> str:
    """Say which values a field may have: its type, or its words where they are few."""
    options = described.get("anyOf", [described])
    kinds = []
    for option in options:
        if "enum" in option:
            kinds.append(", ".join(option["enum"]))
        elif "$ref" in option:
            kinds.append(option["$ref"].rpartition("/")[2].lower())
        elif "prefixItems" in option:
            kinds.append(f"{len(option['prefixItems'])} {option['prefixItems'][0]['type']}s")
        elif "items" in option:
            kinds.append(f"{values(option['items'])}s")
        elif option.get("type") != "null":
            kinds.append(option.get("type", "any"))
    return "; ".join(kinds)


def table(model: type[BaseModel]) -> str:
    """Return a Markdown table of the model's fields. A ° marks those that may be empty."""
    properties = model.model_json_schema()["properties"]
    lines = ["| name | unit | values | meaning |", "|---|---|---|---|"]
    for name, described in properties.items():
        empty = " °" if any(option.get("type") == "null" for option in described.get("anyOf", [])) else ""
        lines.append(f"| `{name}` | {unit(name)} | {values(described)}{empty} | {described['description']} |")
    return "\n".join(lines)


def with_tables(text: str) -> str:
    """Return a page with the block between the marks written anew.

    Raises:
        ValueError: if the page lacks the marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs a line {BEGIN!r} and a line {END!r}")
    parts = {
        "A row (`kind: row`): one cell of one run": Row,
        "A phase (`kind: phase`): where the time of a cell went": PhaseRow,
        "A whole step (`kind: step`): with one kind of self-attention": StepRecord,
        "A metric of a clip (`kind: quality`)": QualityRow,
        "A clip (`kind: clip`)": ClipRow,
        "A sample (`kind: sample`): one timed call": Sample,
        "The first line (`kind: run`)": RunHeader,
        "Its environment": Environment,
    }
    block = "\n\n".join(f"### {title}\n\n{table(model)}" for title, model in parts.items())
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def main() -> None:
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
