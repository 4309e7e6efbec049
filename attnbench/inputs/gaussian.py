"""Gaussian inputs: the unstructured case, in which a sparse method has nothing to choose by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attnbench.inputs.seeds import normal


@dataclass(frozen=True, slots=True)
class GaussianSource:
    """Standard normal q, k and v for every token, float32 [N, head_dim] for each head."""

    tokens: int
    head_dim: int
    seed: int

    def q(self, batch: int, head: int) -> Tensor:
        """Return the queries of one head."""
        return normal((self.tokens, self.head_dim), self.seed, batch, head, "q")

    def k(self, batch: int, kv_head: int) -> Tensor:
        """Return the keys of one kv head."""
        return normal((self.tokens, self.head_dim), self.seed, batch, kv_head, "k")

    def v(self, batch: int, kv_head: int) -> Tensor:
        """Return the values of one kv head."""
        return normal((self.tokens, self.head_dim), self.seed, batch, kv_head, "v")
