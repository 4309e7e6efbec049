"""The tensors that cells are measured on, and what runs on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnbench import api
from attnbench.bench.burnt_in import slower
from attnbench.bench.calls import Call, forward_call, training_call
from attnbench.bench.jobs import Agenda, Job
from attnbench.bench.verify import TwinSpec
from attnbench.inputs.make import Inputs, make_inputs
from attnbench.kernels.engines import Task
from attnbench.kernels.plan import Plan
from attnbench.results.pairs import DENSE


@dataclass
class Workload:
    """The inputs of an agenda with some of its heads.

    Attributes:
        agenda: the checked request.
        heads: how many heads the tensors have.
        inputs: q, k and v.
    """

    agenda: Agenda
    heads: int
    inputs: Inputs

    @classmethod
    def make(cls, agenda: Agenda, heads: int) -> Workload:
        """Make the tensors.

        Raises:
            BadInput: if the inputs asked for cannot be made.
        """
        seed = agenda.request.seed
        inputs = make_inputs(
            agenda.request.inputs, agenda.shape, heads=heads, dtype=agenda.dtype, device=agenda.device, seed=seed
        )
        return cls(agenda, heads, inputs)

    @property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, heads, N, D], k and v [B, KV heads, N, D]."""
        return self.inputs.q, self.inputs.k, self.inputs.v

    @property
    def backward(self) -> bool:
        """Whether calls run backward too."""
        return self.agenda.direction == "fwdbwd"

    @property
    def task(self) -> Task:
        """What engines are asked for, with all heads of the shape."""
        shape, agenda = self.agenda.shape, self.agenda
        return Task(
            agenda.device, agenda.dtype, shape.head_dim, shape.heads, shape.kv_heads, self.backward, return_lse=False
        )

    def plan(self, job: Job) -> Plan:
        """Return what a job keeps of these tensors."""
        return api.select(self.inputs.q, self.inputs.k, **job.arguments(self.agenda.shape))

    def call(self, job: Job, engine: str) -> Call:
        """Return the call that users make, on these tensors."""
        arguments = job.arguments(self.agenda.shape) | {"engine": engine}
        if self.backward:
            made = training_call(*self.qkv, self._d_output, arguments)
        else:
            made = forward_call(*self.qkv, arguments)
        return made if job.method.name == DENSE else slower(made, self.agenda.request.burnt_in, self.agenda.device)

    def twin(self, job: Job, engine: str) -> TwinSpec:
        """Return the small case that stands for a job in verification."""
        agenda, shape = self.agenda, self.agenda.shape
        return TwinSpec(
            job.method, job.settings, shape.layout, job.layer, None, shape.batch, shape.heads, shape.kv_heads,
            shape.head_dim, agenda.dtype, agenda.device, engine, self.backward, agenda.request.seed,
        )  # fmt: skip

    @cached_property
    def _d_output(self) -> Tensor:
        """The gradient that backward passes start from."""
        q = self.inputs.q
        generator = torch.Generator().manual_seed(self.agenda.request.seed)
        return torch.randn(q.shape, generator=generator).to(q.device, q.dtype)
