"""LongCat's block-sparse attention: each chunk keeps the key chunks whose means score highest, by number or mass.

With a density, a row keeps the whole part of its share of the chunks; with a mass, as many as do not exceed that
softmax mass; with both, the larger number. No chunk is forced, so a row may keep nothing. The published code takes
only grids of whole chunks; here, chunks at the edges are short.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from attnbench.methods.kit import (
    BadInput,
    BlockPattern,
    Call,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    Training,
    as_density,
    as_ints,
    fit,
    keep_text,
    main,
    partition_cuboids,
    row_ops,
    score_block_pairs,
    shrink_grid,
)

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class LongCatBSA(Recipe):
    """Settings.

    Attributes:
        chunk: tokens of a chunk along (t, h, w).
        density: share of the chunks that a row keeps; None keeps by mass alone.
        mass: softmax mass that a row may keep; the chunk that would exceed it is dropped. None keeps by number alone.
    """

    chunk: Triple = (4, 4, 8)
    density: float | None = 0.125
    mass: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "chunk", as_ints("chunk", self.chunk, length=3))
        if self.density is None and self.mass is None:
            raise BadInput("density is None and mass is None; give at least one of them")
        for name in ("density", "mass"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, as_density(name, value))


def resolve(settings: LongCatBSA, layout: Layout) -> LongCatBSA:
    """Cut the default chunk off at the grid.

    Raises:
        BadInput: for a chosen chunk that is larger than the grid.
    """
    return replace(settings, chunk=fit("chunk", settings.chunk, LongCatBSA.chunk, layout.grid.shape))


def plan(settings: LongCatBSA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Score chunk means and cut each row."""
    settings = resolve(settings, call.layout)
    partition = partition_cuboids(call.layout, settings.chunk, q.device)
    scores, flops = score_block_pairs(q, k, partition, partition)
    keep = None
    if settings.density is not None:
        keep = row_ops.cut_top_k_row(scores, int(settings.density * scores.shape[3]))
    if settings.mass is not None:
        shares = row_ops.row_shares(scores, q.shape[3] ** -0.5)
        by_mass = row_ops.cut_mass_row(shares, settings.mass, crossing="out")
        keep = by_mass if keep is None else keep | by_mass  # both follow one ranking, so this is the larger number
    assert keep is not None
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, keep))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order, flops)


def twin(settings: LongCatBSA, layout: Layout, layer: int) -> tuple[LongCatBSA, Layout]:
    """Up to 3 × 3 × 3 small chunks, as ragged as before, of which a row keeps at least one."""
    small, chunk = shrink_grid(layout, settings.chunk)
    density = None if settings.density is None else max(settings.density, 0.2)
    return replace(settings, chunk=chunk, density=density), small


METHOD = Method(
    name="longcat-bsa",
    summary="chunks keep the key chunks whose means score highest, by number or softmax mass",
    source=Source(
        "LongCat-Video Technical Report (2025)",
        "https://arxiv.org/abs/2510.22200",
        "block sparse attention; the rule of github.com/meituan-longcat/LongCat-Video at 6b3f4b8",
    ),
    settings=LongCatBSA,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting="density",
    training=Training(),
)

if __name__ == "__main__":
    main(METHOD)
