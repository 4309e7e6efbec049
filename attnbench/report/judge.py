"""The judge of a case: what its rows allow to be said, in one sentence for terminal, page and Markdown alike."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from attnbench.inputs.presets import RESOLUTIONS
from attnbench.report.cases import Case, asked_of
from attnbench.report.clip_quality import QualityKey, quality_of
from attnbench.report.gap_words import estimate_words
from attnbench.report.grounds import Grounds, grounds_of
from attnbench.report.words import (
    DIRECTIONS,
    grid_words,
    kinds_words,
    latency,
    listed,
    number,
    times,
    tiny,
    with_interval,
)
from attnbench.results.flags import BOUNDS
from attnbench.results.gaps import Gap
from attnbench.results.layers import MeanRow
from attnbench.results.records.cells import Row
from attnbench.results.speedups import Ratio, Side, ranked_ms, same_rounds

Outcome = Side | Literal["no baseline", "only dense", "no latency"]
Tie = tuple[Row, Ratio]

_MOST_NAMED = 4
_MOST_TIED = 2
_NEAR = BOUNDS.eager_over_latency
"""Up to this many times the latency of the fastest method, what the CPU held up may be faster than that."""


@dataclass(frozen=True)
class Verdict:
    """What a case allows to be said of its fastest sparse method.

    Attributes:
        outcome: whether that method is faster or slower than the dense baseline, or why this cannot be told.
        leader: the mean over layers of the fastest sparse method; of dense attention if nothing else was timed.
        speedup: over the dense baseline, with its interval.
        ideal: the speed-up if time shrank as much as the number of pairs, 1 / density.
        quality: the PSNR of clips that were made with the same method and settings.
        ties: means whose speed-up cannot be told from the leader's: the intervals overlap, and the rounds that
            both were timed in, if there are any, do not tell them apart either.
        sentence: the verdict.
        caveats: sentences on how it was measured: by which kind of engine, and how many heads were timed.
        grounds: what spoils the latencies that the verdict rests on, the leader's and its baseline's. Without a
            sentence where nothing was timed.
        remarks: which cells have no latency.
        elsewhere: what clips of the leader's method with other settings say; of its own, whose model made them.
    """

    outcome: Outcome
    leader: Row | None
    speedup: Ratio | None
    ideal: float | None
    quality: Gap | None
    ties: tuple[Row, ...]
    sentence: str
    caveats: tuple[str, ...]
    grounds: Grounds
    remarks: tuple[str, ...]
    elsewhere: str = ""

    @property
    def sentences(self) -> list[str]:
        """All of it, the verdict first; the grounds only where they are spoilt."""
        spoilt = [self.grounds.sentence] if self.grounds.spoilt else []
        return [self.sentence, *self.caveats, *spoilt, *self.remarks]


def judge(case: Case, quality: Mapping[QualityKey, Gap] | None = None) -> Verdict:
    """Judge a case by the means over layers.

    Args:
        case: rows of one shape. They may be of several runs: each is compared with the baseline of its own.
        quality: what clips say of methods, by ``attnbench.report.clip_quality.clip_quality``.
    """
    if not case.timed:
        return _verdict(case, "no latency", None, "No cell of this run has a latency: the table says why.")
    if not case.sparse:
        dense = min(case.means, key=_latency)
        took, ends = latency(dense)
        said = f"{_place(case)}, only dense attention was timed: {_name(case, dense)} takes {took} ms {ends}".rstrip()
        return _verdict(case, "only dense", dense, f"{said}.")
    if not case.ranked:
        said = f"{_place(case)}, no sparse method reached the density that was asked for, so none is ranked."
        return _verdict(case, "no latency", None, said)
    row = min(case.ranked, key=_latency)
    ratio = case.speedups.get(row.row_id)
    if ratio is None:
        said = (
            f"{_place(case)}, the lowest latency of a sparse method is {latency(row)[0]} ms, by {_name(case, row)}. "
            "No dense baseline was measured in this run, so there is no speed-up."
        )
        return _verdict(case, "no baseline", row, said)
    found = None if quality is None else quality_of(row, quality)
    ties = _ties(case, row, ratio)
    held = _held_up(case, row, {tie.row_id for tie, _ in ties})
    told = _of_another_model(row, found) if found else _elsewhere(row, quality) if quality else ""
    return _verdict(case, ratio.side, row, _sentence(case, row, ratio, found, ties, held), ratio, found, ties, told)


def _ties(case: Case, leader: Row, ratio: Ratio) -> list[Tie]:
    """Return what cannot be told from the leader, the fastest first; not what only was asked for in other words."""
    found: list[Tie] = []
    for row in case.ranked:
        mine = case.speedups.get(row.row_id)
        if row is not leader and mine is not None and mine.hi >= ratio.lo and not _is_slower(case, leader, row):
            found.append((row, mine))
    if found:
        name = case.label(leader, case.means)
        found = [each for each in found if case.label(each[0], case.means) != name]
    return sorted(found, key=lambda each: -each[1].value)


def _held_up(case: Case, leader: Row, ties: Collection[str]) -> list[Tie]:
    """Return what the CPU held up and what may be faster than the leader otherwise; not what is called alike anyway."""
    near = _NEAR * _latency(leader)
    found = [
        (row, case.speedups[row.row_id])
        for row in case.ranked
        if row is not leader and row.row_id not in ties and row.row_id in case.speedups
        and "cpu-bound" in (row.flags or "").split(",") and _latency(row) <= near
    ]  # fmt: skip
    return sorted(found, key=lambda each: -each[1].value)


def _is_slower(case: Case, leader: Row, row: Row) -> bool:
    """Whether the rounds that both were timed in show that a row is slower than the leader.

    The interval of a speed-up holds the noise of the baseline too, which says nothing on which of two methods is
    slower.
    """
    found = same_rounds(case.rounds.get(leader.row_id, {}), case.rounds.get(row.row_id, {}))
    return found is not None and found.speedup().lo > 1


def speedup_words(ratio: Ratio) -> str:
    """Write a speed-up with its interval: "4.04× [4.02, 4.10]"."""
    value, ends = with_interval(ratio.value, ratio.lo, ratio.hi)
    return f"{value}× {ends}".rstrip()


def place_words(row: Row) -> str:
    """Write the video tokens of a row: "720p" where they are those of a format, otherwise "24×36×64 tokens"."""
    for name, format_ in RESOLUTIONS.items():
        if str(format_.grid()) == row.grid:
            return name
    return f"{grid_words(row.grid)} tokens"


def device_words(row: Row) -> str:
    """Write the device of a row: "NVIDIA H200", or over several ranks "2 × NVIDIA H200, ulysses"."""
    return row.device if row.gpus is None else f"{row.gpus} × {row.device}, {row.parallel}"


def is_on(words: str, device: str) -> bool:
    """Whether a device in words, by ``device_words``, is this device: "2 × NVIDIA H200, ulysses" is NVIDIA H200."""
    return words == device or re.fullmatch(rf"\d+ × {re.escape(device)}, .*", words) is not None


def baseline_words(baseline: str | None) -> str:
    """Write a dense baseline, "full/flash4", by its engine; by method and engine if it is another method than full."""
    return (baseline or "").removeprefix("full/")


def _sentence(case: Case, row: Row, ratio: Ratio, quality: Gap | None, ties: Sequence[Tie], held: Sequence[Tie]) -> str:
    dense = f"the fastest dense kernel ({baseline_words(row.baseline)})"
    name, fast = _name(case, row), speedup_words(ratio)
    tied = [f"{_tied(case, ties)} cannot be told from it, because the intervals overlap"] if ties else []
    tied += [f"{_tied(case, held)} {'was' if len(held) == 1 else 'were'} CPU-bound and may be faster"] if held else []
    if ratio.side == "slower":
        lead = f"{_place(case)}, no sparse method is as fast as {dense}"
        return f"{'; '.join([lead, f'the nearest is {name}, {fast} as fast', *tied])}."
    if ratio.side == "unclear":
        lead = f"{_place(case)}, no sparse method is clearly faster than {dense}: the nearest is {name}, {fast} as fast"
        return f"{'; '.join([f'{lead}, and the interval holds 1', *tied])}."
    parts = [f"{_place(case)}, {name} is {fast} as fast as {dense}", *tied]
    if row.density:
        ideal, density = 1 / row.density, number(row.density)
        parts.append(
            f"{times(ideal)} would be ideal at density {density}"
            if ratio.value <= ideal
            else f"density {density} allows {times(ideal)}, so something besides skipped pairs helped too"
        )
    if row.approximation_error is not None:
        parts.append(f"relative error {tiny(row.approximation_error)}")
    if quality is not None:
        parts.append(_quality(quality))
    return f"{'; '.join(parts)}."


def _tied(case: Case, ties: Sequence[Tie]) -> str:
    names = [f"{case.label(row, case.means)} at {speedup_words(ratio)}" for row, ratio in ties[:_MOST_TIED]]
    more = len(ties) - len(names)
    return listed([*names, *([f"{more} more"] if more else [])])


def _quality(gap: Gap) -> str:
    floor = gap.kernel_floor
    kernel = "" if floor is None else f", where another exact kernel gives {estimate_words(floor)} {gap.unit}"
    return f"PSNR of {gap.model}'s clips {estimate_words(gap.gap)} {gap.unit}{kernel}".rstrip()


def _elsewhere(row: Row, quality: Mapping[QualityKey, Gap]) -> str:
    """Say what clips there are of a method, where none was made with the settings of its row."""
    others = sorted((gap for (method, _), gap in quality.items() if method == row.method), key=lambda gap: gap.gap.mean)
    if not others:
        return f"No clips of {row.method} were made, so there is no PSNR."
    low, high = number(others[0].gap.mean), number(others[-1].gap.mean)
    floor = others[-1].kernel_floor
    kernel = "" if floor is None else f", where another exact kernel gives {number(floor.mean)}"
    seed = others[-1].seed_floor
    kernel += "" if floor is None or seed is None else f" and another seed {number(seed.mean)}"
    span = low if low == high else f"{low} to {high}"
    told = f"No clips were made with these settings of {row.method}."
    models = listed(dict.fromkeys(gap.model for gap in others))
    return f"{told} With others its clips have a PSNR of {span} dB{kernel}; they are of {models}{_not_of(row, others)}."


def _of_another_model(row: Row, gap: Gap) -> str:
    """Say whose clips the PSNR is of, where the model is not that of the row."""
    unlike = _not_of(row, [gap])
    return f"Clips, and PSNR, are of {gap.model}{unlike}." if unlike else ""


def _not_of(row: Row, gaps: Sequence[Gap]) -> str:
    return f", not of {row.model}" if row.model and all(gap.model != row.model for gap in gaps) else ""


def _verdict(
    case: Case,
    outcome: Outcome,
    leader: Row | None,
    sentence: str,
    ratio: Ratio | None = None,
    quality: Gap | None = None,
    ties: Sequence[Tie] = (),
    elsewhere: str = "",
) -> Verdict:
    ideal = 1 / leader.density if leader is not None and leader.density else None
    grounds = Grounds("", False) if leader is None else _grounds(case, leader, only_dense=outcome == "only dense")
    caveats, tied = (*_reference(leader), *_gradients(leader), *_heads(case)), tuple(row for row, _ in ties)
    return Verdict(outcome, leader, ratio, ideal, quality, tied, sentence, caveats, grounds, _missing(case), elsewhere)


def _reference(leader: Row | None) -> list[str]:
    if leader is None or leader.engine != "reference":
        return []
    return ["The reference engine is plain PyTorch, there to check others: its time says little about the method."]


def _gradients(leader: Row | None) -> list[str]:
    if leader is None or leader.direction == "fwd" or not leader.approximation_error:
        return []
    return ["Errors are those of the output forward; gradients were not compared with those of full attention."]


def _heads(case: Case) -> list[str]:
    if not case.heads_timed:
        return []
    return [f"{case.heads_timed} of {case.first.heads} heads timed; nothing is extrapolated to the others."]


def _grounds(case: Case, leader: Row, *, only_dense: bool) -> Grounds:
    """Return what the verdict rests on: the latency of the leader, and that of its baseline if it is not that itself.

    Where only dense attention was timed, no speed-up is claimed: the baseline is told of if something spoils it.
    """
    own = [row for row in case.timed if (row.run_id, *asked_of(row)) == (leader.run_id, *asked_of(leader))]
    dense = case.baseline_of(leader)
    alone = leader.baseline == f"{leader.method}/{leader.engine}" or (only_dense and not (dense and dense.flags))
    return grounds_of(case.label(leader, case.means), own, None if alone else leader.baseline, dense)


def _missing(case: Case) -> tuple[str, ...]:
    missing = [row for row in case.rows if row.latency_ms is None]
    if not missing or not case.timed:
        return ()
    names = ", ".join(f"{case.label(row)} ({row.verdict})" for row in missing[:_MOST_NAMED])
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    verb = "has" if len(missing) == 1 else "have"
    return (f"{len(missing)} of {len(case.rows)} cells {verb} no latency: {names}{more}.",)


def _place(case: Case) -> str:
    first = case.first
    direction = [] if first.direction == "fwd" else [DIRECTIONS[first.direction]]
    parts = [place_words(first), *(case.apart or direction)]
    return f"At {', '.join(parts)}{',' if len(parts) > 1 else ''} on {device_words(first)}"


def _name(case: Case, row: Row) -> str:
    """Write what tells a row from the others, and its engine."""
    mean = isinstance(row, MeanRow)
    label = case.label(row, case.means if mean else case.timed)
    over = [f"mean over {kinds_words(row.layers)}"] if isinstance(row, MeanRow) and "," in row.layers else []
    engine = [] if row.engine in label.split(" · ") else [row.engine]
    return f"{label} ({', '.join([*engine, *over])})" if engine or over else label


def _latency(row: Row) -> float:
    return ranked_ms(row) or float("inf")
