"""One colour and one marker for each method, the same on pages, in charts, in docs and in the terminal.

Eight colours times eight markers: a pair belongs to a name for good, whatever else is shown beside it, so readers who
do not see the colours have the markers. Methods of other packages get a pair by their name.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Marker = Literal["circle", "square", "triangle", "diamond", "nabla", "plus", "cross", "hexagon"]

COLOURS = (
    ("#0067a5", "#5cb3f0"), ("#c24300", "#ff8f52"), ("#00755a", "#3fcf9f"), ("#ad3f8c", "#ee8fd0"),
    ("#8a6200", "#e3b341"), ("#6a45b0", "#b39af5"), ("#b3263a", "#ff8791"), ("#4d6a22", "#a5cc5f"),
)  # fmt: skip
"""Colours of methods on a light and on a dark ground; each has a contrast of at least 4.5 to it."""

INK = ("#26303b", "#dfe5ec")
"""Colour of dense attention."""

PART_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "permute": "#7f8fa6", "pool": "#8a6200", "score": "#c24300", "select": "#ad3f8c", "index": "#6a45b0",
        "gather": "#4d6a22", "attend": "#0067a5", "merge": "#b3263a", "unpermute": "#5f6e84", "branch": "#2f7f87",
        "communicate": "#a8577e", "other": "#8d98a5", "gap": "#b9c2cc", "qk": "#0067a5", "softmax": "#00755a",
        "av": "#4a7fb5", "ideal": "#00755a", "loss": "#c24300", "gain": "#4a90c9", "unexplained": "#98a3af",
        "total": INK[0], "floor": "#98a3af",
    }
)  # fmt: skip
"""Colours of parts of bars: phases, parts of attend, losses, noise floors. Others have that of "other"."""

MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond", "nabla", "plus", "cross", "hexagon")

DENSE = "full"

_NAMES = (
    "vmoba", "sta", "moba", "sliding-window", "radial", "nabla", "vsa", "sparge", "xattention", "svg1", "svg2", "bsa",
    "longcat-bsa", "draft", "sla", "rainfusion", "rainfusion2", "mod-dit", "sol-attn", "subblock", "vsa-h3",
    "ditfastattn", "liteattention",
)  # fmt: skip
"""In the order in which they got their marks: add names at the end alone."""

GLYPHS: Mapping[Marker, str] = MappingProxyType(
    {
        "circle": "●", "square": "■", "triangle": "▲", "diamond": "◆", "nabla": "▼", "plus": "✚", "cross": "✖",
        "hexagon": "⬢",
    }
)  # fmt: skip
"""Each marker as a character, for terminals."""

SHAPES: Mapping[Marker, str] = MappingProxyType(
    {
        "circle": "o", "square": "s", "triangle": "^", "diamond": "D", "nabla": "v", "plus": "P", "cross": "X",
        "hexagon": "h",
    }
)  # fmt: skip
"""Each marker as matplotlib names it."""

_RESERVED = 40
"""Places of built-in methods; the other 24 are those of other packages."""


@dataclass(frozen=True)
class Mark:
    """How a method is drawn.

    Attributes:
        colour: place in ``COLOURS``; -1 for dense attention.
        marker: its shape.
    """

    colour: int
    marker: Marker

    @property
    def light(self) -> str:
        """The colour on a light ground, as #rrggbb."""
        return (INK if self.colour < 0 else COLOURS[self.colour])[0]

    @property
    def dark(self) -> str:
        """The colour on a dark ground, as #rrggbb."""
        return (INK if self.colour < 0 else COLOURS[self.colour])[1]


def mark_of(method: str) -> Mark:
    """Return the mark of a method. Two methods of other packages may share one; labels tell them apart."""
    if method == DENSE:
        return Mark(-1, "circle")
    if method in _NAMES:
        place = _NAMES.index(method)
    else:
        place = _RESERVED + zlib.crc32(method.encode()) % (len(COLOURS) * len(MARKERS) - _RESERVED)
    colour, turn = place % len(COLOURS), place // len(COLOURS)
    return Mark(colour, MARKERS[(colour + turn) % len(MARKERS)])
