"""How well gates of runs that take turns tell a change from noise: made-up gates of the sessions of a calibration.

In a session two runs without a change, and one that is slower on purpose, took turns call by call. A gate takes
sessions in random order, one after the other, until it is clear, as ``attnbench gate --against`` takes pairs of runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from attnbench.kernels.errors import BadInput
from attnbench.results.calibration import (
    LEAST_RUNS,
    Calibration,
    Delayed,
    Judged,
    Share,
    WholeRuns,
    judged,
    share_of,
    weights_of,
    with_details,
)
from attnbench.results.compare import compare_tables
from attnbench.results.estimates import Estimate
from attnbench.results.in_turns import log_ratio
from attnbench.results.layers import means_of
from attnbench.results.load import Results
from attnbench.results.noise import NoiseModel, between_runs
from attnbench.results.pairs import DENSE

GATES = 400
"""Made-up gates without a change."""

DELAYED_GATES = 100
"""Of each delay."""

_SEED = 20245


@dataclass(frozen=True, slots=True)
class Session:
    """Runs that took turns.

    Attributes:
        same: two runs without a change.
        delay: by what share the calls of ``delayed`` were slower; 0 without such a run.
        delayed: that run.
    """

    same: tuple[Results, Results]
    delay: float = 0.0
    delayed: Results | None = None


@dataclass(frozen=True, slots=True)
class _Gate:
    """A made-up gate: its verdicts, and the sessions that it took."""

    found: Judged
    taken: tuple[int, ...]


def calibrate_in_turns(
    sessions: Sequence[Session],
    least: int,
    most: int,
    *,
    noise: NoiseModel | None = None,
    measured_at: str = "",
) -> Calibration:
    """Judge made-up gates, each by the noise of the sessions that it does not take.

    Args:
        sessions: of the same cells.
        least, most: how many pairs of runs a gate takes.
        noise: what to judge by instead.
        measured_at: when the last run was measured, for the model.

    Raises:
        BadInput: for fewer sessions than two gates need, and for sessions that say nothing of the noise.
    """
    needed = max(LEAST_RUNS, 2 * least)
    if len(sessions) < needed:
        raise BadInput(f"{len(sessions)} sessions are too few: {needed} or more are needed")
    model = WholeRuns([session.same[0] for session in sessions], measured_at).model()
    ratios = [ratios_of(*session.same) for session in sessions]

    def model_without(left_out: Collection[int]) -> NoiseModel:
        kept = [each for number, each in enumerate(ratios) if number not in left_out]
        kept = kept if len(kept) >= LEAST_RUNS else ratios
        return model.model_copy(update={"pair_sd": between_runs(kept), "pairs": len(kept)})

    generator = np.random.default_rng(_SEED)

    def gate(places: Sequence[int], delayed: bool) -> _Gate:
        """Take sessions until the result is clear."""
        order = [places[each] for each in generator.permutation(len(places))][:most]
        known = noise or model_without(order)
        a, b = Results(), Results()
        for count, place in enumerate(order, 1):
            first, second = sessions[place].same
            if generator.random() < 0.5:
                first, second = second, first
            slow = sessions[place].delayed
            a, b = joined(a, first), joined(b, slow if delayed and slow is not None else second)
            if count < least:
                continue
            found = compare_tables(a, b, noise=known, pool=True, looks=most - least + 1)
            if "unclear" not in found.counts:
                break
        return _Gate(judged(found), tuple(order[:count]))

    everywhere = range(len(sessions))
    gates = [gate(everywhere, False) for _ in range(GATES)]
    of_all = _Shares(gates, len(sessions), least)
    delays = sorted({session.delay for session in sessions if session.delayed is not None})
    found_delays = []
    for delay in delays:
        places = [number for number, session in enumerate(sessions) if session.delay == delay and session.delayed]
        if len(places) < least:
            continue
        mine = _Shares([gate(places, True) for _ in range(DELAYED_GATES)], len(sessions), least, len(places))
        slower, unclear = (mine.cells(change, dense=False) for change in ("slower", "unclear"))
        found_delays.append(Delayed(delay, len(places), slower, unclear, mine.whole(1)))
    found = Calibration(
        model=model_without(()),
        runs=len(sessions),
        slower=of_all.cells("slower"),
        faster=of_all.cells("faster"),
        unclear=of_all.cells("unclear"),
        covered=of_all.share([[cell.holds_truth for cell in each.found.cells] for each in gates]),
        failed=of_all.whole(1),
        undecided=of_all.whole(3),
        delayed=tuple(found_delays),
        pairs=math.fsum(len(each.taken) for each in gates) / len(gates),
    )
    return with_details(found)


def ratios_of(a: Results, b: Results) -> dict[str, Estimate]:
    """Return the log of how many times slower each method is in B than in A, by cell_id, from rounds of both."""
    theirs = {mean.cell_id: mean for mean in means_of(b.rows, b.samples)}
    found = {
        mean.cell_id: log_ratio(mean, theirs[mean.cell_id])
        for mean in means_of(a.rows, a.samples)
        if mean.cell_id in theirs
    }
    return {name: each for name, each in found.items() if each is not None}


def joined(a: Results, b: Results) -> Results:
    """Return the runs of both."""
    return Results(headers=(*a.headers, *b.headers), rows=(*a.rows, *b.rows), samples={**a.samples, **b.samples})


class _Shares:
    """How often something happened in gates. Whole sessions are resampled, since gates that share one share its noise.

    Args:
        gates: all of them.
        sessions: how many there are.
        least: how many sessions each gate takes at least; a gate counts as often as these were drawn together. Gates
            that share no session are as many as fit beside each other, by what gates take on average.
        drawn_from: how many sessions the gates took theirs from.
    """

    def __init__(self, gates: Sequence[_Gate], sessions: int, least: int, drawn_from: int | None = None) -> None:
        weights = weights_of(sessions)
        self._gates = gates
        self._weights = np.stack([np.prod(weights[:, list(each.taken[:least])], axis=1) for each in gates], axis=1)
        taken = math.fsum(len(each.taken) for each in gates) / len(gates)
        self._apart = max(1, int((drawn_from or sessions) / taken))

    def share(self, happened: Sequence[Sequence[bool]]) -> Share:
        """Of what happened in each gate."""
        return share_of(happened, self._weights, self._apart)

    def cells(self, change: str, *, dense: bool = True) -> Share:
        return self.share(
            [
                [cell.change == change for cell in each.found.cells if dense or cell.method != DENSE]
                for each in self._gates
            ]
        )

    def whole(self, code: int) -> Share:
        """Of gates, with this exit code."""
        return self.share([[each.found.exit_code == code] for each in self._gates])
