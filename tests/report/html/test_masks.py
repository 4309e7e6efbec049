from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.methods.draw import middle_query
from attnbench.methods.examples import SMALL_GRID, examples, smooth_inputs
from attnbench.report.html.masks import KEPT, QUERY, mask_pictures


def test_a_method_whose_layers_differ_has_a_picture_for_each() -> None:
    pictures = mask_pictures(["vmoba"])
    assert [picture.name for picture in pictures] == ["vmoba · layer 0", "vmoba · layer 1", "vmoba · layer 2"]
    assert len({picture.whole for picture in pictures}) == 3
    assert all(picture.density and "6×8×12" in picture.words for picture in pictures)


def decoded(uri: str) -> np.ndarray[Any, Any]:
    """Return the pixels of a PNG in a data URI, as colours."""
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body, validate=True))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("method", ["sta", "moba", "sliding-window"])
def test_a_picture_shows_the_mask_pixel_by_pixel(method: str) -> None:
    (picture,), (example,) = mask_pictures([method]), examples(method)
    plan = example.plan()
    mask = plan.token_mask()[0, 0].numpy()
    assert np.array_equal((decoded(picture.whole) == KEPT).all(-1), mask)
    frames = decoded(picture.frames)[::4, ::4]
    grid, query = example.grid, middle_query(plan.layout)
    kept = (frames == KEPT).all(-1)
    keys = mask[query].reshape(grid.t, grid.h, grid.w)
    for t in range(grid.t):
        shown = kept[:, t * (grid.w + 1) : t * (grid.w + 1) + grid.w]
        differs = np.argwhere(shown != keys[t])
        assert len(differs) <= 1, "all but the query itself, which has a colour of its own"
    assert (frames == QUERY).all(-1).sum() == 1


def test_a_method_that_is_not_here_has_words_instead() -> None:
    (picture,) = mask_pictures(["not-installed"])
    assert picture.whole == picture.frames == ""
    assert "not-installed" in picture.words


def test_a_method_that_fails_to_draw_does_not_take_the_report_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(method: str) -> None:
        raise ZeroDivisionError("by a plug-in")

    monkeypatch.setattr("attnbench.report.html.masks.examples", fail)
    (picture,) = mask_pictures(["theirs"])
    assert "by a plug-in" in picture.words


def test_tiles_as_large_as_the_grid_are_scaled_down_by_the_method() -> None:
    (example,) = examples("sta")
    assert example.scaled
    assert example.grid.tokens <= 4096
    assert example.plan().density < 1


def test_what_the_user_asks_for_is_not_scaled() -> None:
    for example in (*examples("sta", grid=SMALL_GRID), *examples("sta", settings={"tile": (2, 2, 2)})):
        assert not example.scaled
        assert example.grid == SMALL_GRID


def test_full_keeps_everything_at_any_size() -> None:
    (example,) = examples("full")
    assert (example.scaled, example.plan().density) == (False, 1.0)


def test_one_layer_may_be_asked_for() -> None:
    (example,) = examples("vmoba", layer=4)
    assert (example.layer, example.name) == (4, "vmoba · layer 4")


@pytest.mark.parametrize("grid", [Grid(16, 16, 17), Grid(1, 1, 4097)])
def test_a_grid_too_large_to_draw_is_refused(grid: Grid) -> None:
    with pytest.raises(BadInput, match=f"{grid.tokens:,} tokens"):
        examples("full", grid=grid)


def test_smooth_inputs_are_alike_nearby_and_repeat_themselves() -> None:
    grid = Grid(6, 8, 12)
    q, k = smooth_inputs(grid, heads=2, seed=3)
    again, _ = smooth_inputs(grid, heads=2, seed=3)
    other, _ = smooth_inputs(grid, heads=2, seed=4)
    assert q.shape == k.shape == (1, 2, 576, 32)
    assert torch.equal(q, again)
    assert not torch.equal(q, other)
    row = q[0, 0].reshape(6, 8, 12, 32)
    near = torch.cosine_similarity(row[:, :, :-1], row[:, :, 1:], dim=-1).mean()
    far = torch.cosine_similarity(row[:1], row[-1:], dim=-1).mean()
    assert near > 0.6
    assert far < 0.4
