from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import attnbench
from attnbench.bench.conformance import Subject, text_stays_dense
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_ranges
from attnbench.methods import get_method
from attnbench.methods.registry import BUILT_IN
from attnbench.methods.text import keep_text

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("full", {}),
    ("moba", {"block_size": 7, "topk": 2}),
    ("moba", {"block_size": 7, "topk": 2, "causal": True}),
    ("vmoba", {"layer": 0, "partition": (1, (2, 2), (2, 2, 2))}),
    ("vmoba", {"layer": 1, "partition": (1, (2, 2), (2, 2, 2)), "scope": "query"}),
    ("vmoba", {"layer": 2, "partition": (1, (2, 2), (2, 2, 2)), "select": "topk", "topk": 2}),
    ("sliding-window", {"window": (1, 1, 1)}),
    ("sliding-window", {"width": 6}),
    ("sta", {"tile": (2, 2, 2), "window": (1, 1, 3)}),
    ("sparge", {"topk": 0.2}),
    ("xattention", {"threshold": 0.3}),
    ("draft", {"density": 0.1}),
    ("sla", {"topk": 0.1}),
    ("rainfusion2", {"density": 0.1}),
]
VARIANTS += [(name, {}) for name in BUILT_IN if name not in {method for method, _ in VARIANTS}]
each_variant = pytest.mark.parametrize(
    ("method", "given_settings"), VARIANTS, ids=[f"{method} {given}" for method, given in VARIANTS]
)


@each_variant
@settings(max_examples=20)
@given(data=st.data())
def test_text_stays_dense_and_leaves_the_video_as_it_is(
    method: str,
    given_settings: dict[str, Any],
    data: st.DataObject,
    layouts: Helper,
) -> None:
    layout: Layout = data.draw(layouts(text=3))
    layer = given_settings.get("layer", 0)
    given_settings = {name: value for name, value in given_settings.items() if name != "layer"}
    text_stays_dense(Subject(get_method(method), given_settings), layout, layer)


@pytest.mark.parametrize(
    ("method", "given_settings"),
    [each for each in VARIANTS if get_method(each[0]).finish is None and get_method(each[0]).cycle is None],
    ids=str,
)
@settings(max_examples=10)
@given(data=st.data())
def test_outputs_are_those_of_the_mask(
    method: str,
    given_settings: dict[str, Any],
    data: st.DataObject,
    layouts: Helper,
    tensors: Helper,
) -> None:
    layout: Layout = data.draw(layouts(text=3))
    q, k, v = tensors(layout, 2, 1, 1, batch=2)
    where = {"method": method, "grid": layout.grid, "text": layout.text, **given_settings}
    out = attnbench.attention(q, k, v, **where)
    mask = attnbench.select(q, k, v=v, **where).token_mask()
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


def test_blocks_are_copied_only_where_there_is_text_around_them() -> None:
    video = torch.eye(2, dtype=torch.bool)[None, None]
    assert keep_text(partition_ranges(Layout(Grid(1, 2, 4)), 4, video.device), video) is video
    around = keep_text(partition_ranges(Layout(Grid(1, 2, 4), (0, 1)), 4, video.device), video)
    assert torch.equal(around, torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)[None, None])
