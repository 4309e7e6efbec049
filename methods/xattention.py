"""XAttention: rows of blocks keep the largest masses of a strided estimate of the attention map.

Tokens are cut into groups of ``stride``. Each pair of groups is scored along one antidiagonal. A softmax over all key
groups makes shares, whose sum over a pair of blocks is its mass. A row keeps the largest masses until they reach
``threshold`` of its total. The block that reaches it is kept.

The rule is that of the published code, with two oddities. The tokens are padded with zeros, often far beyond the last
block, and the padding takes part in the softmax and in the ranking: ``chunk`` says how far, and None pads to whole
blocks only. And a row that drops anything keeps key block 0; with ``rule="paper"`` it does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

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
    as_choice,
    as_density,
    as_ints,
    fit,
    keep_text,
    main,
    ordinary_text,
    partition_ranges,
    phase,
    quoted,
    row_ops,
    shrink_axis,
    strided_flops,
    strided_mass,
)

LEAST_CHUNK, MOST_SCORES = 2**11, 2**28
"""The published chunk of queries is at least so long, and has at most so many pairs with keys if it may be longer."""

MOST_CHUNK = 2**20
"""A chunk beyond it would pad everything to lengths that no video has."""


@dataclass(frozen=True)
class XAttention(Recipe):
    """Settings.

    Attributes:
        block: tokens of a block in raster order.
        stride: tokens of a group, a divisor of the block.
        threshold: the share of a row's mass to reach, in (0, 1].
        chunk: the tokens are padded to a multiple of it: "published", a number, or None for whole blocks only.
        rule: "published", where rows that drop a block keep block 0, or "paper".
    """

    TEXT_MAY_BE_ORDINARY: ClassVar[bool] = True

    block: int = 128
    stride: int = 8
    threshold: float = 0.9
    chunk: int | str | None = "published"
    rule: str = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("block", "stride"):
            object.__setattr__(self, name, as_ints(name, getattr(self, name)))
        if self.block % self.stride:
            raise BadInput(f"stride is {self.stride}; it must divide the block, {self.block} tokens")
        object.__setattr__(self, "threshold", as_density("threshold", self.threshold))
        if self.chunk not in (None, "published"):
            if isinstance(self.chunk, str):
                raise BadInput(f"chunk is {quoted(self.chunk)}; it must be published, a whole number, or None")
            object.__setattr__(self, "chunk", as_ints("chunk", self.chunk))
            if self.chunk > MOST_CHUNK:
                raise BadInput(f"chunk is {self.chunk}; it must be at most {MOST_CHUNK}, to which tokens are padded")
        as_choice("rule", self.rule, ("published", "paper"))


def resolve(settings: XAttention, layout: Layout) -> XAttention:
    """Check the block.

    Raises:
        BadInput: for a chosen block that is larger than the grid.
    """
    fit("block", settings.block, XAttention.block, (layout.grid.tokens,))
    return settings


def plan(settings: XAttention, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Estimate the mass of every pair of blocks, and cut each row."""
    settings = resolve(settings, call.layout)
    layout = call.layout if settings.text_dense else ordinary_text(call.layout)
    partition = partition_ranges(layout, settings.block, q.device)
    queries, keys = q[:, :, layout.video], k[:, :, layout.video]
    mass = strided_mass(queries, keys, settings.stride, settings.block, padded(settings, layout.grid.tokens))
    groups, each = -(-layout.grid.tokens // settings.stride), settings.block // settings.stride
    with phase("select"):
        mass[:, :, :-1] /= each  # whose rows add up to the groups of the block
        mass[:, :, -1] /= groups - (mass.shape[2] - 1) * each
    keep = row_ops.cut_mass_row(mass, settings.threshold)
    with phase("select"):
        if settings.rule == "published":
            keep[..., 0] |= ~keep.all(-1)
        keep = keep[..., : keep.shape[2]].contiguous()  # without the blocks of padding
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, keep))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, None, None, strided_flops(queries.shape, settings.stride))


def padded(settings: XAttention, tokens: int) -> int:
    """Return the length to which so many tokens are padded, a number of whole blocks."""
    chunk = settings.chunk
    if chunk == "published":
        power = 2 ** max(0, tokens - 1).bit_length()
        chunk = max(LEAST_CHUNK, min(max(LEAST_CHUNK, power), MOST_SCORES // power))
    length = tokens if chunk is None else -(-tokens // int(chunk)) * int(chunk)
    return -(-length // settings.block) * settings.block


def threshold_at(settings: XAttention, layout: Layout, density: float) -> dict[str, float]:
    """Use the density as the threshold: so much mass is kept, in fewer blocks."""
    return {"threshold": density}


def twin(settings: XAttention, layout: Layout, layer: int) -> tuple[XAttention, Layout]:
    """At most 6 blocks of at most 16 tokens, as ragged as the original."""
    tokens, size = shrink_axis(layout.grid.tokens, settings.block, most_blocks=6, most_block=16)
    small = replace(settings, block=size, stride=math.gcd(size, settings.stride))
    return small, Layout(Grid(tokens, 1, 1), layout.few_text)


METHOD = Method(
    name="xattention",
    summary="xattention: the blocks that hold most of a strided antidiagonal estimate of each row's attention",
    source=Source(
        "XAttention: Block Sparse Attention with Antidiagonal Scoring (ICML 2025)",
        "https://arxiv.org/abs/2503.16428",
        "section 2; the rule of github.com/mit-han-lab/x-attention at e379887",
    ),
    settings=XAttention,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting=DensitySetting(("threshold",), threshold_at),
)

if __name__ == "__main__":
    main(METHOD)
