"""Training on several devices, with one process for each.

All have the same weights, and each has its share of a batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from attnbench.kernels.errors import BadInput
from attnbench.machine.device import own_gpu


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes of a run, and the rank of this one. Only the first one, the leader, writes and reports.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, clips: int) -> slice:
        """Return the share of a batch's clips that is for this process.

        Raises:
            BadInput: if they cannot be shared evenly.
        """
        if clips % self.count:
            raise BadInput(
                f"{clips} clips a step cannot be shared out among {self.count} processes: use multiples of {self.count}"
            )
        each = clips // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, parameters: Iterable[nn.Parameter], value: Tensor) -> Tensor:
        """Replace the gradients of the parameters by their mean over all processes, and return the mean of a scalar."""
        if self.count == 1:
            return value
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([value.detach().float().view(1), *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(flat)
        flat /= self.count
        parts = flat[1:].split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(like) for part, like in zip(parts, gradients, strict=True)])
        return flat[0]

    def agree(self, value: float) -> float:
        """Return the value of the first process."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(told, src=0)
        return float(told)


ALONE = Workers()
"""The only process of a run."""


_TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that ``torchrun`` sets."""


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[tuple[Workers, torch.device]]:
    """Join the processes that ``torchrun`` started, and give this one a GPU of its own if there are GPUs.

    Raises:
        BadInput: if there are more processes than GPUs.
    """
    if any(name not in os.environ for name in _TOLD) or os.environ["WORLD_SIZE"] == "1":
        yield ALONE, device
        return
    backend = "gloo"
    if device.type == "cuda":
        device, backend = own_gpu(), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    distributed.init_process_group(backend)
    try:
        yield Workers(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
