"""Recorded selections, outputs and masks, made by other code than this; tests/golden/index.json lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attnbench

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "index.json").read_text(encoding="utf-8"))
SCOPES = {"head_global": "head", "query_head": "query"}


def load(case: dict[str, Any]) -> dict[str, Tensor]:
    with np.load(GOLDEN / case["file"], allow_pickle=False) as arrays:
        assert sorted(arrays) == sorted(case["keys"])
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def cases(key: str) -> pytest.MarkDecorator:
    """The cases whose file holds ``key``."""
    chosen = [case for case in CASES if key in case["keys"]]
    return pytest.mark.parametrize("case", chosen, ids=[Path(case["file"]).stem for case in chosen])


def arguments(case: dict[str, Any]) -> dict[str, Any]:
    """A golden case in this package's words."""
    given = case["settings"]
    if case["method"] == "moba":
        grid = (1, 1, given["n"])
        return {"method": "moba", "grid": grid, "block_size": given["chunk"], "topk": given["topk"], "causal": True}
    if case["method"] == "sta":
        return {"method": "sta"} | {name: tuple(given[name]) for name in ("grid", "tile", "window")}
    block = block_of(case)
    frames, (_, h, w) = block[0], block
    arguments = {
        "method": "vmoba", "grid": tuple(given["grid"]), "layer": layer_of(case), "partition": (frames, (h, w), block),
        "select": given["mode"], "scope": SCOPES[given["scope"]], "topk": given["topk"],
    }  # fmt: skip
    return arguments | ({"threshold": given["tau"]} if given["tau"] else {})


def layer_of(case: dict[str, Any]) -> int:
    chunk = case["settings"]["chunk"]
    return 0 if isinstance(chunk, int) else len(chunk) - 1


def block_of(case: dict[str, Any]) -> tuple[int, int, int]:
    """The block (t, h, w) in tokens: one number means frames, two a patch through all frames, three a cuboid."""
    chunk, (t, h, w) = case["settings"]["chunk"], case["settings"]["grid"]
    if isinstance(chunk, int):
        return chunk, h, w
    return (t, chunk[0], chunk[1]) if len(chunk) == 2 else tuple(chunk)


def test_every_file_is_listed_and_every_case_is_tested() -> None:
    assert {path.name for path in GOLDEN.glob("*.npz")} == {case["file"] for case in CASES}
    assert {case["method"] for case in CASES} == {"vmoba", "moba", "sta"}
    assert all({"out", "mask"} & set(case["keys"]) for case in CASES)


@cases("out")
def test_outputs(case: dict[str, Any]) -> None:
    golden = load(case)
    q, k, v = (golden[name][None] for name in "qkv")
    out = attnbench.attention(q, k, v, **arguments(case))
    assert isinstance(out, Tensor)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[0][:, golden["out_at"].long()], golden["out"], atol=1e-5, rtol=0)


@cases("selected")
def test_selections(case: dict[str, Any]) -> None:
    golden = load(case)
    selected = golden["selected"]  # [heads, N, blocks]
    plan = attnbench.select(golden["q"][None], golden["k"][None], **arguments(case))
    assert torch.equal(plan.pattern.keep[0], selected)

    sides, block = case["settings"]["grid"], block_of(case)
    _, rows, columns = (-(-side // size) for side, size in zip(sides, block, strict=True))
    number = torch.tensor(
        [
            ((t // block[0]) * rows + h // block[1]) * columns + w // block[2]
            for t in range(sides[0])
            for h in range(sides[1])
            for w in range(sides[2])
        ]
    )
    assert torch.equal(plan.token_mask()[0], selected[:, :, number])
    assert float(selected.float().mean()) == pytest.approx(case["selected_fraction"], abs=1e-6)


@cases("mask")
def test_masks(case: dict[str, Any]) -> None:
    expected = load(case)["mask"]
    x = torch.zeros(1, 1, len(expected), 8)
    plan = attnbench.select(x, x, **arguments(case))
    assert torch.equal(plan.token_mask()[0, 0], expected)
    assert plan.density == case["selected_fraction"]
