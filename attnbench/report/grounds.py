"""What spoils the latencies that a verdict rests on: those of the fastest method and those of its dense baseline."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnbench.report.cases import Baseline, cpu_known
from attnbench.report.flag_words import FLAG_WORDS
from attnbench.report.words import listed, number
from attnbench.results.flags import strays
from attnbench.results.records.cells import Row

_SAID = {each.name: each.said for each in FLAG_WORDS}

_SLOWS = frozenset({"power-capped", "cpu-bound", "busy-machine", "plain-torch"})
"""Flags of what makes a latency longer than the kernel needs."""


@dataclass(frozen=True)
class Grounds:
    """What a verdict rests on.

    Attributes:
        sentence: what spoils the two latencies, that nothing does, or that it is not recorded.
        spoilt: whether anything is known to spoil one of them.
    """

    sentence: str
    spoilt: bool


def grounds_of(name: str, own: Sequence[Row], baseline: str | None, dense: Baseline | None) -> Grounds:
    """Return what a verdict rests on.

    Args:
        name: of the method that is fastest.
        own: the rows of its layers.
        baseline: the name of its dense baseline; None if it has none, or is the baseline itself.
        dense: what is known of that baseline; None if the results do not hold it.
    """
    found = _flagged(name, own, baseline, dense)
    slow = _slow_enqueuing(name, own)
    stray = [_stray(f"{name}, layer {row.layer}" if len(own) > 1 else name, row.samples_ms) for row in own]
    stray += [_stray("its baseline", dense.samples_ms)] if dense is not None and baseline is not None else []
    told = [each for each in stray if each]
    return Grounds(" ".join([found.sentence, *([slow] if slow else []), *told]), found.spoilt or bool(told))


def _stray(name: str, samples_ms: Sequence[float]) -> str:
    found = strays(samples_ms)
    if not found:
        return ""
    rest, count = statistics.median(samples_ms), "One" if len(found) == 1 else str(len(found))
    took = listed([number(each) for each in found])
    told = f"{count} of {len(samples_ms)} rounds of {name} took {took} ms instead of {number(rest)}"
    return f"{told}: an end of the interval rests on that."


def _slow_enqueuing(name: str, own: Sequence[Row]) -> str:
    """Say what enqueuing takes and what calls take back to back, where the former is much and the latter is not."""
    for row in own:
        slow = "slow-enqueue" in (row.flags or "").split(",")
        if slow and row.host_ms is not None and row.latency_eager_ms is not None and row.latency_ms:
            more = row.latency_eager_ms / row.latency_ms - 1
            return (
                f"Enqueuing {name} takes {number(row.host_ms)} ms of the CPU, but back to back a call takes "
                f"{number(row.latency_eager_ms)} ms, {max(more, 0):.0%} more than its latency."
            )
    return ""


def _flagged(name: str, own: Sequence[Row], baseline: str | None, dense: Baseline | None) -> Grounds:
    mine = _spoiling(own)
    if baseline is None:
        return Grounds(_upper(_clause(name, mine)), bool(mine))
    base, words = _spoiling([] if dense is None else [dense]), f"its baseline, {baseline}"
    if mine is None and base is None:
        return Grounds(f"Whether power cap or CPU spoiled {name} or {words}, is not recorded.", False)
    if mine == base:
        if not mine and not (all(map(cpu_known, own)) and dense is not None and dense.cpu_known):
            unknown = "Enqueuing was not timed, so whether the CPU did is not known."
            return Grounds(f"No power cap spoiled {name} or {words}. {unknown}", False)
        if not mine:
            return Grounds(f"Neither power cap nor CPU spoiled {name} or {words}.", False)
        told = _upper(f"both {name} and {words}, were {_said(mine)}")
        return Grounds(f"{told}{_leaning(mine, base)}", True)
    told = _upper(f"{_clause(words, base)}; {_clause(name, mine)}")
    return Grounds(f"{told}{_leaning(mine, base)}", bool(mine or base))


def flags_known(rows: Sequence[Row | Baseline]) -> frozenset[str] | None:
    """Return the flags that any of these rows has; None if none is known and not every row could tell."""
    found = frozenset(flag for row in rows for flag in (row.flags or "").split(",") if flag)
    return found if found or (rows and all(row.flags is not None for row in rows)) else None


def _spoiling(rows: Sequence[Row | Baseline]) -> frozenset[str] | None:
    """Return the flags of what may spoil these rows; what does not hold up a call spoils none."""
    found = flags_known(rows)
    return None if found is None else found - {"slow-enqueue"}


def _leaning(own: frozenset[str] | None, base: frozenset[str] | None) -> str:
    """Say to which side the speed-up may be bent, where a latency is too long."""
    if own is None or base is None:
        return ""
    slowed = bool(_SLOWS & own), bool(_SLOWS & base)
    side = {(True, False): "low", (False, True): "high", (True, True): "low or too high"}.get(slowed)
    return f" The speed-up may therefore be too {side}." if side else ""


def _clause(name: str, flags: frozenset[str] | None) -> str:
    comma = "," if "," in name else ""
    if flags is None:
        return f"whether power cap or CPU spoiled {name}{comma} is not recorded"
    return f"{name}{comma} was {_said(flags) if flags else 'not flagged'}"


def _said(flags: Iterable[str]) -> str:
    known = set(flags)
    return listed([words for flag, words in _SAID.items() if flag in known] + sorted(known - _SAID.keys()))


def _upper(text: str) -> str:
    """Begin a sentence with a capital, unless it begins with the name of a method."""
    first = text.split(maxsplit=1)[0]
    return f"{text[:1].upper() + text[1:] if first in ('its', 'both', 'whether') else text}."
