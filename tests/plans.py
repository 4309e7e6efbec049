"""Random plans; run with seeds, the pairs that our kernels' own lists execute for each, beside those of the model."""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import band, causal, window


def random_plan(seed: int, *, kind: str = "any", rules: bool = True, most: tuple[int, int, int] = (3, 8, 12)) -> Plan:
    """A plan with ragged blocks, orders, text and a rule or not; ``kind`` is routed, blocked or any."""
    random = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=random))

    layout = Layout(Grid(*(pick(1, side) for side in most)), (pick(0, 2), pick(0, 2)))
    n, batch, heads = layout.tokens, pick(1, 2), (1, 2, 4)[pick(0, 2)]

    def offsets(blocks: int) -> Tensor:
        cuts = torch.randperm(max(0, n - 1), generator=random)[: blocks - 1] + 1
        return torch.tensor([0, *sorted(cuts.tolist()), n])

    def order() -> Tensor | None:
        how = pick(0, 2)
        if how == 0:
            return None
        shape = (n,) if how == 1 else (batch, heads, n)
        return torch.rand(shape, generator=random).argsort(-1)

    routed = kind == "routed" or (kind == "any" and pick(0, 1) == 0)
    k_offsets, q_offsets = offsets(pick(1, 18)), offsets(pick(1, 6))
    rows = n if routed else len(q_offsets) - 1
    shape = ((1, batch)[pick(0, 1)], (1, heads)[pick(0, 1)], rows, len(k_offsets) - 1)
    keep = torch.rand(shape, generator=random) < (0.0, 0.2, 0.6, 1.0)[pick(0, 3)]
    reach = [pick(0, side) for side in layout.grid.shape]
    rule = (None, causal(), window(*reach), band(pick(0, n)))[pick(0, 3)] if rules else None
    pattern = RoutedPattern(k_offsets, keep, rule) if routed else BlockPattern(q_offsets, k_offsets, keep, rule)
    return Plan(layout, batch, heads, pattern, order(), order())


if __name__ == "__main__":
    from attnbench.kernels.gpu import blocked, routed
    from attnbench.kernels.tile_counts import tile_work

    found = []
    for seed in sys.argv[1:]:
        plan = random_plan(int(seed), most=(2, 5, 18))
        kernels = routed if isinstance(plan.pattern, RoutedPattern) else blocked
        found.append((kernels.executed_pairs(plan), tile_work(plan, 1).executed_pairs))
    print(json.dumps(found))
