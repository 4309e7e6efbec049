"""RainFusion, the first: each head keeps a band, of tokens in raster order or of places that follow one another.

The first frame is moved behind the others and treated like text: it keeps all keys and is kept by all. The other
frames keep a band of positions, whose half-width is a multiple of 128. A *local* head has its tokens place by place,
(h, w, t), so that its band holds neighbouring places in all frames; a *global* head has them in raster order.

Heads are classified at every call. Two samples of q and k are probed, as many tokens as a frame has: those of the
second frame, and every (T - 1)-th token after the first frame. The probe is the share of a sample's attention that lies
within its own band. A head is local if its share in the second frame is above ``local_share``, or above the other one.

The rule is read from the code of a public port, whose banded operator is closed: a band of distances up to the
half-width is assumed. The paper has three classes of heads, the code two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnbench.methods.kit import (
    Band,
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
    as_number,
    band_flops,
    band_shares,
    main,
    phase,
    remembered,
)

BLOCK = 128
"""The half-width of a band is a multiple of this many tokens."""


@dataclass(frozen=True)
class RainFusion(Recipe):
    """Settings.

    Attributes:
        bandwidth: half-width of the band as a share of the tokens, in (0, 1]; published as round(1 - √sparsity, 2).
        local_share: share of its attention in the band above which a head is local, from 0 to 1.
    """

    bandwidth: float = 0.2
    local_share: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "bandwidth", as_density("bandwidth", self.bandwidth))
        object.__setattr__(self, "local_share", as_number("local_share", self.local_share, low=0.0, high=1.0))


def plan(settings: RainFusion, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Classify the heads, and keep the band of each in its own order."""
    shape, text = call.layout.numbers
    frame, frames = shape[1] * shape[2], shape[0] - 1
    raster, by_place = _orders(shape, text, q.device)
    if frames == 0:
        local, flops = torch.zeros(q.shape[:2], dtype=torch.bool, device=q.device), 0
    else:
        local = _local_heads(settings, q, k, call.layout)
        flops = 2 * band_flops(torch.Size((*q.shape[:2], frame, q.shape[3])))
    reaches = reach_of_heads(settings.bandwidth, frame, frames)
    offsets, keeps, whole = _blocks(reaches, shape, text, q.device)
    with phase("select"):
        order = torch.where(local[..., None], by_place, raster)
        keep = torch.where(local[..., None, None], keeps[0], keeps[1])
        reach = torch.where(local, reaches[0], reaches[1])
    band = Band(-reach, reach, whole)
    pattern = BlockPattern(offsets, offsets, keep, band=band)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, order, order, flops)


def reach_of_heads(bandwidth: float, frame: int, frames: int) -> tuple[int, int]:
    """Return the half-widths of the bands of local and global heads, where a frame has so many tokens."""
    local = int(frame * bandwidth // BLOCK * frames * BLOCK)
    return local, int(frame * frames * bandwidth // BLOCK * BLOCK)


@remembered(8)
def _orders(shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the tokens frame by frame and place by place: later frames, text, the first frame; int64 [N] each."""
    layout = Layout(Grid(*shape), text)
    tokens = torch.arange(layout.tokens, device=device)
    video = tokens[layout.video].view(shape[0], -1)
    end = torch.cat([tokens[: text[0]], tokens[layout.video.stop :], video[0]])
    return torch.cat([video[1:].flatten(), end]), torch.cat([video[1:].T.flatten(), end])


@remembered(16)
def _blocks(
    reaches: tuple[int, int], shape: tuple[int, int, int], text: tuple[int, int], device: torch.device
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Return the offsets of the blocks, those that a local and a global head keep, and those kept whole.

    Blocks of later frames have 128 tokens; text and the first frame are one, which keeps all and is kept by all.
    """
    tokens, banded = Layout(Grid(*shape), text).tokens, (shape[0] - 1) * shape[1] * shape[2]
    offsets = torch.tensor([*range(0, banded, BLOCK), banded, tokens] if banded else [0, tokens], device=device)
    last = torch.arange(len(offsets) - 1, device=device) == len(offsets) - 2
    whole = (last[:, None] | last)[None, None]
    first, end = offsets[:-1], offsets[1:] - 1
    apart = torch.maximum(first[:, None] - end, first - end[:, None])  # of the nearest tokens of two blocks
    local, others = ((apart <= reach) | whole[0, 0] for reach in reaches)
    return offsets, (local, others), whole


def _local_heads(settings: RainFusion, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    """Return which heads are local, bool [B, H]."""
    frame = layout.grid.h * layout.grid.w
    first, end = layout.text[0] + frame, layout.video.stop
    samples = (slice(first, first + frame), slice(first, end, layout.grid.t - 1))
    reach, scale = int(frame * settings.bandwidth), q.shape[3] ** -0.5
    in_frame, between = (band_shares(q[:, :, each], k[:, :, each], reach, scale) for each in samples)
    with phase("select"):
        inside, across = in_frame.mean(-1), between.mean(-1)
        return (inside > settings.local_share) | (inside > across)


def bandwidth_at(settings: RainFusion, layout: Layout, density: float) -> dict[str, float]:
    """Return the half-width of a band that keeps such a share of the pairs beside the first frame and text."""
    return {"bandwidth": max(1e-6, 1 - (1 - density) ** 0.5)}


def twin(settings: RainFusion, layout: Layout, layer: int) -> tuple[RainFusion, Layout]:
    """At most 4 frames of at most 9 × 16 tokens, whose band is as wide as blocks of 128 allow there."""
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (4, 9, 16), strict=True))
    frame = layout.grid.h * layout.grid.w
    wide = max(reach_of_heads(settings.bandwidth, frame, layout.grid.t - 1)) > 0
    return replace(settings, bandwidth=0.95 if wide else settings.bandwidth), Layout(Grid(t, h, w), layout.few_text)


METHOD = Method(
    name="rainfusion",
    summary="rainfusion: a band in raster order or place by place, as each head's attention suggests",
    source=Source(
        "RainFusion: Adaptive Video Generation Acceleration via Multi-Dimensional Visual Redundancy (2025)",
        "https://arxiv.org/abs/2505.21036",
        "section 3; the rule of the class Rainfusion of Huawei's port of Wan",
    ),
    settings=RainFusion,
    plan=plan,
    twin=twin,
    density_setting=DensitySetting(("bandwidth",), bandwidth_at),
)

if __name__ == "__main__":
    main(METHOD)
