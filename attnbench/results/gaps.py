"""From rows to gaps: how far a method moved the clips, beside two noise floors, and what may be said of it.

Two exact dense kernels round differently, a sampler is chaotic, and so their clips drift apart: that is the kernel
floor. Another seed gives another clip of the same prompt: that is the seed floor. A method that stays within the kernel
floor did nothing that rounding does not do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from attnbench.kernels.errors import BadInput
from attnbench.results.means import (
    Estimate,
    Values,
    difference_floor,
    distance_floor,
    mean_estimate,
    paired_difference,
)
from attnbench.results.records.clips import Better, Kind, QualityRow, clip_words

__all__ = ["Estimate", "Gap", "Judgement", "gaps", "judgement_of", "mean_estimate", "paired_difference"]

Judgement = Literal["indistinguishable", "distinguishable", "undecided", "no floor"]


@dataclass(frozen=True, slots=True)
class Gap:
    """What one method does to one metric of one model's clips.

    Attributes:
        run_id: the run that made the clips.
        model: name of the model.
        method: name of the method.
        settings: canonical JSON of its settings.
        engine: who ran its plans.
        metric: name of the metric.
        kind: "distance" from full attention's clip, or "score" of a clip alone.
        better: which way the metric improves.
        unit: of all numbers here.
        gap: of a distance, its mean; of a score, the mean of method - full attention, by prompt and seed.
        kernel_floor: where the gap of as many pairs falls if only the dense kernel is another one; None without clips.
        seed_floor: likewise if only the seed is another one.
        beyond_kernel: of a distance, the mean of method - other dense kernel, by prompt and seed; None without a pair.
        judgement: see ``judgement_of``.
        without_value: rows of the method that were skipped, or have no partner.
    """

    run_id: str
    model: str
    method: str
    settings: str
    engine: str
    metric: str
    kind: Kind
    better: Better
    unit: str
    gap: Estimate
    kernel_floor: Estimate | None
    seed_floor: Estimate | None
    beyond_kernel: Estimate | None
    judgement: Judgement
    without_value: int

    @property
    def sentence(self) -> str:
        """The gap, its floors and the judgement in words."""
        what = "against full attention's clips" if self.kind == "distance" else "minus full attention's"
        pairs = f"{self.gap.pairs} pair{'s' if self.gap.pairs != 1 else ''}"
        parts = [f"{self.method}: {self.metric} {what} is {self._words(self.gap)} over {pairs}"]
        for name, floor in (("another kernel", self.kernel_floor), ("another seed", self.seed_floor)):
            if floor is not None:
                parts.append(f"{name} {self._words(floor)}")
        return f"{'; '.join(parts)}: {self._conclusion()}"

    def _conclusion(self) -> str:
        few = "" if self.gap.kind == "bootstrap95" else " (with few pairs)"
        if self.judgement == "indistinguishable":
            return f"indistinguishable from another exact kernel{few}"
        if self.judgement == "no floor":
            return "there are no clips of another exact kernel to compare with"
        if self.judgement == "undecided":
            return f"outside the kernel floor, but its interval reaches the floor{few}: more pairs are needed"
        floor = self.seed_floor
        if floor is None or floor.lo is None or floor.hi is None:
            return f"farther from it than another exact kernel{few}"
        as_far = not _within(self.gap.mean, floor, self.kind, self.better, best=True)
        seed = "and as far as" if as_far else "but closer than"
        return f"farther from it than another exact kernel, {seed} another seed{few}"

    def _words(self, estimate: Estimate) -> str:
        unit = f" {self.unit}" if self.unit else ""
        mean = f"{_signed(estimate.mean)}{unit}"
        if estimate.lo is None or estimate.hi is None:
            return f"{mean} (no interval: {estimate.reason})"
        ends = "" if estimate.kind == "bootstrap95" else ", extremes"
        return f"{mean} [{_signed(estimate.lo)}, {_signed(estimate.hi)}{ends}]"


def _signed(value: float) -> str:
    return f"{value + 0.0:.4g}"  # the sum of -0 and 0 is 0


def judgement_of(gap: Estimate, kernel_floor: Estimate | None, *, kind: Kind, better: Better) -> Judgement:
    """Say whether a gap can be told from that of another exact kernel.

    "indistinguishable": its mean lies within the floor; a distance that is smaller than the floor's does so too.
    "distinguishable": its whole interval lies on one side of the floor. "undecided": its mean is outside, but the
    interval reaches the floor, or there is none. "no floor": there are not two values to make one of.
    """
    floor = kernel_floor
    if floor is None or floor.lo is None or floor.hi is None:
        return "no floor"
    if _within(gap.mean, floor, kind, better):
        return "indistinguishable"
    if gap.lo is None or gap.hi is None:
        return "undecided"
    if kind == "score":
        reached = gap.lo <= floor.hi and floor.lo <= gap.hi
    else:
        reached = _within(gap.lo, floor, kind, better) or _within(gap.hi, floor, kind, better)
    return "undecided" if reached else "distinguishable"


def gaps(rows: Iterable[QualityRow]) -> list[Gap]:
    """Return the gap of each run, model, method with its settings, and metric that has a value.

    Methods are in order of appearance, and so are the metrics of each, whenever they were added.

    Raises:
        BadInput: if a method has two values for the same metric, prompt, seed and reference.
    """
    found = list(rows)
    tables: dict[tuple[str, str, str], list[QualityRow]] = defaultdict(list)
    for row in found:
        tables[row.run_id, row.model, row.metric].append(row)
    metrics: dict[tuple[str, str, str, str, str], dict[str, None]] = defaultdict(dict)
    for row in found:
        if row.role == "method":
            metrics[row.run_id, row.model, row.method, row.settings, row.engine][row.metric] = None
    floors: dict[tuple[str, str, str, int], list[Estimate | None]] = {}
    made = (
        _gap(tables[run, model, metric], name, floors)
        for (run, model, *name), taken in metrics.items()
        for metric in taken
    )
    return [gap for gap in made if gap is not None]


def _gap(
    table: Sequence[QualityRow], name: Sequence[str], floors: dict[tuple[str, str, str, int], list[Estimate | None]]
) -> Gap | None:
    """Return the gap of the method ``name`` (method, settings, engine) in the rows of one metric.

    ``floors`` holds those that are known, by run, model, metric and pairs: all methods of a run share them.
    """
    ours = [row for row in table if row.role == "method" and [row.method, row.settings, row.engine] == list(name)]
    first = ours[0]
    moved = _moved_by(table, first.metric_kind)
    values = _by_key(ours, moved)
    if not values:
        return None
    gap = mean_estimate(values)
    kernel, seed = ([row for row in table if row.role == role] for role in ("kernel-floor", "seed-floor"))
    make_floor = distance_floor if first.metric_kind == "distance" else difference_floor
    key = first.run_id, first.model, first.metric, gap.pairs
    if key not in floors:
        noises = ([value for row in rows if (value := moved(row)) is not None] for rows in (kernel, seed))
        floors[key] = [make_floor(noise, gap.pairs) if noise else None for noise in noises]
    kernel_floor, seed_floor = floors[key]
    return Gap(
        run_id=first.run_id,
        model=first.model,
        method=first.method,
        settings=first.settings,
        engine=first.engine,
        metric=first.metric,
        kind=first.metric_kind,
        better=first.better,
        unit=first.unit,
        gap=gap,
        kernel_floor=kernel_floor,
        seed_floor=seed_floor,
        beyond_kernel=_beyond(values, kernel) if first.metric_kind == "distance" else None,
        judgement=judgement_of(gap, kernel_floor, kind=first.metric_kind, better=first.better),
        without_value=len(ours) - len(values),
    )


def _moved_by(table: Sequence[QualityRow], kind: Kind) -> Callable[[QualityRow], float | None]:
    """Return what says how far a row is from its reference: a distance itself, a score less the reference's score."""
    if kind == "distance":
        return lambda row: row.value
    exact = {
        (row.prompt, clip_words(row.method, row.engine, row.seed)): row.value for row in table if row.role == "exact"
    }

    def difference(row: QualityRow) -> float | None:
        base = exact.get((row.prompt, row.reference or ""))
        return None if row.value is None or base is None else row.value - base

    return difference


def _by_key(rows: Sequence[QualityRow], moved: Callable[[QualityRow], float | None]) -> Values:
    values: dict[tuple[str, int], float] = {}
    for row in rows:
        value = moved(row)
        if value is None:
            continue
        if (row.prompt, row.seed) in values:
            raise BadInput(
                f"{row.method} has two values of {row.metric} for prompt {row.prompt!r}, seed {row.seed}: give one run"
            )
        values[row.prompt, row.seed] = value
    return values


def _beyond(values: Values, kernel: Sequence[QualityRow]) -> Estimate | None:
    """Return the mean of method - other kernel; of several other kernels for a pair, their mean counts."""
    others: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in kernel:
        if row.value is not None:
            others[row.prompt, row.seed].append(row.value)
    if not values.keys() & others.keys():
        return None
    return paired_difference(values, {key: sum(found) / len(found) for key, found in others.items()})


def _within(value: float, floor: Estimate, kind: Kind, better: Better, *, best: bool = False) -> bool:
    """Whether a value is no worse than the floor's worse end, or, with ``best``, than its better end.

    Of a score, worse and better do not matter: a difference to either side must stay inside.
    """
    assert floor.lo is not None
    assert floor.hi is not None
    if kind == "score":
        return floor.lo <= value <= floor.hi
    if better == "higher":
        return value >= floor.lo if not best else value > floor.hi
    return value <= floor.hi if not best else value < floor.lo
