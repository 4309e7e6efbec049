"""Radial Attention: the further apart two frames are, the narrower is the band that a query keeps of the other frame.

The default rule is that of the published code: bands become blocks one pair of frames at a time, and a frame that
begins inside a block may lose its last rows there. So query blocks may keep nothing, unless ``diagonal`` keeps their
own block. The paper's rule has other widths, thins frames out later, and keeps every block that a band touches. The
published code takes only sequences of whole blocks; here, the last block may be short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import index

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BlockPattern,
    Call,
    DensitySetting,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    as_choice,
    as_flag,
    as_ints,
    as_number,
    fit,
    keep_text,
    main,
    partition_ranges,
    remembered,
)

THINNING = 128
"""The width below which frames are left out, whatever the size of a block is."""


@dataclass(frozen=True)
class Radial(Recipe):
    """Settings.

    Attributes:
        block: tokens of a block in raster order.
        decay: factor of the widths of the bands; at least 0.
        sink: keep the keys of the first frame, as published for Wan and not for HunyuanVideo.
        diagonal: keep every block's own block. Published is False, where query blocks may keep nothing.
        rule: "published", that of the code, or "paper".
    """

    block: int = 128
    decay: float = 1.0
    sink: bool = True
    diagonal: bool = True
    rule: str = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "block", as_ints("block", self.block))
        object.__setattr__(self, "decay", as_number("decay", self.decay, low=0.0))
        for name in ("sink", "diagonal"):
            as_flag(name, getattr(self, name))
        as_choice("rule", self.rule, ("published", "paper"))


def resolve(settings: Radial, layout: Layout) -> Radial:
    """Cut the default block off at the size of the grid.

    Raises:
        BadInput: for a chosen block that is larger than the grid.
    """
    return replace(settings, block=fit("block", settings.block, Radial.block, (layout.grid.tokens,)))


def plan(settings: Radial, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the blocks that the bands of all pairs of frames fill, the same for every batch item and head."""
    settings = resolve(settings, call.layout)
    partition = partition_ranges(call.layout, settings.block, q.device)
    rule = (index(settings.block), float(settings.decay), settings.sink, settings.diagonal, settings.rule)
    keep = keep_text(partition, _blocks(*rule, call.layout.numbers[0], q.device))
    pattern = BlockPattern(partition.offsets, partition.offsets, keep)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern)


@remembered(8)
def _blocks(
    size: int, decay: float, sink: bool, diagonal: bool, rule: str, shape: tuple[int, int, int], device: torch.device
) -> Tensor:
    """Return which video blocks each video block keeps, bool [1, 1, blocks, blocks]."""
    frames, n = shape[0], shape[1] * shape[2]
    reach_of, blocks_of = (_reach, _filled) if rule == "published" else (_paper_reach, _touched)
    count = -(-frames * n // size)
    keep = torch.zeros(count, count, dtype=torch.bool)
    for i in range(frames):
        for j in range(frames):
            reach = n if sink and j == 0 else reach_of(abs(i - j), n, size, decay)
            if reach is not None:
                kept = blocks_of(i, j, n, reach, size, frames * n)
                rows, columns = i * n // size, j * n // size
                keep[rows : rows + kept.shape[0], columns : columns + kept.shape[1]] |= kept
    if diagonal:
        keep.fill_diagonal_(True)
    return keep[None, None].to(device)


def _reach(apart: int, n: int, size: int, decay: float) -> int | None:
    """Return how far from each other two positions in frames may be that are so many frames apart; None if dropped.

    n is the number of tokens of a frame. The width of the band is the power of two above n, halved with every doubling
    of the distance.
    """
    width = 2.0 ** (n.bit_length() - apart.bit_length())
    if width < THINNING and apart % int(THINNING / width) != 0:
        return None
    return n if apart <= 1 else int(min(n, max(width * decay, size)))


def _paper_reach(apart: int, n: int, size: int, decay: float) -> int | None:
    """Return the same by the paper's equation (section 4.2), its width times ``decay``."""
    fraction = 2 ** max(0, apart.bit_length() - 1)
    width = n / fraction * (1.0 if apart <= 1 else decay)
    if width < 1:
        every = 1 / width if width > 0 else math.inf
        return 0 if every <= apart and apart % math.ceil(every) == 0 else None
    return int(min(width, n + 1)) - 1


def _filled(i: int, j: int, n: int, reach: int, size: int, tokens: int) -> Tensor:
    """Return which blocks the band between query frame i and key frame j fills; the frames begin in the first ones.

    As published, ⌈n / size⌉ blocks are looked at on each side. A column of a block counts as kept if more than a
    third of the block's rows keep it. A block is kept if more than 0.6 of the columns that any row keeps count as
    kept.
    """
    blocks = -(-n // size)
    starts = torch.arange(blocks) * size - i * n % size  # of each block of rows, in positions of the frame
    ends = (starts + size).clamp(max=tokens - i * n)
    columns = torch.arange(blocks * size) - j * n % size
    low = torch.maximum(starts.clamp(min=0)[:, None], columns - reach)
    high = torch.minimum(ends.clamp(max=n)[:, None], columns + reach + 1)
    rows = (high - low).clamp_(min=0) * ((columns >= 0) & (columns < n))
    rows = rows.view(blocks, blocks, size)
    full = (3 * rows > (ends - starts)[:, None, None]).sum(-1)
    return 5 * full > 3 * (rows > 0).sum(-1)


def _touched(i: int, j: int, n: int, reach: int, size: int, tokens: int) -> Tensor:
    """Return which blocks hold a pair of the band between query frame i and key frame j."""
    (q_low, q_high), (k_low, k_high) = _ends(i, n, size), _ends(j, n, size)
    return (k_low - q_high[:, None] <= reach) & (q_low[:, None] - k_high <= reach)


def _ends(frame: int, n: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the first and the last position of a frame in each of its blocks."""
    starts = torch.arange(frame * n // size, ((frame + 1) * n - 1) // size + 1) * size - frame * n
    return starts.clamp(min=0), (starts + size - 1).clamp(max=n - 1)


def decay_at(settings: Radial, layout: Layout, density: float) -> dict[str, float]:
    """Halve the interval of decays, on a logarithmic scale, until the density of the video is as near as it gets."""
    low, high = -12.0, 12.0
    best = (float("inf"), 0.0)
    for _ in range(14):
        middle = (low + high) / 2
        decay = 2.0**middle
        got = _density(replace(settings, decay=decay), layout)
        best = min(best, (abs(got - density), decay))
        low, high = (middle, high) if got < density else (low, middle)
    return {"decay": best[1]}


def _density(settings: Radial, layout: Layout) -> float:
    cpu = torch.device("cpu")
    sizes = partition_ranges(Layout(layout.grid), settings.block, cpu).sizes.double()
    rule = (settings.block, settings.decay, settings.sink, settings.diagonal, settings.rule)
    keep = _blocks(*rule, layout.grid.shape, cpu)[0, 0].double()
    return float(sizes @ keep @ sizes) / layout.grid.tokens**2


def twin(settings: Radial, layout: Layout, layer: int) -> tuple[Radial, Layout]:
    """Up to 7 frames of up to 5 × 7 tokens in blocks of up to 8, which end and cross frames as before."""
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (7, 5, 7), strict=True))
    n = h * w
    block = min(settings.block, 8, t * n)
    whole_frames = layout.grid.h * layout.grid.w % settings.block == 0
    if whole_frames:
        block = next(size for size in range(block, 0, -1) if n % size == 0)
    elif layout.grid.tokens % settings.block == 0:
        block = next(size for size in range(block, 0, -1) if t * n % size == 0)
    return replace(settings, block=block), Layout(Grid(t, h, w), layout.few_text)


METHOD = Method(
    name="radial",
    summary="radial attention: bands between frames, narrower and fewer the further apart the frames are",
    source=Source(
        "Radial Attention: O(n log n) Sparse Attention with Energy Decay for Long Video Generation (NeurIPS 2025)",
        "https://arxiv.org/abs/2506.19852",
        "section 4; the rule of github.com/mit-han-lab/radial-attention at 72788d4",
    ),
    settings=Radial,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting=DensitySetting(("decay",), decay_at),
    depends_on_qk=False,
    plans_shards=True,
)

if __name__ == "__main__":
    main(METHOD)
