"""SpargeAttn restated block by block, in float64, with cosines of all pairs of tokens. Random shares do not tie."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def blocks_of(n: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]


def is_similar(x: Tensor, tokens: list[int], size: int, above: float, rule: str) -> bool:
    if len(tokens) < size and rule == "published":
        return False
    cosines = [float(x[i] @ x[j] / (x[i].norm() * x[j].norm())) for i in tokens for j in tokens]
    return sum(cosines) / len(cosines) > above


def kept_blocks(
    q: Tensor, k: Tensor, block: tuple[int, int], topk: float, cdf: float | None, above: float, smooth: bool,
    sink: bool, rule: str,
) -> list[set[int]]:  # fmt: skip
    """Key blocks that each query block of one head keeps; q and k are [N, D]."""
    if smooth:
        k = k - sum(k) / len(k)
    rows, columns = blocks_of(len(q), block[0]), blocks_of(len(k), block[1])
    alike = [is_similar(k, column, block[1], above, rule) for column in columns]
    means = [sum(k[i] for i in column) / len(column) for column in columns]
    kept = []
    for row in rows:
        mean = sum(q[i] for i in row) / len(row)
        powers = [
            math.exp(float(mean @ each) / math.sqrt(q.shape[1])) * same for each, same in zip(means, alike, strict=True)
        ]
        ranked = sorted((j for j, same in enumerate(alike) if same), key=lambda j: -powers[j])
        if cdf is None:
            chosen = ranked[: max(1, int(topk * len(columns)))]
        else:
            number = sum(sum(powers[j] for j in ranked[: i + 1]) <= cdf * sum(powers) for i in range(len(ranked)))
            chosen = ranked[: max(1, number)] if cdf < 1 else ranked
        if not is_similar(q, row, block[0], above, rule):
            chosen = list(range(len(columns)))
        kept.append({*chosen, *(j for j, same in enumerate(alike) if not same), *([0] if sink else [])})
    return kept


@given(
    data=st.data(),
    block=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    topk=st.sampled_from([0.1, 0.5, 0.75]),
    cdf=st.sampled_from([None, 0.3, 0.9, 1.0]),
    above=st.sampled_from([-0.1, 0.2, 0.35]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    rule=st.sampled_from(["published", "paper"]),
    heads=st.sampled_from([(2, 1), (2, 2)]),
)
def test_against_the_rule_block_by_block(
    data: st.DataObject, block: tuple[int, int], topk: float, cdf: float | None, above: float,
    flags: tuple[bool, bool, bool], rule: str, heads: tuple[int, int], layouts: Helper, tensors: Helper,
    mask_where: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(3, 4, 5)))
    n = layout.grid.tokens
    block = min(block[0], n), min(block[1], n)
    q, k = tensors(layout, *heads, seed=data.draw(st.integers(0, 99)))
    smooth, sink, dense = flags
    mask = attnbench.select(
        q, k, method="sparge", grid=layout.grid, text=layout.text, block=block, topk=topk, cdf=cdf, similarity=above,
        smooth_k=smooth, sink=sink, text_dense=dense, rule=rule,
    ).token_mask()  # fmt: skip
    part = layout.video if dense else slice(None)
    for h in range(2):
        kept = kept_blocks(
            q[0, h, part], k[0, h * heads[1] // 2, part], block, topk, cdf, above, smooth, sink, rule
        )  # fmt: skip

        def keeps(query: int, key: int, kept: list[set[int]] = kept) -> bool:
            return key // block[1] in kept[query // block[0]]

        if dense:
            assert torch.equal(mask[0, h], mask_where(layout, keeps))
        else:
            every = range(layout.tokens)
            assert mask[0, h].tolist() == [[keeps(query, key) for key in every] for query in every]


def test_settings_of_each_head(tensors: Helper) -> None:
    layout = Layout(Grid(2, 4, 8))
    q, k = tensors(layout, 3, 3)
    each: dict[str, tuple[float, ...]] = {"topk": (0.2, 0.5, 1.0), "similarity": (-1.0, 0.1, 1.0)}
    where = {"method": "sparge", "grid": layout.grid, "block": (8, 8)}
    together = attnbench.select(q, k, **where, **each).token_mask()
    for h in range(3):
        alone = attnbench.select(
            q[:, h : h + 1], k[:, h : h + 1], **where, **{name: values[h] for name, values in each.items()}
        )
        assert torch.equal(together[:, h], alone.token_mask()[:, 0])
    with pytest.raises(BadInput, match="topk has 2 values and q has 3 heads"):
        attnbench.select(q, k, **where, topk=(0.5, 0.6))


def test_the_short_last_block_is_dense_as_published() -> None:
    x = torch.ones(1, 1, 10, 4)
    where = {"method": "sparge", "grid": (1, 1, 10), "block": (4, 4), "topk": 0.34}
    published = attnbench.select(x, x, **where).pattern.keep[0, 0].int().tolist()
    assert published == [[1, 0, 1], [1, 0, 1], [1, 1, 1]]
    paper = attnbench.select(x, x, **where, rule="paper").pattern.keep[0, 0].int().tolist()
    assert paper == [[1, 0, 0]] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": (128, 32)}, r"block is \(128, 32\); it must fit into the 24 × 24 tokens"),
        ({"topk": 0.0}, "topk is 0.0; it must be a number above 0 and at most 1"),
        ({"topk": (0.5, 2.0)}, "topk is 2.0"),
        ({"topk": ()}, r"topk is \(\); it must be one number, or one for each head"),
        ({"topk": None}, "topk and cdf are both None"),
        ({"cdf": 1.1}, "cdf is 1.1"),
        ({"similarity": -1.5}, "similarity is -1.5; it must be a number of at least -1 and at most 1"),
        ({"smooth_k": 1}, "smooth_k is 1"),
        ({"rule": "mine"}, "rule is 'mine'; it must be one of published, paper"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 2, 24, 4)
    with pytest.raises(BadInput, match=message):
        attnbench.select(x, x, method="sparge", grid=(2, 3, 4), **settings)
