"""Every setting of every built-in method, with values that make no sense: one sentence that names the setting."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.methods import get_method
from attnbench.methods.registry import BUILT_IN

GRID = (2, 3, 5)
NEVER = ("x", {}, math.nan, math.inf, -3, [], ["x"])
"""No setting can have these values, but for the few below."""

ALLOWED = {("sparge", "similarity"), ("liteattention", "threshold"), ("sol-attn", "tau")}
"""Settings that -3 may be a value of."""

HUGE = (10**9, (10**9, 10**9, 10**9), (10**9, 10**9))
"""A setting may refuse these or cut them off, but must not fill the memory with them."""

CASES = [(name, field.name) for name in BUILT_IN for field in dataclasses.fields(get_method(name).settings)]


def select(name: str, setting: str, value: object) -> None:
    method = get_method(name)
    q, k, v = torch.randn(3, 1, 2, math.prod(GRID), 8, generator=torch.Generator().manual_seed(0))
    more: dict[str, Any] = {"v": v} if method.needs_v else {}
    if method.cycle is not None:
        more["step"] = 0
    attnbench.select(q, k, method=name, grid=GRID, **more, **{setting: value})


@pytest.mark.parametrize(("name", "setting"), CASES, ids=lambda word: str(word))
def test_a_value_that_makes_no_sense_is_refused_in_one_sentence(name: str, setting: str) -> None:
    for value in NEVER:
        if value == -3 and (name, setting) in ALLOWED:
            continue
        with pytest.raises(BadInput) as refused:
            select(name, setting, value)
        said = str(refused.value)
        assert setting in said
        assert "\n" not in said


@pytest.mark.parametrize(("name", "setting"), CASES, ids=lambda word: str(word))
def test_a_huge_value_is_refused_or_cut_off(name: str, setting: str) -> None:
    for value in HUGE:
        try:
            select(name, setting, value)
        except BadInput as refused:
            assert setting in str(refused)  # noqa: PT017  # values that are cut off raise nothing
