"""Hiding pairs by words of bits in the Gluon kernels; ``mask_words`` makes the words.

A rule that only says how far ahead a query sees needs no words of its own, because a row keeps the first keys of a step
up to a limit. Where all keys of a step lie before the limit of the first row, nothing is hidden.

A thread of a computing warpgroup holds, of every eight neighbouring scores of its two rows, the pair of its lane. The
bits of a word have the same order, so that a score costs one test with a constant.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from attnbench.kernels.gpu.work import MaskWords, RuleArrays

AHEAD = gl.constexpr(4)
"""What ``AXES`` is instead of a number of axes if the rule says how far ahead a query sees."""

BETWEEN = gl.constexpr(5)
"""What it is for a band."""

PAIRS_128 = gl.constexpr(
    gl.DistributedLinearLayout(
        reg_bases=[[0, 0, 0, 1], [8, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0], [0, 4, 0, 0], [0, 8, 0, 0]],
        lane_bases=[[0, 0, 1, 0], [0, 0, 2, 0], [1, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]],
        warp_bases=[[16, 0, 0, 0], [32, 0, 0, 0]],
        block_bases=[],
        shape=[64, 16, 4, 2],
    )
)
"""Scores [64, 128] as [rows, eights of columns, pairs, 2]."""

PAIRS_64 = gl.constexpr(
    gl.DistributedLinearLayout(
        reg_bases=[[0, 0, 0, 1], [8, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0], [0, 4, 0, 0]],
        lane_bases=[[0, 0, 1, 0], [0, 0, 2, 0], [1, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]],
        warp_bases=[[16, 0, 0, 0], [32, 0, 0, 0]],
        block_bases=[],
        shape=[64, 8, 4, 2],
    )
)
"""The same for scores [64, 64], whose bits are the lower half of a word."""

WORDS = gl.constexpr(gl.SliceLayout(1, gl.SliceLayout(3, PAIRS_128.value)))
"""Words [64, 4]: of each row, one for each lane."""


def mask_arguments(
    masks: MaskWords | None, rule: RuleArrays | None, queries: Tensor, chunk_of: Tensor | None = None
) -> tuple[tuple[Tensor, Tensor, Tensor, int], int]:
    """Return words, lines of rows, chunks of segments and number of chunks as kernel arguments, and ``AXES``.

    Of a band, the first two arrays are its bounds, and the number is the stride between heads. Otherwise, without
    words, no array is read, and the number is how many keys a query sees from its own token on, or 0 without a rule.
    """
    if masks is not None:
        chunks = queries if chunk_of is None else chunk_of
        return (masks.words, masks.rows_of, chunks, masks.words.shape[1]), masks.axes
    if rule is None:
        return (queries, queries, queries, 0), 0
    if rule.band:
        first, stop = rule.q_packed, rule.q_high - (rule.guard - 1)
        return (first, stop, queries, first.stride(0) if len(first) > 1 else 0), BETWEEN.value
    assert rule.ahead is not None
    return (queries, queries, queries, rule.ahead + 1), AHEAD.value


@gluon.jit
def stop_of(end, MASKED: gl.constexpr):
    """Return the end of a segment, which is negative if the segment is masked."""
    if MASKED:
        return gl.where(end < 0, -end, end)
    else:
        return end


@gluon.jit
def rows_of_queries(words, rows_of, queries, head, place, chunks, AXES: gl.constexpr):
    """Return where the words of the queries at 64 places begin; see ``word_rows``.

    Without words, return the first key that each of them does not see, and the least of these; or of a band, the first
    key that each of them keeps, and the first one after these.
    """
    if AXES == 0:
        return (0, 0, 0)
    elif AXES == AHEAD:
        token = gl.load(queries + place + gl.arange(0, 64, gl.SliceLayout(1, WORDS)))
        return (token + chunks, gl.load(queries + place) + chunks, 0)
    elif AXES == BETWEEN:
        token = gl.maximum(gl.load(queries + place + gl.arange(0, 64, gl.SliceLayout(1, WORDS))), 0)
        at = head.to(gl.int64) * chunks + token
        return (gl.load(words + at), gl.load(rows_of + at), 0)
    else:
        return word_rows(rows_of, gl.load(queries + place + gl.arange(0, 64, gl.SliceLayout(1, WORDS))), chunks, AXES)


@gluon.jit
def word_rows(rows_of, token, chunks, AXES: gl.constexpr):
    """Return where the words of rows begin, for each axis int32 [64, 4].

    ``token`` [64] in the layout of rows of WORDS says which entry of ``rows_of`` a row has; -1 stands for any.
    """
    lane = gl.expand_dims(gl.arange(0, 4, gl.SliceLayout(0, WORDS)), 0)
    where = rows_of + gl.where(token < 0, 0, token) * 3
    first = gl.expand_dims(gl.load(where) * chunks * 4, 1) + lane
    second = first
    third = first
    if AXES > 1:
        second = gl.expand_dims(gl.load(where + 1) * chunks * 4, 1) + lane
    if AXES > 2:
        third = gl.expand_dims(gl.load(where + 2) * chunks * 4, 1) + lane
    return (first, second, third)


@gluon.jit
def next_part(chunk_of, segment, new, part, PARTS: gl.constexpr, AXES: gl.constexpr):
    """Return which part of a chunk a step is, of PARTS parts a chunk, counted over all chunks.

    It is the next part, unless a segment begins.
    """
    if AXES == 0 or AXES >= AHEAD:
        return 0
    else:
        part += 1
        if new:
            part = gl.load(chunk_of + segment) * PARTS
        return part


@gluon.jit
def load_words(words, rows, chunk, AXES: gl.constexpr):
    """Return which columns of a chunk each row keeps on all axes, int32 [64, 4]. Without words, return ``rows``."""
    if AXES == 0:
        return 0
    elif AXES >= AHEAD:
        return rows
    else:
        word = gl.load(words + (rows[0] + chunk * 4))
        if AXES > 1:
            word &= gl.load(words + (rows[1] + chunk * 4))
        if AXES > 2:
            word &= gl.load(words + (rows[2] + chunk * 4))
        return word


@gluon.jit
def load_half_words(words, rows, half, AXES: gl.constexpr):
    """Return the same for half a chunk, 64 columns, in the lower halves of the words; halves count over all chunks."""
    if AXES == 0:
        return 0
    elif AXES >= AHEAD:
        return rows
    else:
        return load_words(words, rows, half >> 1, AXES) >> ((half & 1) * 16)


@gluon.jit
def hide(x, word, otherwise, COLUMNS: gl.constexpr, LAYOUT: gl.constexpr):
    """Replace what the words do not keep of x [64, COLUMNS], which is 64 or 128."""
    PAIRS: gl.constexpr = PAIRS_128 if COLUMNS == 128 else PAIRS_64
    words = gl.convert_layout(word, gl.SliceLayout(1, gl.SliceLayout(3, PAIRS)), assert_trivial=True)
    eight = gl.arange(0, COLUMNS // 8, gl.SliceLayout(0, gl.SliceLayout(2, gl.SliceLayout(3, PAIRS))))
    odd = gl.arange(0, 2, gl.SliceLayout(0, gl.SliceLayout(0, gl.SliceLayout(0, PAIRS))))
    eight = gl.expand_dims(gl.expand_dims(gl.expand_dims(eight, 0), 2), 3)
    odd = gl.expand_dims(gl.expand_dims(gl.expand_dims(odd, 0), 0), 0)
    bit = gl.expand_dims(gl.expand_dims(words, 1), 3) >> (eight * 2 + odd)
    pairs = gl.convert_layout(gl.reshape(x, [64, COLUMNS // 8, 4, 2]), PAIRS, assert_trivial=True)
    pairs = gl.where((bit & 1) != 0, pairs, otherwise)
    return gl.convert_layout(gl.reshape(pairs, [64, COLUMNS]), LAYOUT, assert_trivial=True)


@gluon.jit
def hide_ahead(x, limits, start, end, otherwise, COLUMNS: gl.constexpr, LAYOUT: gl.constexpr):
    """Replace what rows do not see of x [64, COLUMNS], whose columns are the keys from ``start`` on.

    A row sees the keys before its limit and before ``end``. If the least limit, that of the first row, hides none of
    them, nothing is done.
    """
    if start + COLUMNS > gl.minimum(limits[1], end):
        seen = gl.minimum(gl.maximum(gl.minimum(limits[0], end) - start, 0), COLUMNS)
        x = hide(x, _first_columns(seen), otherwise, COLUMNS, LAYOUT)
    return x


@gluon.jit
def hide_beside(x, limits, start, end, otherwise, COLUMNS: gl.constexpr, LAYOUT: gl.constexpr):
    """Replace what a band drops of x [64, COLUMNS], whose columns are the keys from ``start`` to before ``end``."""
    dropped = gl.minimum(gl.maximum(limits[0] - start, 0), COLUMNS)
    seen = gl.minimum(gl.maximum(gl.minimum(limits[1], end) - start, 0), COLUMNS)
    return hide(x, _first_columns(seen) & (_first_columns(dropped) ^ -1), otherwise, COLUMNS, LAYOUT)


@gluon.jit
def _first_columns(seen):
    """Return words [64, 4] with the bits of the first ``seen`` [64] columns, up to 128 of them."""
    seen = gl.expand_dims(seen, 1)
    lane = gl.expand_dims(gl.arange(0, 4, gl.SliceLayout(0, WORDS)), 0)
    bits = (seen >> 3) * 2 + gl.minimum(gl.maximum((seen & 7) - lane * 2, 0), 2)
    return gl.where(bits < 32, (1 << (bits & 31)) - 1, -1)
