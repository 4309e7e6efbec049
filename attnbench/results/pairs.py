"""Samples of a cell beside those that the dense baseline took in the same rounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from attnbench.results.records.cells import Cell, Row, Sample, canonical_json

DENSE = "full"

Round = tuple[str, int]
"""Whose rounds, and the number of the round: what a sample shares with the baseline's that it is paired with."""


def by_round(samples: Iterable[Sample]) -> dict[Round, Sample]:
    """Return samples of one cell by their rounds; of two in one round the last one counts."""
    return {(sample.group, sample.round): sample for sample in samples}


def by_cell(samples: Mapping[str, Iterable[Sample]]) -> dict[str, dict[str, list[Sample]]]:
    """Return the samples of each run by their cells: run_id → cell_id → samples."""
    found: dict[str, dict[str, list[Sample]]] = {}
    for run, taken in samples.items():
        cells = found.setdefault(run, {})
        for sample in taken:
            cells.setdefault(sample.cell_id, []).append(sample)
    return found


def own_samples(row: Row, samples: Iterable[Sample]) -> list[Sample]:
    """Return those samples of a run that the latency of ``row`` rests on."""
    mine = beside(row.cell_id, samples)
    return [sample for sample in mine if sample.cell_id == row.cell_id and _conditions(sample) == _conditions(row)]


def baseline_samples(row: Row, samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples that the dense baseline of ``row`` has in the same run, on the same tensors."""
    names, mine = set(baseline_ids(row)), beside(row.cell_id, samples)
    return [sample for sample in mine if sample.cell_id in names and _conditions(sample) == _conditions(row)]


def beside(cell_id: str, samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples that were taken in the rounds of a cell: in its own process, or in the one that it shared."""
    found = list(samples)
    group = cell_id if any(sample.group == cell_id for sample in found) else ""
    return [sample for sample in found if sample.group == group]


def baseline_ids(row: Row) -> tuple[str, ...]:
    """Return the cell_ids that the dense baseline of ``row`` may have: of its own, asked for, and before schema 3."""
    if row.baseline is None:
        return ()
    names = _dense_ids(row.baseline.removeprefix(f"{DENSE}/"), tuple(getattr(row, name) for name in _SHARED))
    # Dense attention on another engine than the baseline's has the identity of what it asked for itself.
    itself = f"{row.method}/{row.engine}" == row.baseline
    return names if itself else tuple(each for each in names if each != row.cell_id)


_NONE = canonical_json({})
_SHARED = tuple(
    name for name in Cell.model_fields
    if name not in ("method", "settings", "settings_given", "density_asked", "layer", "step", "engine")
)  # fmt: skip
"""What the cell of a dense baseline has in common with those that were timed beside it."""


@lru_cache(maxsize=1024)
def _dense_ids(engine: str, shared: tuple[Any, ...]) -> tuple[str, str, str]:
    own = {"method": DENSE, "settings": _NONE, "settings_given": _NONE, "layer": 0, "engine": engine}
    asked = Cell.model_validate({**dict(zip(_SHARED, shared, strict=True)), **own})
    chosen = asked.model_copy(update={"engine_asked": engine})
    return chosen.identity, asked.identity, asked.legacy_identity


def paired(row: Row, samples: Sequence[Sample]) -> dict[Round, tuple[Sample, Sample]]:
    """Return by round the samples of ``row`` and of its dense baseline, for rounds that have both."""
    return joined(by_round(own_samples(row, samples)), by_round(baseline_samples(row, samples)))


def joined(own: Mapping[Round, Sample], dense: Mapping[Round, Sample]) -> dict[Round, tuple[Sample, Sample]]:
    """Return the samples of the rounds that two cells share."""
    return {round: (own[round], dense[round]) for round in sorted(own.keys() & dense.keys())}


def speedup_logs(rounds: Iterable[tuple[float, float | None]]) -> list[float]:
    """Return the log of the speed-up in each round that has a baseline; rounds are times and baselines, in ms."""
    return [math.log(dense / own) for own, dense in rounds if dense]


def latency_logs(rounds: Iterable[tuple[float, float | None]]) -> list[float]:
    """Return the log of each round's time in ms."""
    return [math.log(own) for own, _ in rounds]


def _conditions(of: Row | Sample) -> tuple[object, ...]:
    return of.inputs_hash, of.heads_timed, of.threads
