"""What becomes of text: it stays dense, where every query keeps it and it keeps every key, or it is ordinary tokens."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import Partition


def keep_text(partition: Partition, video: Tensor) -> Tensor:
    """Add text blocks, which keep all and are kept by all, around the video blocks bool [B, H, q blocks, k blocks].

    Without text, these are returned as they are, and not copied.
    """
    return route_text(partition, partition.text, video)


def route_text(partition: Partition, text: tuple[int, int], video: Tensor) -> Tensor:
    """Add text tokens that keep every block, and text blocks that all keep, to routes bool [B, H, tokens, blocks]."""
    if text == (0, 0):
        return video
    return pad(video, (*partition.text, *text), value=True)


def ordinary_text(layout: Layout) -> Layout:
    """Return a layout in which all tokens, text and video, are a line of video tokens: none is dense by itself."""
    return Layout(Grid(1, 1, layout.tokens))
