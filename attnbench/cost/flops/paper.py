"""Recompute each printed value in the FLOPs tables of the VMoBA paper with the paper's own closed form.

The form is that of ``src/cal_theo_flops.py`` in the paper's repository (KwaiVGI/VMoBA), in our own code. It describes
one forward pass of the 30 layers of Wan 2.1 1.3B with 300 text tokens, and a multiply-add counts as 2. It leaves out
embeddings and head, and does not count sorting, softmax, gathering and merging.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from attnbench.kernels.grid import Grid

LAYERS, WIDTH, FFN, TEXT = 30, 1536, 8960, 300

TOLERANCE = 5e-4
"""Relative difference up to which a value agrees.

Rounding to the printed digits explains up to 1.2e-4. The rest comes from slightly different settings, such as the
number of blocks that queries are scored against.
"""

FACTOR_ROUNDING = 0.005 + 1e-9
"""Rounding of the printed reduction factors: half a unit of the second decimal."""

Verdict = Literal["agrees", "differs"]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """Self-attention of one kind of layer.

    Attributes:
        density: fraction of pairs kept.
        blocks: number of block means that every query is scored against; 0 means no scoring.
    """

    density: float = 1.0
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a row: a description, and the kinds of layers that alternate."""

    words: str
    shares: tuple[LayerKind, ...]

    @property
    def density(self) -> float:
        """The mean over the kinds of layers."""
        return math.fsum(share.density for share in self.shares) / len(self.shares)


@dataclass(frozen=True, slots=True)
class Printed:
    """A row as the paper prints it.

    Attributes:
        table: number of the table.
        size: size of the video as frames × height × width.
        method: the paper's name for the method.
        tflop: FLOPs of one forward pass in units of 10^12.
        reading: the settings that the paper, or its code, states for the row.
        density: the printed density; None for full attention.
        factor: the printed ratio of full attention's FLOPs to these; None if the table has none.
        others: other settings that might be meant.
        note: what is known about a difference.
    """

    table: int
    size: str
    method: str
    tflop: float
    reading: Reading
    density: float | None = None
    factor: float | None = None
    others: tuple[Reading, ...] = ()
    note: str = ""

    @property
    def tokens(self) -> int:
        """Number of video tokens."""
        frames, height, width = (int(side) for side in self.size.split("×"))
        return Grid((frames - 1) // 4 + 1, height // 16, width // 16).tokens


@dataclass(frozen=True, slots=True)
class Other:
    """The result of another reading of a row, in TFLOP."""

    words: str
    tflop: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A printed row and our recomputed values.

    Attributes:
        printed: the row.
        tflop: our value.
        verdict: whether the printed FLOPs agree with ours within ``TOLERANCE``.
        factor: our ratio; None if none is printed.
        factor_verdict: whether the printed factor is ours, rounded; None if none is printed.
        others: the row's other readings.
    """

    printed: Printed
    tflop: float
    verdict: Verdict
    factor: float | None
    factor_verdict: Verdict | None
    others: tuple[Other, ...]

    @property
    def difference(self) -> float:
        """The printed value minus ours, in TFLOP."""
        return self.printed.tflop - self.tflop

    @property
    def relative(self) -> float:
        """The difference as a fraction of ours."""
        return self.difference / self.tflop


def paper_tflop(tokens: int, shares: Sequence[LayerKind]) -> float:
    """Return the paper's count of a forward pass, in TFLOP.

    Args:
        tokens: video tokens.
        shares: the kinds of layers. The model has equally many of each.
    """
    projections = 4 * 2 * tokens * WIDTH**2
    cross = 2 * 2 * (tokens + TEXT) * WIDTH**2 + 4 * tokens * TEXT * WIDTH
    ffn = 2 * 2 * tokens * WIDTH * FFN
    attention = [2 * tokens * WIDTH * share.blocks + 4 * tokens * WIDTH * share.density * tokens for share in shares]
    return LAYERS * (projections + cross + ffn + math.fsum(attention) / len(attention)) / 1e12


def verdict_of(printed: float, ours: float) -> Verdict:
    """Return whether two values agree within ``TOLERANCE``."""
    return "agrees" if abs(printed - ours) <= TOLERANCE * ours else "differs"


def recompute(row: Printed, full_tflop: float) -> Recomputed:
    """Recompute a row; ``full_tflop`` is our value for full attention at its size."""
    ours = paper_tflop(row.tokens, row.reading.shares)
    factor = None if row.factor is None else full_tflop / ours
    same = factor is not None and row.factor is not None and abs(row.factor - factor) <= FACTOR_ROUNDING
    others = [(other.words, paper_tflop(row.tokens, other.shares)) for other in row.others]
    return Recomputed(
        printed=row,
        tflop=ours,
        verdict=verdict_of(row.tflop, ours),
        factor=factor,
        factor_verdict=None if factor is None else ("agrees" if same else "differs"),
        others=tuple(Other(words, tflop, verdict_of(row.tflop, tflop)) for words, tflop in others),
    )


def recompute_all(rows: Sequence[Printed]) -> list[Recomputed]:
    """Recompute every row, in the given order."""
    return [recompute(row, paper_tflop(row.tokens, (LayerKind(),))) for row in rows]
