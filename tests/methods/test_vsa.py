"""VSA and VSA for MiniMax-H3, restated with lists: tiles, the best of each row, and the coarse branch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Layout

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py
Triple = tuple[int, int, int]
FOLDER = Path(__file__).resolve().parent.parent / "golden" / "published"


def video_tiles(layout: Layout, tile: Triple, places: list[Triple]) -> list[list[int]]:
    """The tokens of each tile, tiles in raster order."""
    tiles: dict[Triple, list[int]] = {}
    for token, (t, h, w) in enumerate(places):
        tiles.setdefault((t // tile[0], h // tile[1], w // tile[2]), []).append(layout.text[0] + token)
    return [tiles[place] for place in sorted(tiles)]


def runs(tokens: range, size: int) -> list[list[int]]:
    return [list(tokens[start : start + size]) for start in range(0, len(tokens), size)]


def means(x: Tensor, tiles: list[list[int]]) -> Tensor:
    return torch.stack([x[tile].mean(0) for tile in tiles])


def expected(
    q: Tensor, k: Tensor, v: Tensor, fine: list[list[int]], coarse: list[list[int]], density: float, gate: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The mask and the output of one head [N, D]; ``fine`` are the video's tiles, ``coarse`` those of the branch."""
    n, scale = len(q), q.shape[1] ** -0.5
    mask = torch.ones(n, n, dtype=torch.bool)
    scores = means(q, fine) @ means(k, fine).T
    count = max(1, min(math.ceil(density * len(fine)), len(fine)))
    for i, row in enumerate(scores.tolist()):
        best = sorted(range(len(row)), key=lambda j: (-row[j], j))
        for j in best[count:]:
            mask[torch.tensor(fine[i])[:, None], torch.tensor(fine[j])] = False
    out = (q @ k.T * scale).masked_fill(~mask, -torch.inf).softmax(-1) @ v
    if coarse:
        between = (means(q, coarse) @ means(k, coarse).T * scale).softmax(-1) @ means(v, coarse)
        for tile, row in zip(coarse, between, strict=True):
            out[tile] += row * (1 if gate is None else gate[tile])
    return mask, out


@given(
    data=st.data(), tile=st.tuples(*[st.integers(1, 3)] * 3), density=st.sampled_from([0.1, 1.0 - 0.7, 0.5, 1.0]),
    gated=st.booleans(), method=st.sampled_from(["vsa", "vsa-h3"]),
)  # fmt: skip
def test_against_the_rule(
    data: st.DataObject, tile: Triple, density: float, gated: bool, method: str, layouts: Helper, tensors: Helper,
    places: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(4, 5, 6), text=5))
    tile = tuple(min(a, b) for a, b in zip(tile, layout.grid.shape, strict=True))  # type: ignore[assignment]  # three of them
    q, k, v, gate = tensors(layout, 2, 1, 1, 2)
    params = {"gate": gate} if gated else None
    where: dict[str, Any] = {
        "method": method, "grid": layout.grid, "text": layout.text, "tile": tile, "density": density, "params": params
    }  # fmt: skip
    fine = video_tiles(layout, tile, places(layout.grid))
    coarse = fine
    if method == "vsa-h3":
        size, n = math.prod(tile), layout.tokens
        ends = (range(layout.text[0]), range(n - layout.text[1], n))
        coarse = [*runs(ends[0], size), *fine, *runs(ends[1], size)] if gated else []
    mask = attnbench.select(q, k, **where).token_mask()[0]
    out = attnbench.attention(q, k, v, **where)
    for h in range(2):
        wanted = expected(q[0, h], k[0, 0], v[0, 0], fine, coarse, density, gate[0, h] if gated else None)
        assert torch.equal(mask[h], wanted[0])
        torch.testing.assert_close(out[0, h], wanted[1], atol=1e-10, rtol=0)


@pytest.mark.parametrize("grid", [(2, 8, 8), (1, 5, 9), (3, 4, 3)])
def test_an_edge_of_the_grid_leaves_the_runs_of_the_prefix_alone(grid: Triple, tensors: Helper, places: Helper) -> None:
    layout = Layout(attnbench.Grid(*grid), (150, 70))
    q, k, v, gate = tensors(layout, 1, 1, 1, 1)
    where: dict[str, Any] = {"method": "vsa-h3", "grid": layout.grid, "text": layout.text, "density": 0.5}
    out = attnbench.attention(q, k, v, **where, params={"gate": gate})
    fine = video_tiles(layout, (4, 4, 4), places(layout.grid))
    coarse = [*runs(range(150), 64), *fine, *runs(range(layout.tokens - 70, layout.tokens), 64)]
    wanted = expected(q[0, 0], k[0, 0], v[0, 0], fine, coarse, 0.5, gate[0, 0])[1]
    torch.testing.assert_close(out[0, 0], wanted, atol=1e-10, rtol=0)


def test_the_branch_of_the_published_code_for_h3() -> None:
    case = next(
        case for case in json.loads((FOLDER / "vsa-h3.json").read_text("utf-8")) if case["file"] == "vsah3_3.npz"
    )
    with np.load(FOLDER / case["file"], allow_pickle=False) as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays}
    q, k, v = (golden[name][None].float() / 64 for name in "qkv")
    out = attnbench.attention(
        q, k, v, method="vsa-h3", grid=tuple(case["grid"]), text=tuple(case["text"]), **case["settings"],
        params={"gate": torch.ones_like(q)},
    )  # fmt: skip
    torch.testing.assert_close(out[0, :, golden["out_at"].long()], golden["out_gated"], atol=2e-5, rtol=0)


def test_both_branches_are_trained(tensors: Helper) -> None:
    layout = Layout(attnbench.Grid(3, 4, 5), (2, 0))
    made = [x.requires_grad_() for x in tensors(layout, 2, 1, 1, 2)]
    settings: dict[str, Any] = {"method": "vsa", "grid": layout.grid, "text": layout.text, "tile": (2, 2, 2)}
    out = attnbench.attention(*made[:3], **settings, density=0.4, params={"gate": made[3]})
    assert isinstance(out, Tensor)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    mine = torch.autograd.grad((out * weights).sum(), made)

    q, k, v, gate = made
    fine = video_tiles(layout, (2, 2, 2), [(t, h, w) for t in range(3) for h in range(4) for w in range(5)])
    rows = [expected(q[0, h], k[0, 0], v[0, 0], fine, fine, 0.4, gate[0, h])[1] for h in range(2)]
    theirs = torch.autograd.grad((torch.stack(rows)[None] * weights).sum(), made)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", ["vsa", "vsa-h3"])
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"gates": 1}, "params is a dictionary of gates; it must be {'gate': a tensor like q, or 1}, or None"),
        (torch.ones(1), "it must be {'gate': a tensor like q, or 1}, or None"),
        ({"gate": 2.0}, "gate is 2.0; it must be 1, or like q, float32"),
        ({"gate": True}, "gate is True; it must be 1, or like q"),
        ({"gate": torch.ones(1, 2, 7, 4)}, r"gate is float32 \[1, 2, 7, 4\] on cpu; it must be 1, or like q"),
        ({"gate": torch.ones(1, 2, 8, 4).double()}, "gate is float64"),
        (torch.ones(1, 2, 8, 4), r"params is float32 \[1, 2, 8, 4\] on cpu; it must be {'gate'"),
        (torch.ones(1, 2, 8, 4).tolist(), "params is of type list; it must be {'gate'"),
        ({str(i): 1 for i in range(99)}, "params is a dictionary of 99 items; it must be {'gate'"),
        ({"gate": torch.ones(1, 2, 8, 4).tolist()}, "gate is of type list; it must be 1, or like q, float32"),
        ({"gate": np.ones((1, 2, 8, 4))}, "gate is of type ndarray; it must be 1, or like q, float32"),
        ({"gate": "x" * 9999}, "gate is 'x+', cut off after 40 of 9,999 characters; it must be 1, or like q, float32"),
        ({"gate": torch.ones(1, 2, 8, 4).to_sparse()}, r"gate is sparse_coo float32 \[1, 2, 8, 4\] on cpu; it must be"),
    ],
)
def test_a_gate_that_does_not_fit_is_refused(method: str, params: Any, words: str) -> None:
    x = torch.zeros(1, 2, 8, 4)
    with pytest.raises(BadInput, match=words) as refused:
        attnbench.attention(x, x, x, method=method, grid=(2, 2, 2), params=params)
    said = str(refused.value)
    assert len(said) < 200
    assert "\n" not in said


@pytest.mark.parametrize("method", ["vsa", "vsa-h3"])
@pytest.mark.parametrize("one", [1, 1.0])
def test_a_gate_of_1_is_a_gate_of_ones(method: str, one: float, tensors: Helper) -> None:
    q, k, v = tensors(Layout(attnbench.Grid(2, 4, 4), (5, 0)), 2, 1, 1)
    asked = {"method": method, "grid": (2, 4, 4), "text": (5, 0), "tile": (2, 2, 2), "return_plan": True}
    output, plan = attnbench.attention(q, k, v, **asked, params={"gate": one})
    expected, like = attnbench.attention(q, k, v, **asked, params={"gate": torch.ones_like(q)})
    torch.testing.assert_close(output, expected)
    assert plan.branch_flops == like.branch_flops > 0


@pytest.mark.parametrize("method", ["vsa", "vsa-h3"])
def test_any_mapping_may_hold_the_gate(method: str, tensors: Helper) -> None:
    q, k, v, gate = tensors(Layout(attnbench.Grid(2, 4, 4)), 2, 1, 1, 2)
    asked: dict[str, Any] = {"method": method, "grid": (2, 4, 4), "tile": (2, 2, 2)}
    usual = attnbench.attention(q, k, v, **asked, params={"gate": gate})
    other = attnbench.attention(q, k, v, **asked, params=MappingProxyType({"gate": gate}))
    assert torch.equal(usual, other)


@pytest.mark.parametrize("method", ["vsa", "vsa-h3"])
def test_settings_that_are_refused(method: str) -> None:
    x = torch.zeros(1, 2, 8, 4)
    for given_settings, words in [
        ({"density": 0}, "density is 0; it must be a number above 0 and at most 1"),
        ({"tile": 4}, "tile is 4; it must be 3 whole numbers"),
        ({"tile": (4, 4, 5)}, r"tile is \(4, 4, 5\); it must fit into the 2 × 2 × 2 tokens"),
    ]:
        with pytest.raises(BadInput, match=words):
            attnbench.select(x, x, method=method, grid=(2, 2, 2), **given_settings)
