"""What a measured step is a step of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attnbench.kernels.engines import get_engine
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, whole_number
from attnbench.kernels.told import quoted
from attnbench.machine.device import resolve_device, resolve_dtype

MOST_HEADS = 128
"""More than any model of video has."""


@dataclass(frozen=True)
class StepCase:
    """One step of a Wan transformer with random weights.

    Attributes:
        size: "1.3b", 30 layers of 12 heads of 128, or "tiny", for a CPU.
        grid: token grid; 21x30x52 is 81 frames of 480x832.
        text_tokens: text tokens of the cross-attention.
        batch: sequences.
        dtype: default bfloat16 on a GPU, float32 on a CPU.
        device: "cuda" or "cpu"; default the GPU where there is one.
        direction: "fwd", or "fwdbwd" for a training step without the optimizer: forward, MSE loss, backward.
        checkpointing: run every block forward again in the backward pass, as training at full size does for memory.
        engine: who runs the methods' plans.
        rounds: samples of each figure.
        seed: of weights and inputs.
        heads: of a model that is as much narrower or wider; default those of its size.
        graphs: also run each method by ``attnbench.graphed``, as one CUDA graph a call.

    Raises:
        BadInput: for values that cannot be used.
        Unsupported: for an engine that is not available.
    """

    size: str = "tiny"
    grid: Grid | str | tuple[int, int, int] = (3, 8, 8)
    text_tokens: int = 512
    batch: int = 1
    dtype: str | None = None
    device: str | None = None
    direction: str = "fwd"
    checkpointing: bool = False
    engine: str = "auto"
    rounds: int = 7
    seed: int = 0
    heads: int | None = None
    graphs: bool = False

    def __post_init__(self) -> None:
        for name in ("text_tokens", "batch", "rounds"):
            if (whole_number(getattr(self, name)) or 0) < 1:
                raise BadInput(f"{name} is {getattr(self, name)!r}; it must be a whole number of at least 1")
        if self.heads is not None and not 1 <= (whole_number(self.heads) or 0) <= MOST_HEADS:
            raise BadInput(f"heads is {quoted(self.heads)}; it must be a whole number from 1 to {MOST_HEADS}")
        if self.direction not in ("fwd", "fwdbwd"):
            raise BadInput(f"direction is {self.direction!r}; it must be fwd or fwdbwd")
        if self.checkpointing and not self.backward:
            raise BadInput("checkpointing is for training steps: use it with direction fwdbwd")
        if self.graphs and (self.backward or self.torch_device.type != "cuda"):
            raise BadInput("graphs are CUDA graphs of forward calls: use them with direction fwd and device cuda")
        if self.engine != "auto":
            get_engine(self.engine)
        object.__setattr__(self, "grid", Grid.of(self.grid))
        resolve_dtype(self.dtype, self.torch_device)

    @property
    def token_grid(self) -> Grid:
        """The grid, whichever way it was given."""
        return Grid.of(self.grid)

    @property
    def backward(self) -> bool:
        """Whether it is a training step."""
        return self.direction == "fwdbwd"

    @property
    def torch_device(self) -> torch.device:
        """Where it runs."""
        return resolve_device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of its weights."""
        return resolve_dtype(self.dtype, self.torch_device)
