"""Every setting of every built-in method, with values that make no sense: one sentence that names the setting."""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType
from typing import Any

import pytest
import torch

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.methods import get_method
from attnbench.methods.per_head import map_tensors
from attnbench.methods.registry import BUILT_IN

GRID = (2, 3, 5)
NEVER = (
    "x", {}, math.nan, math.inf, -3, [], ["x"], "x\n" * 9999, [[0.5] * 64] * 64, torch.ones(64, 64),
    torch.ones(2, 2).to_sparse(), {str(i): torch.ones(9) for i in range(99)}, -(10**5000), object,
)  # fmt: skip
"""No setting can have these values, but for the few below."""

MOST_CHARACTERS = 300
"""The longest sentence, whatever was given."""

ALLOWED = {("sparge", "similarity"), ("liteattention", "threshold"), ("sol-attn", "tau")}
"""Settings that -3, the fifth of them, may be a value of."""

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
        if value is NEVER[4] and (name, setting) in ALLOWED:
            continue
        with pytest.raises(BadInput) as refused:
            select(name, setting, value)
        said = str(refused.value)
        assert setting in said
        assert "\n" not in said
        assert len(said) <= MOST_CHARACTERS, said


@pytest.mark.parametrize(("name", "setting"), CASES, ids=lambda word: str(word))
def test_a_huge_value_is_refused_or_cut_off(name: str, setting: str) -> None:
    for value in HUGE:
        try:
            select(name, setting, value)
        except BadInput as refused:
            assert setting in str(refused)  # noqa: PT017  # values that are cut off raise nothing


LONG = (torch.ones(64, 64), [[0.5] * 64] * 64, "x\n" * 9999, {str(i): torch.ones(9) for i in range(99)}, 10**5000)


@pytest.mark.parametrize("argument", ["method", "grid", "text", "layer", "step", "scale", "q"])
@pytest.mark.parametrize("value", LONG, ids=["tensor", "list", "text", "dictionary", "number"])
def test_an_argument_of_any_length_is_refused_in_one_short_sentence(argument: str, value: Any) -> None:
    if argument in ("layer", "step") and isinstance(value, int):
        value = -value
    x = torch.zeros(1, 2, math.prod(GRID), 8)
    asked: dict[str, Any] = {"q": x, "k": x, "v": x, "method": "moba", "grid": GRID, argument: value}
    with pytest.raises(BadInput) as refused:
        attnbench.attention(asked.pop("q"), asked.pop("k"), asked.pop("v"), **asked)
    said = str(refused.value)
    assert argument in said
    assert "\n" not in said
    assert len(said) <= 2 * MOST_CHARACTERS, "an unknown method is answered with the names of the others"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_tensors_that_are_not_strided_are_refused(which: int) -> None:
    tensors = [torch.ones(1, 2, math.prod(GRID), 8) for _ in range(3)]
    tensors[which] = tensors[which].to_sparse()
    with pytest.raises(
        BadInput, match=rf"^{'qkv'[which]} is sparse_coo float32 \[1, 2, 30, 8\] on cpu; it must be strid"
    ):
        attnbench.attention(*tensors, method="moba", grid=GRID)


def test_learned_tensors_and_states_that_are_not_strided_are_refused() -> None:
    x = torch.randn(3, 1, 1, 2, math.prod(GRID), 8, generator=torch.Generator().manual_seed(0))[:, 0]
    params = {"weight": torch.ones(8, 8).to_sparse(), "bias": torch.ones(8)}
    with pytest.raises(BadInput, match=r"params\['weight'\] is sparse_coo float32 \[8, 8\] on cpu; it must be float32"):
        attnbench.attention(*x, method="sla", grid=GRID, params=params)
    asked: dict[str, Any] = {"method": "svg2", "grid": GRID, "q_clusters": 3, "k_clusters": 3}
    state = attnbench.select(x[0], x[1], **asked).state
    sparse = state | {"q_centroids": state["q_centroids"].to_sparse()}
    with pytest.raises(
        BadInput, match=r"q_centroids of the state is sparse_coo float32 \[1, 2, 3, 8\] on cpu; it must"
    ):
        attnbench.select(x[0], x[1], **asked, state=sparse)


def test_tensors_of_any_mapping_are_found() -> None:
    given = MappingProxyType({"gate": torch.ones(2), "more": [MappingProxyType({"x": torch.ones(3)})]})
    assert map_tensors(given, lambda x: tuple(x.shape)) == {"gate": (2,), "more": [{"x": (3,)}]}
