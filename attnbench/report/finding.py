"""The main finding of a case in plain sentences, derived from its rows."""

from __future__ import annotations

from attnbench.report.cases import Case
from attnbench.report.words import latency, number, times
from attnbench.results.layers import MeanRow
from attnbench.results.records.cells import Row
from attnbench.results.speedups import speedup_of


def finding(case: Case) -> list[str]:
    """Return what a reader should remember of ``case``, a list of sentences."""
    return [*_speed(case), *_reference(case), *_heads(case), *_missing(case)]


def speedup_range(case: Case, row: Row) -> tuple[float, float] | None:
    """Return the ends of the interval of the speed-up, by the judge of sweeps, or that latencies allow."""
    base = case.baseline_row
    if base is not None and base.samples_ms and row.samples_ms:
        found = speedup_of(base.samples_ms, [row.samples_ms])
        return found.lo, found.hi
    low, high = (base.latency_lo_ms, base.latency_hi_ms) if base else (None, None)
    low, high = low or case.baseline_ms, high or case.baseline_ms
    if row.latency_ms is None or low is None or high is None:
        return None
    return low / (row.latency_hi_ms or row.latency_ms), high / (row.latency_lo_ms or row.latency_ms)


def _speed(case: Case) -> list[str]:
    if not case.timed:
        return ["No cell of this run has a latency: the table says why."]
    if not case.sparse:
        row = min(case.timed, key=_latency)
        took, ends = latency(row)
        return [f"Only dense attention was timed here: {_name(case, row)} takes {took} ms {ends}."]
    row = min(case.sparse_means or case.sparse, key=_latency)
    bounds = speedup_range(case, row)
    if bounds is None or row.speedup is None:
        return [
            f"The lowest latency of a sparse method is {latency(row)[0]} ms, by {_name(case, row)}. "
            "No dense baseline was measured in this run, so there is no speed-up."
        ]
    what = f"{_name(case, row)}, {times(row.speedup)} the speed of the dense baseline"
    what += "" if row.density is None else f" at density {number(row.density)}"
    if bounds[0] > 1:
        return [f"Fastest sparse method here: {what}.", *_translation(row), *_approximation(row)]
    if bounds[1] < 1:
        return [f"No sparse method is faster than the dense baseline here; the nearest is {what}."]
    return [
        "No sparse method is clearly faster than the dense baseline here: "
        f"the nearest is {what}, and the intervals overlap."
    ]


def _translation(row: Row) -> list[str]:
    if row.translation is None or not row.density:
        return []
    allowed = f"the {times(1 / row.density)} that its density allows"
    if row.translation > 1:
        return [f"That is more than {allowed}, so something besides skipped pairs helped too."]
    return [f"That is {row.translation:.0%} of {allowed} if every skipped pair saved its share of the time."]


def _approximation(row: Row) -> list[str]:
    if row.approximation_error is None:
        return []
    return [f"On these inputs its output differs from full attention by {row.approximation_error:.2g} (relative L2)."]


def _reference(case: Case) -> list[str]:
    if not case.sparse or min(case.sparse_means or case.sparse, key=_latency).engine != "reference":
        return []
    return ["The reference engine is plain PyTorch, there to check others: its time says little about the method."]


def _heads(case: Case) -> list[str]:
    if not case.heads_timed:
        return []
    return [f"{case.heads_timed} of {case.first.heads} heads timed; nothing is extrapolated to the others."]


def _missing(case: Case) -> list[str]:
    missing = [row for row in case.rows if row.latency_ms is None]
    if not missing or not case.timed:
        return []
    names = ", ".join(f"{case.label(row)} ({row.verdict})" for row in missing[:4])
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    verb = "has" if len(missing) == 1 else "have"
    return [f"{len(missing)} of {len(case.rows)} cells {verb} no latency: {names}{more}."]


def _latency(row: Row) -> float:
    return row.latency_ms or float("inf")


def _name(case: Case, row: Row) -> str:
    if isinstance(row, MeanRow):
        label = case.label(row, case.means)
        over = f", mean over layers {row.layers}" if "," in row.layers else ""
        return f"{label}{over}" if row.engine in label.split(" · ") else f"{label} on engine {row.engine}{over}"
    label = case.label(row, case.timed)
    return label if row.engine in label.split(" · ") else f"{label} on engine {row.engine}"
