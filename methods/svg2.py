"""SVG2: k-means on queries and on keys; a cluster of queries keeps the key clusters with most of its softmax mass.

Every head has clusters of its own, of any size, some of them empty. They are kept between calls: the centroids of a
call are the state with which the next one begins, which then takes few steps. The first call begins with tokens that
are drawn with replacement, by the layer, the same for all heads. Labels belong to the centroids before the last step,
and what is ranked are the centroids after it, as published. Published selection rounds to bfloat16 on the way; here it
is float32. Heads of queries that share keys share their clusters.

Steps end for all heads of a batch item together. Heads count as independent all the same: alone, a head would end
earlier only where its centroids still move, but all of them by less than 1e-4 (docs/methods.md, "Heads of svg2").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    cluster,
    cluster_flops,
    fit,
    main,
    phase,
    remembered,
    row_ops,
    score_means,
)

STEPS = 50
"""Denoising steps of a clip, as published for Wan and HunyuanVideo."""


MOST_ITERATIONS = 1000
"""Centroids have long settled by then, and every step takes its time, whether they have or not."""


@dataclass(frozen=True)
class SVG2(Recipe):
    """Settings.

    Attributes:
        q_clusters: clusters of the queries of a head.
        k_clusters: clusters of its keys.
        mass: the softmax mass that a cluster of queries keeps, with the cluster that exceeds it; in (0, 1].
        least_share: the share of the key clusters that it keeps at least, in [0, 1].
        first_iterations: steps of k-means in a call without a state.
        iterations: steps in the others.
    """

    q_clusters: int = 300
    k_clusters: int = 1000
    mass: float = 0.9
    least_share: float = 0.1
    first_iterations: int = 50
    iterations: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("q_clusters", "k_clusters", "first_iterations", "iterations"):
            object.__setattr__(self, name, as_ints(name, getattr(self, name)))
        for name in ("first_iterations", "iterations"):
            if getattr(self, name) > MOST_ITERATIONS:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at most {MOST_ITERATIONS}")
        object.__setattr__(self, "mass", as_density("mass", self.mass))
        object.__setattr__(self, "least_share", as_number("least_share", self.least_share, low=0.0, high=1.0))


def resolve(settings: SVG2, layout: Layout) -> SVG2:
    """Cut the default numbers of clusters off at that of the video tokens.

    Raises:
        BadInput: for a chosen number that is larger.
    """
    tokens = (layout.grid.tokens,)
    return replace(
        settings,
        q_clusters=fit("q_clusters", settings.q_clusters, SVG2.q_clusters, tokens),
        k_clusters=fit("k_clusters", settings.k_clusters, SVG2.k_clusters, tokens),
    )


def plan(settings: SVG2, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Cluster the video tokens, rank the key clusters for each cluster of queries, and cut by mass."""
    settings = resolve(settings, call.layout)
    layout, (batch, heads), group = call.layout, q.shape[:2], q.shape[1] // k.shape[1]
    (before, after), video = layout.text, layout.video
    steps = settings.first_iterations if call.state is None else settings.iterations
    begin = _first(settings, q, k, call) if call.state is None else _centroids(settings, q, k, call.state)
    queries = cluster(q[:, :, video], begin["q_centroids"], steps)
    keys = cluster(k[:, :, video], begin["k_centroids"], steps)
    k_offsets, k_order = (x.repeat_interleave(group, 1) for x in (keys.offsets, keys.order))
    scores = score_means(queries.centroids, keys.centroids)
    shares = row_ops.row_shares(scores, q.shape[3] ** -0.5, k_offsets.diff())
    least = max(1, int(settings.least_share * settings.k_clusters))
    keep = row_ops.cut_mass_row(shares, settings.mass, crossing="past", least=least)
    with phase("select"):
        text = (int(before > 0), int(after > 0))
        keep = pad(keep, (*text, *text), value=True)
        pattern = BlockPattern(_offsets(queries.offsets, layout), _offsets(k_offsets, layout), keep)
        orders = (_order(queries.order, layout), _order(k_order, layout))
    flops = cluster_flops(q[:, :, video].shape, settings.q_clusters, steps) + 2 * scores.numel() * q.shape[3]
    flops += cluster_flops(k[:, :, video].shape, settings.k_clusters, steps)
    state = {"q_centroids": queries.centroids, "k_centroids": keys.centroids}
    return Plan(layout, batch, heads, pattern, *orders, selection_flops=flops, state=state)


def _first(settings: SVG2, q: Tensor, k: Tensor, call: Call) -> dict[str, Tensor]:
    """Return the tokens that a first call begins with."""
    wide, before, n = _wide(q), call.layout.text[0], call.layout.grid.tokens
    return {
        name: x[:, :, before + _drawn(count, n, call.layer, which, x.device)].to(wide)
        for which, (name, x, count) in enumerate(
            (("q_centroids", q, settings.q_clusters), ("k_centroids", k, settings.k_clusters))
        )
    }


@remembered(128)
def _drawn(count: int, tokens: int, layer: int, which: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(2 * layer + which)
    return torch.randint(tokens, (count,), generator=generator).to(device)


def _centroids(settings: SVG2, q: Tensor, k: Tensor, state: object) -> Mapping[str, Tensor]:
    """Return the centroids of a state.

    Raises:
        BadInput: for a state that does not fit the call.
    """
    dtypes, (batch, _, _, width) = (_wide(q),), q.shape
    wanted = {
        "q_centroids": (dtypes, (batch, q.shape[1], settings.q_clusters, width)),
        "k_centroids": (dtypes, (batch, k.shape[1], settings.k_clusters, width)),
    }
    return as_state("svg2", state, wanted, q.device)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _offsets(offsets: Tensor, layout: Layout) -> Tensor:
    """Return where the clusters of each head begin, with a block of text before and after, int64 [B, H, blocks + 1]."""
    before, after = layout.text
    return pad(pad(before + offsets, (int(before > 0), 0)), (0, int(after > 0)), value=layout.tokens)


def _order(video: Tensor, layout: Layout) -> Tensor:
    """Return the tokens of each head by cluster, int64 [B, H, N]; text stays where it is."""
    (before, after), n = layout.text, layout.tokens
    if (before, after) == (0, 0):
        return video
    rank = torch.arange(n, device=video.device).expand(*video.shape[:2], -1)
    return torch.cat([rank[..., :before], before + video, rank[..., n - after :]], -1)


def mass_at(settings: SVG2, layout: Layout, density: float) -> dict[str, float]:
    """Use the density as the mass."""
    return {"mass": density}


def cycle(settings: SVG2, layer: int) -> Cycle:
    """The first call of a clip takes the first iterations; a clip of 50 steps has one."""
    return Cycle(warm=(0,), steady=1, refresh=0, every=STEPS, anew=True)


def twin(settings: SVG2, layout: Layout, layer: int) -> tuple[SVG2, Layout]:
    """Up to 3 × 5 × 7 tokens, in up to 6 clusters of queries and 10 of keys, which take up to 4 steps."""
    t, h, w = (min(side, most) for side, most in zip(layout.grid.shape, (3, 5, 7), strict=True))
    small = replace(
        settings,
        q_clusters=min(6, settings.q_clusters, t * h * w),
        k_clusters=min(10, settings.k_clusters, t * h * w),
        first_iterations=min(4, settings.first_iterations),
    )
    return small, Layout(Grid(t, h, w), layout.few_text)


METHOD = Method(
    name="svg2",
    summary="Sparse VideoGen 2: k-means on queries and on keys; query clusters keep the key clusters with most mass",
    source=Source(
        "Sparse VideoGen2: Accelerate Video Generation with Semantic-Aware Permutation (NeurIPS 2025)",
        "https://arxiv.org/abs/2505.18875",
        "section 4; the rule of github.com/svg-project/Sparse-VideoGen at 5ce7b01",
    ),
    settings=SVG2,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting=DensitySetting(("mass",), mass_at),
    draws_by_layer=True,
    cycle=cycle,
)

if __name__ == "__main__":
    main(METHOD)
