"""Hiding pairs by words of bits in the Gluon kernels; ``mask_words`` makes the words.

A thread of a computing warpgroup holds, of every eight neighbouring scores of its two rows, the pair of its lane. The
bits of a word have the same order, so that a score costs one test with a constant.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from attnbench.kernels.gpu.work import MaskWords

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


def word_arrays(
    masks: MaskWords | None, segments: Tensor, chunk_of: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return words, lines of rows, chunks of segments, and axes as kernel arguments.

    Without masks there are 0 axes, and the arrays are not read.
    """
    if masks is None:
        return segments, segments, segments, 0
    return masks.words, masks.rows_of, segments if chunk_of is None else chunk_of, masks.axes


@gluon.jit
def stop_of(end, MASKED: gl.constexpr):
    """Return the end of a segment, which is negative if the segment is masked."""
    if MASKED:
        return gl.where(end < 0, -end, end)
    else:
        return end


@gluon.jit
def rows_of_queries(rows_of, queries, place, chunks, AXES: gl.constexpr):
    """Return where the words of the queries at 64 places begin; see ``word_rows``."""
    if AXES == 0:
        return (0, 0, 0)
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
    if AXES == 0:
        return 0
    else:
        part += 1
        if new:
            part = gl.load(chunk_of + segment) * PARTS
        return part


@gluon.jit
def load_words(words, rows, chunk, AXES: gl.constexpr):
    """Return which columns of a chunk each row keeps on all axes, int32 [64, 4]."""
    if AXES == 0:
        return 0
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
