"""LiteAttention: recorded tiles step by step, the rule restated tile by tile, and what its state must be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.errors import BadInput

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "steps"
CASES: list[dict[str, Any]] = json.loads((FOLDER / "liteattention.json").read_text("utf-8"))


@pytest.mark.parametrize("rule", ["published", "paper"])
@pytest.mark.parametrize("case", CASES, ids=[Path(case["file"]).stem for case in CASES])
def test_recorded_steps(case: dict[str, Any], rule: str) -> None:
    with np.load(FOLDER / case["file"], allow_pickle=False) as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays}
    sizes = [golden[name].diff().long() for name in ("q_offsets", "k_offsets")]
    tiles, state = golden["keep" if rule == "published" else "keep_plain"], None
    for step in range(len(golden["q"])):
        q, k = (golden[name][step][None].float() / 64 for name in "qk")
        plan = attnbench.select(
            q,
            k,
            method="liteattention",
            grid=tuple(case["grid"]),
            step=step,
            state=state,
            rule=rule,
            **case["settings"],
        )
        expected = tiles[step].repeat_interleave(sizes[0], 1).repeat_interleave(sizes[1], 2)
        assert torch.equal(plan.token_mask()[0], expected)
        state = plan.state
    assert torch.equal(state["keep"][0], tiles[-1])


def negligible(q: Tensor, k: Tensor, block: tuple[int, int], keep: Tensor, threshold: float) -> Tensor:
    """The marked tiles of one head, q and k [N, D], tile by tile and row by row."""
    marks = torch.zeros_like(keep)
    for i in range(keep.shape[0]):
        rows = q[i * block[0] : (i + 1) * block[0]]
        tops: list[float] = [-math.inf] * len(rows)
        for j in reversed(range(keep.shape[1])):
            if not keep[i, j]:
                continue
            keys = k[j * block[1] : (j + 1) * block[1]]
            here = [max(float(row @ key) for key in keys) / q.shape[1] ** 0.5 for row in rows]
            marks[i, j] = (
                all((best - top) * math.log2(math.e) <= threshold for best, top in zip(here, tops, strict=True))
                and tops[0] > -math.inf
            )
            tops = [max(pair) for pair in zip(here, tops, strict=True)]
    return marks


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    block=st.tuples(st.integers(1, 8), st.integers(1, 6)),
    threshold=st.sampled_from([0.0, -0.5, -2.0]),
    heads=st.sampled_from([(2, 1), (2, 2)]),
)
def test_the_paper_drops_every_marked_tile(
    data: st.DataObject, block: tuple[int, int], threshold: float, heads: tuple[int, int], layouts: Helper,
    tensors: Helper, mask_where: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(2, 4, 4)))
    n = layout.grid.tokens
    block = min(block[0], n), min(block[1], n)
    seed, state = data.draw(st.integers(0, 99)), None
    keep = torch.ones(2, -(-n // block[0]), -(-n // block[1]), dtype=torch.bool)
    for step in range(3):
        q, k = tensors(layout, *heads, seed=seed + step)
        plan = attnbench.select(
            q, k, method="liteattention", grid=layout.grid, text=layout.text, block=block, threshold=threshold,
            step=step, state=state, rule="paper",
        )  # fmt: skip
        mask, state = plan.token_mask(), plan.state
        for h in range(2):

            def keeps(query: int, key: int, tiles: Tensor = keep[h]) -> bool:
                return bool(tiles[query // block[0], key // block[1]])

            assert torch.equal(mask[0, h], mask_where(layout, keeps))
            marks = negligible(q[0, h, layout.video], k[0, h * heads[1] // 2, layout.video], block, keep[h], threshold)
            keep = keep.clone()
            keep[h] &= ~marks
        assert torch.equal(state["keep"][0], keep)


@settings(max_examples=40, deadline=None)
@given(
    block=st.tuples(st.integers(1, 8), st.integers(1, 4)), threshold=st.sampled_from([0.0, -0.5, -2.0]),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_the_published_kernel_keeps_lists_of_ranges(block: tuple[int, int], threshold: float, seed: int) -> None:
    n, state = 30, None
    tiles = -(-n // block[1])
    lists = [[list(range(tiles))[::-1]] for _ in range(-(-n // block[0]))]  # of each tile of queries, as visited
    for step in range(4):
        random = torch.Generator().manual_seed(10 * seed + step)
        q, k = torch.randn(2, 1, 1, n, 4, generator=random, dtype=torch.float64)
        plan = attnbench.select(
            q, k, method="liteattention", grid=(n, 1, 1), block=block, threshold=threshold, step=step, state=state
        )
        state = plan.state
        keep = torch.zeros(len(lists), tiles, dtype=torch.bool)
        for i, ranges in enumerate(lists):
            keep[i, [tile for each in ranges for tile in each]] = True
        expected = keep.repeat_interleave(block[0], 0)[:n].repeat_interleave(block[1], 1)[:, :n]
        assert torch.equal(plan.token_mask()[0, 0], expected)
        marks = negligible(q[0, 0], k[0, 0], block, keep, threshold)
        for i, ranges in enumerate(lists):
            if (i + 1) * block[0] <= n:
                lists[i] = [part for each in ranges for part in parts(each, marks[i])]


def parts(visited: list[int], marked: Tensor) -> list[list[int]]:
    """What is left of a range: runs of unmarked tiles, each with the marked tile that ends it."""
    found: list[list[int]] = []
    run: list[int] = []
    for tile in visited:
        if not marked[tile]:
            run.append(tile)
        elif run:
            found.append([*run, tile])
            run = []
    return [*found, run] if run else found


@pytest.mark.parametrize(
    ("given_call", "message"),
    [
        ({"threshold": 1.0}, "threshold is 1.0; it must be a number of at most 0"),
        ({"block": (25, 4)}, r"block is \(25, 4\); it must fit into the 24 × 24 tokens"),
        ({"rule": "mine"}, "rule is 'mine'"),
        (
            {"state": {}},
            "the state of liteattention is a dictionary of nothing; it must be a dictionary of keep and begins, as",
        ),
        (
            {"state": dict.fromkeys(("keep", "begins"), torch.ones(1, 1, 2, 2))},
            r"keep of the state is float32 \[1, 1, 2, 2\] on cpu; it must be bool",
        ),
    ],
)
def test_bad_input(given_call: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 1, 24, 4)
    with pytest.raises(BadInput, match=message):
        attnbench.select(x, x, method="liteattention", grid=(2, 3, 4), **given_call)
