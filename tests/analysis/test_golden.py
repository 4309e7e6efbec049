"""``attnbench.analyze`` against measures that were computed independently, in float64, and by brute force with text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import attnbench

GOLDEN = Path(__file__).parent.parent / "golden" / "analysis"
CASES = {"analyze_0.npz": ((5, 6, 8), (2, 3, 4)), "analyze_1.npz": ((4, 7, 6), (3, 3, 4))}
"""Grid and block of each file. The second grid is ragged in all three axes of its block."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batched", [True, False])
def test_measures_are_the_recorded_ones(name: str, batched: bool) -> None:
    grid, block = CASES[name]
    with np.load(GOLDEN / name) as golden:
        wanted = {each: golden[each] for each in golden.files}
    q, k, v = (torch.from_numpy(wanted.pop(each)) for each in "qkv")
    found = attnbench.analyze(*(x[None] if batched else x for x in (q, k, v)), grid=grid, block=block)
    assert set(found) - set(wanted) == {"queries", "row_mass", "column_mass"}
    for measure, values in wanted.items():
        assert found[measure].shape == values.shape, measure
        np.testing.assert_allclose(found[measure].numpy(), values, rtol=1e-5, err_msg=measure)


def test_text_is_left_out_of_places_and_not_of_entropy() -> None:
    generator = torch.Generator().manual_seed(5)
    grid, text = (3, 4, 5), (4, 3)
    n = 60 + sum(text)
    q, k, v = (torch.randn(2, n, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    found = attnbench.analyze(q, k, v, grid=grid, text=text, block=(2, 2, 2))
    weights = (q @ k.mT / 8**0.5).softmax(-1)
    torch.testing.assert_close(found["entropy"], -(weights * weights.log()).sum(-1))
    torch.testing.assert_close(found["energy"], (weights @ v).square().sum(-1))
    video = weights[:, 4:64, 4:64]
    video = video / video.sum(-1, keepdim=True)
    frame, place = torch.arange(60) // 20, torch.arange(60) % 20
    same_frame, same_place = (each[:, None] == each for each in (frame, place))
    torch.testing.assert_close(found["same_frame_mass"], (video * same_frame).sum(-1).mean(-1))
    torch.testing.assert_close(found["same_place_mass"], (video * same_place).sum(-1).mean(-1))
    assert found["query_importance_3d"].shape == (2, 60)


def test_few_queries_are_those_rows_of_all() -> None:
    generator = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(2, 240, 16, generator=generator) for _ in range(3))
    every = attnbench.analyze(q, k, v, grid=(5, 6, 8))
    some = attnbench.analyze(q, k, v, grid=(5, 6, 8), queries=31)
    assert len(some["queries"]) == 31
    assert len(every["queries"]) == 240
    torch.testing.assert_close(some["entropy"], every["entropy"][:, some["queries"]])
    torch.testing.assert_close(some["query_importance_3d"], every["query_importance_3d"])
