"""Small pictures of what each method keeps: its whole mask in grid order, and one query's keys over the frames."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.methods.examples import Example, examples
from attnbench.report.words import grid_words, number, short_settings
from attnbench.results.records.cells import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

KEPT, DROPPED, QUERY, GAP = (11, 79, 138), (232, 236, 241), (213, 94, 0), (255, 255, 255)
_SCALE = 4


@dataclass(frozen=True)
class MaskPicture:
    """What a method keeps in one kind of layer, or why there is no picture.

    Attributes:
        name: the method, and the layer if its layers differ.
        method: the method.
        whole: the mask as a PNG in a data URI, query by key; empty without a picture.
        frames: the keys of one query, frame by frame, likewise.
        density: share of pairs kept.
        words: grid and settings, or the reason.
    """

    name: str
    method: str
    whole: str
    frames: str
    density: str
    words: str


def mask_pictures(methods: Iterable[str]) -> list[MaskPicture]:
    """Draw every method, once for each kind of layer. If one cannot be drawn here, its words say why."""
    found = []
    for method in methods:
        try:
            found += [_picture(example) for example in examples(method)]
        except Exception as error:  # a method from elsewhere may fail in any way; the figures are still worth reading
            told = f"no picture on this machine: {error or type(error).__name__}"
            found.append(MaskPicture(method, method, "", "", "", told))
    return found


def _picture(example: Example) -> MaskPicture:
    from attnbench.methods.draw import keys_of, middle_query

    plan = example.plan()
    mask = plan.token_mask()[0, 0]
    query = middle_query(plan.layout)
    settings = short_settings(canonical_json(example.resolved), 200)
    how = "scaled down, because the defaults keep all of such a small grid" if example.scaled else "default settings"
    return MaskPicture(
        example.name, example.method.name, _png(mask), _png(_frames(keys_of(mask, plan.layout, query), query)),
        number(plan.density), f"{grid_words(str(example.grid))} tokens, {how}" + (f": {settings}" if settings else ""),
    )  # fmt: skip


def _frames(keys: Tensor, query: int) -> Tensor:
    """Return the frames [T, H, W] beside each other, a column apart, as places in the palette."""
    import torch

    t, h, w = keys.shape
    wide = torch.full((h, t, w + 1), 3, dtype=torch.uint8)
    wide[:, :, :w] = keys.permute(1, 0, 2)
    at = query % (t * h * w)
    wide[at // w % h, at // (w * h), at % w] = 2
    flat = wide.reshape(h, t * (w + 1))[:, :-1]
    return flat.repeat_interleave(_SCALE, 0).repeat_interleave(_SCALE, 1)


def _png(pixels: Tensor) -> str:
    """Return places in the palette, [rows, columns], as a PNG in a data URI."""
    from PIL import Image

    image = Image.frombytes("P", (pixels.shape[1], pixels.shape[0]), pixels.byte().numpy().tobytes())
    image.putpalette([part for colour in (DROPPED, KEPT, QUERY, GAP) for part in colour])
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True, bits=2)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
