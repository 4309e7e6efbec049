"""The bytes that each phase of a forward pass moves: the minimum, and what our kernels request.

**Minimum**: every input of the phase is read once, every output is written once, and nothing else. No implementation
with these inputs and outputs moves less. **Modelled**: what each program of our kernels requests from the L2 cache. A
number that several programs read counts for each of them; a number that one program reads twice counts once. What the
memory really moves lies between the two, because the L2 cache serves a part of the repeated requests. Neither counts
offsets, counters and element rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from attnbench.kernels.engines import known_engines
from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.pattern import RoutedPattern
from attnbench.kernels.plan import MeanSelection, Plan
from attnbench.kernels.tile_counts import TileWork, arranged_heads, tile_work

SELECT_PASSES = {"head": 4, "query": 1}
"""How often a cut reads the scores, by its scope.

Over a head, it was measured as three times to narrow and once to write.
"""

_ITEMSIZES = (2, 4)
_WORD = 4  # int32 and float32
_RECORD = 6 * _WORD  # bytes that the kernels read of a tile's record


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one phase, over all batch items and heads.

    Attributes:
        min_bytes: inputs read once, outputs written once.
        modelled_bytes: what our kernels request; None if another engine's kernels run, whose loads are not known.
    """

    min_bytes: int
    modelled_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes that every phase needs: shapes of q and of k and v, bytes of a number, blocks without those of text."""

    batch: int
    heads: int
    kv_heads: int
    tokens: int
    video: int
    head_dim: int
    itemsize: int
    blocks: int
    video_blocks: int

    @property
    def q(self) -> int:
        return self.batch * self.heads * self.tokens * self.head_dim * self.itemsize

    @property
    def k(self) -> int:
        return self.batch * self.kv_heads * self.tokens * self.head_dim * self.itemsize

    @property
    def rows(self) -> int:
        return self.batch * self.heads

    @property
    def pairs(self) -> int:
        """Number of (query, block) pairs that are scored."""
        return self.rows * self.video * self.video_blocks


def phase_traffic(
    plan: Plan, head_dim: int, itemsize: int, engine: str, *, kv_heads: int | None = None
) -> dict[str, Traffic]:
    """Return the bytes of each phase of one forward call. This waits for the device of the plan.

    ``attend`` is always there. ``pool``, ``score`` and ``select`` are there if the plan says that it chose key blocks
    by their means. All other phases are those of the engine "triton". Nothing is known about a phase that is missing.

    Args:
        plan: any plan.
        head_dim: channels of a head, D.
        itemsize: bytes of a number of q, k and v: 2 or 4.
        engine: name of the engine that runs the plan.
        kv_heads: heads of k and v; default: those of the plan.

    Raises:
        BadInput: for an unknown engine, another itemsize, head_dim below 1, or kv heads that do not divide the heads.
    """
    names = [known.name for known in known_engines()]
    if engine not in names:
        raise unknown_name("engine", engine, names)
    if itemsize not in _ITEMSIZES:
        raise BadInput(f"itemsize is {itemsize!r}; it must be 2 or 4, the bytes of a number of q, k and v")
    sizes = _sizes(plan, head_dim, itemsize, plan.heads if kv_heads is None else kv_heads)
    ours = engine == "triton" and plan.pattern.band is None and not plan.pattern.has_own_offsets  # those have no model
    phases: dict[str, Traffic] = {}
    if plan.selection is not None and selected_by_means(plan, head_dim, sizes.kv_heads):
        phases |= _selection(plan, sizes, plan.selection, kernels=ours or plan.device.type == "cuda")
    if not ours:
        return phases | {"attend": Traffic(least_bytes(plan, head_dim, itemsize, kv_heads=kv_heads), None)}
    work = tile_work(plan, sizes.kv_heads)
    permute, attend = _permute(plan, sizes), _attend(sizes, work)
    if permute is not None:
        phases["permute"], attend = _arranged_in(permute, attend, _share_before(plan, sizes, work))
    if isinstance(plan.pattern, RoutedPattern):
        return phases | {"index": _routed_index(plan, sizes, work), "attend": attend, "merge": _merge(sizes, work)}
    return phases | {"index": _blocked_index(plan, work), "attend": attend}


def least_bytes(plan: Plan, head_dim: int, itemsize: int, *, kv_heads: int | None = None) -> int:
    """Return the fewest bytes that an attention call of this shape can move: q, k and v read once, output written once.

    Arguments and errors are those of ``phase_traffic``.
    """
    sizes = _sizes(plan, head_dim, itemsize, plan.heads if kv_heads is None else kv_heads)
    return 2 * sizes.q + 2 * sizes.k


def _sizes(plan: Plan, head_dim: int, itemsize: int, kv_heads: int) -> _Sizes:
    if head_dim < 1:
        raise BadInput(f"head_dim is {head_dim!r}; it must be at least 1")
    if kv_heads < 1 or plan.heads % kv_heads:
        raise BadInput(f"kv_heads is {kv_heads!r}; it must divide {plan.heads}, the heads of the plan")
    blocks = plan.pattern.keep.shape[3]
    return _Sizes(
        batch=plan.batch,
        heads=plan.heads,
        kv_heads=kv_heads,
        tokens=plan.layout.tokens,
        video=plan.layout.grid.tokens,
        head_dim=head_dim,
        itemsize=itemsize,
        blocks=blocks,
        video_blocks=blocks - sum(count > 0 for count in plan.layout.text),
    )


def selected_by_means(plan: Plan, head_dim: int, kv_heads: int) -> bool:
    """Return whether the plan was made only by block means of k, scores of q and a cut.

    Its selection FLOPs show it: if they are not those of means and scores, the phases cannot be separated.

    Args:
        plan: any plan.
        head_dim: channels of a head.
        kv_heads: heads of k and v.
    """
    sizes = _sizes(plan, head_dim, 2, kv_heads)
    means = sizes.batch * sizes.kv_heads * sizes.tokens * sizes.head_dim
    alone = plan.selection_flops == means + 2 * sizes.pairs * sizes.head_dim
    return plan.selection is not None and isinstance(plan.pattern, RoutedPattern) and alone


def _selection(plan: Plan, sizes: _Sizes, chosen: MeanSelection, *, kernels: bool) -> dict[str, Traffic]:
    kv_rows = sizes.batch * sizes.kv_heads
    means = kv_rows * sizes.blocks * sizes.head_dim * _WORD
    video_means = kv_rows * sizes.video_blocks * sizes.head_dim * _WORD
    queries = sizes.rows * sizes.video * sizes.head_dim * sizes.itemsize
    scores = sizes.pairs * _WORD
    keep = sizes.rows * sizes.tokens * sizes.blocks  # a byte each, text included
    least = {
        "pool": sizes.k + _stored(plan.k_order) + means,
        "score": queries + video_means + scores,
        "select": scores + keep,
    }
    if not kernels:
        return {phase: Traffic(size, None) for phase, size in least.items()}
    order = kv_rows * sizes.tokens * 8 if plan.k_order is not None else 0
    programs = sizes.rows * -(-sizes.video // _score_rows(sizes.itemsize))
    own = sizes.rows * sizes.video * 8  # each query's own block, int64
    causal = plan.pattern.rule is not None and plan.pattern.rule.name == "causal"
    modelled = {
        # The sums of the parts of a block are written, read again and added up.
        "pool": sizes.k + order + 2 * means * _partial_sums(sizes) + means,
        "score": queries + programs * sizes.video_blocks * sizes.head_dim * _WORD + scores,
        "select": SELECT_PASSES[chosen.scope] * (scores + own)
        + sizes.pairs
        + (2 * scores if causal else 0)  # later blocks are struck out first
        + (sizes.pairs + keep if any(plan.layout.text) else 0),  # the rows and columns of text are put around a copy
    }
    return {phase: Traffic(least[phase], modelled[phase]) for phase in least}


def _score_rows(itemsize: int) -> int:
    """Return the queries of one program of the scoring kernel. Numbers of 2 bytes are assumed to be bfloat16."""
    from attnbench.kernels.gpu.selection.scoring import ROWS_EXACT, ROWS_FLOAT32

    return ROWS_EXACT if itemsize == 2 else ROWS_FLOAT32


def _partial_sums(sizes: _Sizes) -> int:
    """Return how many partial sums of a block the pooling kernel writes: none where blocks are not split."""
    from attnbench.kernels.gpu.selection.pooling import splits_of

    splits = splits_of(sizes.tokens, sizes.blocks, sizes.batch * sizes.kv_heads)
    return splits if splits > 1 else 0


def _permute(plan: Plan, sizes: _Sizes) -> Traffic | None:
    """Return the bytes of arranging k and v with 64 or 128 columns; None if they are used as they are."""
    from attnbench.kernels.gpu.routed import clustered

    order, width = plan.k_order, _width(sizes)
    if isinstance(plan.pattern, RoutedPattern):
        order = clustered(plan).k_order
    if order is None and width == sizes.head_dim:
        return None
    kv_rows = sizes.batch * arranged_heads(plan, sizes.kv_heads)
    written = 2 * kv_rows * sizes.tokens * width * sizes.itemsize
    least = 2 * sizes.k + _stored(order) + written
    if order is None:  # zeros first, then the copy
        return Traffic(least, written + 4 * sizes.k)
    read = 2 * kv_rows * sizes.tokens * (sizes.head_dim * sizes.itemsize + 8)
    return Traffic(least, read + written)


def _share_before(plan: Plan, sizes: _Sizes, work: TileWork) -> Fraction:
    """Return the share of the heads whose k and v are arranged before attention.

    The attention kernel arranges the others.
    """
    from attnbench.kernels.gpu.blocked import arranges_on_the_way
    from attnbench.kernels.gpu.work import ROWS

    if isinstance(plan.pattern, RoutedPattern) or work.rows < ROWS:
        return Fraction(1)
    alone = arranges_on_the_way(plan, sizes.head_dim, sizes.itemsize)
    return Fraction(1, sizes.batch * arranged_heads(plan, sizes.kv_heads)) if alone else Fraction(1)


def _arranged_in(permute: Traffic, attend: Traffic, share: Fraction) -> tuple[Traffic, Traffic]:
    """Return the bytes of both phases if only ``share`` of the arranging is done in the first."""
    least, modelled = (int(share * (found or 0)) for found in (permute.min_bytes, permute.modelled_bytes))
    rest = permute.min_bytes - least, (permute.modelled_bytes or 0) - modelled
    return Traffic(least, modelled), Traffic(attend.min_bytes + rest[0], (attend.modelled_bytes or 0) + rest[1])


def _routed_index(plan: Plan, sizes: _Sizes, work: TileWork) -> Traffic:
    """Return the bytes from kept pairs to tiles: bits, counts, lists of queries, records, places of partial results."""
    from attnbench.kernels.gpu.routed import group_of
    from attnbench.kernels.gpu.routing import CHUNK

    places, slots = work.tiles * work.rows * _WORD, sizes.rows * sizes.tokens * work.groups * _WORD
    records = work.tiles * _RECORD
    order = min(_stored(plan.q_order), work.entries * 8)  # of queries that keep nothing no token is looked up
    least = _stored(plan.pattern.keep) + order + places + records + slots
    words = -(-sizes.tokens // 32)
    bits = sizes.rows * sizes.blocks * words * _WORD
    lists = sizes.rows * work.groups * (2 ** group_of(sizes.blocks) - 1)
    counts = lists * (-(-words // CHUNK)) * _WORD
    modelled = (
        sizes.rows * sizes.tokens * sizes.blocks  # kept pairs, a byte each
        + 3 * bits  # written, read to count, read to scatter
        + 2 * counts
        + 2 * places  # lists of queries, written and read again
        + (work.entries * 8 + places if plan.q_order is not None else 0)  # turned into tokens
        + 2 * work.tiles * 16  # what a tile is, written and read again
        + records
        + slots  # filled with -1
        + work.entries * _WORD
    )
    return Traffic(least, modelled)


def _blocked_index(plan: Plan, work: TileWork) -> Traffic:
    """Return the bytes from kept blocks to tiles: places of queries, runs of kept blocks, records."""
    pattern, heads = plan.pattern, plan.batch * plan.heads
    lines, columns = pattern.keep.shape[2:]
    order = plan.q_order
    orders = heads if order is not None and order.dim() == 3 else 1
    places = orders * (work.tiles // heads) * work.rows * _WORD
    segments, records = work.segments * 2 * _WORD, work.tiles * _RECORD
    least = _stored(pattern.keep) + _stored(order) + places + segments + records
    states = work.lists * lines * columns
    modelled = (
        states  # kept blocks, a byte each
        + (2 * states if pattern.rule is not None else 0)  # classified by the rule, then read in their place
        + (orders * plan.layout.tokens * 8 if order is not None else 0)
        + places
        + segments
        + work.lists * lines * 2 * _WORD  # runs and steps of each line
        + heads * lines * lines * _WORD  # the steps of all lines, read by each to find its rank
        + records
    )
    return Traffic(least, modelled)


def _attend(sizes: _Sizes, work: TileWork) -> Traffic:
    """Return the bytes of the queries of each tile, the keys and values of each step, and the rows that are written.

    Direct rows are written to their tokens, and partial results to their places. The kernel writes all places of a
    tile.
    """
    row, width = sizes.head_dim * sizes.itemsize, _width(sizes) * sizes.itemsize
    out = width + _WORD if work.groups else row + _WORD
    least = work.active_queries * row + work.active_keys * 2 * width + work.entries * out
    modelled = (
        work.tiles * work.rows * _WORD
        + work.tiles * _RECORD
        + work.entries * row
        + work.steps * work.keys * 2 * width
        + (work.tiles * work.rows if work.groups else work.entries) * out
    )
    return Traffic(least, modelled)


def _merge(sizes: _Sizes, work: TileWork) -> Traffic:
    """Return the bytes of merging the partial results of every query into one row. Nothing is read twice."""
    partial = work.entries * (_width(sizes) * sizes.itemsize + _WORD)
    slots = sizes.rows * sizes.tokens * work.groups * _WORD
    moved = slots + partial + sizes.q + sizes.rows * sizes.tokens * _WORD
    return Traffic(moved, moved)


def _width(sizes: _Sizes) -> int:
    from attnbench.kernels.gpu.arrange import padded_width

    return padded_width(sizes.head_dim)


def _stored(tensor: Tensor | None) -> int:
    """Return the bytes that a tensor really takes. Expanded dimensions count once."""
    if tensor is None:
        return 0
    size = tensor.itemsize
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size
