"""The tensors that cells are measured on, and what runs on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attnbench import api
from attnbench.bench.branch import Branch
from attnbench.bench.burnt_in import slower
from attnbench.bench.calls import Call, forward_call, training_call
from attnbench.bench.jobs import Agenda, Job
from attnbench.bench.trial import Incorrect
from attnbench.bench.verify import TwinSpec
from attnbench.inputs.make import Inputs, make_inputs
from attnbench.inputs.sets import InputSets, Lender, Loan
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

    def lend(self, number: int, *, signed: bool = False) -> Loan:
        """Return copies of an input set, at addresses that no method has seen."""
        return self._lender.lend(self.sets[number], signed=signed)

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
        plan = api.select(lent.q, lent.k, v=lent.v, **self.arguments(job))
        if lent.problem:
            raise Incorrect(lent.problem)
        return plan

    def call(self, job: Job, engine: str, loan: Loan | None = None) -> Call:
        """Return the call that users make, on lent tensors, by default of the first set."""
        lent = self.lend(0) if loan is None else loan
        arguments = self.arguments(job) | {"engine": engine}
        if self.backward:
            d_output = self._lender.copy(self.d_output, None if lent.signs is None else lent.signs[1])
            made = training_call(*lent.qkv, d_output, arguments)
        else:
            made = forward_call(*lent.qkv, arguments)
        return made if job.method.name == DENSE else slower(made, self.agenda.request.burnt_in, self.agenda.device)

    def arguments(self, job: Job) -> dict[str, Any]:
        """Return the keyword arguments of ``attnbench.attention`` for the heads that there are."""
        return settings_of_heads(job.method, job.arguments(self.agenda.shape), slice(0, self.heads))

    def method_call(self, job: Job) -> MethodCall:
        """Return what the method of a job knows of its calls."""
        return MethodCall(self.agenda.shape.layout, job.layer)

    def finishes(self, job: Job) -> bool:
        """Return whether the method adds a branch to attention in the calls of a job."""
        return job.method.finishes(job.settings, self.method_call(job))

    def branch(self, job: Job, seen: Seen) -> Branch:
        """Return what the method added to attention in a call, with all but tensors settled; see ``finishes``."""
        assert seen.plan is not None
        call, again = self.method_call(job), tuple(seen.again)
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
