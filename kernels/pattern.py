"""Patterns: which blocks of keys each block of queries, or each single query, keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnbench.kernels.band import Band
from attnbench.kernels.errors import BadInput
from attnbench.kernels.rule import Rule


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """Each block of queries keeps some blocks of keys.

    Attributes:
        q_offsets: int64 [q blocks + 1], where each query block begins in the arranged order, from 0 to N; or
            [B or 1, H or 1, q blocks + 1], if heads have blocks of their own. Only those may be empty.
        k_offsets: int64 [k blocks + 1] or [B or 1, H or 1, k blocks + 1], likewise for keys.
        keep: bool [B or 1, H or 1, q blocks, k blocks]; a size of 1 is shared by the batch or by the heads.
        rule: which pairs of a kept block are kept; None means all of them.
        is_full: this is full attention: one block that is kept, without a rule. Whoever makes the pattern states it,
            because looking at ``keep`` would wait for the device.
        band: which pairs of a kept block are kept by their arranged positions, instead of a rule.

    Raises:
        BadInput: if the shapes do not fit each other, or the pattern cannot be full.
    """

    q_offsets: Tensor
    k_offsets: Tensor
    keep: Tensor
    rule: Rule | None = None
    is_full: bool = False
    band: Band | None = None

    def __post_init__(self) -> None:
        if self.rule is not None and (self.band is not None or self.has_own_offsets):
            raise BadInput(
                f"the pattern has the rule {self.rule.name!r}, which goes with no band and no offsets of single heads"
            )
        if self.is_full and (self.keep.numel() != 1 or self.rule is not None):
            raise BadInput(
                f"a pattern of {self.keep.numel()} blocks{' with a rule' * (self.rule is not None)} is not full "
                "attention, which is one block without a rule"
            )
        expected = (self.q_offsets.shape[-1] - 1, self.k_offsets.shape[-1] - 1)
        if any(offsets.dim() not in (1, 3) for offsets in (self.q_offsets, self.k_offsets)):
            raise BadInput(
                f"the offsets are {list(self.q_offsets.shape)} and {list(self.k_offsets.shape)}; "
                "they must be [blocks + 1], or [B or 1, H or 1, blocks + 1]"
            )
        if self.keep.dtype != torch.bool or self.keep.dim() != 4 or tuple(self.keep.shape[2:]) != expected:
            raise BadInput(
                f"keep is {self.keep.dtype} {list(self.keep.shape)}; "
                f"it must be bool [B or 1, H or 1, {expected[0]}, {expected[1]}] as the offsets say"
            )
        whole = None if self.band is None else self.band.whole
        if whole is not None and tuple(whole.shape[2:]) != expected:
            raise BadInput(f"the band's whole blocks are {list(whole.shape[2:])}; the pattern has {list(expected)}")

    @property
    def elements(self) -> Rule | Band | None:
        """What decides pair by pair in kept blocks, the rule or the band; None if they are kept whole."""
        return self.rule if self.band is None else self.band

    @property
    def has_own_offsets(self) -> bool:
        """Whether blocks are given for single heads, some of them perhaps empty."""
        return self.q_offsets.dim() == 3 or self.k_offsets.dim() == 3

    @property
    def by_head(self) -> tuple[Tensor, ...]:
        """What may differ by batch item and head: tensors that begin with these two sizes."""
        own = (offsets for offsets in (self.q_offsets, self.k_offsets) if offsets.dim() == 3)
        return (self.keep, *own, *(() if self.band is None else self.band.tensors))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The offsets, the kept blocks, and the band."""
        return (self.q_offsets, self.k_offsets, self.keep, *(() if self.band is None else self.band.tensors))

    @property
    def nbytes(self) -> int:
        """Bytes of the offsets and of the kept blocks."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True, eq=False)
class RoutedPattern:
    """Each single query chooses key blocks, as in MoBA and VMoBA.

    Attributes:
        k_offsets: int64 [k blocks + 1], where each key block begins in the arranged order, from 0 to N.
        keep: bool [B or 1, H or 1, N, k blocks], queries in the arranged order.
        rule: which pairs of a kept block are kept; None means all of them.
        near: int64 [k blocks], the blocks in an order in which a query tends to keep neighbours, or None for their own.
            It changes no result: our kernels take neighbours together, and then have fewer partial results to merge.

    Raises:
        BadInput: if the shapes do not fit each other.
    """

    k_offsets: Tensor
    keep: Tensor
    rule: Rule | None = None
    near: Tensor | None = None
    is_full: ClassVar[bool] = False
    band: ClassVar[None] = None
    has_own_offsets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        blocks = len(self.k_offsets) - 1
        if self.keep.dtype != torch.bool or self.keep.dim() != 4 or self.keep.shape[3] != blocks:
            raise BadInput(
                f"keep is {self.keep.dtype} {list(self.keep.shape)}; "
                f"it must be bool [B or 1, H or 1, N, {blocks}] as the offsets say"
            )
        if self.near is not None and (self.near.dtype != torch.int64 or tuple(self.near.shape) != (blocks,)):
            raise BadInput(f"near is {self.near.dtype} {list(self.near.shape)}; it must be int64 [{blocks}]")

    @property
    def elements(self) -> Rule | None:
        """What decides pair by pair in kept blocks; None if they are kept whole."""
        return self.rule

    @property
    def q_offsets(self) -> Tensor:
        """A routed pattern is a block pattern whose query blocks are single tokens: 0, 1, …, N."""
        return torch.arange(self.keep.shape[2] + 1, device=self.keep.device)

    @property
    def by_head(self) -> tuple[Tensor, ...]:
        """What may differ by batch item and head."""
        return (self.keep,)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The offsets of the keys, and the kept blocks. The offsets of the queries are made on demand."""
        return (self.k_offsets, self.keep, *(() if self.near is None else (self.near,)))

    @property
    def nbytes(self) -> int:
        """Bytes of the offsets and of the kept blocks."""
        return sum(tensor.nbytes for tensor in self.tensors)


Pattern = BlockPattern | RoutedPattern
