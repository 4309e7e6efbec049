"""``attnbench.analyze``: the measures of one call of attention as arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attnbench.analysis.call import KINDS, AttentionCall, Blocks, How, Seen, see
from attnbench.analysis.head import SHARES, distances, mean_distance, own_masses, pairs_needed, query_importance
from attnbench.analysis.stream import HeadMap
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, whole_number
from attnbench.methods.arguments import prepare


@torch.no_grad()
def analyze(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = (0, 0),
    block: Sequence[object] | None = None,
    queries: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Measure the attention map of every head: entropy, locality, concentration, and what queries ask for.

    Maps are read a few rows at a time, so memory grows with N and not with N². Everything about places is of video
    queries over video keys, whose weights are scaled to add up to 1.

    Args:
        q: [heads, N, head_dim], or [1, heads, N, head_dim]. N = text[0] + T·H·W + text[1].
        k, v: as q, or with fewer heads that divide q's.
        grid: the token grid (T, H, W), also as "21x45x80".
        text: text tokens before and after the video.
        block: (t, h, w) tokens of the 3-D partition: that in 1-D has t whole frames, and that in 2-D patches of h × w
            through all frames. Also three blocks (t, (h, w), (t, h, w)), as VMoBA's ``partition``, whose default for
            the grid is the default.
        queries: of each head to look at, drawn at random from as many equal stretches of the sequence. Default: all
            where a head has at most 4 million pairs (on a GPU 8.6 billion), otherwise 512.
        seed: of the sample.

    Returns:
        By name, on the CPU; float32, or float64 for such inputs. n queries are looked at, m of them video tokens.

        - ``queries``: int64 [n], their tokens.
        - ``entropy`` (natural logarithm), ``entropy_normalised`` (over ln N) and ``energy`` (squared length of the
          output): [heads, n].
        - ``same_place_mass`` (the same (h, w) in all frames), ``same_frame_mass``, and ``own_block_mass_1d``, ``_2d``
          and ``_3d``: [heads], the mean weight there.
        - ``frame_mass`` [heads, T], ``row_mass`` [heads, H] and ``column_mass`` [heads, W]: the mean weight at each
          distance; ``mean_dt``, ``mean_dy`` and ``mean_dx`` [heads]: the mean distance.
        - ``pairs_needed_1d`` and so on: [heads, 2], the smallest fraction of (query, block) pairs that holds 50 and
          90 % of the weight.
        - ``query_importance_1d`` and so on: [heads, T·H·W], the sum of a query's largest quarter of block shares, which
          are similarities to block means, min-max normalised over the head (VMoBA, eq. 3); of all video queries.

        Definitions are those of docs/analysis.md.

    Raises:
        BadInput: for tensors that are missing, do not fit the grid, or hold NaN or Inf; for a batch of more than one.
    """
    call, how = _checked(q, k, v, grid, text, block, queries, seed)
    seen = see(call, how)
    heads = [_head(seen, head, found) for head, found in enumerate(seen.maps)]
    kept = torch.float64 if q.dtype == torch.float64 else torch.float32
    measures = {name: torch.stack([each[name] for each in heads]).to("cpu", kept) for name in heads[0]}
    return {"queries": seen.queries, **measures}


def _head(seen: Seen, head: int, found: HeadMap) -> dict[str, Tensor]:
    layout, cuboids, (q, k, _) = seen.call.layout, seen.cuboids, seen.call.head(head)
    if not len(found.frames):
        raise BadInput("none of the queries that were looked at is a video token: look at more")
    measures = {
        "entropy": found.entropy,
        "entropy_normalised": found.entropy / math.log(max(2, layout.tokens)),
        "energy": found.energy,
    }
    masses = own_masses(found, layout.grid, cuboids)
    for name, mass in masses.items():
        base, _, kind = name.rpartition("_")
        measures[f"{base}_mass_{kind}" if kind in KINDS else f"{name}_mass"] = mass.double().mean()
    for (axis, mass), name in zip(distances(found, layout.grid).items(), ("frame", "row", "column"), strict=True):
        measures[f"{name}_mass"] = mass.double().mean(0)
        measures[f"mean_{axis}"] = mean_distance(mass).double().mean()
    for kind, cuboid in cuboids.items():
        measures[f"pairs_needed_{kind}"] = pairs_needed(found.blocks[kind], SHARES)[0]
        measures[f"query_importance_{kind}"] = query_importance(q, k, layout, cuboid)
    return measures


def _checked(
    q: Tensor, k: Tensor, v: Tensor, grid: object, text: object, block: object, queries: object, seed: object
) -> tuple[AttentionCall, How]:
    """Return the call and how it is analysed; see ``analyze``."""
    given = []
    for name, x in (("q", q), ("k", k), ("v", v)):
        if isinstance(x, Tensor) and x.dim() == 4 and x.shape[0] != 1:
            raise BadInput(f"{name} holds a batch of {x.shape[0]}; analyze one item at a time, as {name}[:1]")
        given.append(x[None] if isinstance(x, Tensor) and x.dim() == 3 else x)
    one_q, one_k, one_v = given
    layout = prepare(one_q, one_k, one_v, "full", grid, text, 0, None, None, None, {})[2].layout
    if v is None:
        raise BadInput("v is None; it must be a tensor like k, because energy is of the outputs")
    for name, x in zip("qkv", given, strict=True):
        if bad := int((~torch.isfinite(x)).sum()):
            raise BadInput(f"{name} holds {bad} NaN or Inf values as {str(x.dtype).removeprefix('torch.')}")
    count = None if queries is None else whole_number(queries)
    if queries is not None and (count is None or count < 1):
        raise BadInput(f"queries is {queries!r}; it must be a whole number of at least 1")
    number = whole_number(seed)
    if number is None or number < 0:
        raise BadInput(f"seed is {seed!r}; it must be a whole number of at least 0")
    return AttentionCall(one_q, one_k, one_v, layout), How(count, None if block is None else read_blocks(block), number)


def read_blocks(block: object) -> Blocks:
    """Return the blocks of the three partitions from (t, h, w), or from (t, (h, w), (t, h, w)).

    Raises:
        BadInput: if it is neither, of whole numbers of at least 1.
    """
    parts = list(block) if isinstance(block, (tuple, list)) else []
    if len(parts) == 3 and all(whole_number(part) is not None for part in parts):
        parts = [parts[0], parts[1:], parts]
    if len(parts) == 3 and isinstance(parts[1], (tuple, list)) and isinstance(parts[2], (tuple, list)):
        t, *others = (whole_number(x) or 0 for x in (parts[0], *parts[1], *parts[2]))
        if len(parts[1]) == 2 and len(parts[2]) == 3 and min(t, *others) >= 1:
            return t, (others[0], others[1]), (others[2], others[3], others[4])
    raise BadInput(
        f"block is {block!r}; it must be three whole numbers of at least 1, as (7, 15, 20), or three blocks, as "
        "(3, (9, 10), (7, 15, 20))"
    )
