"""MOD-DiT: recorded maps, fits and masks of the published code, step by step, and the rule restated in loops."""

from __future__ import annotations

import itertools
import json
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
from attnbench.kernels.grid import Grid, Layout

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "steps"
CASES: list[dict[str, Any]] = json.loads((FOLDER / "mod-dit.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[Path(case["file"]).stem for case in CASES])
def test_recorded_steps(case: dict[str, Any]) -> None:
    with np.load(FOLDER / case["file"], allow_pickle=False) as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays}
    where = {"method": "mod-dit", "grid": tuple(case["grid"]), "text": tuple(case["text"]), **case["settings"]}
    sizes, state, number = golden["offsets"].diff().long(), None, 0
    for place, step in enumerate(golden["steps"].tolist()):
        q, k = (golden[name][place][None].float() / 64 for name in "qk")
        plan = attnbench.select(q, k, step=step, state=state, **where)
        assert plan.density == 1
        state = plan.state
        if step < case["settings"]["warmup_steps"] - 1:
            assert state is None
            continue
        recorded = golden["map"][0] if number == 0 else golden["map_merged"]
        assert torch.equal(state["map"][0], recorded)
        numbers = torch.cat([golden["vertical"][number], golden["diagonal"][number]], -1)
        torch.testing.assert_close(state["numbers"][0], numbers.double(), atol=1e-6, rtol=0)
        mask = attnbench.select(q, k, step=step + 1, state=state, **where).token_mask()[0]
        expected = golden["keep"][number].repeat_interleave(sizes, 1).repeat_interleave(sizes, 2)
        assert torch.equal(mask, expected)
        number += 1


def fitted(shares: Tensor, same: Tensor, ridge: float) -> tuple[Tensor, float]:
    """The numbers of columns and diagonals, and of the frame diagonal, from the regression written out as a matrix."""
    blocks = len(shares)
    rows = []
    for i in range(blocks):
        for j in range(blocks):
            row = torch.zeros(3 * blocks, dtype=torch.float64)
            row[j - i + blocks - 1] = row[2 * blocks - 1 + j] = 1
            row[-1] = same[i, j]
            rows.append(row)
    design = torch.stack(rows)
    normal = design.T @ design + ridge * torch.eye(3 * blocks, dtype=torch.float64)
    found = torch.linalg.solve(normal, design.T @ shares.flatten())
    return torch.cat([found[2 * blocks - 1 : -1] / 2, found[: 2 * blocks - 1]]), float(found[-1])


@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    text=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    block=st.integers(1, 9),
    top_k=st.sampled_from([1, 4, 9]),
    interval=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_against_the_rule(
    sides: tuple[int, int, int], text: tuple[int, int], block: int, top_k: int, interval: int, seed: int,
    tensors: Helper,
) -> None:  # fmt: skip
    layout = Layout(Grid(*sides), text)
    n, frame, before = layout.grid.tokens, sides[1] * sides[2], text[0]
    block = min(block, n)
    threshold, warmup = 1.0 / layout.tokens, 2
    where = {
        "method": "mod-dit", "grid": layout.grid, "text": text, "block": block, "top_k": top_k, "interval": interval,
        "threshold": threshold, "warmup_steps": warmup,
    }  # fmt: skip
    starts = list(range(0, n, block))
    each = frame // block
    if n % block or each == 0:
        frames: list[Any] = [start // frame for start in starts]
    else:
        frames = [i // each if i < len(starts) // each * each else f"rest {i}" for i in range(len(starts))]
    same = torch.tensor([[a == b and not isinstance(a, str) for b in frames] for a in frames])
    shares, numbers, mask, state = None, 0.0, None, None
    for number, step in enumerate((warmup - 1, warmup - 1 + interval)):
        q, k = tensors(layout, 1, 1, seed=seed + number)
        plan = attnbench.select(q, k, step=step, state=state, **where)
        weights = (q[0, 0] @ k[0, 0].T / q.shape[3] ** 0.5).softmax(-1)[layout.video, layout.video]
        mapped = torch.stack(
            [
                torch.stack([(weights[i : i + block, j : j + block] < threshold).double().mean() for j in starts])
                for i in starts
            ]
        )
        mapped = mapped.half() if shares is None else torch.where(mask, mapped.half(), shares)
        shares = mapped
        found, on_frame = fitted(shares.double(), same.double(), 1.0)
        ahead = found + (found - numbers) / interval
        numbers = found
        state = plan.state
        torch.testing.assert_close(state["numbers"][0, 0], found, atol=1e-9, rtol=0)
        blocks = len(starts)
        mask = torch.zeros(blocks, blocks, dtype=torch.bool)
        ranked = sorted(range(len(ahead)), key=lambda line: (round(float(ahead[line]), 9), line))
        gaps = [float(ahead[b] - ahead[a]) for a, b in itertools.pairwise(ranked)]
        if top_k < len(ranked) and gaps[top_k - 1] < 1e-9:
            return  # a tie that rounding decides
        for line in ranked[:top_k]:
            for i in range(blocks):
                for j in range(blocks):
                    mask[i, j] |= (j == line) if line < blocks else (j - i == line - blocks - (blocks - 1))
        mask |= same & (on_frame <= 1)
        assert torch.equal(state["keep"][0, 0], mask)
    if interval > 1:
        kept = attnbench.select(q, k, step=warmup + interval, state=state, **where).token_mask()[0, 0]
        rows = torch.arange(n) // block
        assert torch.equal(kept[before : before + n, before : before + n], mask[rows[:, None], rows])
        assert int(kept.sum()) == int(mask[rows[:, None], rows].sum()) + layout.tokens**2 - n**2


def test_steps_without_a_map_hand_the_state_on() -> None:
    q = torch.randn(1, 1, 24, 4, generator=torch.Generator().manual_seed(0))
    where = {"method": "mod-dit", "grid": (2, 3, 4), "block": 4, "warmup_steps": 3, "interval": 4, "top_k": 3}
    assert attnbench.select(q, q, step=0, **where).state is None
    state = attnbench.select(q, q, step=2, **where).state
    kept = {name: value.clone() for name, value in state.items()}
    later = attnbench.select(q, q, step=3, state=state, **where)
    assert later.state is state
    assert later.selection_flops == 0
    refreshed = attnbench.select(-q, q, step=6, state=state, **where)
    assert refreshed.selection_flops > 0
    assert all(torch.equal(state[name], value) for name, value in kept.items())


@pytest.mark.parametrize("step", [12, 15, 21])
def test_the_first_call_behind_steps_that_ran_something_else_makes_the_map(step: int) -> None:
    q, k = torch.randn(2, 1, 2, 24, 8, generator=torch.Generator().manual_seed(4))
    where: dict[str, Any] = {"method": "mod-dit", "grid": (2, 3, 4), "block": 5, "top_k": 4}
    usual = attnbench.select(q, k, step=11, **where)
    late = attnbench.select(q, k, step=step, **where)
    assert late.density == 1
    assert all(torch.equal(late.state[name], value) for name, value in usual.state.items())
    after = attnbench.select(q, k, step=step + 1, state=late.state, **where)
    wanted, rows = attnbench.select(q, k, step=12, state=usual.state, **where), torch.arange(24)
    assert torch.equal(after.key_mask_of(0, 0, rows), wanted.key_mask_of(0, 0, rows))


@pytest.mark.parametrize(
    ("given_call", "message"),
    [
        ({"step": None}, "mod-dit needs to know the denoising step"),
        (
            {"step": 12, "state": [1]},
            "the state of mod-dit is of type list; it must be a dictionary of map and numbers and keep",
        ),
        (
            {"step": 12, "state": dict.fromkeys(("map", "numbers", "keep"), torch.zeros(1, 1, 2, 2))},
            r"map of the state is float32 \[1, 1, 2, 2\] on cpu; it must be float16 \[",
        ),
        ({"step": 0, "block": 25}, "block is 25; it must fit into the 24 tokens"),
        ({"step": 0, "threshold": 0}, "threshold is 0"),
        ({"step": 0, "top_k": 0}, "top_k is 0"),
        ({"step": 0, "interval": 0}, "interval is 0"),
        ({"step": 0, "warmup_steps": 0}, "warmup_steps is 0"),
        ({"step": 0, "regularization": 0.0}, "regularization is 0.0; it must be a number above 0"),
    ],
)
def test_bad_input(given_call: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 1, 24, 4)
    with pytest.raises(BadInput, match=message):
        attnbench.select(x, x, method="mod-dit", grid=(2, 3, 4), **given_call)
