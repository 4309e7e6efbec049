"""Bring records of older schemas up to date: before schema 3 a cell was known by what ran, not by what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from attnbench.results.records.cells import (
    PhaseRow,
    Record,
    Row,
    RunHeader,
    Sample,
    canonical_json,
    digest,
    inputs_content,
    settings_of,
)

Kind = TypeVar("Kind", bound=Record)

LAYERS = {"wan2.1-1.3b": 30, "wan2.1-14b": 40, "hunyuan": 60, "cogvideox-5b": 42, "mini": 6}
"""Layers of the models that journals before schema 3 may name."""


def brought_up(records: Iterable[Kind]) -> list[Kind]:
    """Return the records of a journal, with those that name a cell by what ran naming it by what was asked.

    What was asked stands in the run record; where it does not, the cell keeps what ran in its place. Samples of cells
    that have no row keep their cell_id.
    """
    found: list[Kind] = []
    headers: dict[str, RunHeader] = {}
    for record in records:
        if isinstance(record, RunHeader):
            headers[record.run_id] = record
        found.append(_with_asked(record, headers.get(record.run_id)) if _is_old(record) else record)  # type: ignore[arg-type,attr-defined]  # a row
    found = _with_layers(found, headers)
    cells = {row.legacy_identity: row for row in found if isinstance(row, Row) and row.schema_version < 3}
    return [_renamed(record, cells) for record in found] if cells else found


def layers_alike(chosen: Sequence[int], kinds: Sequence[int]) -> dict[int, int]:
    """Return how many layers of a model each chosen layer stands for.

    Args:
        chosen: layers, each once. Those of one kind share its layers.
        kinds: the kind of each layer of the model.
    """
    found = {}
    for layer in chosen:
        same = [each for each in chosen if kinds[each] == kinds[layer]]
        of_kind = kinds.count(kinds[layer])
        found[layer] = of_kind // len(same) + (same.index(layer) < of_kind % len(same))
    return found


def with_cells(samples: Iterable[Sample], names: Mapping[str, str]) -> list[Sample]:
    """Return samples with their cell_id looked up in ``names``; those that are not there stay as they are."""
    return [sample.model_copy(update={"cell_id": names.get(sample.cell_id, sample.cell_id)}) for sample in samples]


def _is_old(record: Record) -> bool:
    return isinstance(record, Row) and record.schema_version < 3 and record.settings_given is None


def _with_asked(row: Row, header: RunHeader | None) -> Row:
    request = {} if header is None else header.request
    given = _settings_given(row, request.get("methods"))
    asked = request.get("engine", row.engine)
    update: dict[str, Any] = {"inputs_content": _content(row.inputs, {} if header is None else header.contents)}
    if given is None:
        update |= {"settings_given": row.settings, "engine_asked": row.engine}
    else:
        update |= {"settings_given": canonical_json(given), "engine_asked": None if asked == "auto" else asked}
    fresh = row.model_copy(update=update)
    cell_id = fresh.identity
    return fresh.model_copy(update={"cell_id": cell_id, "row_id": digest([row.run_id, cell_id])})


def _with_layers(records: list[Kind], headers: Mapping[str, RunHeader]) -> list[Kind]:
    """Return records whose older rows say how many of the model's layers they stand for, where none were asked for."""
    whole = {run for run, header in headers.items() if header.request.get("layers") is None}
    old = [each for each in records if isinstance(each, Row) and each.schema_version < 3 and each.run_id in whole]
    kinds: dict[tuple[str, ...], set[int]] = {}
    for row in old:
        kinds.setdefault((row.run_id, row.method, row.settings), set()).add(row.layer)

    def counted(record: Kind) -> Kind:
        if not isinstance(record, Row) or record.schema_version >= 3 or record.model not in LAYERS:
            return record
        chosen = sorted(kinds.get((record.run_id, record.method, record.settings), ()))
        if not chosen:
            return record
        alike = layers_alike(chosen, [layer % len(chosen) for layer in range(LAYERS[record.model])])  # they took turns
        return record.model_copy(update={"layers_alike": alike[record.layer]})

    return [counted(record) for record in records] if old else records


def _settings_given(row: Row, methods: object) -> dict[str, Any] | None:
    """Return the settings that were given for the entry that came to this row; None if that is not clear."""
    entries = [entry for method, entry in _entries(methods) if method == row.method]
    if not entries:
        return None
    settings = settings_of(row.settings) or {}
    fitting = [entry for entry in entries if all(settings.get(name) == value for name, value in entry.items())]
    most = max((len(entry) for entry in fitting), default=0)
    best = [entry for entry in fitting if len(entry) == most]
    if len(entries) > 1 and len(best) != 1:
        return None
    entry = best[0] if best else entries[0]  # a setting may have been clipped to the grid
    return {name: settings[name] if settings.get(name) == value else value for name, value in entry.items()}


def _entries(methods: object) -> list[tuple[str, Mapping[str, Any]]]:
    """Return method and settings of what a request lists: settings by method, or entries."""
    if isinstance(methods, Mapping):
        return [(name, given) for name, given in methods.items() if isinstance(given, Mapping)]
    found = []
    for entry in methods if isinstance(methods, Sequence) and not isinstance(methods, str) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("settings"), Mapping):
            found.append((str(entry.get("method")), entry["settings"]))
    return found


def _content(inputs: str, contents: Mapping[str, str]) -> str | None:
    """Return ``inputs_content`` of an older row; None if it names a file whose content was not noted."""
    kind, colon, name = inputs.partition(":")
    if not colon:
        return ""
    if "inputs" not in contents:
        return None
    file, at, part = name.rpartition("@")
    return inputs_content(
        contents["inputs"], part if kind == "capture" and at and file.endswith(".safetensors") else None
    )


def _renamed(record: Kind, cells: Mapping[str, Row]) -> Kind:
    row = cells.get(record.cell_id) if isinstance(record, (Sample, PhaseRow)) else None
    if row is None:
        return record
    update = {"cell_id": row.cell_id}
    if isinstance(record, PhaseRow) and record.run_id == row.run_id:
        update["row_id"] = row.row_id
    return record.model_copy(update=update)
