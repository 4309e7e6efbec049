"""LiteAttention: tiles of keys that were negligible for a tile of queries are skipped at all later steps.

A tile of queries visits its key tiles from the last to the first. A key tile is marked if, for every row, its largest
score stays below the largest score of the tiles visited before it by ``-threshold`` or more, in powers of two. Marked
tiles count in this call, and are left out from the next one on. The first call attends to everything.

The published kernel keeps lists of ranges of visited tiles, which gives it two quirks: the first marked tile of a run
stays as the end of a range, until it begins a range itself, and the last tile of queries, if it is short, drops
nothing. With ``rule="paper"``, every marked tile is dropped.

The published kernel marks tiles while it attends. No engine here visits tiles in that order and hands out marks, so
marks are made by a second product of q and k, which takes what the skipped tiles save. Therefore this method runs on a
CPU only, to compare what is kept, and has no latency on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.methods.full import plan as plan_full
from attnbench.methods.kit import (
    BlockPattern,
    Call,
    Cycle,
    DensitySetting,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    Unsupported,
    as_choice,
    as_ints,
    as_number,
    as_state,
    fit,
    keep_text,
    main,
    partition_ranges,
    phase,
    shrink_axis,
)

ROWS = 1024
"""Queries whose scores are in memory at once."""

FARTHEST = 40.0
"""The largest distance that a density asks for, in powers of two: weights below 2^-40 are not seen in float32."""


@dataclass(frozen=True)
class LiteAttention(Recipe):
    """Settings.

    Attributes:
        threshold: power of two below which a tile is negligible, at most 0.
        block: tokens of a tile of queries and of a tile of keys, in raster order.
        rule: "published", with the quirks of the kernel, or "paper".
    """

    threshold: float = -10.0
    block: tuple[int, int] = (128, 176)
    rule: str = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "threshold", as_number("threshold", self.threshold, high=0.0))
        object.__setattr__(self, "block", as_ints("block", self.block, length=2))
        as_choice("rule", self.rule, ("published", "paper"))


def resolve(settings: LiteAttention, layout: Layout) -> LiteAttention:
    """Check the block.

    Raises:
        BadInput: for a chosen block that is larger than the grid.
    """
    fit("block", settings.block, LiteAttention.block, (layout.grid.tokens,) * 2)
    return settings


def plan(settings: LiteAttention, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the tiles of the state, or all without one, and mark what the next call leaves out.

    Raises:
        BadInput: for a state of another shape.
        Unsupported: on a GPU.
    """
    settings = resolve(settings, call.layout)
    if q.is_cuda:
        raise Unsupported(
            "liteattention runs on a CPU only: no engine marks tiles while it attends, and marking them apart takes "
            "what skipping saves"
        )
    queries, keys = (partition_ranges(call.layout, size, q.device) for size in settings.block)
    shape = (*q.shape[:2], *(-(-call.layout.grid.tokens // size) for size in settings.block))
    state = _checked(call.state, shape, q.device)
    keep, begins = (state["keep"], state["begins"]) if state is not None else _everything(shape, q.device)
    with phase("score"):
        marks = _marks(settings, q, k, call.layout, keep)
    with phase("select"):
        if settings.rule == "published" and call.layout.grid.tokens % settings.block[0]:
            marks[:, :, -1] = False
        dropped, begins = _next_ranges(marks, keep, begins)
        following = {"keep": keep & ~(marks if settings.rule == "paper" else dropped), "begins": begins}
    flops = 2 * q.shape[0] * q.shape[1] * call.layout.grid.tokens**2 * q.shape[3]
    if state is None:
        return replace(plan_full(None, q, k, call), selection_flops=flops, state=following)
    pattern = BlockPattern(queries.offsets, keys.offsets, keep_text(queries, keep))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, None, None, flops, state=following)


def _checked(state: object, shape: tuple[int, ...], device: torch.device) -> Mapping[str, Tensor] | None:
    """Return a state: which tiles are kept, and which of them begin a range; None without one.

    Raises:
        BadInput: if it is none of liteattention's for this call.
    """
    wanted = dict.fromkeys(("keep", "begins"), ((torch.bool,), shape))
    return None if state is None else as_state("liteattention", state, wanted, device)


def _everything(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all tiles, and the last of each row, which begins the only range."""
    begins = torch.zeros(shape, dtype=torch.bool, device=device)
    begins[..., -1] = True
    return torch.ones_like(begins), begins


def _marks(settings: LiteAttention, q: Tensor, k: Tensor, layout: Layout, keep: Tensor) -> Tensor:
    """Return which of the kept tiles are negligible, bool [B, H, q tiles, k tiles]."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    size, tokens, group = settings.block, layout.grid.tokens, q.shape[1] // k.shape[1]
    marks = torch.zeros_like(keep)
    step = max(1, ROWS // size[0])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            keys = k[b, h // group, layout.video].to(wide)
            for first in range(0, keep.shape[2], step):
                tiles = keep[b, h, first : first + step]
                rows = q[b, h, layout.video][first * size[0] : (first + step) * size[0]].to(wide)
                scores = rows @ keys.T * q.shape[3] ** -0.5
                tops = pad(scores, (0, -tokens % size[1]), value=-math.inf).unflatten(1, (-1, size[1])).amax(-1)
                tile = torch.arange(len(rows)) // size[0]
                tops = tops.masked_fill(~tiles[tile], -math.inf).flip(1)
                before = pad(tops.cummax(1).values[:, :-1], (1, 0), value=-math.inf)  # of the tiles visited before
                low = ((tops - before) / math.log(2) <= settings.threshold).flip(1)
                few = torch.zeros(tiles.shape).index_add_(0, tile, (~low).to(torch.float32))  # rows against the mark
                marks[b, h, first : first + step] = (few == 0) & tiles
    return marks


def _next_ranges(marks: Tensor, keep: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """Return which marked tiles the published kernel drops, and which tiles begin the ranges of the next call.

    A range ends with the first marked tile after others, so this tile stays. Ranges that meet are not joined.
    """
    dropped, new_begins = torch.zeros_like(marks), torch.zeros_like(marks)
    skipping = torch.zeros_like(marks[..., 0])
    for tile in range(keep.shape[3] - 1, -1, -1):
        visited, marked = keep[..., tile], marks[..., tile]
        skipping = skipping | begins[..., tile]
        dropped[..., tile] = marked & skipping
        new_begins[..., tile] = visited & ~marked & skipping
        skipping = torch.where(visited, marked, skipping)
    return dropped, new_begins


def cycle(settings: LiteAttention, layer: int) -> Cycle:
    """The step after two that marked; a clip of 50 steps begins with all tiles."""
    return Cycle(warm=(0, 1), steady=2, refresh=0, every=50, anew=True)


def threshold_at(settings: LiteAttention, layout: Layout, density: float) -> dict[str, float]:
    """The more is to be kept, the farther below the largest score a tile must stay."""
    return {"threshold": -FARTHEST * density}


def twin(settings: LiteAttention, layout: Layout, layer: int) -> tuple[LiteAttention, Layout]:
    """At most 5 tiles of at most 16 queries, with key tiles in proportion, as ragged as the original."""
    tokens, size = shrink_axis(layout.grid.tokens, settings.block[0], most_blocks=5, most_block=16)
    keys = max(1, min(tokens, round(size * settings.block[1] / settings.block[0])))
    return replace(settings, block=(size, keys)), Layout(Grid(tokens, 1, 1), layout.few_text)


METHOD = Method(
    name="liteattention",
    summary="liteattention: tiles that were negligible at one denoising step are skipped at all later ones",
    source=Source(
        "LiteAttention: A Temporal Sparse Attention for Diffusion Transformers (2025)",
        "https://arxiv.org/abs/2511.11062",
        "the rule of github.com/moonmath-ai/LiteAttention at f316493",
    ),
    settings=LiteAttention,
    plan=plan,
    resolve=resolve,
    twin=twin,
    cycle=cycle,
    density_setting=DensitySetting(("threshold",), threshold_at),
)

if __name__ == "__main__":
    main(METHOD)
