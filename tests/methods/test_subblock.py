"""SubBlock: how many blocks a row keeps. Selections are compared with the published ones in test_published.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attnbench
from attnbench.kernels.errors import BadInput


@pytest.mark.parametrize(
    ("blocks", "settings", "kept"),
    [
        (590, {}, 152),  # 147.5 is 148, which is 152 in eights; the figure that the authors give
        (40, {}, 16),
        (40, {"round_to": 1}, 10),
        (40, {"round_to": 64}, 40),
        (5, {"density": 0.01}, 5),
        (5, {"density": 0.01, "round_to": 1}, 1),
        (10, {"density": 1.0 - 0.7, "round_to": 1}, 4),  # 3.0000000000000004 of 10, as floating point has it
    ],
)
def test_how_many_blocks_a_row_keeps(blocks: int, settings: dict[str, Any], kept: int) -> None:
    x = torch.randn(1, 1, 4 * blocks - 1, 4, generator=torch.Generator().manual_seed(0))
    plan = attnbench.select(x, x, method="subblock", grid=(1, 1, 4 * blocks - 1), block=4, cells=(2, 4), **settings)
    assert plan.pattern.keep.sum(-1).unique().tolist() == [kept]


def test_with_one_cell_the_means_of_blocks_decide() -> None:
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, 70, 4, generator=random, dtype=torch.float64) for _ in range(2))
    settings: dict[str, Any] = {"block": 7, "cells": (1, 1), "density": 0.3, "round_to": 1}
    plan = attnbench.select(q, k, method="subblock", grid=(7, 2, 5), **settings)
    means = [x.view(1, 2, 10, 7, 4).mean(3) for x in (q, k)]
    best = (means[0] @ means[1].transpose(-1, -2)).topk(3).indices
    assert torch.equal(plan.pattern.keep, torch.zeros(1, 2, 10, 10, dtype=torch.bool).scatter_(-1, best, True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cells": (4, 3)}, r"cells is \(4, 3\); both must divide the 64 tokens of a block"),
        ({"cells": 4}, "cells is 4; it must be 2 whole numbers"),
        ({"density": 0}, "density is 0; it must be a number above 0"),
        ({"round_to": 0}, "round_to is 0"),
        ({"block": 1024}, "block is 1024; it must fit into the 8 tokens of the grid"),
    ],
)
def test_refusals(settings: dict[str, Any], words: str) -> None:
    x = torch.zeros(1, 1, 8, 4)
    with pytest.raises(BadInput, match=words):
        attnbench.select(x, x, method="subblock", grid=(2, 2, 2), **settings)
