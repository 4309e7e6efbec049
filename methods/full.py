"""Full attention: every query keeps every key."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BlockPattern,
    Call,
    Grid,
    Layout,
    Method,
    Partition,
    Plan,
    Source,
    main,
    remembered,
    whole,
)


@dataclass(frozen=True)
class Full:
    """Full attention has no settings."""


def plan(settings: Full | None, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep everything: one query block, one key block."""
    partition, keep = _one_block(*call.layout.numbers, q.device)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep, is_full=True)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern)


@remembered(8)
def _one_block(shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> tuple[Partition, Tensor]:
    keep = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    return whole(Layout(Grid(*shape), text), device), keep


def twin(settings: Full, layout: Layout, layer: int) -> tuple[Full, Layout]:
    """Any small grid will do."""
    return settings, Layout(Grid(3, 7, 11), layout.few_text)


METHOD = Method(
    name="full",
    summary="every query keeps every key",
    source=Source("Attention Is All You Need (2017)", "https://arxiv.org/abs/1706.03762", "section 3.2.1"),
    settings=Full,
    plan=plan,
    twin=twin,
    depends_on_qk=True,  # it does not; but callers replace the plan of this method, and it costs nothing to make
    plans_shards=True,
)

if __name__ == "__main__":
    main(METHOD)
