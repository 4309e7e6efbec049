"""MOD-DiT: columns and diagonals of the block map, chosen by a fit of where attention is negligible.

A map holds, for every pair of blocks, the share of full attention's weights that are below ``threshold``. A ridge
regression explains each head's map by one number for each diagonal, one for each column, and one for pairs of the same
frame. The ``top_k`` columns and diagonals with the smallest numbers, where least is negligible, are kept, with the
pairs of the same frame.

Step by step: the steps before ``warmup_steps`` are dense, and the last of them makes the map and the mask; if a recipe
has as many dense steps, the one behind them does. A later call without a state is the first of a clip whose beginning
ran something else, as the model's own attention, and makes them likewise. Every ``interval`` steps, one is dense again:
it maps anew the blocks that the mask kept, fits again, and chooses by numbers that are extrapolated by one step of the
change since the last fit.
``step`` is therefore required, and ``plan.state`` holds the map, the numbers and the mask.

The rule is that of the published code, oddities included: the numbers of columns are halved after the fit, and the
frame diagonal is kept wherever its number is at most 1, which it always is. It also maps the step before the last of
the warm-up, which changes nothing and is left out. The code takes only whole blocks. Here the last one may be short,
shares are of its true pairs, and blocks then belong to the frame of their first token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import index

import torch
from torch import Tensor

from attnbench.methods.full import plan as plan_full
from attnbench.methods.kit import (
    BadInput,
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
    as_density,
    as_ints,
    as_number,
    as_state,
    below_flops,
    count_below,
    fit,
    keep_text,
    main,
    partition_ranges,
    phase,
    remembered,
    share_of,
)

SAME_FRAME = 1.0
"""The frame diagonal is kept where its number is at most this."""


@dataclass(frozen=True)
class MODDiT(Recipe):
    """Settings.

    Attributes:
        block: tokens of a block in raster order.
        threshold: weight of full attention below which it is negligible, in (0, 1].
        top_k: columns and diagonals that a head keeps; a number larger than there are means all.
        interval: every so many steps, one is dense and maps again.
        warmup_steps: steps before the first mask, all dense.
        regularization: of the ridge regression, above 0.
    """

    block: int = 128
    threshold: float = 1e-4
    top_k: int = 350
    interval: int = 10
    warmup_steps: int = 12
    regularization: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("block", "top_k", "interval", "warmup_steps"):
            object.__setattr__(self, name, as_ints(name, getattr(self, name)))
        object.__setattr__(self, "threshold", as_density("threshold", self.threshold))
        ridge = as_number("regularization", self.regularization, low=0.0, above=True)
        object.__setattr__(self, "regularization", ridge)


def resolve(settings: MODDiT, layout: Layout) -> MODDiT:
    """Cut the default block and the number of lines off at what there is.

    Raises:
        BadInput: for a chosen block that is larger than the grid.
    """
    block = fit("block", settings.block, MODDiT.block, (layout.grid.tokens,))
    return replace(settings, block=block, top_k=min(settings.top_k, _lines(block, layout)))


def _lines(block: int, layout: Layout) -> int:
    """Return how many columns and diagonals there are."""
    return 3 * -(-layout.grid.tokens // block) - 1


def plan(settings: MODDiT, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the mask of the state, or everything in the steps that make one.

    Raises:
        BadInput: without a step, or for a state of another shape.
    """
    settings = resolve(settings, call.layout)
    if call.step is None:
        raise BadInput("mod-dit needs to know the denoising step: pass step, a whole number from 0")
    last = _first_map(settings)
    if call.step < last:
        return replace(plan_full(None, q, k, call), state=call.state)
    partition = partition_ranges(call.layout, settings.block, q.device)
    video = partition.blocks - sum(partition.text)
    first = call.step == last or call.state is None
    state = None if first else _checked(call.state, (*q.shape[:2], video), q.device)
    if state is None or (call.step - last) % settings.interval == 0:
        made = _mapped(settings, q, k, call.layout, state)
        flops = below_flops(q.shape, call.layout.grid.tokens)
        return replace(plan_full(None, q, k, call), selection_flops=flops, state=made)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, state["keep"]))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, state=state)


def _first_map(settings: MODDiT) -> int:
    """Return the step that makes the first map: the last of the warm-up, or the first behind the dense steps."""
    return max(settings.warmup_steps - 1, settings.dense_steps)


def _checked(state: object, shape: tuple[int, int, int], device: torch.device) -> Mapping[str, Tensor]:
    """Return the state.

    Raises:
        BadInput: if it is none of mod-dit's for this call.
    """
    batch, heads, blocks = shape
    wide = torch.float64  # verification widens what it plans on
    wanted = {
        "map": ((torch.float16, wide), (batch, heads, blocks, blocks)),
        "numbers": ((wide,), (batch, heads, 3 * blocks - 1)),
        "keep": ((torch.bool,), (batch, heads, blocks, blocks)),
    }
    return as_state("mod-dit", state, wanted, device)


def _mapped(
    settings: MODDiT, q: Tensor, k: Tensor, layout: Layout, state: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return the state that follows from a map of these tensors, and from the state before."""
    counts = count_below(q, k, layout, settings.block, settings.threshold, q.shape[3] ** -0.5)
    shape = layout.numbers[0]
    with phase("select"):
        found = (counts / _pairs(index(settings.block), shape, q.device)).half()
        if state is not None:
            found = torch.where(state["keep"], found, state["map"].half())
        numbers, frame = _fitted(settings, found.double(), shape)
        before = 0.0 if state is None else state["numbers"]
        ahead = numbers + (numbers - before) / settings.interval
        keep = _chosen(ahead, settings.top_k)
        same = _same_frame(index(settings.block), shape, q.device)
        keep = keep | (same & (frame <= SAME_FRAME)[..., None, None])
    return {"map": found, "numbers": numbers, "keep": keep}


def _fitted(settings: MODDiT, shares: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return the numbers of the lines of maps [B, H, V, V], [B, H, 3V - 1], and of the frame diagonal, [B, H]."""
    blocks = shares.shape[-1]
    design = (index(settings.block), float(settings.regularization), shape, shares.device)
    same = _same_frame(index(settings.block), shape, shares.device)
    sums = torch.cat([_by_offset(shares), shares.sum(-2), (shares * same).sum((-2, -1))[..., None]], -1).flatten(
        0, 1
    )  # [B·H, 3V]
    found = torch.cholesky_solve(sums.T, _factor(*design)).T.unflatten(0, shares.shape[:2])
    diagonals, columns, frame = found.split([2 * blocks - 1, blocks, 1], -1)
    return torch.cat([columns / 2, diagonals], -1), frame[..., 0]


def _by_offset(x: Tensor) -> Tensor:
    """Add up the diagonals of [..., V, V], from offset (column - row) 1 - V to V - 1."""
    blocks = x.shape[-1]
    place = torch.arange(blocks, device=x.device)
    offset = (place - place[:, None] + blocks - 1).flatten()
    sums = x.new_zeros(*x.shape[:-2], 2 * blocks - 1)
    return sums.index_add_(-1, offset, x.flatten(-2))


def _chosen(numbers: Tensor, top_k: int) -> Tensor:
    """Return the blocks on the lines with the smallest numbers, the first of equal ones, bool [B, H, V, V]."""
    blocks = (numbers.shape[-1] + 1) // 3
    best = numbers.sort(dim=-1, stable=True).indices[..., :top_k]
    lines = torch.zeros_like(numbers, dtype=torch.bool).scatter_(-1, best, True)
    place = torch.arange(blocks, device=numbers.device)
    diagonals = lines[..., blocks:][..., place - place[:, None] + blocks - 1]
    return lines[..., None, :blocks] | diagonals


@remembered(8)
def _pairs(block: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return the tokens of a query block times those of a key block, float64 [V, V]."""
    sizes = partition_ranges(Layout(Grid(*shape)), block, device).sizes.double()
    return sizes[:, None] * sizes


@remembered(8)
def _same_frame(block: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return which blocks are of one frame, bool [V, V].

    As published, frames have as many whole blocks as fit into one, and what is left at the end is of none. Where the
    last block is short, or no block fits into a frame, a block is of the frame of its first token.
    """
    tokens, each = shape[0] * shape[1] * shape[2], shape[1] * shape[2] // block
    number = torch.arange(-(-tokens // block), device=device)
    if tokens % block or each == 0:
        frame = number * block // (shape[1] * shape[2])
        return frame[:, None] == frame
    frame, whole = number // each, number < len(number) // each * each
    return (frame[:, None] == frame) & whole[:, None] & whole


@remembered(8)
def _factor(block: int, ridge: float, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return the Cholesky factor of MᵀM + ridge, float64 [3V, 3V]; M says which numbers explain which pair."""
    same = _same_frame(block, shape, device).double()
    blocks = len(same)
    place = torch.arange(blocks, device=device)
    offset = place - place[:, None] + blocks - 1  # of a pair: its diagonal
    gram = torch.zeros(3 * blocks, 3 * blocks, dtype=torch.float64, device=device)
    diagonals, columns = slice(0, 2 * blocks - 1), slice(2 * blocks - 1, 3 * blocks - 1)
    gram[diagonals, diagonals] = torch.diag(_by_offset(torch.ones_like(same)))
    gram[columns, columns] = torch.diag(torch.full((blocks,), float(blocks), dtype=torch.float64, device=device))
    crossing = torch.zeros(2 * blocks - 1, blocks, dtype=torch.float64, device=device)
    crossing[offset, place.expand_as(offset)] = 1.0
    gram[diagonals, columns], gram[columns, diagonals] = crossing, crossing.T
    for part, sums in ((diagonals, _by_offset(same)), (columns, same.sum(0))):
        gram[part, -1] = gram[-1, part] = sums
    gram[-1, -1] = same.sum()
    factor: Tensor = torch.linalg.cholesky(gram + ridge * torch.eye(3 * blocks, dtype=torch.float64, device=device))
    return factor


def cycle(settings: MODDiT, layer: int) -> Cycle:
    """The step of the first map makes the mask that the next one keeps; one of ``interval`` steps is dense again."""
    last = _first_map(settings)
    return Cycle(warm=(last,), steady=last + 1, refresh=last + settings.interval, every=settings.interval)


def lines_at(settings: MODDiT, layout: Layout, density: float) -> dict[str, int]:
    """Keep such a share of all columns and diagonals."""
    return {"top_k": share_of(_lines(settings.block, layout), density)}


def twin(settings: MODDiT, layout: Layout, layer: int) -> tuple[MODDiT, Layout]:
    """At most 3 frames of 4 × 6 tokens in blocks of up to 8, which fill frames, or the video, if they did."""
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (3, 4, 6), strict=True))
    frame, block = layout.grid.h * layout.grid.w, min(settings.block, 7, t * h * w)
    for filled, length in ((layout.grid.tokens, t * h * w), (frame, h * w)):
        if filled % settings.block == 0:
            block = next(size for size in range(min(settings.block, 8), 0, -1) if length % size == 0)
    grid = Grid(t, h, w)
    share = settings.top_k / _lines(settings.block, layout)
    small = Layout(grid, layout.few_text)
    return replace(settings, block=block, top_k=share_of(_lines(block, small), share)), small


METHOD = Method(
    name="mod-dit",
    summary="mod-dit: columns and diagonals of blocks, fitted to maps of where attention is negligible",
    source=Source(
        "Mixture of Distributions Matters: Dynamic Sparse Attention for Efficient Video Diffusion Transformers (2026)",
        "https://arxiv.org/abs/2601.11641",
        "the rule of github.com/pkumelon/MOD-DiT at cd1f812",
    ),
    settings=MODDiT,
    plan=plan,
    resolve=resolve,
    twin=twin,
    cycle=cycle,
    density_setting=DensitySetting(("top_k",), lines_at),
    text_competes=True,
)

if __name__ == "__main__":
    main(METHOD)
