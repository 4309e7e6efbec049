"""The first call of a cell: what it needs, and whether its results are right."""

from __future__ import annotations

import secrets
from dataclasses import replace

from torch import Tensor

from attnbench.bench.branch import check_branch
from attnbench.bench.calls import Call
from attnbench.bench.facts import Products, facts_of, thousandths_by_frame
from attnbench.bench.gradient_rows import prove_gradients
from attnbench.bench.gradients import Passed
from attnbench.bench.recall import mass_recall
from attnbench.bench.selection import KeptKeys, check_selection, plan_digest
from attnbench.bench.stability import check_stability
from attnbench.bench.trial import FirstCall, Incorrect, Proof, Trial, classified
from attnbench.bench.verify import RowSample, check_rows, check_twin, choose_rows, rows_of
from attnbench.bench.workload import Workload
from attnbench.inputs.sets import Disguise, Loan
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.flop_formulas import flops_per_pair
from attnbench.kernels.plan import Plan, plain
from attnbench.kernels.witness import Seen, watching
from attnbench.machine.clock import CLOCK
from attnbench.machine.memory import measure_peak
from attnbench.machine.stopwatch import Stopwatch


def check_trial(trial: Trial, workload: Workload, stopwatch: Stopwatch, calls: int | None) -> None:
    """Run a trial's call for the first time and verify what came out; on failure set its verdict.

    Args:
        trial: to check.
        workload: lends the tensors.
        stopwatch: of the device.
        calls: how many are made to see whether the results stay the same: 0 for none, None for what fits.
    """
    with classified() as failure:
        _first_call(trial, workload, stopwatch, calls)
    if failure.verdict is not None:
        trial.fail(failure.verdict, failure.reason)


def _first_call(trial: Trial, workload: Workload, stopwatch: Stopwatch, calls: int | None) -> None:
    """Run a trial's call, note what it needs, and verify it.

    Raises:
        Incorrect: saying what is wrong.
        Unsupported: if nothing can be said about it.
    """
    job, engine, agenda = trial.job, trial.cell.engine, workload.agenda
    loan = workload.lend(0)
    call = workload.call(job, engine, loan)
    start = CLOCK.now()
    trial.gradients, trial.gradient_rows = None, {}
    with watching() as seen:
        output, peak = measure_peak(call.run, agenda.device)
    trial.seconds = CLOCK.since(start)
    trial.first = trial.first or FirstCall(trial.seconds, workload.heads)
    given = _given(call, output)
    trial.peak_extra = None if peak is None else max(0, peak - sum(x.nbytes for x in given))
    state = workload.state(job, loan)
    if problem := loan.problem or (state.problem if state is not None else ""):
        raise Incorrect(problem)
    if seen.plan is None or seen.output is None:
        raise Incorrect("the call did not attend")
    plan = plain(seen.plan)
    plan.check()
    _note_plan(trial, workload, plan)
    _check_output(trial, workload, plan, seen, output)
    if len(given) != 1 + len(call.leaves):
        raise Incorrect("the call gave no gradient")
    if not all(bool(x.isfinite().all()) for x in given):
        raise Incorrect("the gradients are not finite" if bool(output.isfinite().all()) else "the output is not finite")
    if workload.backward:
        _check_gradients(trial, workload, plan, seen, call)
    if agenda.device.type == "cuda":  # the first call compiled kernels
        timings = [stopwatch.time(call.run, call.prepare) for _ in range(2)]
        trial.seconds = min(timing.cold_ms for timing in timings) / 1e3
    trial.kernels = seen.kernels
    if calls != 0 and (calls != 1 or agenda.device.type == "cuda"):
        _check_stability(trial, call, loan, [x.clone() for x in given], calls)


def _given(call: Call, output: Tensor) -> list[Tensor]:
    return [output, *(leaf.grad for leaf in call.leaves if leaf.grad is not None)]


def _note_plan(trial: Trial, workload: Workload, plan: Plan) -> None:
    """Note what the plan keeps, and how channels may change so that it stays the same."""
    job, digest, products = trial.job, plan_digest(plan), Products()
    # What a method sees of v by its size weighs channels otherwise: a near tie would fall now one way, now the other.
    most: Disguise = "scores" if job.method.needs_v else "scales"
    with products:
        other = workload.plan(job, workload.lend(0, disguise=most))
    if not workload.finishes(job):
        if plan_digest(other) == digest:
            trial.disguise = most
        elif plan_digest(workload.plan(job, workload.lend(0, disguise="signs"))) == digest:
            trial.disguise = "signs"
    trial.selection_flops = products.flops
    trial.facts = facts_of(plan, trial.cell.engine, workload.agenda.shape.head_dim, products.flops)
    trial.set_facts = {0: trial.facts}
    trial.frames = thousandths_by_frame(plan)
    inputs, shape = workload.inputs, workload.inputs.q.shape
    rows = choose_rows(shape[0], shape[1], shape[2], secrets.randbelow(2**32), inputs.q.device)
    sample = RowSample.of(rows, inputs.q, inputs.k, inputs.v, plan, workload.scale)
    trial.proofs = {0: Proof(frozenset({digest}), sample, digest, KeptKeys.of(plan, rows))}


def _check_output(trial: Trial, workload: Workload, plan: Plan, seen: Seen, output: Tensor) -> None:
    job, agenda, inputs = trial.job, workload.agenda, workload.inputs
    seed, finishes = agenda.request.seed, workload.finishes(job)
    assert seen.output is not None
    trial.rows = check_rows(
        inputs.q, inputs.k, inputs.v, seen.output, plan, workload.scale, seed, final=output if finishes else None,
        lse=seen.lse,
    )  # fmt: skip
    trial.recall = mass_recall(inputs.q, inputs.k, plan, workload.scale, seed)
    trial.selection = check_selection(inputs.q, inputs.k, plan, workload.arguments(job), v=inputs.v, seed=seed)
    if finishes:
        _check_again(workload, seen)
        with Products() as products:
            trial.branch = check_branch(
                workload.branch(job, seen), inputs.q, inputs.k, inputs.v, seen.output, output, seed
            )
        _note_branch(trial, workload, plan, seen, products.flops // trial.branch.runs)
        proof = trial.proofs[0]
        trial.proofs[0] = replace(proof, finished=rows_of(output, proof.sample.rows))
    if trial.twin is None:
        trial.twin = check_twin(workload.twin(job, trial.cell.engine))
    for check in (trial.rows, trial.selection, trial.branch, trial.twin):
        if check is not None and check.problem:
            raise Incorrect(check.problem)
    for one in (trial.rows, trial.branch):
        if one is not None and one.vacuous:
            raise Unsupported(one.vacuous)


def _check_again(workload: Workload, seen: Seen) -> None:
    """Compare sampled rows of what a branch attended to again with float64.

    Raises:
        Incorrect: if rounding does not explain the difference.
    """
    inputs, shape = workload.inputs, workload.inputs.q.shape
    for again in seen.again:
        other = plain(again.plan)
        other.check()
        rows = choose_rows(shape[0], shape[1], shape[2], secrets.randbelow(2**32), inputs.q.device)
        sample = RowSample.of(rows, inputs.q, inputs.k, inputs.v, other, workload.scale)
        if problem := sample.problem(rows_of(again.output, rows), "what finish attends to again"):
            raise Incorrect(problem)


def _note_branch(trial: Trial, workload: Workload, plan: Plan, seen: Seen, products: int) -> None:
    """Note the operations of a branch: its matrix products as counted, and the pairs that it attended to again."""
    head_dim = workload.agenda.shape.head_dim
    again = sum(flops_per_pair(head_dim) * plain(each.plan).pairs for each in seen.again)
    trial.branch_flops = products + again
    trial.facts = facts_of(plan, trial.cell.engine, head_dim, trial.selection_flops, trial.branch_flops)
    trial.set_facts = {0: trial.facts}


def _check_gradients(trial: Trial, workload: Workload, plan: Plan, seen: Seen, call: Call) -> None:
    inputs = workload.inputs
    assert seen.output is not None
    dq, dk, dv = (leaf.grad for leaf in call.leaves)
    assert dq is not None
    assert dk is not None
    assert dv is not None
    passed = Passed(inputs.q, inputs.k, inputs.v, workload.d_output, seen.output, seen.lse, dq, dk, dv)
    prove_gradients(trial, workload, 0, passed, plan, seen)


def _check_stability(trial: Trial, call: Call, loan: Loan, first: list[Tensor], calls: int | None) -> None:
    """Repeat the call, at least once; what its last repetition runs is what timed calls must run."""
    assert trial.rows is not None
    output_tolerance = trial.rows.tolerance + (0.0 if trial.branch is None else trial.branch.tolerance)
    gradients = [] if trial.gradients is None else [trial.gradients.tolerances[name] for name in ("dq", "dk", "dv")]

    def again() -> list[Tensor]:
        call.prepare()
        with watching() as seen:
            output = call.run()
        trial.kernels = seen.kernels
        return _given(call, output)

    trial.stability = check_stability(
        first,
        again,
        [output_tolerance, *gradients],
        calls=None if calls is None else max(calls, 2),
        seconds=trial.seconds,
    )
    if trial.stability.problem:
        raise Incorrect(trial.stability.problem)
    if loan.problem:
        raise Incorrect(loan.problem)
