"""The generated part of docs/methods-compared.md: a section for each table below results/h200/methods that is there.

``write_docs.py`` writes it. Without tables, it says so in one sentence.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attnbench.bench.matched import WITHIN, distance
from attnbench.inputs.presets import RESOLUTIONS
from attnbench.kernels.grid import Grid
from attnbench.methods import get_method
from attnbench.report.cases import cases_of
from attnbench.report.word_table import WordTable
from attnbench.results.gaps import Estimate, Gap, gaps
from attnbench.results.layers import MeanRow
from attnbench.results.load import Results, read
from attnbench.results.speedups import ranked_ends, ranked_ms, ranked_speedup, ranked_translation

TABLES = Path(__file__).resolve().parents[1] / "results" / "h200" / "methods"
NOT_MEASURED = "No table is committed yet: the commands above make them, and this page then shows them."
GRIDS = {str(each.grid()): name for name, each in RESOLUTIONS.items()}
TITLES = (
    "method", "setting", "density", "kernel", "latency, ms", "selection, ms", "speed-up", "translation", "between, ms",
    "refresh, ms", "error", "recall", "worst",
)  # fmt: skip
MINI = "the mini model"
DIRECTIONS = {"fwd": "forward", "fwdbwd": "forward and backward"}
COSTLY = 0.15
"""Share of a call beyond which what selecting takes is named."""

CLOCKS = 0.02
"""Difference of clocks from which on it is said."""

METRIC = "psnr"
"""What clips are compared by: against full attention's clip of the same prompt and seed."""

CLIPS_DENSITY = 0.2
"""What the settings of the clips' suite were matched to."""

Group = tuple[str, str, str, float | None]


def sections(folder: Path = TABLES) -> str:
    """Return the sections, latency first, for the journals below a folder."""
    journals = sorted(folder.rglob("*.jsonl*")) if folder.is_dir() else []
    if not journals:
        return NOT_MEASURED
    results = read(folder)
    groups: dict[Group, list[MeanRow]] = {}
    for case in cases_of(results.rows, results.samples):
        for row in case.means:
            groups.setdefault(_group(row), []).append(row)
    parts = [_section(group, groups[group], _commits(groups[group], results)) for group in sorted(groups, key=_place)]
    return "\n\n".join([*findings(groups), *parts, *_missing(results), *clips_section(results)])


def findings(groups: Mapping[Group, Sequence[MeanRow]]) -> list[str]:
    """Return the section that says what the tables say together, a list item for each; none without such tables."""
    lines = []
    for group in sorted(groups, key=_place):
        ranked = [row for row in groups[group] if row.method != "full" and ranked_ms(row) and not _unmatched(row)]
        speedups = sorted((speedup, row.method) for row in ranked if (speedup := ranked_speedup(row)) is not None)
        if _is_of_mini(group) or not speedups:
            continue
        (least, last), (most, first) = speedups[0], speedups[-1]
        count = len({method for _, method in speedups})
        said = f"- **{_case(group)}**: {count} methods, from {least:.2f} times as fast as dense attention "
        said += f"(`{last}`) to {most:.2f} times (`{first}`)."
        slower = [method for speedup, method in speedups if speedup < 1]
        costly = [row.method for row in ranked if (_share(row) or 0) > COSTLY]
        said += f" Slower than dense attention: {_listed(slower)}." if slower else ""
        said += f" Selecting takes more than {COSTLY * 100:g} % of a call of {_listed(costly)}." if costly else ""
        lines.append(said)
    return ["\n".join(["## What the tables say", "", *lines])] if lines else []


def clips_section(results: Results) -> list[str]:
    """Return the section of the clips; none without clips.

    The nearest to full attention's come first among those that kept ``CLIPS_DENSITY``, and the others follow.
    """
    found = [gap for gap in gaps(results.quality) if gap.metric == METRIC]
    if not found:
        return []
    kept = _kept_by_clips(results)

    def is_matched(gap: Gap) -> bool:
        density = kept.get((gap.method, gap.settings))
        return density is not None and distance(density, CLIPS_DENSITY) <= WITHIN

    found.sort(key=lambda gap: (not is_matched(gap), -gap.gap.mean))
    header = ("method", "setting", "density", "PSNR, dB", "pairs", "another kernel", "another seed")
    cells = []
    for gap in found:
        density = _number(kept.get((gap.method, gap.settings)), ".2f") + ", unmatched" * (not is_matched(gap))
        floors = _interval(gap.kernel_floor), _interval(gap.seed_floor)
        cells.append((f"`{gap.method}`", _setting(gap), density, _interval(gap.gap), str(gap.gap.pairs), *floors))
    lines = WordTable(header, tuple(cells), right=frozenset(range(2, len(header)))).markdown()
    within = [gap.method for gap in found if gap.judgement == "indistinguishable"]
    said = (
        f"Clips of {_listed(within)} are as near to full attention's as those of another dense kernel."
        if within
        else "No method's clips are as near to full attention's as those of another dense kernel."
    )
    ranked = [gap.method for gap in found if is_matched(gap)]
    if len(ranked) > 1:
        said += f" Of the methods that kept a density of {CLIPS_DENSITY:g}, `{ranked[0]}` is nearest "
        said += f"and `{ranked[-1]}` farthest."
    dense = sorted({(clip.dense_steps, clip.steps) for _, clip in results.clips if clip.method != "full"})
    said += f" {' or '.join(f'{few} of {all_} steps' for few, all_ in dense)} are dense." if dense else ""
    said += f" Settings are for a density of {CLIPS_DENSITY:g} on one capture, and densities are means over the other "
    said += f"steps of all clips. Methods that were more than {WITHIN * 100:g} % away from it there are unmatched: "
    said += "they come last, and are not ranked."
    return ["\n".join(["## Clips of the mini model", "", said, "", *lines])]


def _kept_by_clips(results: Results) -> dict[tuple[str, str], float]:
    """Return the mean density of each method's clips, by method and settings."""
    found: dict[tuple[str, str], list[float]] = {}
    for _, clip in results.clips:
        found.setdefault((clip.method, clip.settings), []).extend(x for x in clip.densities if x is not None)
    return {name: statistics.fmean(densities) for name, densities in found.items() if densities}


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    ends = "" if estimate.lo is None or estimate.hi is None else f" ({estimate.lo:.1f} to {estimate.hi:.1f})"
    return f"{estimate.mean:.1f}{ends}"


def _group(row: MeanRow) -> Group:
    inputs = f"{MINI}, {_part(row.inputs)}" if row.inputs.startswith("capture:") else row.inputs
    return row.grid, inputs, row.direction, row.density_asked


def _part(inputs: str) -> str:
    """Return which part of a capture inputs are, as "layer 1, step 6" of "capture:FILE@layer1.step6"."""
    return ", ".join(re.sub(r"(?<=\D)(?=\d)", " ", each) for each in inputs.rpartition("@")[2].split("."))


def _place(group: Group) -> tuple[object, ...]:
    grid, inputs, direction, density = group
    return _is_of_mini(group), direction, Grid.of(grid).tokens, density is not None, density or 0.0, inputs


def _is_of_mini(group: Group) -> bool:
    return group[1].startswith(MINI)


def _case(group: Group) -> str:
    """Return what a table is of, but for the inputs."""
    grid, _, direction, density = group
    what = "defaults" if density is None else f"density {density:g}"
    return f"{GRIDS.get(grid, grid.replace('x', '×'))}, {what}, {DIRECTIONS[direction]}"


def _commits(rows: Iterable[MeanRow], results: Results) -> list[str]:
    """Return the commits at which rows were measured, shortened."""
    found = {results.environments[row.run_id].git_commit for row in rows}
    return sorted(f"`{commit[:9]}`" for commit in found if commit)


def _section(group: Group, rows: Sequence[MeanRow], commits: Sequence[str]) -> str:
    by_error = _is_of_mini(group)
    sparse = (_by_error if by_error else _by_latency)(row for row in rows if row.method != "full")
    measured = f" Measured at commit {' and '.join(commits)}." if commits else ""
    table = WordTable(TITLES, tuple(map(_cells, sparse)), frozenset(range(2, len(TITLES))) - {TITLES.index("kernel")})
    said = reading(sparse, by_error) + capped(rows) + measured
    return "\n".join([f"## {_case(group)}, on {group[1]}", "", said, "", *table.markdown()])


def _setting(row: MeanRow | Gap) -> str:
    """Return the settings that were given or, without any, the one by which the method keeps more or less."""
    if isinstance(row, MeanRow) and (given := _given(row)):
        return given
    turned = get_method(row.method).density_setting
    names = () if turned is None else (turned,) if isinstance(turned, str) else turned.names
    values = json.loads(row.settings)
    told = [f"{name}={values[name]:.4g}" for name in names if isinstance(values.get(name), (int, float))]
    return f"`{', '.join(told)}`" if told else ""


def _given(row: MeanRow) -> str:
    """Return the settings that were given; empty without any."""
    given = json.loads(row.settings_given)
    return f"`{', '.join(f'{name}={value}' for name, value in given.items())}`" if given else ""


def _by_latency(rows: Iterable[MeanRow]) -> list[MeanRow]:
    """Return the rows by the latency of their mean step: matched ones, then unmatched ones, then those without."""
    return sorted(rows, key=lambda row: (row.latency_ms is None, _unmatched(row), ranked_ms(row) or 0.0, row.method))


def _by_error(rows: Iterable[MeanRow]) -> list[MeanRow]:
    """Return the rows by their error: matched ones without a state, then those with one, then unmatched ones."""

    def place(row: MeanRow) -> tuple[object, ...]:
        error = row.approximation_error
        return error is None, _unmatched(row), row.refresh_ms is not None, error or 0.0, row.method

    return sorted(rows, key=place)


def _unmatched(row: MeanRow) -> bool:
    return "unmatched" in (row.flags or "").split(",")


def reading(rows: Sequence[MeanRow], by_error: bool = False) -> str:
    """Say in a few sentences what a table says: what is fastest, unless it is by error, and nearest to full attention.

    Args:
        rows: of the table, in its order.
        by_error: the table is not about latencies.
    """
    ranked = [row for row in rows if row.latency_ms is not None and not _unmatched(row)]
    if not ranked:
        return "No method has a latency here that may be ranked."
    said = [] if by_error else [_fastest(ranked)]
    known = [row for row in ranked if row.approximation_error is not None and row.refresh_ms is None]
    if known:
        nearest = min(known, key=lambda row: row.approximation_error or 0.0)
        among = "Among methods without a state, " if len(known) < len(ranked) else ""
        given = f" ({_given(nearest)})" if _given(nearest) else ""
        error = f"its error is {nearest.approximation_error:.2g}."
        said.append(f"{among}`{nearest.method}`{given} comes nearest to full attention: {error}")
    charged = [row.method for row in ranked if row.refresh_ms is not None]
    if charged and not by_error:
        said.append(f"Latencies of {_listed(charged)} include their share of the steps that make the state anew.")
    missed = [row.method for row in rows if _unmatched(row)]
    if missed:
        be = "is" if len(missed) == 1 else "are"
        said.append(f"{_listed(missed)} did not reach the density and {be} not ranked.")
    return " ".join(said)


def _fastest(ranked: Sequence[MeanRow]) -> str:
    first = ranked[0]
    took, speedup = ranked_ms(first), ranked_speedup(first)
    alike = [row.method for row in ranked[1:] if _low(row) <= _high(first)]
    said = f"Fastest is `{first.method}` with {took:.3g} ms"
    said += f", {speedup:.2f} times as fast as dense attention" if speedup is not None else ""
    return said + (f"; the interval of {_listed(alike)} overlaps with its own." if alike else ".")


def capped(rows: Sequence[MeanRow]) -> str:
    """Say at which clocks a table was measured if the power cap held full attention down; otherwise nothing."""
    clocks = [row.sm_clock_mhz for row in rows if row.method != "full" and row.sm_clock_mhz is not None]
    full = [row for row in rows if row.method == "full" and row.sm_clock_mhz is not None]
    if not clocks or not full or not full[0].power_capped or max(clocks) < full[0].sm_clock_mhz * (1 + CLOCKS):
        return ""
    ends = dict.fromkeys(f"{end:,.0f}" for end in (min(clocks), max(clocks)))
    return (
        f" The power cap held full attention at {full[0].sm_clock_mhz:,.0f} MHz, and methods at {' to '.join(ends)}: "
        "at equal clocks they would gain less."
    )


def _listed(methods: Sequence[str]) -> str:
    names = [f"`{method}`" for method in methods]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _low(row: MeanRow) -> float:
    low = ranked_ends(row)[0]
    return low if low is not None else ranked_ms(row) or 0.0


def _high(row: MeanRow) -> float:
    high = ranked_ends(row)[1]
    return high if high is not None else ranked_ms(row) or 0.0


def _cells(row: MeanRow) -> tuple[str, ...]:
    took = ranked_ms(row)
    time = "" if took is None else f"{took:.3g} ({_low(row):.3g} to {_high(row):.3g})"
    return (
        f"`{row.method}`" + (" (unmatched)" if _unmatched(row) else ""),
        _setting(row),
        _number(row.density, ".3f"),
        _kernel(row),
        time or row.verdict,
        _selection(row),
        _number(ranked_speedup(row), ".2f"),
        _number(ranked_translation(row), ".2f"),
        _number(None if row.refresh_ms is None else row.latency_ms, ".3g"),
        _number(row.refresh_ms, ".3g"),
        _number(row.approximation_error, ".2g"),
        _number(row.mass_recall, ".3f"),
        _number(row.mass_recall_worst, ".3f"),
    )


def _kernel(row: MeanRow) -> str:
    """Return what attends: another engine, or which of our kernels."""
    if row.engine != "triton":
        return row.engine
    return "Gluon" if "gluon:attend_tiles" in (row.kernels or "") else "Triton"


def _selection(row: MeanRow) -> str:
    """Return what selecting takes, and its share of the call it is part of: of a step that uses the state, with one."""
    share = _share(row)
    return "" if share is None else f"{row.selection_ms:.2g} ({share:.0%})".replace("%", " %")


def _share(row: MeanRow) -> float | None:
    if row.selection_ms is None or row.latency_ms is None:
        return None
    return row.selection_ms / row.latency_ms


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _missing(results: Results) -> list[str]:
    """Say which rows have no latency and why, in one paragraph."""
    found = sorted({f"`{row.method}`: {row.verdict}" for row in results.rows if row.verdict != "ok"})
    return ["Without a latency: " + "; ".join(found) + "."] if found else []
