"""One method of each kind: static, selecting by q and k, with a state between steps, with a branch beside attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BlockPattern,
    BranchCall,
    Call,
    Cycle,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    as_ints,
    keep_text,
    partition_ranges,
    row_ops,
    score_block_pairs,
)


@dataclass(frozen=True)
class Blocks(Recipe):
    """Settings: tokens of a block, and how many key blocks a query block keeps."""

    block: int = 64
    count: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "block", as_ints("block", self.block))
        object.__setattr__(self, "count", as_ints("count", self.count))


def nearest(settings: Blocks, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the blocks within ``count`` of the own one."""
    partition = partition_ranges(call.layout, settings.block, q.device)
    place = torch.arange(partition.blocks - sum(partition.text), device=q.device)
    keep = keep_text(partition, ((place[:, None] - place).abs() < settings.count)[None, None])
    pattern = BlockPattern(partition.offsets, partition.offsets, keep)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern)


def best(settings: Blocks, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the blocks whose means score highest."""
    partition = partition_ranges(call.layout, settings.block, q.device)
    scores, flops = score_block_pairs(q, k, partition, partition)
    keep = keep_text(partition, row_ops.cut_top_k_row(scores, settings.count))
    pattern = BlockPattern(partition.offsets, partition.offsets, keep)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, selection_flops=flops)


def of_before(settings: Blocks, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the blocks that the step before chose; the first step chooses for itself."""
    made = best(settings, q, k, call)
    state = {"keep": made.pattern.keep}
    if call.state is None:
        return replace(made, state=state)
    return replace(made, pattern=replace(made.pattern, keep=call.state["keep"]), state=state)


def steps(settings: Blocks, layer: int) -> Cycle:
    """Every step is like the second, but for the first."""
    return Cycle(warm=(0,), steady=1, refresh=0, every=50, anew=True)


def with_mean(settings: Blocks, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the nearest blocks, and half the size of the branch in ``kept``."""
    return replace(nearest(settings, q, k, call), kept=0.5, branch_flops=2 * q.numel())


def add_mean(settings: Blocks, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Add a part of the mean of the values."""
    mean = v.mean(2, keepdim=True).repeat_interleave(q.shape[1] // v.shape[1], 1)
    added: Tensor = output + call.plan.kept * mean
    return added


def twin(settings: Blocks, layout: Layout, layer: int) -> tuple[Blocks, Layout]:
    """Up to 3 × 5 × 7 tokens in blocks of up to 16."""
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (3, 5, 7), strict=True))
    return replace(settings, block=min(settings.block, 16)), Layout(Grid(t, h, w), layout.few_text)


SOURCE = Source("Kinds of methods, a test of attnbench", "https://example.org/kinds")
STATIC = Method("kind-static", "the nearest blocks", SOURCE, Blocks, nearest, twin=twin, depends_on_qk=False)
SELECTING = Method("kind-selecting", "the blocks with the best means", SOURCE, Blocks, best, twin=twin)
STATE = Method("kind-state", "the best blocks of the step before", SOURCE, Blocks, of_before, twin=twin, cycle=steps)
BRANCH = Method(
    "kind-branch", "the nearest blocks, and the mean of all values", SOURCE, Blocks, with_mean, twin=twin,
    finish=add_mean, depends_on_qk=False,
)  # fmt: skip
