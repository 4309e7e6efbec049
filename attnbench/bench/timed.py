"""One timed call: on copies that it has not seen, watched while it runs, and checked when the clock has stopped.

A method cannot know which rows will be looked at. What it writes, what it leaves for later, a plan that is not the one
it makes when it is verified, other kernels, and rows that are not those of its plan make the cell incorrect.
"""

from __future__ import annotations

import random
import secrets
from dataclasses import replace

from torch import Tensor

from attnbench.bench.branch import check_branch
from attnbench.bench.facts import facts_of
from attnbench.bench.gradient_rows import prove_gradients, require_same_gradients
from attnbench.bench.gradients import Passed
from attnbench.bench.selection import KeptKeys, check_same_selection, check_selection, plan_digest
from attnbench.bench.threads import count_threads
from attnbench.bench.trial import Incorrect, Proof, Trial
from attnbench.bench.verify import Rows, RowSample, apart, choose_rows, rows_of
from attnbench.bench.workload import Workload
from attnbench.inputs.seeds import SETS
from attnbench.kernels.plan import Plan, plain
from attnbench.kernels.witness import Seen, watching


class CallsInTurn:
    """Calls of a trial one after the other, on input sets in turn, each on copies of its own.

    One of them is checked, and none knows which. Of the others it is looked at what they wrote, their gradients, and
    their rows where they are known.

    Args:
        trial: whose calls.
        workload: lends the inputs.
        count: of calls that will be made.
    """

    def __init__(self, trial: Trial, workload: Workload, count: int) -> None:
        draw = random.SystemRandom()
        order = [number for _ in range(0, count, SETS) for number in draw.sample(range(SETS), SETS)]
        self.calls = [TimedCall(trial, workload, number) for number in order[:count]]
        self.made, self.checked = 0, secrets.randbelow(count)

    def prepare(self) -> None:
        """Prepare the next call."""
        self.calls[self.made].prepare()

    def run(self) -> Tensor:
        """Make the next call."""
        call = self.calls[self.made]
        output = call.run() if self.made == self.checked else call.call.run()
        call.last = output
        self.made += 1
        return output

    def check(self) -> None:
        """Look at what the chosen call did and gave, and at what is left of the others.

        Raises:
            Incorrect: saying what is wrong.
        """
        self.calls[self.checked].check()
        for call in self.calls:
            call.check_last()


class TimedCall:
    """The call of a trial on one input set."""

    def __init__(self, trial: Trial, workload: Workload, number: int) -> None:
        self.trial, self.workload, self.number = trial, workload, number
        self.loan = workload.lend(number, disguise=trial.disguise)
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
        with watching() as seen:
            output, threads = count_threads(self.call.run)
        self.results.append((output, seen, threads))
        return output

    def check(self) -> None:
        """Look at what the calls did and gave. To be called as soon as the clock has stopped.

        Raises:
            Incorrect: saying what is wrong.
        """
        inner = [self._taken(output if seen.output is None else seen.output) for output, seen, _ in self.results]
        final = [self._taken(output) for output, _, _ in self.results]
        if any(threads > 0 for _, _, threads in self.results):
            raise Incorrect("work goes on in another thread after the call has returned")
        state = self.workload.state(self.trial.job, self.loan)
        if problem := self.loan.problem or (state.problem if state is not None else ""):
            raise Incorrect(problem)
        for (output, seen, _), *rows in zip(self.results, inner, final, strict=True):
            self._check_one(output, seen, *rows)

    def _check_one(self, output: Tensor, seen: Seen, taken: Rows, final: Rows) -> None:
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
        if problem := proof.sample.problem(taken) or self._finish_problem(proof, final):
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
        trial, output, proof = self.trial, self.last, self.trial.proofs.get(self.number)
        if output is not None and proof is not None:
            rows = self._taken(output, proof.sample.rows)
            finishes = self.workload.finishes(trial.job)
            if problem := self._finish_problem(proof, rows) if finishes else proof.sample.problem(rows):
                raise Incorrect(problem)
        if self.call.leaves and self.number in trial.gradient_rows:
            require_same_gradients(trial, self.number, self._passed(None))

    def _finish_problem(self, proof: Proof, final: Rows) -> str:
        """Say how the output of a call differs from the verified one's, where the method finishes it."""
        trial = self.trial
        if proof.finished is None or trial.rows is None or trial.branch is None:
            return ""
        off, explained = apart(proof.finished, final), 2 * (trial.rows.tolerance + trial.branch.tolerance)
        if off <= explained:
            return ""
        return (
            f"what finish makes in a timed call differs from the verified call's by {off:.2g} (relative L2); rounding "
            f"explains {explained:.2g}"
        )

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
        if loan.factors is not None:
            of_q, of_k, of_v = (x.to(dq.dtype) for x in (loan.factors.q, loan.factors.k, loan.factors.v))
            dq, dk, dv = dq * of_q, dk * of_k, dv * of_v
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
            if found is not None:
                same = check_same_selection(
                    found.kept, inputs.q, inputs.k, plan, arguments, v=inputs.v, slot=self.number % 2
                )
                if same.problem:
                    raise Incorrect(f"in a timed call {same.problem}")
        sample = RowSample.of(self.rows, inputs.q, inputs.k, inputs.v, plan, self.workload.scale)
        kept, plans = (KeptKeys.of(plan, self.rows), frozenset[str]()) if found is None else (found.kept, found.plans)
        proof = Proof(plans | {digest}, sample, digest, kept)
        if self.workload.finishes(trial.job) and seen.output is not None:
            added = self.workload.branch(trial.job, seen, self.loan)
            branch = check_branch(added, inputs.q, inputs.k, inputs.v, seen.output, output, 0)
            if branch.problem:
                raise Incorrect(f"in a timed call {branch.problem}")
            proof = replace(proof, finished=self._taken(output))
        trial.proofs[self.number] = proof
        facts = facts_of(
            plan, trial.cell.engine, self.workload.agenda.shape.head_dim, trial.selection_flops, trial.branch_flops
        )
        trial.set_facts[self.number] = facts
        return proof

    def _taken(self, output: Tensor, rows: Rows | None = None) -> Rows:
        """Return the rows to look at, as they are now and as they would be on the set itself."""
        return {place: self.loan.upright(taken) for place, taken in rows_of(output, rows or self.rows).items()}
