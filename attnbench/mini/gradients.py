"""Compute the gradients of a batch, call by call or as a CUDA graph that is captured once and replayed.

A step of a small model takes the CPU longer than the GPU: about 50 ms on the host of an H200 with full attention,
whatever the number of clips, and more with VMoBA. A replay costs one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attnbench.mini.batch import Batch
from attnbench.mini.flow import losses
from attnbench.mini.model import Attend, MiniTransformer

WARM_UP = 3
"""Number of steps of a shape that run call by call before it is captured. They compile and fill caches."""


class Gradients(Protocol):
    """Computes the gradients of a model."""

    def __call__(self, batch: Batch) -> Tensor:
        """Set ``.grad`` of every parameter, replacing what was there, and return the mean loss on the device."""
        ...


class DirectGradients:
    """Runs the model forward and backward call by call."""

    def __init__(self, model: MiniTransformer, attend: Attend, dtype: torch.dtype) -> None:
        """Compute in ``dtype``: bfloat16 by autocast, or float32."""
        self.model, self._attend, self._dtype = model, attend, dtype

    def __call__(self, batch: Batch) -> Tensor:
        """See ``Gradients``."""
        for parameter in self.model.parameters():
            parameter.grad = None
        with torch.autocast(batch.video.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            loss = losses(
                self.model, batch.video, batch.noise, batch.t, batch.label, batch.direction, self._attend
            ).mean()
        loss.backward()
        return loss.detach()


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: Tensor
    gradients: list[Tensor | None]


class ReplayedGradients:
    """Captures ``DirectGradients`` in a CUDA graph at the fourth batch of a shape and replays it from then on.

    If something cannot be captured, such as an engine that waits for the device, everything runs call by call.
    """

    def __init__(self, direct: DirectGradients, device: torch.device, note: Callable[[str], None]) -> None:
        """Run on ``device``; ``note`` is called if nothing can be captured."""
        self._direct, self._note = direct, note
        # Capturing needs a stream of its own, and what autograd keeps must not refer to another one.
        self._stream = torch.cuda.Stream(device)
        self._shape: torch.Size | None = None
        self._seen = 0
        self._able = True
        self._captured: _Captured | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """See ``Gradients``."""
        if batch.video.shape != self._shape:
            self._shape, self._seen, self._captured = batch.video.shape, 0, None
        self._seen += 1
        if self._able and self._seen == WARM_UP + 1:
            self._captured = self._capture(batch)
        return self._run_aside(batch) if self._captured is None else self._replay(self._captured, batch)

    def _run_aside(self, batch: Batch) -> Tensor:
        outer = torch.cuda.current_stream()
        self._stream.wait_stream(outer)
        with torch.cuda.stream(self._stream):
            loss = self._direct(batch)
        outer.wait_stream(self._stream)
        return loss

    def _capture(self, batch: Batch) -> _Captured | None:
        """Capture a batch of this shape if that is possible."""
        own = Batch(*(tensor.clone() for tensor in batch.tensors))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                loss = self._direct(own)
        except RuntimeError as error:
            self._able = False
            self._note(f"steps run call by call, as no CUDA graph could be captured: {str(error).splitlines()[0]}")
            return None
        return _Captured(graph, own, loss, [parameter.grad for parameter in self._direct.model.parameters()])

    def _replay(self, captured: _Captured, batch: Batch) -> Tensor:
        for own, given in zip(captured.batch.tensors, batch.tensors, strict=True):
            own.copy_(given)
        captured.graph.replay()
        for parameter, gradient in zip(self._direct.model.parameters(), captured.gradients, strict=True):
            parameter.grad = gradient
        return captured.loss.clone()
