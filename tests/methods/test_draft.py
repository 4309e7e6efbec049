"""DraftAttention restated patch by patch, in float64. Equal entries at the cut are all kept."""

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

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def kept_patches(q: Tensor, k: Tensor, patch_of: list[int], density: float) -> set[tuple[int, int]]:
    """The pairs of patches that a head keeps; q and k are the video tokens [T·H·W, D]."""
    patches = range(max(patch_of) + 1)
    tokens = [[i for i, patch in enumerate(patch_of) if patch == number] for number in patches]
    q_means, k_means = ([sum(x[i] for i in each) / len(each) for each in tokens] for x in (q, k))
    entries = {}
    for i in patches:
        powers = [math.exp(float(q_means[i] @ k_means[j]) / math.sqrt(q.shape[1])) for j in patches]
        entries |= {(i, j): power / sum(powers) for j, power in enumerate(powers)}
    rank = int((1 - density) * len(entries))
    least = sorted(entries.values())[rank - 1] if rank else 0.0
    return {pair for pair, entry in entries.items() if entry >= least}


@given(
    data=st.data(),
    patch=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    density=st.sampled_from([0.05, 0.25, 0.5, 1.0]),
    sink=st.booleans(),
    diagonal=st.booleans(),
    heads=st.sampled_from([(2, 1), (2, 2)]),
)
def test_against_the_rule_patch_by_patch(
    data: st.DataObject, patch: tuple[int, int], density: float, sink: bool, diagonal: bool, heads: tuple[int, int],
    layouts: Helper, tensors: Helper, mask_where: Helper, places: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(3, 4, 6)))
    patch = min(patch[0], layout.grid.h), min(patch[1], layout.grid.w)
    rows, columns = -(-layout.grid.h // patch[0]), -(-layout.grid.w // patch[1])
    patch_of = [(t * rows + h // patch[0]) * columns + w // patch[1] for t, h, w in places(layout.grid)]
    frame = [t for t, _, _ in places(layout.grid)]
    q, k = tensors(layout, *heads, seed=data.draw(st.integers(0, 99)))
    mask = attnbench.select(
        q, k, method="draft", grid=layout.grid, text=layout.text, patch=patch, density=density, sink=sink,
        diagonal=diagonal,
    ).token_mask()  # fmt: skip
    for h in range(2):
        kept = kept_patches(q[0, h, layout.video], k[0, h * heads[1] // 2, layout.video], patch_of, density)

        def keeps(query: int, key: int, kept: set[tuple[int, int]] = kept) -> bool:
            added = (sink and frame[key] == 0) or (diagonal and frame[query] == frame[key])
            return added or (patch_of[query], patch_of[key]) in kept

        assert torch.equal(mask[0, h], mask_where(layout, keeps))


def test_a_patch_may_keep_nothing_and_gives_zeros() -> None:
    """The two largest entries stay, and both are of the first row."""
    q, k = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2)
    q[0, 0, 0, 0] = k[0, 0, 2, 0] = k[0, 0, 3, 0] = 9.0
    where = {"method": "draft", "grid": (1, 1, 4), "patch": (1, 1), "density": 0.01}
    mask = attnbench.select(q, k, **where).token_mask()[0, 0]
    assert mask.nonzero().tolist() == [[0, 2], [0, 3]]
    out, lse = attnbench.attention(q, k, torch.ones(1, 1, 4, 2), return_lse=True, **where)
    assert out[0, 0].tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]
    assert lse[0, 0].tolist()[1:] == [-torch.inf] * 3


def test_a_patch_larger_than_a_frame_is_refused_and_the_default_is_cut_off() -> None:
    x = torch.zeros(1, 1, 24, 4)
    assert attnbench.select(x, x, method="draft", grid=(2, 3, 4)).density == 1
    with pytest.raises(BadInput, match=r"patch is \(4, 4\); it must fit into the 3 × 4 tokens"):
        attnbench.select(x, x, method="draft", grid=(2, 3, 4), patch=(4, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": (0, 4)}, r"patch is \(0, 4\)"),
        ({"density": 0}, "density is 0; it must be a number above 0 and at most 1"),
        ({"density": 1.5}, "density is 1.5"),
        ({"sink": 1}, "sink is 1; it must be true or false"),
        ({"diagonal": None}, "diagonal is None"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 1, 24, 4)
    with pytest.raises(BadInput, match=message):
        attnbench.select(x, x, method="draft", grid=(2, 3, 4), **settings)
