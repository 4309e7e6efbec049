"""Whole transformer steps in words and tables: the share of self-attention, and the effect of methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.report.words import DIRECTIONS, grid_words, number, short_settings, times, tiny, with_interval
from attnbench.results.records.steps import StepRecord, by_run

if TYPE_CHECKING:
    from attnbench.report.terminal.fitted import Fitted

WALL_CLOCK = "by wall clock"
COLUMNS = (
    "density", "step, ms", "speed-up", WALL_CLOCK, "self-attention, ms", "its speed-up", "predicted for the step",
)  # fmt: skip


@dataclass(frozen=True)
class StepLine:
    """A line of the table: name, settings, phases in words, and the value and small note of each of ``COLUMNS``."""

    name: str
    settings: str
    phases: str
    complaint: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class StepSection:
    """A step: its description, the device, the share of self-attention in it, its lines, and their columns."""

    title: str
    device: str
    facts: str
    finding: str
    lines: tuple[StepLine, ...]
    columns: tuple[str, ...]


def step_sections(records: Sequence[StepRecord]) -> list[StepSection]:
    """Return a section for each run among the records."""
    return [_section(own) for own in by_run(records)]


def step_table(section: StepSection) -> Fitted:
    """Return a section's lines for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.fitted import Fitted

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=section.title, title_justify="left")
    table.add_column("self-attention")
    for name in section.columns:
        table.add_column(name, justify="right", no_wrap=True)
    for line in section.lines:
        table.add_row(line.name, *(Text(f"{value} {note}".strip()) for value, note in line.cells))
    return Fitted(table, ("predicted for the step", "density", "self-attention, ms", WALL_CLOCK))


def _section(records: Sequence[StepRecord]) -> StepSection:
    first = records[0]
    words = "A training step" if first.direction == "fwdbwd" else "A step"
    size = first.size if first.size == "tiny" else first.size.upper()
    facts = [
        f"{first.device}, {first.dtype}, batch {first.batch}, {first.layers} layers",
        f"{first.text_tokens} text tokens in cross-attention",
        DIRECTIONS[first.direction],
        *([f"tokens spread over {first.gpus} of them by {first.parallel}"] if first.gpus else []),
        *(["blocks run forward again in the backward pass"] if first.checkpointing else []),
        f"{first.rounds} interleaved rounds",
    ]
    heads = "" if first.heads is None else f" with {first.heads} head{'s' if first.heads > 1 else ''}"
    timed = any(record.step_eager_ms is not None for record in records)
    baseline = next((record for record in records if timed and record.name == record.baseline), None)
    over = f" over {first.gpus} ranks" if first.gpus else ""
    return StepSection(
        title=f"{words} of Wan 2.1 {size}{heads}, {grid_words(first.grid)} tokens{over}",
        device=first.device,
        facts=f"{', '.join(facts)}. Weights are random, so methods that choose by content keep a different density "
        "than in a trained model.",
        finding=_finding(records),
        lines=tuple(_line(record, baseline) for record in records),
        columns=tuple(name for name in COLUMNS if baseline is not None or name != WALL_CLOCK),
    )


def _finding(records: Sequence[StepRecord]) -> str:
    first = records[0]
    interval = f"{first.share_lo:.1%} to {first.share_hi:.1%}; timed by itself {first.share_alone:.1%}"
    if first.share <= 0:
        return f"The share of self-attention in the step of {first.baseline} is not above zero ({interval})."
    limit = f": no method can make it more than {times(1 / (1 - first.share))} as fast" if first.share < 1 else ""
    return (
        f"Self-attention is {first.share:.1%} of the step of {first.baseline} ({interval}). Without it the step takes "
        f"{number(first.without_ms)} ms{limit}."
    )


def _line(record: StepRecord, baseline: StepRecord | None) -> StepLine:
    """Return the line of a record; without the baseline, it has no cell for the wall clock."""
    return StepLine(
        name=record.name,
        settings=short_settings(record.settings),
        phases="; ".join(filter(None, (_over_ranks(record), _phases(record)))),
        complaint=record.complaint,
        cells=(
            (number(record.density), ""),
            with_interval(record.step_ms, record.step_lo_ms, record.step_hi_ms),
            _speedup(record),
            *([] if baseline is None else [_by_wall_clock(record, baseline)]),
            with_interval(record.attention_ms, record.attention_lo_ms, record.attention_hi_ms),
            (times(record.attention_speedup), ""),
            (times(record.predicted_speedup if record.share > 0 else None), ""),
        ),
    )


def _by_wall_clock(record: StepRecord, baseline: StepRecord) -> tuple[str, str]:
    """Return how many times as fast steps back to back are, and their milliseconds."""
    if record.step_eager_ms is None or baseline.step_eager_ms is None:
        return "", ""
    return times(baseline.step_eager_ms / record.step_eager_ms), f"({number(record.step_eager_ms)} ms)"


def _over_ranks(record: StepRecord) -> str:
    """Return what spreading the tokens over ranks gains, in words."""
    if record.gpus is None or record.one_ms is None:
        return ""
    gain = times(record.one_ms / record.step_ms)
    words = [f"one process takes {number(record.one_ms)} ms, so {record.gpus} ranks are {gain} as fast"]
    if record.exchange_ms is not None:
        words.append(f"attention's exchanges {number(record.exchange_ms)} ms")
    if record.sent_mib is not None:
        words.append(f"{number(record.sent_mib)} MiB sent")
    if record.parallel_error is not None:
        words.append(f"{tiny(record.parallel_error)} from one process")
    return ", ".join(words)


def _phases(record: StepRecord) -> str:
    """Return the time of each phase in words, both passes together, with the rest of the model last."""
    total: dict[str, float] = {}
    for name, ms in record.phases_ms.items():
        phase = name.split(" ")[-1]
        total[phase] = total.get(phase, 0.0) + ms
    words = {"other": "rest of the model", "gap": "gaps"}
    last = [phase for phase in ("gap", "other") if phase in total]
    order = [*(phase for phase in total if phase not in last), *last]
    return ", ".join(f"{words.get(phase, phase)} {number(total[phase])} ms" for phase in order)


def _speedup(record: StepRecord) -> tuple[str, str]:
    value, ends = with_interval(record.step_speedup, record.step_speedup_lo, record.step_speedup_hi)
    return f"{value}×", ends
