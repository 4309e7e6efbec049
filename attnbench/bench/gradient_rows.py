"""Gradients of a cell on an input set: checked in float64 once, and kept at sampled places for later calls."""

from __future__ import annotations

import secrets

from attnbench.bench.gradients import LIMIT, GradientCheck, Passed, check_gradients
from attnbench.bench.trial import Incorrect, Trial
from attnbench.bench.verify import apart, choose_rows, rows_of
from attnbench.bench.workload import Workload
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import Seen

BRANCH_SLACK = 3.0
"""Factor of the tolerances behind a branch, which hands a rounded gradient to attention."""

TIMED_LIMIT = 5.0
"""Seconds that the row sums of a timed call may take in float64: there are two more sets, and a baseline."""


def prove_gradients(trial: Trial, workload: Workload, number: int, passed: Passed, plan: Plan, seen: Seen) -> None:
    """Check the gradients of a call, and keep those at places that nobody knows.

    The first call of a cell is checked whatever that takes. On the other sets dk and dv are checked with row sums in
    float64 if these take five seconds, otherwise with the engine's; without either, dq alone is.

    Args:
        trial: whose call it was.
        workload: of the trial.
        number: of the input set.
        passed: what the call was given and gave, as they are on the set itself.
        plan: what it ran.
        seen: what was seen of it.

    Raises:
        Incorrect: if rounding does not explain an error.
    """
    given = {"dq": passed.dq, "dk": passed.dk, "dv": passed.dv}
    finishes, first = workload.finishes(trial.job), number == 0 and trial.gradients is None
    if finishes:
        passed = passed.before(workload.branch(trial.job, seen))
    found = check_gradients(
        passed, plan, workload.scale, workload.agenda.request.seed, slack=BRANCH_SLACK if finishes else 1.0,
        limit=LIMIT if first else TIMED_LIMIT, needs_keys=first,
    )  # fmt: skip
    if first:
        trial.gradients = found
    if found.problem:
        raise Incorrect(found.problem if first else f"gradients of a timed call: {found.problem}")
    kept = trial.gradient_rows[number] = {}
    for name, gradient in given.items():
        batch, heads, tokens, _ = gradient.shape
        places = choose_rows(batch, heads, tokens, secrets.randbelow(2**32), gradient.device)
        kept[name] = places, rows_of(gradient, places), _tolerance(trial.gradients or found, found, name)


def _tolerance(of_cell: GradientCheck, of_set: GradientCheck, name: str) -> float:
    return of_set.tolerances.get(name, of_cell.tolerances[name])


def require_same_gradients(trial: Trial, number: int, passed: Passed) -> None:
    """Compare the gradients of a call with those that were checked on its input set.

    Raises:
        Incorrect: if rounding in both does not explain the difference.
    """
    for name, gradient in (("dq", passed.dq), ("dk", passed.dk), ("dv", passed.dv)):
        places, wanted, tolerance = trial.gradient_rows[number][name]
        off = apart(wanted, rows_of(gradient, places))
        if not off <= 2 * tolerance:
            raise Incorrect(
                f"{name} of a timed call differs from the verified call's by {off:.2g} (relative L2); rounding "
                f"explains {2 * tolerance:.2g}"
            )
