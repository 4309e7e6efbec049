"""What a plan keeps between frames, against its whole mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import frame_shares as module
from attnbench.kernels.band import Band
from attnbench.kernels.frame_shares import MOST_FRAMES, frame_shares
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal, window

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def by_mask(mask: Tensor, layout: Layout) -> Tensor:
    """Average a mask [B, H, N, N] over batch, heads and the video tokens of each two frames."""
    t, video = layout.grid.t, layout.video
    return mask[:, :, video, video].double().unflatten(3, (t, -1)).unflatten(2, (t, -1)).mean((0, 1, 3, 5))


def check(plan: Plan, mask: Tensor) -> None:
    found = frame_shares(plan)
    assert found is not None
    torch.testing.assert_close(found, by_mask(mask, plan.layout), atol=1e-12, rtol=0)


@settings(max_examples=80)
@given(data=st.data(), chunk=st.sampled_from([1, 7, 2**22]))
def test_shares_are_those_of_the_mask(data: st.DataObject, chunk: int, plan_cases: Helper, brute_force: Helper) -> None:
    case = data.draw(plan_cases())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        check(case.plan, brute_force(case))


@pytest.mark.parametrize("rule", [window(1, 1, 2), causal()])
@pytest.mark.parametrize("text", [(0, 0), (2, 1)])
def test_blocks_that_fill_boxes_under_a_rule_are_counted_without_looking_at_pairs(
    rule: Any, text: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(Grid(5, 4, 6), text)
    partition = partition_cuboids(layout, (2, 4, 6), torch.device("cpu"))
    keep = torch.rand(1, 2, partition.blocks, partition.blocks, generator=torch.Generator().manual_seed(3)) < 0.7
    pattern = BlockPattern(partition.offsets, partition.offsets, keep, rule)
    plan = Plan(layout, 1, 2, pattern, partition.order, partition.order)
    monkeypatch.setattr(module, "MOST_PAIRS", 0)
    check(plan, plan.token_mask())


def test_bands_and_blocks_of_single_heads_count_too() -> None:
    layout, random = Layout(Grid(3, 2, 5), (1, 2)), torch.Generator().manual_seed(1)
    n = layout.tokens
    own = torch.tensor([[[0, 9, 9, n], [0, 1, 20, n]]])
    keep = torch.rand(2, 1, 3, 3, generator=random) < 0.6
    band = Band(torch.tensor([[-4, -9]]), torch.tensor([[3, 20]]), torch.rand(1, 2, 3, 3, generator=random) < 0.3)
    order = torch.rand(2, 2, n, generator=random).argsort(-1)
    for pattern in (BlockPattern(own, own, keep), BlockPattern(own, own, keep, band=band)):
        plan = Plan(layout, 2, 2, pattern, order, None)
        check(plan, plan.token_mask())


def test_more_frames_or_pairs_than_are_looked_at_give_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal_over(frames: int) -> Plan:
        n = torch.tensor([0, 2 * frames])
        keep = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        return Plan(
            Layout(Grid(frames, 1, 2)), 1, 1, BlockPattern(n, n, keep, window(0, 0, 1)), torch.arange(2 * frames)
        )

    assert frame_shares(causal_over(MOST_FRAMES)) is not None
    assert frame_shares(causal_over(MOST_FRAMES + 1)) is None
    monkeypatch.setattr(module, "_by_blocks", lambda *_: None)
    monkeypatch.setattr(module, "MOST_PAIRS", 35)
    assert frame_shares(causal_over(3)) is None
    monkeypatch.setattr(module, "MOST_PAIRS", 36)
    assert frame_shares(causal_over(3)) is not None
