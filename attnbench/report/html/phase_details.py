"""The details of phases: their work and rates, and the parts of attend, one line for each value and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.cost.roofline import Bounds, attend_bounds, peak_of
from attnbench.cost.waterfall import DIFFERENCES
from attnbench.report.cases import parts_below
from attnbench.report.words import NONE, decimals_of, number
from attnbench.results.records.cells import PhaseRow, Row

PASSES = {"fwd": "forward", "bwd": "backward"}


@dataclass(frozen=True)
class PhaseDetail:
    """A line of the table of details.

    Attributes:
        label: the label of the row, on its first line only.
        phase: its name; for a part also what it is part of.
        ms, interval: the time, and the ends of its interval.
        modelled: whether the time rests on a model, which is shown hatched.
        cells: value and small note of each of ``COLUMNS``.
        provenance: how the time is known.
        note: what remains uncertain about the time, or the least possible times.
    """

    label: str
    pass_: str
    phase: str
    ms: str
    interval: str
    modelled: bool
    cells: tuple[tuple[str, str], ...]
    provenance: str
    note: str


COLUMNS = ("TFLOP/s", "MFU", "TB/s", "of the bandwidth", "bytes", "peak MiB")


def phase_details(row: Row, label: str, phases: Sequence[PhaseRow]) -> list[PhaseDetail]:
    """Return the details of a profiled row: every phase in which something runs, with its parts below it."""
    several = len({p.pass_ for p in phases}) > 1
    running = [phase for phase in parts_below(phases) if phase.phase != "gap"]
    return [_detail(row, "" if place else label, phase, several) for place, phase in enumerate(running)]


def memory_words(row: Row, phases: Sequence[PhaseRow]) -> str:
    """Return what a call needs beyond inputs and output, and how much more that is than dense attention needs."""
    if row.peak_extra_mib is None:
        return ""
    dense = next((p.peak_dense_mib for p in phases if p.peak_dense_mib is not None), None)
    said = f"{number(row.peak_extra_mib)} MiB"
    if dense is None:
        return said
    over = row.peak_extra_mib - dense
    return f"{said}, {number(abs(over))} {'more' if over >= 0 else 'less'} than dense"


def ceilings_words(phases: Mapping[str, Sequence[PhaseRow]]) -> str:
    """Return in words what the matrix product and the copy of the run reached; "" if there are none."""
    every = [phase for own in phases.values() for phase in own]
    product = next((p.tflops / p.mfu_probe for p in every if p.tflops and p.mfu_probe), None)
    copy = next((p.tbs / p.bandwidth_probe for p in every if p.tbs and p.bandwidth_probe), None)
    found = [
        *([f"a matrix product reached {number(product)} TFLOP/s"] if product else []),
        *([f"a copy {number(copy)} TB/s"] if copy else []),
    ]
    return f"In this run {' and '.join(found)}." if found else ""


def bounds_of(row: Row, attend: PhaseRow) -> Bounds | None:
    """Return the least times of a row's forward attend on its GPU, at the clock that was read; None if not known."""
    gpu = peak_of(row.device)
    if gpu is None or not row.executed_pairs or row.dtype not in ("bfloat16", "float16") or attend.pass_ != "fwd":
        return None
    return attend_bounds(
        gpu, pairs=row.executed_pairs, head_dim=row.head_dim, nbytes=int(attend.bytes or 0), clock_mhz=row.sm_clock_mhz
    )


def _detail(row: Row, label: str, phase: PhaseRow, several: bool) -> PhaseDetail:
    decimals = decimals_of(phase.time_ms, phase.time_lo_ms, phase.time_hi_ms)
    modelled = phase.provenance == "modelled"
    interval = f"{phase.time_lo_ms:,.{decimals}f} to {phase.time_hi_ms:,.{decimals}f}"
    bounds = bounds_of(row, phase) if phase.phase == "attend" and phase.provenance == "measured" else None
    rated = phase.provenance != "ablated" or phase.phase not in DIFFERENCES  # older journals have rates here
    notes = [phase.note, _bounds_words(bounds) if bounds is not None else ""]
    return PhaseDetail(
        label=label,
        pass_=PASSES[phase.pass_] if several else "",
        phase=phase.phase if phase.parent is None else f"{phase.phase}, in {phase.parent}",
        ms=f"{phase.time_ms:,.{decimals}f}",
        interval=interval,
        modelled=modelled,
        cells=(
            (number(phase.tflops if rated else None), _sized(phase.flops, "FLOP") if phase.flops else ""),
            _shares(phase.mfu, phase.mfu_probe) if rated else (NONE, ""),
            (number(phase.tbs), ""),
            _shares(phase.bandwidth, phase.bandwidth_probe),
            (
                _sized(phase.bytes, "B"),
                f"asked for: {_sized(phase.bytes_modelled, 'B')}" if phase.bytes_modelled else "",
            ),
            (number(phase.peak_extra_mib), ""),
        ),
        provenance=phase.provenance,
        note="; ".join(filter(None, notes)),
    )


def _bounds_words(bounds: Bounds) -> str:
    times = {
        "products": bounds.tensor_ms,
        "exponentials": bounds.exponentials_ms,
        **({"memory": bounds.memory_ms} if bounds.memory_ms else {}),
    }
    return "at least " + ", ".join(f"{number(ms)} ms for {unit}" for unit, ms in times.items())


def _shares(of_datasheet: float | None, of_probe: float | None) -> tuple[str, str]:
    """Write the share of the datasheet's figure and, below it, the share of what was measured."""
    if of_datasheet is None and of_probe is None:
        return NONE, ""
    measured = "" if of_probe is None else f"{of_probe:.0%} of measured"
    return (NONE if of_datasheet is None else f"{of_datasheet:.0%}"), measured


def _sized(amount: float | None, unit: str) -> str:
    if amount is None:
        return NONE
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if amount >= size:
            return f"{number(amount / size)} {prefix}{unit}"
    return f"{amount:.0f} {unit}"
