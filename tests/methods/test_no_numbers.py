"""NaN and infinity in q or k: they show in the output, as in full attention, and no query goes without keys."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.methods import get_method
from attnbench.methods.registry import BUILT_IN

GRID = (4, 16, 16)
TOKEN = 100
SMALL: dict[str, dict[str, Any]] = {
    "svg2": {"q_clusters": 8, "k_clusters": 8},
    "mod-dit": {"step": 12},
}

CUTS_HEADS = "draft"
"""Cuts a whole head at a percentile. So the pairs of a query that has no number take the place of those of others."""


def attend(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    cycle = {} if get_method(name).cycle is None else {"step": 0}
    return attnbench.attention(q, k, v, method=name, grid=GRID, **{**cycle, **SMALL.get(name, {})})


def is_empty(output: Tensor) -> Tensor:
    return (output == 0).all(-1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_no_number_shows_and_leaves_no_query_without_keys(name: str, value: float) -> None:
    q, k, v = torch.randn(3, 1, 2, math.prod(GRID), 32, generator=torch.Generator().manual_seed(0))
    assert attend(name, q, k, v).isfinite().all()
    spoiled_q, spoiled_k = q.clone(), k.clone()
    spoiled_q[0, 0, TOKEN] = spoiled_k[0, 0, TOKEN] = value
    output = attend(name, spoiled_q, k, v)
    assert output[0, 0, TOKEN].isnan().all()
    assert name == CUTS_HEADS or not is_empty(output).any()
    output = attend(name, q, spoiled_k, v)
    assert output[0, 0, TOKEN].isnan().all(), "that query keeps that key"
    assert not is_empty(output).any()
