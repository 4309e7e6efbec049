"""Selections and outputs recorded from published code, through the public functions.

Each file tests/golden/published/METHOD.json lists cases: the grid, text tokens before and after, settings in our
words, and where the case comes from; ``derived`` marks our reading of a rule where the published code refuses the
shape. A case's arrays are the kept blocks with their offsets in the arranged order, ``order`` (the token at each
arranged position), and q, k, v in units of 1/64. ``out`` are the outputs of the tokens ``out_at``. Arrays are those
of one head or more.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attnbench

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "published"
CASES: list[tuple[str, dict[str, Any]]] = [
    (index.stem, case) for index in sorted(FOLDER.glob("*.json")) for case in json.loads(index.read_text("utf-8"))
]
NAMES = [Path(case["file"]).stem for _, case in CASES]
MOST_TOKENS = 10_000
"""Above it a case takes tens of seconds: a mask of so many tokens is compared pair by pair."""


def load(case: dict[str, Any]) -> dict[str, Tensor]:
    with np.load(FOLDER / case["file"], allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def tokens(golden: dict[str, Tensor], name: str) -> Tensor:
    """A recorded tensor, float32 [1, heads, N, head_dim]."""
    return golden[name][None].float() / 64


def call(method: str, case: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``select`` and ``attention``; JSON's lists must do for tuples."""
    return {"method": method, "grid": tuple(case["grid"]), "text": tuple(case["text"]), **case["settings"]}


def token_mask(golden: dict[str, Tensor]) -> Tensor:
    """The recorded blocks, token by token: bool [heads, N, N]."""
    sizes = (golden["q_offsets"].diff().long(), golden["k_offsets"].diff().long())
    arranged = golden["keep"].repeat_interleave(sizes[0], 1).repeat_interleave(sizes[1], 2)
    if "order" not in golden:
        return arranged
    order = golden["order"].long()
    mask = torch.empty_like(arranged)
    mask[:, order[:, None], order] = arranged
    return mask


def test_every_file_is_listed_once() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.npz")) == sorted(case["file"] for _, case in CASES)


@pytest.mark.parametrize(
    ("method", "case"),
    [
        pytest.param(method, case, id=name, marks=[pytest.mark.slow] * (math.prod(case["grid"]) > MOST_TOKENS))
        for (method, case), name in zip(CASES, NAMES, strict=True)
    ],
)
def test_selections(method: str, case: dict[str, Any]) -> None:
    golden = load(case)
    expected = token_mask(golden)
    if "q" in golden:
        q, k = tokens(golden, "q"), tokens(golden, "k")
    else:
        q = k = torch.zeros(1, 1, expected.shape[1], 8)
    mask = attnbench.select(q, k, **call(method, case)).token_mask()[0]
    assert torch.equal(mask, expected.expand_as(mask))


WITH_OUTPUT = [
    pytest.param(method, case, id=name)
    for (method, case), name in zip(CASES, NAMES, strict=True)
    if "out_at" in load(case)
]


@pytest.mark.parametrize(("method", "case"), WITH_OUTPUT)
def test_outputs(method: str, case: dict[str, Any]) -> None:
    golden = load(case)
    params = {"gate": tokens(golden, "gate")} if "gate" in golden else {}
    params |= {name: golden[name] for name in ("weight", "bias") if name in golden}
    out = attnbench.attention(
        *(tokens(golden, name) for name in "qkv"), **call(method, case), **({"params": params} if params else {})
    )
    assert isinstance(out, Tensor)
    torch.testing.assert_close(out[0, :, golden["out_at"].long()], golden["out"], atol=2e-5, rtol=0)
