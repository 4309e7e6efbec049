"""The transformer whose step is timed, and its self-attention by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench.api import attention
from attnbench.bench.step.case import StepCase
from attnbench.bench.step.standins import capture_qkv
from attnbench.kernels.phases import during
from attnbench.models.families.family import Qkv
from attnbench.models.random_wan import make_inputs, make_wan


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
        model = make_wan(case.size, device, dtype, case.seed)
        model.requires_grad_(case.backward)
        if case.checkpointing:
            model.enable_gradient_checkpointing()
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

    def clear(self) -> None:
        """Clear the gradients that a step left."""
        self.model.zero_grad(set_to_none=True)

    def attention_alone(self, arguments: Mapping[str, Any], layers: int | None = None) -> Callable[[], None]:
        """Return a call of the self-attention of the first ``layers`` layers, as often as a step runs it.

        Args:
            arguments: keyword arguments of ``attnbench.attention``, without what a place in the model says.
            layers: default all.
        """
        qkv, grid, again = self.qkv[:layers], self.case.token_grid, self.case.checkpointing

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            output: Tensor = attention(q, k, v, grid=grid, layer=layer, step=0, **arguments)
            return output

        def forward() -> None:
            with torch.no_grad():
                for layer, (q, k, v) in enumerate(qkv):
                    attend(layer, q, k, v)

        def both() -> None:
            for layer, tensors in enumerate(qkv):
                leaves = [x.detach().requires_grad_() for x in tensors]
                output = attend(layer, *leaves)
                if again:
                    output = attend(layer, *leaves)
                torch.autograd.grad(output, leaves, output.detach())

        return both if self.case.backward else forward
