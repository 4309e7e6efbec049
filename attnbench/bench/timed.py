"""One timed call: on copies that it has not seen, watched while it runs, and checked when the clock has stopped.

A method cannot know which rows will be looked at. What it writes, what it leaves for later, a plan that is not the one
it makes when it is verified, other kernels, and rows that are not those of its plan make the cell incorrect.
"""

from __future__ import annotations

import random
import secrets
import threading

from torch import Tensor

from attnbench.bench.branch import check_branch
from attnbench.bench.facts import facts_of
from attnbench.bench.gradient_rows import prove_gradients, require_same_gradients
from attnbench.bench.gradients import Passed
from attnbench.bench.selection import check_selection, plan_digest
from attnbench.bench.trial import Incorrect, Proof, Trial
from attnbench.bench.verify import Rows, RowSample, choose_rows
from attnbench.bench.workload import Workload
from attnbench.inputs.seeds import SETS
from attnbench.kernels.plan import Plan, plain
from attnbench.kernels.witness import Seen, watching


class CallsInTurn:
    """Calls of a trial one after the other, each on the next input set; one of them is checked, and none knows which.

    On every set the last call is looked at as well: what it wrote, its gradients, and its rows where they are known.

    Args:
        trial: whose calls.
        workload: lends the inputs.
        count: of calls that will be made.
    """

    def __init__(self, trial: Trial, workload: Workload, count: int) -> None:
        order = random.SystemRandom().sample(range(SETS), min(SETS, count))
        self.calls = [TimedCall(trial, workload, number) for number in order]
        self.made, self.checked = 0, secrets.randbelow(count)

    def prepare(self) -> None:
        """Prepare the next call."""
        self._at(self.made).prepare()

    def run(self) -> Tensor:
        """Make the next call."""
        call = self._at(self.made)
        output = call.run() if self.made == self.checked else call.call.run()
        call.last = output
        self.made += 1
        return output

    def check(self) -> None:
        """Look at what the chosen call did and gave, and at what is left of the others.

        Raises:
            Incorrect: saying what is wrong.
        """
        self._at(self.checked).check()
        for call in self.calls:
            call.check_last()

    def _at(self, place: int) -> TimedCall:
        return self.calls[place % len(self.calls)]


class TimedCall:
    """The call of a trial on one input set."""

    def __init__(self, trial: Trial, workload: Workload, number: int) -> None:
        self.trial, self.workload, self.number = trial, workload, number
        self.loan = workload.lend(number, signed=trial.signed)
        self.call = workload.call(trial.job, trial.cell.engine, self.loan)
        self.prepare = self.call.prepare
        known = trial.proofs.get(number)
        q = self.loan.q
        self.rows = (
            choose_rows(q.shape[0], q.shape[1], q.shape[2], secrets.randbelow(2**32), q.device)
            if known is None
            else known.sample.rows
        )
        self.results: list[tuple[Tensor, Seen, int]] = []
        self.last: Tensor | None = None  # output of a call that was made unseen

    def run(self) -> Tensor:
        """Make the call; this is what the clock takes the time of."""
        before = threading.active_count()
        with watching() as seen:
            output = self.call.run()
        self.results.append((output, seen, threading.active_count() - before))
        return output

    def check(self) -> None:
        """Look at what the calls did and gave. To be called as soon as the clock has stopped.

        Raises:
            Incorrect: saying what is wrong.
        """
        taken = [self._taken(output if seen.output is None else seen.output) for output, seen, _ in self.results]
        if any(threads > 0 for _, _, threads in self.results):
            raise Incorrect("work goes on in another thread after the call has returned")
        state = self.workload.state(self.trial.job, self.loan)
        if problem := self.loan.problem or (state.problem if state is not None else ""):
            raise Incorrect(problem)
        for (output, seen, _), rows in zip(self.results, taken, strict=True):
            self._check_one(output, seen, rows)

    def _check_one(self, output: Tensor, seen: Seen, taken: Rows) -> None:
        trial = self.trial
        given = [output, *(leaf.grad for leaf in self.call.leaves if leaf.grad is not None)]
        if not all(bool(x.isfinite().all()) for x in given):
            raise Incorrect("a timed call gave numbers that are not finite")
        if len(given) != 1 + len(self.call.leaves):
            raise Incorrect("a timed call gave no gradient")
        if seen.plan is None:
            raise Incorrect("a timed call did not attend")
        if seen.kernels != trial.kernels:
            other = sorted(set(seen.kernels) ^ set(trial.kernels))
            raise Incorrect(f"the timed call does not run what the verified one ran: {', '.join(other)}")
        plan = plain(seen.plan)
        proof = self._proof(plan, seen, output)
        if problem := proof.sample.problem(taken):
            raise Incorrect(problem)
        if self.call.leaves:
            self._check_gradients(plan, seen)

    def check_last(self) -> None:
        """Look at what a call left that was not watched.

        Raises:
            Incorrect: saying what is wrong.
        """
        if problem := self.loan.problem:
            raise Incorrect(problem)
        trial, output = self.trial, self.last
        proof = None if self.workload.finishes(trial.job) else trial.proofs.get(self.number)
        if output is not None and proof is not None and (problem := proof.sample.problem(self._taken(output))):
            raise Incorrect(problem)
        if self.call.leaves and self.number in trial.gradient_rows:
            require_same_gradients(trial, self.number, self._passed(None))

    def _check_gradients(self, plan: Plan, seen: Seen) -> None:
        """Check the gradients of the first call on a set in float64, and compare those of later ones with them."""
        passed = self._passed(seen)
        if self.number in self.trial.gradient_rows:
            require_same_gradients(self.trial, self.number, passed)
        else:
            prove_gradients(self.trial, self.workload, self.number, passed, plan, seen)

    def _passed(self, seen: Seen | None) -> Passed:
        """Return what a call was given and gave, as it is on the set itself.

        Raises:
            Incorrect: if it gave no gradient.
        """
        inputs, loan, grads = self.loan.source, self.loan, [leaf.grad for leaf in self.call.leaves]
        dq, dk, dv = grads
        if dq is None or dk is None or dv is None:
            raise Incorrect("a timed call gave no gradient")
        if loan.signs is not None:
            of_scores, of_values = (sign.to(dq.dtype) for sign in loan.signs)
            dq, dk, dv = dq * of_scores, dk * of_scores, dv * of_values
        inner = None if seen is None else seen.output
        output = dq if inner is None else loan.upright(inner)  # of an unseen call only the gradients are looked at
        lse = None if seen is None else seen.lse
        return Passed(inputs.q, inputs.k, inputs.v, self.workload.d_output, output, lse, dq, dk, dv)

    def _proof(self, plan: Plan, seen: Seen, output: Tensor) -> Proof:
        """Return what the rows of a plan must be; a plan that was not seen before is verified first."""
        trial, digest = self.trial, plan_digest(plan)
        found = trial.proofs.get(self.number)
        if found is not None and digest == found.sampled:
            return found
        inputs = self.loan.source
        if found is None or digest not in found.plans:
            arguments = self.workload.arguments(trial.job, self.loan)
            selection = check_selection(inputs.q, inputs.k, plan, arguments, v=inputs.v, slot=self.number % 2)
            if selection is not None and selection.problem:
                raise Incorrect(f"in a timed call {selection.problem}")
            plan.check()
        sample = RowSample.of(self.rows, inputs.q, inputs.k, inputs.v, plan, self.workload.scale)
        proof = Proof((frozenset() if found is None else found.plans) | {digest}, sample, digest)
        if self.workload.finishes(trial.job) and seen.output is not None:
            added = self.workload.branch(trial.job, seen, self.loan)
            branch = check_branch(added, inputs.q, inputs.k, inputs.v, seen.output, output, 0)
            if branch.problem:
                raise Incorrect(f"in a timed call {branch.problem}")
        trial.proofs[self.number] = proof
        facts = facts_of(
            plan, trial.cell.engine, self.workload.agenda.shape.head_dim, trial.selection_flops, trial.branch_flops
        )
        trial.set_facts[self.number] = facts
        return proof

    def _taken(self, output: Tensor) -> Rows:
        """Return the rows to look at, as they are now and as they would be without signs."""
        return {(b, h): self.loan.upright(output[b, h, rows]) for (b, h), rows in self.rows.items()}
