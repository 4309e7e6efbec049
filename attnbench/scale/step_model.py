"""A transformer whose tokens are spread over ranks, beside the same one in one process."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attnbench.api import attention
from attnbench.bench.step.case import StepCase
from attnbench.bench.step.model import StepModel, Swap, make_transformer
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.phases import during, phase
from attnbench.machine.stopwatch import Stopwatch
from attnbench.machine.timers import Action, Timing
from attnbench.models.families.family import Qkv
from attnbench.models.families.find import find_transformers
from attnbench.models.spread import spread
from attnbench.parallel.collectives import Ranks, counting, lost
from attnbench.scale.group_rows import exchange_timer, relative
from attnbench.scale.ranks import Crew

_SLACK = 4.0
"""How many roundings of a number a layer may differ by from one process."""


class Together(Stopwatch):
    """A stopwatch of calls that all ranks make together: the slowest rank's time is that of each.

    Attributes:
        exchange_ms: what attention's exchanges took in the last call, on the rank that waited least.
        sent: the bytes that the busiest rank sent in them.
    """

    def __init__(self, crew: Crew) -> None:
        super().__init__(crew.device)
        self.crew = crew
        self.exchange_ms, self.sent = 0.0, 0

    def time(self, call: Action, prepare: Action = lambda: None, *, warm: bool = True) -> Timing:
        """Take one sample with a cold cache; ``warm`` is not looked at."""
        with counting(exchange_timer) as moved:
            taken = self.time_together(call, prepare, self.crew.meeting())
        times, exchanges, sent = zip(*self.crew.tell([taken.cold_ms, moved.ms, moved.sent]), strict=True)
        self.exchange_ms, self.sent = min(exchanges), max(sent)
        return Timing(max(times))

    def time_alone(self, call: Action, prepare: Action) -> float:
        """Return the milliseconds of a call that this rank makes alone."""
        return super().time(call, prepare, warm=False).cold_ms


@dataclass(frozen=True)
class SpreadModel(StepModel):
    """A model of which this rank has some tokens.

    Attributes:
        plain: the same with all tokens, in this process alone.
        crew: the ranks.
        shards: ``qkv`` of this rank's tokens.
        errors: by kind of self-attention, the largest difference from one process on any rank.
        one_ms, exchange_ms, sent: samples by kind of self-attention; the first on rank 0.
    """

    plain: StepModel
    crew: Crew
    shards: list[Qkv]
    errors: dict[str, float] = field(default_factory=dict)
    one_ms: dict[str, list[float]] = field(default_factory=dict)
    exchange_ms: dict[str, list[float]] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)

    @classmethod
    def over(cls, case: StepCase, crew: Crew) -> SpreadModel:
        """Make the model in one process, and once more over the ranks.

        Raises:
            Unsupported: without diffusers.
        """
        plain = StepModel.make(case)
        model = make_transformer(case)
        spread(model, crew.data.size)
        shards = [(_part(q, crew.data, 2), _part(k, crew.data, 2), _part(v, crew.data, 2)) for q, k, v in plain.qkv]
        return cls(case, model, plain.inputs, plain.qkv, plain.target, plain, crew, shards)

    def step(self) -> object:
        """Run one step with the other ranks. A training step ends with the gradients of all ranks added up."""
        done = super().step()
        if self.case.backward:
            with during("backward"), phase("communicate"), lost(self.crew.data):
                gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
                for sums in [dist.all_reduce(x, group=self.crew.data.group, async_op=True) for x in gradients]:
                    assert sums is not None
                    sums.wait()
        return done

    def first(self, name: str, swap: Swap) -> None:
        """Run a first step and compare it with one process: output, attention of each layer, and gradients.

        Raises:
            Unsupported: for a difference that rounding does not explain, on all ranks.
        """
        expected, found = _seen(self.plain, swap), _seen(self, swap)
        ranks = self.crew.data.size
        errors = [relative(found.output, expected.output)]
        errors += [
            relative(x, _part(y, self.crew.data, 1)) for x, y in zip(found.attended, expected.attended, strict=True)
        ]
        if expected.gradients:
            errors.append(_relative_together(found.gradients, expected.gradients))
        self.errors[name] = error = max(max(each) for each in self.crew.tell(errors))
        bound = _SLACK * torch.finfo(self.case.torch_dtype).eps * math.sqrt(len(self.qkv))
        if not error <= bound:
            raise Unsupported(
                f"the step with {name} over {ranks} ranks differs from that of one process by {error:.2g}; rounding "
                f"explains {bound:.2g}"
            )

    def sample(self, name: str, swap: Swap, stopwatch: Stopwatch) -> float:
        """Return the milliseconds of the slowest rank. Before it rank 0 times the step in one process."""
        assert isinstance(stopwatch, Together)
        if self.crew.leads:
            with swap(self.plain.model):
                self.one_ms.setdefault(name, []).append(stopwatch.time_alone(self.plain.step, self.plain.clear))
            self.plain.clear()
        taken = super().sample(name, swap, stopwatch)
        self.exchange_ms.setdefault(name, []).append(stopwatch.exchange_ms)
        self.sent[name] = stopwatch.sent
        return taken

    def back_to_back(self, swap: Swap, stopwatch: Stopwatch, seconds: float) -> float | None:
        """Return None: steps back to back are for one process."""
        return None

    def facts(self, name: str) -> dict[str, Any]:
        """Return what the record of a kind of self-attention says of the ranks."""
        moved = self.sent[name] > 0
        return {
            "gpus": self.crew.data.size,
            "parallel": "ulysses",
            "one_ms": statistics.median(self.one_ms[name]) if self.crew.leads else None,
            "exchange_ms": statistics.median(self.exchange_ms[name]) if moved else None,
            "sent_mib": self.sent[name] / 2**20 if moved else None,
            "parallel_error": self.errors[name],
        }

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """Attend with the other ranks."""
        output: Tensor = attention(
            q, k, v, grid=self.case.token_grid, layer=layer, step=0, group=self.crew.data.group, parallel="ulysses",
            **arguments,
        )  # fmt: skip
        return output

    def own_qkv(self) -> list[Qkv]:
        """Return q, k and v of this rank's tokens."""
        return self.shards


def _part(x: Tensor, ranks: Ranks, side: int) -> Tensor:
    """Return this rank's part of a side of a tensor."""
    return x.tensor_split(ranks.size, side)[ranks.rank].contiguous()


@dataclass(frozen=True)
class _Seen:
    output: Tensor
    attended: Sequence[Tensor]
    gradients: Sequence[Tensor]


def _seen(of: StepModel, swap: Swap) -> _Seen:
    """Run a step; return the model's output, those of each layer's self-attention, and the gradients."""
    outputs: list[Tensor] = []
    attended: dict[int, Tensor] = {}
    hooks = [of.model.register_forward_hook(lambda module, given, output: outputs.append(output[0].detach()))]
    family, (transformer,) = find_transformers(of.model)

    def note(layer: int) -> Callable[..., None]:
        def see(module: object, given: object, output: Tensor) -> None:
            attended[layer] = output.detach()

        return see

    hooks += [attn.register_forward_hook(note(layer)) for layer, attn in enumerate(family.attentions(transformer))]
    try:
        with swap(of.model):
            of.clear()
            of.step()
    finally:
        for hook in hooks:
            hook.remove()
    gradients = [weight.grad for weight in of.model.parameters() if weight.grad is not None]
    of.clear()
    return _Seen(outputs[0], [attended[layer] for layer in sorted(attended)], gradients)


def _relative_together(mine: Sequence[Tensor], whole: Sequence[Tensor]) -> float:
    difference, size = (
        math.sqrt(sum(float(x.float().square().sum()) for x in each))
        for each in ([x.float() - y.float() for x, y in zip(mine, whole, strict=True)], whole)
    )
    return difference / size if size else difference
