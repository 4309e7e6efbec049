"""Which budget and which partition hold most of the weight at one density, for rules that score queries by block means.

The reviewers' question is whether the best pairs of a whole head (VMoBA's global selection) lose keys that matter to
some queries: so every rule is compared at the same density, and its recall also over the queries that it serves worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.analysis.attention import told
from attnbench.analysis.call import KINDS, Finding, How, Seen
from attnbench.analysis.cuts import RULES, keep
from attnbench.analysis.estimates import of_mean, of_statistic
from attnbench.analysis.head import token_shares
from attnbench.analysis.kept import TENTH, lowest
from attnbench.kernels.grid import Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.selection import pool_blocks
from attnbench.results.records.cells import canonical_json

DENSITIES = (0.25, 0.5)
"""Of the comparison where none is asked for."""

WITHIN = 0.02
"""How far a density may be from the one asked for, as a share of it."""

FIXED, GLOBAL = "topk_query", "minmax_head"


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """The blocks that queries of a head choose from; each query keeps its own block besides.

    Attributes:
        scores: [m, blocks - 1], of the blocks of other tokens, times 1/√head_dim.
        sizes: [m, blocks - 1], their tokens.
        mass: [m, blocks - 1], the query's weight on them.
        own_mass: [m], the query's weight on its own block.
        least: the density of the own blocks alone.
    """

    scores: Tensor
    sizes: Tensor
    mass: Tensor
    own_mass: Tensor
    least: float

    def recalls(self, rule: str, densities: Sequence[float]) -> list[Tensor]:
        """Return the weight [m] that each query keeps at densities that count own blocks in, of at least theirs."""
        rest = [(density - self.least) / (1 - self.least) for density in densities]
        kept = keep(RULES[rule], self.scores, self.sizes, rest)
        return list((self.own_mass + (self.mass * kept).sum(2)).double().cpu())


def measure_budgets(seen: Seen, how: How) -> Iterator[Finding]:
    """Yield the recall of every rule and partition at one density, what a global budget gains, and the best partition.

    ``cut_recall_RULE_PARTITION``: the mean weight that queries keep, and of two rules the mean of each tenth of them,
    worst first.
    ``global_gain_PARTITION``: by how much the best pairs of the head hold more than a fixed number of blocks a query;
    ``global_gain_worst_PARTITION``: the same over the tenth of the queries that each serves worst.
    ``partition_recall_PARTITION``: the mean over heads and queries, for the best pairs of each head;
    ``partition_regret``: what the layer's own partition (VMoBA's, layer mod 3) holds less than the best one, of each
    head and of the layer.
    """
    densities = DENSITIES if how.density is None else (how.density,)
    recalls = {kind: _recalls(seen, kind, densities) for kind in KINDS}
    for density in densities:
        settings = canonical_json({"density": density})
        there = {kind: found[density] for kind, found in recalls.items() if density in found}
        for kind, of_heads in there.items():
            for head, of_rules in enumerate(of_heads):
                yield from _rules(seen, head, kind, of_rules, settings)
        lacking = {kind: _lacks(seen, kind, density) for kind in KINDS if kind not in there}
        for kind, reason in lacking.items():
            yield Finding.skipped(f"global_gain_{kind}", reason, settings=settings)
            yield Finding.skipped(f"global_gain_worst_{kind}", reason, settings=settings)
        chosen = {kind: [each[GLOBAL] for each in of_heads] for kind, of_heads in there.items()}
        yield from _partitions(seen, chosen, lacking, settings)


def _recalls(seen: Seen, kind: str, densities: Sequence[float]) -> dict[float, list[dict[str, Tensor]]]:
    """Return by density, of each head and rule, the weight [m] that queries keep of a partition."""
    able = [density for density in densities if not _lacks(seen, kind, density)]
    found: dict[float, list[dict[str, Tensor]]] = {density: [] for density in able}
    if not able:
        return found
    for head in range(seen.call.q.shape[1]):
        choices = choices_of(seen, head, kind)
        by_rule = {rule: choices.recalls(rule, able) for rule in RULES}
        for number, density in enumerate(able):
            found[density].append({rule: recalls[number] for rule, recalls in by_rule.items()})
    return found


def _partitions(
    seen: Seen, chosen: Mapping[str, Sequence[Tensor]], lacking: Mapping[str, str], settings: str
) -> Iterator[Finding]:
    """Yield the recall of each partition, and what the layer's own holds less, of each head and of the layer.

    Args:
        seen: the call.
        chosen: the weight [m] that queries of each head keep, by partition.
        lacking: why the other partitions have none.
        settings: of the rows.
    """
    tokens, n = seen.call.layout.grid.tokens, len(seen.queries)
    means = {kind: torch.stack(list(of_heads)).mean(0) for kind, of_heads in chosen.items()}
    for kind, recall in means.items():
        yield told(f"partition_recall_{kind}", of_mean(recall, tokens), None, n, settings=settings)
    own = KINDS[seen.call.layer % len(KINDS)]
    if own in lacking or len(means) < 2:
        reason = lacking.get(own, "no other partition can be compared")
        yield Finding.skipped("partition_regret", reason, settings=settings)
        return
    units: list[tuple[int | None, Mapping[str, Tensor]]] = [(None, means)]
    units += [(head, {kind: each[head] for kind, each in chosen.items()}) for head in range(seen.call.q.shape[1])]
    for head, recalls in units:
        best = max(recalls, key=lambda kind: float(recalls[kind].mean()))
        figure = of_mean(recalls[best] - recalls[own], tokens)
        yield told("partition_regret", figure, head, n, label=best, settings=settings)


def _lacks(seen: Seen, kind: str, density: float) -> str:
    """Return why a partition leaves nothing to choose at a density; empty if it does."""
    least = token_shares(seen.call.layout.grid, seen.cuboids)[f"own_block_{kind}"]
    if least == 1:
        return f"partition {kind} has one block only"
    if least > density * (1 - WITHIN):
        return f"own blocks of partition {kind} are {least:.0%} of the pairs, and density {density:g} was asked for"
    return ""


def choices_of(seen: Seen, head: int, kind: str) -> Choices:
    """Return the blocks of a partition, of at least two, that the sampled queries of a head choose from."""
    call, found = seen.call, seen.maps[head]
    q, k, _ = call.head(head)
    video = call.layout.video
    partition = partition_cuboids(Layout(call.layout.grid), seen.cuboids[kind], q.device)
    means = pool_blocks(k[None, None, video], partition.order, partition.offsets)[0, 0]
    places = found.places.to(q.device)
    scores = q[video][places].to(means.dtype) @ means.T * call.scale
    own = partition.own[places]
    others = torch.arange(partition.blocks - 1, device=q.device)[None].expand(len(places), -1)
    others = others + (others >= own[:, None])
    mass, sizes, own_size = found.blocks[kind], partition.sizes[others], partition.sizes[own]
    least = float(own_size.double().sum() / (own_size.sum() + sizes.sum()).double())
    return Choices(
        scores.gather(1, others), sizes, mass.gather(1, others), mass.gather(1, own[:, None]).squeeze(1), least
    )


def _rules(seen: Seen, head: int, kind: str, recalls: dict[str, Tensor], settings: str) -> Iterator[Finding]:
    tokens, n = seen.call.layout.grid.tokens, len(seen.queries)
    for rule, recall in recalls.items():
        tenths, shape = None, ""
        if rule in (GLOBAL, FIXED):
            tenths = torch.stack([part.mean() for part in recall.sort().values.tensor_split(TENTH) if len(part)])
            shape = f"tenth={len(tenths)}"
        figure = of_mean(recall, tokens)
        yield told(f"cut_recall_{rule}_{kind}", figure, head, n, points=tenths, shape=shape, settings=settings)
    best, fixed = recalls[GLOBAL], recalls[FIXED]
    yield told(f"global_gain_{kind}", of_mean(best - fixed, tokens), head, n, settings=settings)

    def worst(at: Tensor) -> float:
        return lowest(best[at], TENTH) - lowest(fixed[at], TENTH)

    yield told(f"global_gain_worst_{kind}", of_statistic(worst, len(best), tokens), head, n, settings=settings)
