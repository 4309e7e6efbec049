"""The transformer whose step is timed, and its self-attention by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench.api import attention
from attnbench.bench.rounds import eager_calls
from attnbench.bench.step.case import StepCase
from attnbench.bench.step.standins import capture_qkv
from attnbench.graphs import graphed
from attnbench.kernels.phases import during
from attnbench.machine.stopwatch import Stopwatch
from attnbench.models.families.family import Qkv
from attnbench.models.random_wan import make_inputs, make_wan

Swap = Callable[[Any], AbstractContextManager[object]]
"""Puts a kind of self-attention into a model while the context lasts."""


def make_transformer(case: StepCase) -> Any:
    """Return a transformer with random weights, made ready for the case.

    Raises:
        BadInput: for an unknown size.
        Unsupported: without diffusers.
    """
    model = make_wan(case.size, case.torch_device, case.torch_dtype, case.seed, case.heads)
    model.requires_grad_(case.backward)
    if case.checkpointing:
        model.enable_gradient_checkpointing()
    return model


@dataclass(frozen=True)
class StepModel:
    """A model with its inputs.

    Attributes:
        case: what it is made for.
        model: the transformer; attention is swapped in and out of it.
        inputs: keyword arguments of its call.
        qkv: q, k and v of every layer's self-attention, [B, heads, N, head_dim], as the inputs make them.
        target: zeros, which the loss of a training step compares the output with.
    """

    case: StepCase
    model: Any
    inputs: Mapping[str, Tensor]
    qkv: list[Qkv]
    target: Tensor

    @classmethod
    def make(cls, case: StepCase) -> StepModel:
        """Make the model and run it once.

        Raises:
            BadInput: for an unknown size.
            Unsupported: without diffusers.
        """
        device, dtype = case.torch_device, case.torch_dtype
        model = make_transformer(case)
        inputs = make_inputs(case.size, case.token_grid, case.batch, case.text_tokens, device, dtype, case.seed)
        target = torch.zeros_like(inputs["hidden_states"], dtype=torch.float32)
        return cls(case, model, inputs, capture_qkv(model, inputs), target)

    def step(self) -> object:
        """Run one step, whatever attention is in the model now."""
        if not self.case.backward:
            with torch.no_grad():
                return self.model(**self.inputs, return_dict=False)
        with during("forward"):
            output = self.model(**self.inputs, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(output.float(), self.target)
        with during("backward"):
            loss.backward()
        return None

    def first(self, name: str, swap: Swap) -> None:
        """Run a first step with a kind of self-attention, so that kernels are compiled."""
        with swap(self.model):
            self.clear()
            self.step()

    def sample(self, name: str, swap: Swap, stopwatch: Stopwatch) -> float:
        """Return the milliseconds of a step with a kind of self-attention."""
        with swap(self.model):
            taken = stopwatch.time(self.step, self.clear, warm=False).cold_ms
        self.clear()
        return taken

    def back_to_back(self, swap: Swap, stopwatch: Stopwatch, seconds: float) -> float | None:
        """Return the wall clock of a step among steps without a pause, in milliseconds.

        Args:
            swap: puts the kind of self-attention into the model.
            stopwatch: of the device.
            seconds: that a step takes; from one second on, what the CPU does between kernels is lost in the noise, and
                None is returned.
        """
        if not (count := eager_calls(seconds)):
            return None
        with swap(self.model):
            prepare = self.clear if self.case.backward else lambda: None  # which a caller does not do between steps
            taken = stopwatch.back_to_back(self.step, prepare, count)
        self.clear()
        return taken

    def facts(self, name: str) -> dict[str, Any]:
        """Return fields of the record of a kind of self-attention, whose samples are taken."""
        return {}

    def clear(self) -> None:
        """Clear the gradients that a step left."""
        self.model.zero_grad(set_to_none=True)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """Run the self-attention of a layer by itself."""
        output: Tensor = attention(q, k, v, grid=self.case.token_grid, layer=layer, step=0, **arguments)
        return output

    def replay(self, layer: int, q: Tensor, k: Tensor, v: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """Run the self-attention of a layer by itself, as the replay of a CUDA graph."""
        output = graphed(q, k, v, grid=self.case.token_grid, layer=layer, step=0, **arguments)
        assert isinstance(output, Tensor)
        return output

    def own_qkv(self) -> list[Qkv]:
        """Return q, k and v of every layer for the tokens that this process has."""
        return self.qkv

    def attention_alone(
        self, arguments: Mapping[str, Any], layers: int | None = None, *, graphs: bool = False
    ) -> Callable[[], None]:
        """Return a call of the self-attention of the first ``layers`` layers, as often as a step runs it.

        Args:
            arguments: keyword arguments of ``attnbench.attention``, without what a place in the model says.
            layers: default all.
            graphs: whether each call is the replay of a CUDA graph.
        """
        qkv, again = self.own_qkv()[:layers], self.case.checkpointing
        attend = self.replay if graphs else self.attend

        def forward() -> None:
            with torch.no_grad():
                for layer, (q, k, v) in enumerate(qkv):
                    attend(layer, q, k, v, arguments)

        def both() -> None:
            for layer, tensors in enumerate(qkv):
                q, k, v = leaves = [x.detach().requires_grad_() for x in tensors]
                output = attend(layer, q, k, v, arguments)
                if again:
                    output = attend(layer, q, k, v, arguments)
                torch.autograd.grad(output, leaves, output.detach())

        return both if self.case.backward else forward
