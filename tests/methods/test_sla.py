"""SLA restated row by row in float64: the best blocks of each row, and linear attention key by key."""

from __future__ import annotations

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
from attnbench.methods import get_method

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def kept_blocks(q: Tensor, k: Tensor, block: tuple[int, int], topk: float) -> list[set[int]]:
    """Key blocks that each query block of one head keeps; q and k are [N, D]. Keys are centred, as published."""
    k = k - k.mean(0)
    q_means, k_means = ([part.mean(0) for part in x.split(size)] for x, size in zip((q, k), block, strict=True))
    count = max(1, int(topk * len(k_means)))
    return [set(sorted(range(len(k_means)), key=lambda j: -float(row @ k_means[j]))[:count]) for row in q_means]


def lowest_blocks(q: Tensor, k: Tensor, block: tuple[int, int]) -> list[set[int]]:
    """The lowest tenth of the key blocks of each query block, which the paper's rule leaves out."""
    q_means, k_means = ([part.mean(0) for part in x.split(size)] for x, size in zip((q, k), block, strict=True))
    count = int(0.1 * len(k_means))
    return [set(sorted(range(len(k_means)), key=lambda j: float(row @ k_means[j]))[:count]) for row in q_means]


def phi(x: Tensor, feature_map: str) -> Tensor:
    if feature_map == "softmax":
        return x.exp() / x.exp().sum(-1, keepdim=True)
    return x.clamp(min=0) if feature_map == "relu" else torch.where(x > 0, x + 1, x.exp())


@given(
    data=st.data(),
    block=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    topk=st.sampled_from([0.01, 0.3, 1.0]),
    feature_map=st.sampled_from(["softmax", "elu", "relu"]),
    branch=st.sampled_from(["all", "rest", "paper"]),
    dense=st.booleans(),
    heads=st.sampled_from([(2, 1), (2, 2)]),
)
def test_against_the_rule(
    data: st.DataObject, block: tuple[int, int], topk: float, feature_map: str, branch: str, dense: bool,
    heads: tuple[int, int], layouts: Helper, tensors: Helper, mask_where: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(3, 4, 5)))
    n = layout.grid.tokens
    block = min(block[0], n), min(block[1], n)
    q, k, v = tensors(layout, heads[0], heads[1], heads[1], seed=data.draw(st.integers(0, 99)))
    params = {"weight": torch.randn(4, 4), "bias": torch.randn(4)}
    where = {
        "method": "sla", "grid": layout.grid, "text": layout.text, "block": block, "topk": topk,
        "feature_map": feature_map, "text_dense": dense, "rule" if branch == "paper" else "branch": branch,
    }  # fmt: skip
    mask = attnbench.select(q, k, **where).token_mask()
    bare = attnbench.attention(q, k, v, **where)
    out = attnbench.attention(q, k, v, params=params, **where)
    part = layout.video if dense else slice(None)
    for h in range(2):
        kv = h * heads[1] // 2
        kept = kept_blocks(q[0, h, part], k[0, kv, part], block, topk)

        def keeps(query: int, key: int, kept: list[set[int]] = kept) -> bool:
            return key // block[1] in kept[query // block[0]]

        whole = Layout(Grid(1, 1, layout.tokens))
        assert torch.equal(mask[0, h], mask_where(layout if dense else whole, keeps))
        weights = phi(q[0, h], feature_map) @ phi(k[0, kv], feature_map).T
        if branch != "all":
            weights = weights.masked_fill(mask[0, h], 0)
            if branch == "paper":
                low = lowest_blocks(q[0, h, part], k[0, kv, part], block)
                unseen = mask_where(
                    layout if dense else whole, lambda a, b, low=low: b // block[1] in low[a // block[0]]
                )
                text = torch.ones(layout.tokens, dtype=torch.bool)
                text[part] = False
                weights = weights.masked_fill(unseen & ~text & ~text[:, None], 0)
            total = weights.sum(-1, keepdim=True)
            linear = weights @ v[0, kv] / torch.where(total > 0, total, 1.0)
        else:
            linear = weights @ v[0, kv] / (1e-5 + weights.sum(-1, keepdim=True))
        expected = bare[0, h] + linear @ params["weight"].double().T + params["bias"].double()
        torch.testing.assert_close(out[0, h], expected, atol=1e-9, rtol=1e-9)


def test_without_params_the_branch_adds_nothing(tensors: Helper) -> None:
    layout = Layout(Grid(2, 3, 4), (1, 0))
    q, k, v = tensors(layout, 2, 2, 2)
    where = {"grid": layout.grid, "text": layout.text, "method": "sla", "block": (8, 8), "topk": 1.0}
    full = attnbench.attention(q, k, v, method="full", grid=layout.grid, text=layout.text)
    torch.testing.assert_close(attnbench.attention(q, k, v, **where), full)


@pytest.mark.parametrize("branch", ["all", "rest"])
def test_the_projection_is_trained(branch: str, tensors: Helper) -> None:
    layout = Layout(Grid(2, 3, 4))
    q, k, v = (x.requires_grad_() for x in tensors(layout, 2, 2, 2, dtype=torch.float64))
    weight, bias = torch.zeros(4, 4, requires_grad=True), torch.zeros(4, requires_grad=True)

    def run(weight: Tensor, bias: Tensor) -> Tensor:
        params = {"weight": weight, "bias": bias}
        out = attnbench.attention(
            q, k, v, method="sla", grid=layout.grid, block=(8, 8), topk=0.4, branch=branch, params=params
        )
        assert isinstance(out, Tensor)
        return out.sum()

    run(weight, bias).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    with torch.no_grad():
        step = torch.zeros(4, 4)
        step[1, 2] = 1.0
        slope = run(step, bias) - run(weight, bias)
    assert float(weight.grad[1, 2]) == pytest.approx(float(slope), rel=1e-4)
    assert bias.grad.tolist() == pytest.approx([2 * 24.0] * 4)


def test_the_branch_is_counted() -> None:
    x = torch.zeros(1, 2, 24, 8)
    plan = attnbench.select(x, x, method="sla", grid=(2, 3, 4))
    assert plan.branch_flops == 6 * 2 * 24 * 8 * 8
    assert get_method("sla").finish is not None


@pytest.mark.parametrize(
    ("given_call", "message"),
    [
        ({"block": (64, 32)}, r"block is \(64, 32\); it must fit into the 24 × 24 tokens"),
        ({"topk": 0}, "topk is 0; it must be a number above 0 and at most 1"),
        ({"feature_map": "tanh"}, "feature_map is 'tanh'; it must be one of softmax, elu, relu"),
        ({"branch": "none"}, "branch is 'none'; it must be one of all, rest"),
        ({"params": [1]}, "params is of type list; sla's must be a dictionary of 'weight' and 'bias'"),
        ({"params": {"weight": torch.zeros(4, 4)}}, "params is a dictionary of weight; sla's must"),
        (
            {"params": {"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}},
            r"params\['weight'\] is float32 \[4, 3\] on cpu; it must be float32 \[4, 4\] on cpu",
        ),
        (
            {"params": {"weight": torch.zeros(4, 4), "bias": torch.zeros(4).double()}},
            r"params\['bias'\] is float64 \[4\]",
        ),
    ],
)  # fmt: skip
def test_bad_input(given_call: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 1, 24, 4)
    with pytest.raises(BadInput, match=message):
        attnbench.attention(x, x, x, method="sla", grid=(2, 3, 4), **given_call)
