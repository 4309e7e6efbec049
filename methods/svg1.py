"""SVG1, Sparse VideoGen: a band in raster order for spatial heads, and in token-major order for temporal ones.

Every call classifies its heads anew: the outputs of some sampled queries under two profiling masks are compared with
those of full attention, and the nearer one decides. The profiling masks are other masks than those that are run, as
published: blocks of 128 positions near each other, whatever the share is. The sampled queries follow from the layer and
the step. Where the published profiling gives NaN (sampled text of CogVideoX, which its temporal mask leaves without a
key), text rows do not count here; where frames are too small for a profiling band, rows without a key give zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BadInput,
    Band,
    BlockPattern,
    Call,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    as_choice,
    as_density,
    as_ints,
    check_per_head,
    in_mask_rows,
    main,
    masked_flops,
    masked_outputs,
    phase,
    quoted,
    remembered,
)

BLOCK = 128
MOST_ROW = 10_000
"""The published code samples queries before this position, for all models but CogVideoX."""


@dataclass(frozen=True)
class Flavour:
    """What differs by model.

    Attributes:
        up: whether the width of the band is rounded up, and the last position belongs to it.
        sink: whether all keep as many first positions as a frame has.
        limited: whether queries are sampled before ``MOST_ROW`` only.
        frames: the reach of the profiling masks.
        joint: whether the spatial profiling mask counts blocks from the text in front, and leaves out the last block if
            it is short, and the temporal one drops text. This is published for CogVideoX, surely unintended.
    """

    up: bool
    sink: bool
    limited: bool
    frames: float
    joint: bool = False


FLAVOURS = {
    "wan": Flavour(up=True, sink=True, limited=True, frames=2.0),
    "hunyuan": Flavour(up=False, sink=False, limited=True, frames=1.5),
    "cogvideox": Flavour(up=False, sink=False, limited=False, frames=1.5, joint=True),
}


@dataclass(frozen=True)
class SVG1(Recipe):
    """Settings.

    Attributes:
        share: the share of the pairs that the width of the band is made for, text included; in (0, 1].
        rows: how many queries the classification samples.
        flavour: whose rounding, sink and profiling: "wan", "hunyuan" or "cogvideox".
        temporal: whether a head is temporal, one flag for all heads or one for each; None to classify them.
    """

    share: float = 0.3
    rows: int = 64
    flavour: str = "wan"
    temporal: bool | tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "share", as_density("share", self.share))
        object.__setattr__(self, "rows", as_ints("rows", self.rows))
        if self.rows > MOST_ROW:
            raise BadInput(f"rows is {self.rows}; it must be at most {MOST_ROW}, the queries that are sampled from")
        as_choice("flavour", self.flavour, tuple(FLAVOURS))
        flags = tuple(self.temporal) if isinstance(self.temporal, (tuple, list)) else self.temporal
        of_heads = flags if isinstance(flags, tuple) else (False if flags is None else flags,)
        if not of_heads or not all(isinstance(flag, bool) for flag in of_heads):
            raise BadInput(
                f"temporal is {quoted(self.temporal)}; it must be true or false, one flag for each head, or none"
            )
        object.__setattr__(self, "temporal", flags)


def plan(settings: SVG1, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Classify the heads by q, k and v, and keep the band of each in its own order.

    Raises:
        BadInput: for another number of flags than of heads.
    """
    check_per_head(METHOD, settings, q.shape[1])
    shape, text = call.layout.numbers
    pattern = _pattern(settings.share, settings.flavour, shape, text, q.device)
    batch, heads, _, width = q.shape
    flags, flops = settings.temporal, 0
    if flags is None:
        temporal = _classified(settings, q, k, call)
        flops = masked_flops(torch.Size((batch, heads, settings.rows, width)), call.layout.tokens, 2)
    else:
        of_heads = (flags,) * heads if isinstance(flags, bool) else flags
        temporal = _flags(of_heads, q.device).expand(batch, heads)
    order = torch.where(temporal[..., None], _token_major(shape, text, q.device), _raster(shape, text, q.device))
    return Plan(call.layout, batch, heads, pattern, order, order, flops)


def band_width(share: float, flavour: str, layout: Layout) -> int:
    """Return how far from each other positions may be, at most; -1 for none at all.

    The band is that of a share of all pairs beside text that is dense, in the published formula.
    """
    n, tokens = layout.grid.h * layout.grid.w, layout.tokens
    rest = max(0.0, min(1.0, share - 2 * sum(layout.text) / tokens))
    frames = tokens * (1 - math.sqrt(1 - rest)) / n
    if FLAVOURS[flavour].up:
        return BLOCK * math.ceil(frames * n / BLOCK)
    return BLOCK * math.floor(frames * n / BLOCK) - 1


@remembered(16)
def _pattern(
    share: float, flavour: str, shape: tuple[int, int, int], text: tuple[int, int], device: torch.device
) -> BlockPattern:
    """Return the pattern, in the arranged order: the same for both kinds of heads."""
    layout = Layout(Grid(*shape), text)
    reach, n = band_width(share, flavour, layout), shape[1] * shape[2]
    (before, _), end = text, text[0] + layout.grid.tokens
    edges = {0, layout.tokens, before, end, *range(before, end, BLOCK)}
    sink = before + n if FLAVOURS[flavour].sink else before
    q_offsets = torch.tensor(sorted(edges))
    k_offsets = torch.tensor(sorted(edges | {sink}))
    q_text, k_text = ((x[:-1] < before) | (x[:-1] >= end) for x in (q_offsets, k_offsets))
    whole = q_text[:, None] | k_text | (k_offsets[:-1] < sink)
    low, high = (torch.tensor([[sign * max(reach, 0)]], device=device) for sign in (-1, 1))
    band = Band(low, high, whole[None, None].to(device))
    keep = whole
    if reach >= 0:
        keep = keep | (
            (k_offsets[:-1] <= q_offsets[1:, None] - 1 + reach) & (k_offsets[1:] - 1 >= q_offsets[:-1, None] - reach)
        )
    return BlockPattern(q_offsets.to(device), k_offsets.to(device), keep[None, None].to(device), band=band)


@remembered(8)
def _raster(shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> Tensor:
    return torch.arange(Layout(Grid(*shape), text).tokens, device=device)


@remembered(8)
def _token_major(shape: tuple[int, int, int], text: tuple[int, int], device: torch.device) -> Tensor:
    """Return the token at each position if the frames of a place follow one another, int64 [N]; text stays."""
    order = _raster(shape, text, device).clone()
    frames, before, end = shape[0], text[0], text[0] + math.prod(shape)
    order[before:end] = order[before:end].view(frames, -1).T.reshape(-1)
    return order


@remembered(32)
def _flags(temporal: tuple[bool, ...], device: torch.device) -> Tensor:
    return torch.tensor(temporal, device=device)[None]


def _classified(settings: SVG1, q: Tensor, k: Tensor, call: Call) -> Tensor:
    """Return which heads are temporal, bool [B, H]: those whose sampled outputs the temporal mask changes less."""
    assert call.v is not None
    shape, text = call.layout.numbers
    seed = (settings.rows, call.layer, -1 if call.step is None else call.step)
    rows, masks = _profiled(settings.flavour, *seed, shape, text, q.device)
    outputs = masked_outputs(q[:, :, rows], k, call.v, masks, q.shape[3] ** -0.5)
    with phase("select"):
        spatial, temporal = (outputs[1:] - outputs[0]).square().mean((-2, -1))
        is_temporal: Tensor = temporal < spatial
    return is_temporal


@remembered(64)
def _profiled(
    flavour: str, rows: int, layer: int, step: int, shape: tuple[int, int, int], text: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the sampled queries int64 [R], and which keys they keep in the two profiling masks, bool [2, R, N]."""
    layout = Layout(Grid(*shape), text)
    most = min(layout.tokens, MOST_ROW) if FLAVOURS[flavour].limited else layout.tokens
    generator = torch.Generator().manual_seed(1_000_003 * layer + step + 1)
    sampled = torch.randint(most, (rows,), generator=generator)
    return sampled.to(device), in_mask_rows(profiling_masks(flavour, layout, sampled).to(device))


def profiling_masks(flavour: str, layout: Layout, rows: Tensor) -> Tensor:
    """Return which keys the given queries keep in the spatial and in the temporal profiling mask, bool [2, R, N]."""
    kind, (shape, text) = FLAVOURS[flavour], layout.numbers
    n, before, cpu = shape[1] * shape[2], text[0], torch.device("cpu")
    reach, tokens = int(kind.frames * n / BLOCK), torch.arange(layout.tokens)
    is_text = (tokens < before) | (tokens >= before + layout.grid.tokens)
    masks = []
    for temporal, order in enumerate((_raster(shape, text, cpu), _token_major(shape, text, cpu))):
        at = torch.empty_like(order).scatter_(0, order, tokens) - (0 if kind.joint and not temporal else before)
        block = at.div(BLOCK, rounding_mode="floor")
        mask = (block[rows][:, None] - block).abs() < reach
        if kind.joint and not temporal:
            mask &= block < layout.tokens // BLOCK
        if kind.sink:
            mask |= (at >= 0) & (at < n)
        mask = mask & ~is_text if kind.joint and temporal else mask | is_text
        masks.append(mask | is_text[rows][:, None])
    return torch.stack(masks)


def twin(settings: SVG1, layout: Layout, layer: int) -> tuple[SVG1, Layout]:
    """Up to 5 frames of up to 7 × 13 tokens: a few blocks, which frames do not fill."""
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (5, 7, 13), strict=True))
    return settings, Layout(Grid(t, h, w), layout.few_text)


METHOD = Method(
    name="svg1",
    summary="Sparse VideoGen: heads are spatial or temporal, and keep a band in raster or in token-major order",
    source=Source(
        "Sparse VideoGen: Accelerating Video Diffusion Transformers with Spatial-Temporal Sparsity (ICML 2025)",
        "https://arxiv.org/abs/2502.01776",
        "section 4; the rule of github.com/svg-project/Sparse-VideoGen at 5ce7b01",
    ),
    settings=SVG1,
    plan=plan,
    twin=twin,
    density_setting="share",
    needs_v=True,
    draws_by_layer=True,
    text_competes=True,
    per_head=("temporal",),
)

if __name__ == "__main__":
    main(METHOD)
