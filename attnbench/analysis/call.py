"""What is analysed, how, and what is found: the words that all measures share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from attnbench.analysis.stream import HeadMap, head_map
from attnbench.bench.verify import sample_rows
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods.entries import Entry
from attnbench.methods.vmoba import VMoBA, cuboid, resolve
from attnbench.results.records.clips import Status

KINDS = ("1d", "2d", "3d")
"""The partitions into blocks: ranges of frames, patches through all frames, and cuboids."""

EXACT_PAIRS = {"cpu": 2**22, "cuda": 2**33}
"""Pairs of a head up to which all of its queries are looked at: 2,048 tokens, and 92,681 on a GPU."""

SAMPLE = 512
"""Queries of a head otherwise."""

Blocks = tuple[int, tuple[int, int], tuple[int, int, int]]
"""Block sizes (frames, (h, w), (t, h, w)) of the three partitions."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """One call of attention in a model.

    Attributes:
        q: [1, heads, N, head_dim].
        k, v: [1, kv heads, N, head_dim].
        layout: their tokens.
        layer: of the model, from 0.
        step: of denoising, from 0; None where there are no steps.
        lacking: those of k and v that are not known, as "v". In their place is a tensor of their shape.
        lacking_before: those that are not known of the step before of the layer.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    layout: Layout
    layer: int = 0
    step: int | None = None
    lacking: str = ""
    lacking_before: str = ""

    @property
    def scale(self) -> float:
        """The factor of the scores, 1/√head_dim."""
        return float(self.q.shape[3] ** -0.5)

    def head(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v [N, head_dim] of a query head."""
        kv = number // (self.q.shape[1] // self.k.shape[1])
        return self.q[0, number], self.k[0, kv], self.v[0, kv]


@dataclass(frozen=True, slots=True)
class How:
    """How calls are analysed.

    Attributes:
        queries: of each head that are looked at; None for all where that is affordable, and SAMPLE of them otherwise.
        block: of the partitions; None for those of VMoBA.
        seed: of the sample.
        methods: whose masks are looked at.
        density: that the methods are brought to; None for their own.
    """

    queries: int | None = None
    block: Blocks | None = None
    seed: int = 0
    methods: tuple[Entry, ...] = ()
    density: float | None = None

    def count(self, tokens: int, device: str) -> int:
        """Return how many of ``tokens`` queries are looked at."""
        if self.queries is not None:
            return min(tokens, self.queries)
        return tokens if tokens**2 <= EXACT_PAIRS[device] else min(tokens, SAMPLE)

    def cuboids(self, grid: Grid) -> dict[str, tuple[int, int, int]]:
        """Return the block (t, h, w) of each partition, clipped to the grid."""
        block = self.block or resolve(VMoBA(), Layout(grid)).partition
        assert block is not None
        return {name: cuboid(block, grid, kind) for kind, name in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One measure of one call: an ``AnalysisRow`` without what all rows of a run share.

    Attributes:
        measure: its name.
        value: None where it was skipped.
        lo, hi: the ends of its 95 % interval; None where there is none.
        head: None for all heads together.
        layer, step: of the model; None for all together.
        queries: of each head that were looked at.
        method, settings, density: of what is measured, its settings as canonical JSON; empty for attention itself.
        label: the value in a word.
        points, shape: a curve or a map, and its axes as "dt=21".
        status, reason: "skipped" with the reason where there is no value.
    """

    measure: str
    value: float | None
    lo: float | None = None
    hi: float | None = None
    head: int | None = None
    layer: int | None = None
    step: int | None = None
    queries: int = 0
    method: str = ""
    settings: str = "{}"
    density: float | None = None
    label: str = ""
    points: tuple[float, ...] = ()
    shape: str = ""
    status: Status = "ok"
    reason: str = ""

    @classmethod
    def skipped(cls, measure: str, reason: str, **where: object) -> Finding:
        """Return a measure without a value, and why."""
        return cls(measure, None, status="skipped", reason=reason, **where)  # type: ignore[arg-type]  # fields


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the ends of its 95 % interval, which are the figure itself where it is exact."""

    value: float
    lo: float
    hi: float


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A call and the sums of its maps, which all measures share.

    Attributes:
        call: the call.
        maps: of each query head, all with the same queries.
        cuboids: the block (t, h, w) of each partition.
    """

    call: AttentionCall
    maps: Sequence[HeadMap]
    cuboids: Mapping[str, tuple[int, int, int]]

    @property
    def queries(self) -> Tensor:
        """The queries that were looked at, int64 [n] on the CPU, ascending."""
        return self.maps[0].queries

    @property
    def exact(self) -> bool:
        """Whether all queries were looked at."""
        return len(self.queries) >= self.call.layout.tokens


def see(call: AttentionCall, how: How) -> Seen:
    """Add up the maps of every head of a call.

    Raises:
        BadInput: if scores are NaN or overflow.
    """
    tokens, cuboids = call.layout.tokens, how.cuboids(call.layout.grid)
    chosen = sample_rows(tokens, how.seed, how.count(tokens, call.q.device.type))
    maps = [head_map(*call.head(head), call.layout, call.scale, chosen, cuboids) for head in range(call.q.shape[1])]
    return Seen(call, maps, cuboids)


Measurer = Callable[[Seen], Iterable[Finding]]
"""Measures the calls of one clip, which come step by step, and within a step layer by layer.

Layer and step of a finding are the call's where it says none. A measurer is made anew for each clip, so it may keep
what it compares the next step with.
"""
