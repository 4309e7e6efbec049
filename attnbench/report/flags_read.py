"""Flags as they are read today: those recorded, and for journals that are older than flags, those of the samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnbench.results.flags import as_read, flags_of
from attnbench.results.pairs import baseline_ids, baseline_samples, by_cell, own_samples
from attnbench.results.records.cells import Row, Sample


@dataclass(frozen=True)
class Taken:
    """The samples of a run.

    Attributes:
        cells: by cell_id.
        enqueuing: whether the run timed enqueuing, where calls do not wait for the GPU.
    """

    cells: Mapping[str, Sequence[Sample]]
    enqueuing: bool

    def flags(self, row: Row) -> str | None:
        """Return the flags of a row; None if neither it nor its samples can tell."""
        if row.latency_ms is None or row.flags == "":
            return row.flags
        own = own_samples(row, self.cells.get(row.cell_id, ()))
        if row.flags is not None:
            return as_read(row.flags, own, row.latency_eager_ms)
        if not own:
            return "power-capped" if row.power_capped else None
        return self._raised(row, own, row.latency_eager_ms)

    def baseline_samples(self, row: Row) -> list[Sample]:
        """Return the samples of the dense baseline that were taken in the rounds of a row."""
        return baseline_samples(
            row, [sample for name in dict.fromkeys(baseline_ids(row)) for sample in self.cells.get(name, ())]
        )

    def baseline_flags(self, row: Row) -> str:
        """Return what those samples raise."""
        return self._raised(row, self.baseline_samples(row), row.baseline_eager_ms)

    def _raised(self, row: Row, samples: Sequence[Sample], eager_ms: float | None) -> str:
        timed = self.enqueuing and row.timer == "events" and row.gpus is None
        return ",".join(
            flags_of(samples, on_gpu=row.timer not in (None, "wall"), eager_ms=eager_ms, enqueuing_timed=timed)
        )


NOTHING = Taken({}, enqueuing=False)


def taken_in(samples: Mapping[str, Iterable[Sample]]) -> dict[str, Taken]:
    """Return the samples of each run, by run_id."""
    return {
        run: Taken(cells, any(each.host_ms is not None for own in cells.values() for each in own))
        for run, cells in by_cell(samples).items()
    }
