"""The tensors that cells are measured on, and what runs on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attnbench import api
from attnbench.bench.branch import Branch
from attnbench.bench.burnt_in import slower
from attnbench.bench.calls import Call, forward_call, training_call
from attnbench.bench.jobs import Agenda, Job
from attnbench.bench.states import State, warmed_up
from attnbench.bench.trial import Incorrect
from attnbench.bench.verify import TwinSpec
from attnbench.inputs.make import Inputs, make_inputs
from attnbench.inputs.sets import Disguise, InputSets, Lender, Loan
from attnbench.kernels.engines import Task
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import Seen
from attnbench.methods import Call as MethodCall
from attnbench.methods.per_head import settings_of_heads
from attnbench.results.pairs import DENSE


@dataclass
class Workload:
    """The input sets of an agenda with some of its heads, and the calls on copies of them.

    Attributes:
        agenda: the checked request.
        heads: how many heads the tensors have.
        sets: q, k and v, several of a kind. Methods get copies only.
    """

    agenda: Agenda
    heads: int
    sets: InputSets
    _states: dict[tuple[Job, int], tuple[Inputs, State]] = field(default_factory=dict)

    @classmethod
    def make(cls, agenda: Agenda, heads: int) -> Workload:
        """Make the tensors.

        Raises:
            BadInput: if the inputs asked for cannot be made.
        """

        def make(number: int) -> Inputs:
            request = agenda.request
            return make_inputs(
                request.inputs, agenda.shape, heads=heads, dtype=agenda.dtype, device=agenda.device, seed=request.seed,
                number=number,
            )  # fmt: skip

        return cls(agenda, heads, InputSets(make))

    @property
    def inputs(self) -> Inputs:
        """The first input set."""
        return self.sets[0]

    @property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, heads, N, D], k and v [B, KV heads, N, D] of the first set; copies, that may be written to."""
        return self.lend(0).qkv

    def lend(self, number: int, *, disguise: Disguise = "none") -> Loan:
        """Return copies of an input set, at addresses that no method has seen."""
        return self._lender.lend(self.sets[number], disguise=disguise)

    @property
    def backward(self) -> bool:
        """Whether calls run backward too."""
        return self.agenda.direction == "fwdbwd"

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        return float(self.agenda.shape.head_dim**-0.5)

    @property
    def task(self) -> Task:
        """What engines are asked for, with all heads of the shape."""
        shape, agenda = self.agenda.shape, self.agenda
        return Task(
            agenda.device, agenda.dtype, shape.head_dim, shape.heads, shape.kv_heads, self.backward, return_lse=False
        )

    def plan(self, job: Job, loan: Loan | None = None) -> Plan:
        """Return what a job keeps of lent tensors, by default of the first set.

        Raises:
            Incorrect: if planning writes into them.
        """
        lent = self.lend(0) if loan is None else loan
        plan = api.select(lent.q, lent.k, v=lent.v, **self.arguments(job, lent))
        if lent.problem:
            raise Incorrect(lent.problem)
        return plan

    def call(self, job: Job, engine: str, loan: Loan | None = None, *, other: Mapping[str, Any] | None = None) -> Call:
        """Return the call that users make, on lent tensors, by default of the first set; with ``other`` arguments."""
        lent = self.lend(0) if loan is None else loan
        arguments = self.arguments(job, lent) | {"engine": engine, **(other or {})}
        if self.backward:
            d_output = self._lender.copy(self.d_output, None if lent.factors is None else 1 / lent.factors.v)
            made = training_call(*lent.qkv, d_output, arguments)
        else:
            made = forward_call(*lent.qkv, arguments)
        return made if job.method.name == DENSE else slower(made, self.agenda.request.burnt_in, self.agenda.device)

    def arguments(self, job: Job, loan: Loan | None = None) -> dict[str, Any]:
        """Return the keyword arguments of ``attnbench.attention`` for the heads that there are.

        The state is that of a loan's input set, by default of the first one.
        """
        arguments = settings_of_heads(job.method, job.arguments(self.agenda.shape), slice(0, self.heads))
        state = self.state(job, loan)
        return arguments if state is None else arguments | {"state": state.value}

    def state(self, job: Job, loan: Loan | None = None) -> State | None:
        """Return the state that the method of a job has at its steady step, on the input set of a loan."""
        source = self.inputs if loan is None else loan.source
        if job.cycle is None:
            return None
        key = (job, id(source))
        found = self._states.get(key)
        if found is None or found[0] is not source:
            arguments = settings_of_heads(job.method, job.arguments(self.agenda.shape), slice(0, self.heads))
            lent, engine = self._lender.lend(source, disguise="none"), self.agenda.request.engine
            with torch.no_grad():
                value = warmed_up(job.method, job.cycle, arguments, *lent.qkv, engine)
            found = self._states[key] = (source, State.of(value))
        return found[1]

    def method_call(self, job: Job, loan: Loan | None = None) -> MethodCall:
        """Return what the method of a job knows of its calls."""
        state = self.state(job, loan)
        return MethodCall(self.agenda.shape.layout, job.layer, job.step, None if state is None else state.value)

    def finishes(self, job: Job) -> bool:
        """Return whether the method adds a branch to attention in the calls of a job."""
        return job.method.finishes(job.settings, MethodCall(self.agenda.shape.layout, job.layer, job.step))

    def branch(self, job: Job, seen: Seen, loan: Loan | None = None) -> Branch:
        """Return what the method added to attention in a call, with all but tensors settled; see ``finishes``."""
        assert seen.plan is not None
        call, again = self.method_call(job, loan), tuple(seen.again)
        return Branch(job.method, job.settings, call, seen.plan, self.scale, seen.lse, again)

    def twin(self, job: Job, engine: str) -> TwinSpec:
        """Return the small case that stands for a job in verification."""
        agenda, shape = self.agenda, self.agenda.shape
        return TwinSpec(
            job.method, job.settings, shape.layout, job.layer, None, shape.batch, shape.heads, shape.kv_heads,
            shape.head_dim, agenda.dtype, agenda.device, engine, self.backward, agenda.request.seed,
        )  # fmt: skip

    @cached_property
    def _lender(self) -> Lender:
        return Lender()

    @cached_property
    def d_output(self) -> Tensor:
        """The gradient that backward passes start from."""
        q = self.inputs.q
        generator = torch.Generator().manual_seed(self.agenda.request.seed)
        return torch.randn(q.shape, generator=generator).to(q.device, q.dtype)
