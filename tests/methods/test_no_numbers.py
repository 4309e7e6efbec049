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
TOKEN = 200
SMALL: dict[str, dict[str, Any]] = {
    "svg2": {"q_clusters": 8, "k_clusters": 8},
    "mod-dit": {"step": 12},
}
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("longcat-bsa", {"density": None, "mass": 0.8}),
    ("nabla", {"mass": 0.3}),
    ("sparge", {"cdf": 0.5}),
    ("sol-attn", {"summaries": False, "near": 0}),
    ("bsa", {"least": 1}),
    ("draft", {"density": 0.05}),
    ("xattention", {"rule": "paper"}),
    ("xattention", {"rule": "paper", "chunk": None}),
]
CASES = [*((name, SMALL.get(name, {})) for name in BUILT_IN), *OTHERS]


def attend(name: str, given: dict[str, Any], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    cycle = {} if get_method(name).cycle is None else {"step": 0}
    return attnbench.attention(q, k, v, method=name, grid=GRID, **{**cycle, **given})


def empty(output: Tensor) -> int:
    return int((output == 0).all(-1).sum())


@pytest.mark.parametrize(("value", "channels"), [(math.nan, 32), (math.nan, 1), (math.inf, 32), (math.inf, 1)])
@pytest.mark.parametrize(("name", "given"), CASES, ids=str)
def test_what_is_no_number_shows_and_leaves_no_query_without_keys(
    name: str, given: dict[str, Any], value: float, channels: int
) -> None:
    q, k, v = torch.randn(3, 1, 2, math.prod(GRID), 32, generator=torch.Generator().manual_seed(0))
    sound = empty(attend(name, given, q, k, v))
    spoiled_q, spoiled_k = q.clone(), k.clone()
    spoiled_q[0, 0, TOKEN, :channels] = spoiled_k[0, 0, TOKEN, :channels] = value
    output = attend(name, given, spoiled_q, k, v)
    assert output[0, 0, TOKEN].isnan().all()
    assert empty(output) <= sound
    output = attend(name, given, q, spoiled_k, v)
    assert output[0, 0].isnan().any(), "a query that keeps that key"
    assert output[0, 1].isfinite().all(), "the other head"
    assert empty(output) <= sound
