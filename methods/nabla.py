"""NABLA: each block of 8×8 tokens of a frame keeps the key blocks that hold most of its softmax mass, and a window.

Shares are the softmax of the scaled scores of block means. A row keeps its largest shares; the block with which their
sum reaches ``mass`` is kept too. The published code crops videos to whole blocks; here, blocks at the edges are short.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BadInput,
    BlockPattern,
    Call,
    DensitySetting,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    as_density,
    as_ints,
    keep_text,
    main,
    partition_cuboids,
    remembered,
    row_ops,
    score_block_pairs,
)

Triple = tuple[int, int, int]

BLOCK: Triple = (1, 8, 8)


@dataclass(frozen=True)
class NABLA(Recipe):
    """Settings.

    Attributes:
        mass: the softmax mass that a block keeps; None keeps the window alone.
        window: blocks along (frames, rows of 8 tokens, columns of 8 tokens) of a window around each block that is also
            kept, cut off at the edges; a side w reaches w // 2 blocks to both sides. None means no window.
    """

    mass: float | None = 0.7
    window: Triple | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mass is None and self.window is None:
            raise BadInput("mass is None and window is None; give at least one of them")
        if self.mass is not None:
            object.__setattr__(self, "mass", as_density("mass", self.mass))
        if self.window is not None:
            object.__setattr__(self, "window", as_ints("window", self.window, length=3))


def plan(settings: NABLA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Score block means, keep the largest shares of each row, and add the window."""
    partition = partition_cuboids(call.layout, BLOCK, q.device)
    keep, flops = None, 0
    if settings.mass is not None:
        scores, flops = score_block_pairs(q, k, partition, partition)
        shares = row_ops.row_shares(scores, q.shape[3] ** -0.5)
        keep = row_ops.cut_mass_row(shares, settings.mass, crossing="past")
    if settings.window is not None:
        window = _window(settings.window, call.layout.numbers[0], q.device)
        keep = window if keep is None else keep | window
    assert keep is not None
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, keep))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order, flops)


@remembered(8)
def _window(window: Triple, shape: Triple, device: torch.device) -> Tensor:
    """Return which video blocks lie in the window of each, bool [1, 1, blocks, blocks]."""
    axes = []
    for size, side, block in zip(window, shape, BLOCK, strict=True):
        place = torch.arange(-(-side // block), device=device)
        axes.append((place[:, None] - place).abs() <= size // 2)
    t, h, w = axes
    kept = t[:, None, None, :, None, None] & h[:, None, None, :, None] & w[:, None, None, :]
    blocks = len(t) * len(h) * len(w)
    return kept.reshape(1, 1, blocks, blocks)


def mass_at(settings: NABLA, layout: Layout, density: float) -> dict[str, float]:
    """Use the density as the mass."""
    return {"mass": density}


def twin(settings: NABLA, layout: Layout, layer: int) -> tuple[NABLA, Layout]:
    """Up to 4 frames of 2 × 2 blocks, as ragged as before, and a window that covers an axis only if it did."""
    most = (4, 2, 2)
    sides: list[int] = []
    window: list[int] = []
    for place, (side, block) in enumerate(zip(layout.grid.shape, BLOCK, strict=True)):
        blocks = -(-side // block)
        few = min(blocks, most[place])
        sides.append(side - (blocks - few) * block)
        if settings.window is not None:
            reach = settings.window[place] // 2
            window.append(settings.window[place] if reach >= blocks - 1 else 2 * min(reach, max(0, few - 2)) + 1)
    small = replace(settings, window=tuple(window) if window else None)  # type: ignore[arg-type]  # three of them
    return small, Layout(Grid(*sides), layout.few_text)


METHOD = Method(
    name="nabla",
    summary="blocks of 8×8 tokens keep the key blocks with most of their softmax mass, and if asked a window",
    source=Source(
        "NABLA: Neighborhood Adaptive Block-Level Attention (2025)",
        "https://arxiv.org/abs/2507.13546",
        "the rule of github.com/gen-ai-team/Wan2.1-NABLA at d5c50a8",
    ),
    settings=NABLA,
    plan=plan,
    twin=twin,
    density_setting=DensitySetting(("mass",), mass_at),
)

if __name__ == "__main__":
    main(METHOD)
