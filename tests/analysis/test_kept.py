"""What methods keep of full attention: against the maps themselves, head by head and query by query."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.analysis.budgets import choices_of, measure_budgets
from attnbench.analysis.call import AttentionCall, Finding, How, see
from attnbench.analysis.cuts import RULES
from attnbench.analysis.kept import kept_measurer, kept_of
from attnbench.analysis.plans import Planner
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.methods.entries import Entry

GRID = Grid(4, 6, 8)
TILES = Entry("sta", {"tile": [2, 3, 4], "window": [1, 1, 1]})
BLOCK = (1, (3, 4), (2, 3, 4))


def call(text: tuple[int, int] = (0, 0), kv_heads: int = 2, layer: int = 0, grid: Grid = GRID) -> AttentionCall:
    generator = torch.Generator().manual_seed(layer)
    layout = Layout(grid, text)

    def draw(heads: int) -> Tensor:
        return torch.randn(1, heads, layout.tokens, 16, generator=generator, dtype=torch.float64)

    return AttentionCall(2 * draw(2), draw(kv_heads), draw(kv_heads), layout, layer)


def full_map(given: AttentionCall, head: int) -> Tensor:
    q, k, _ = given.head(head)
    return (q @ k.T / math.sqrt(16)).softmax(-1)


def measured(given: AttentionCall, how: How) -> dict[tuple[str, int | None, str], Finding]:
    found = kept_measurer(Planner(how))(see(given, how))
    return {(each.measure, each.head, each.method): each for each in found}


@pytest.mark.parametrize("text", [(0, 0), (3, 0), (1, 2)])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_recall_and_error_are_those_of_the_whole_map(text: tuple[int, int], kv_heads: int) -> None:
    given = call(text, kv_heads)
    found = measured(given, How(methods=(TILES,)))
    arguments = {"method": "sta", "grid": GRID, "text": text, **TILES.settings}
    plan = attnbench.select(given.q, given.k, **arguments)
    sparse = attnbench.attention(given.q, given.k, given.v, **arguments)
    dense = attnbench.attention(given.q, given.k, given.v, method="full", grid=GRID, text=text)
    for head in range(2):
        weights = full_map(given, head)
        recall = (weights * plan.token_mask()[0, head]).sum(1)
        row = found["mass_recall", head, "sta"]
        assert row.value == pytest.approx(float(recall.mean()), rel=1e-9)
        assert (row.lo, row.hi) == (row.value, row.value)
        assert row.density == pytest.approx(plan.density)
        ordered = recall.sort().values
        tenth, hundredth = ordered[: len(recall) // 10].mean(), ordered[: max(1, len(recall) // 100)].mean()
        assert found["mass_recall_worst_tenth", head, "sta"].value == pytest.approx(float(tenth), rel=1e-9)
        assert found["mass_recall_worst", head, "sta"].value == pytest.approx(float(hundredth), rel=1e-9)
        error = (sparse - dense)[0, head].norm() / dense[0, head].norm()
        assert found["approximation_error", head, "sta"].value == pytest.approx(float(error), rel=1e-9)


def test_the_maps_say_where_weight_is_lost() -> None:
    given = call()
    found = measured(given, How(methods=(TILES,)))
    mask = attnbench.select(given.q, given.k, method="sta", grid=GRID, **TILES.settings).token_mask()[0, 0]
    weights = full_map(given, 0)
    recall = (weights * mask).sum(1).view(GRID.shape)
    row = found["mass_recall", 0, "sta"]
    assert row.shape == "h=6,w=8"
    assert list(row.points) == pytest.approx(recall.mean(0).flatten().tolist(), rel=1e-9)
    lost = (weights * ~mask).view(4, 48, 4, 48).sum((1, 3)) / GRID.tokens
    curve = [float(sum(lost[a, b] for a in range(4) for b in range(4) if abs(a - b) == d)) for d in range(4)]
    row = found["mass_lost", 0, "sta"]
    assert (row.shape, list(row.points)) == ("dt=4", pytest.approx(curve, rel=1e-9))
    assert row.value == pytest.approx(sum(curve))


def test_methods_are_brought_to_one_density_and_what_cannot_be_planned_is_skipped() -> None:
    methods = (Entry("vmoba", {}), Entry("sliding-window", {}), Entry("full", {}), Entry("sta", {"window": [9, 9]}))
    found = measured(call(grid=Grid(6, 8, 8), layer=1), How(methods=methods, density=0.4))
    for name in ("vmoba", "sliding-window"):
        assert found["mass_recall", 0, name].density == pytest.approx(0.4, rel=0.1)
    assert found["mass_recall", 0, "full"].value == pytest.approx(1)
    skipped = found["mass_recall", None, "sta"]
    assert (skipped.status, skipped.value) == ("skipped", None)
    assert "window" in skipped.reason


def test_sampled_queries_give_intervals_that_hold_the_whole() -> None:
    given = call(grid=Grid(6, 16, 16))
    exact = measured(given, How(queries=GRID.tokens * 8, methods=(TILES,)))
    sampled = measured(given, How(queries=200, methods=(TILES,)))
    for name in ("mass_recall", "mass_recall_worst_tenth", "approximation_error"):
        value, row = exact[name, 0, "sta"].value, sampled[name, 0, "sta"]
        assert row.lo is not None
        assert row.hi is not None
        assert value is not None
        assert row.lo < row.hi
        assert row.lo - (row.hi - row.lo) < value < row.hi + (row.hi - row.lo)


@pytest.mark.parametrize("kind", ["1d", "2d", "3d"])
def test_a_rule_keeps_the_mass_of_the_blocks_it_chose_and_of_the_own_one(kind: str) -> None:
    given = call()
    seen = see(given, How(block=BLOCK))
    partition = partition_cuboids(given.layout, seen.cuboids[kind], torch.device("cpu"))
    place = partition.own
    weights = full_map(given, 1)
    mass = torch.zeros(GRID.tokens, partition.blocks, dtype=weights.dtype).index_add_(1, place, weights)
    q, k, _ = given.head(1)
    means = torch.stack([k[place == block].mean(0) for block in range(partition.blocks)])
    scores = q @ means.T
    best = scores.scatter(1, place[:, None], torch.inf).topk(2, dim=1).indices  # the own block and the best other one
    wanted = mass.gather(1, best).sum(1)
    choices = choices_of(seen, 1, kind)
    found = choices.recalls("topk_query", [2 / partition.blocks])[0]
    assert choices.least == pytest.approx(1 / partition.blocks)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-6)


def test_a_global_budget_gains_on_average_and_loses_where_queries_score_low() -> None:
    """Half of the queries score every block high, so the best pairs of the head are all theirs."""
    grid = Grid(4, 4, 4)
    direction = torch.zeros(8, dtype=torch.float64)
    direction[0] = 1
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(1, 1, 64, 8, generator=generator, dtype=torch.float64) + 4 * direction
    loud = (torch.arange(64) % 2 == 0).double()[None, None, :, None]
    q = torch.randn(1, 1, 64, 8, generator=generator, dtype=torch.float64) + 8 * loud * direction
    how = How(block=(1, (2, 2), (2, 2, 2)), density=0.5)
    found = {each.measure: each for each in measure_budgets(see(AttentionCall(q, k, k, Layout(grid), 0), how), how)}
    worst = found["global_gain_worst_3d"].value
    assert worst is not None
    assert worst < -0.1
    tenths = found["cut_recall_topk_query_3d"].points, found["cut_recall_minmax_head_3d"].points
    assert [len(each) for each in tenths] == [10, 10]
    assert tenths[0][0] - tenths[1][0] > 0.1


def test_the_best_partition_of_a_layer_is_told_with_what_its_own_one_loses() -> None:
    """Keys of a frame are alike and frames differ: ranges of frames (1-D) score best."""
    grid = Grid(8, 4, 4)
    frames = 6 * torch.nn.functional.one_hot(torch.arange(8).repeat_interleave(16), 8).double()
    q = frames.roll(16, 0)[None, None]
    how = How(block=(1, (2, 2), (4, 2, 2)), density=0.3)
    for layer, own in enumerate(("1d", "2d", "3d")):
        call = AttentionCall(q, frames[None, None], q, Layout(grid), layer)
        rows = list(measure_budgets(see(call, how), how))
        found = {each.measure: each for each in rows if each.head is None}
        row = found["partition_regret"]
        assert row.label == "1d"
        recalls = {kind: found[f"partition_recall_{kind}"].value or 0.0 for kind in ("1d", "2d", "3d")}
        assert row.value == pytest.approx(recalls["1d"] - recalls[own])
        assert (row.value == 0) == (own == "1d")
        assert [each.head for each in rows if each.measure == "partition_regret"] == [None, 0]


def test_partitions_that_leave_nothing_to_choose_are_skipped_with_the_reason() -> None:
    how = How(block=(4, (3, 4), (4, 3, 4)), density=0.2)
    found = {each.measure: each for each in measure_budgets(see(call(), how), how)}
    assert found["global_gain_1d"].reason == "partition 1d has one block only"
    assert "own blocks of partition 2d are 25% of the pairs" in found["global_gain_2d"].reason
    assert found["partition_regret"].status == "skipped"


def test_every_rule_is_measured_at_both_densities_where_none_is_asked_for() -> None:
    found = list(measure_budgets(see(call(), How(block=BLOCK)), How(block=BLOCK)))
    for rule in RULES:
        rows = [each for each in found if each.measure == f"cut_recall_{rule}_3d" and each.head == 0]
        assert [each.settings for each in rows] == ['{"density":0.25}', '{"density":0.5}']
        assert 0 < (rows[0].value or 0) < (rows[1].value or 0) < 1


def test_planning_follows_states_and_happens_once_a_call() -> None:
    planner = Planner(How(methods=(Entry("vmoba", {}), Entry("mod-dit", {}))))
    first = call()
    plans = planner.plans(first)
    assert planner.plans(first) is plans
    kept = kept_of(first, 0, torch.arange(8), [each.plan for each in plans if each.plan is not None])
    assert [each.method for each in plans] == ["vmoba", "mod-dit"]
    assert float(kept[0].recall.mean()) < 1
