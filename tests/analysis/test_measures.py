"""Single measures against brute force, closed forms and properties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.analysis.between import block_mass_measurer, mask_measurer
from attnbench.analysis.call import AttentionCall, Finding, How, see
from attnbench.analysis.estimates import gini, of_mean, of_statistic
from attnbench.analysis.head import head_class, pairs_needed
from attnbench.analysis.plans import Planner
from attnbench.analysis.session import measurers_of
from attnbench.analysis.similarity import measure_similarity
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods.entries import Entry

GRID = Grid(4, 8, 16)


def call_of(seed: int = 0, grid: Grid = GRID, *, step: int = 0, spread: float = 1.0, heads: int = 2) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (spread * torch.randn(1, heads, grid.tokens, 16, generator=generator) for _ in range(3))
    return AttentionCall(q, k, v, Layout(grid), 0, step)


def found_in(call: AttentionCall, how: How | None = None) -> dict[tuple[str, int | None], Finding]:
    how = how or How()
    seen = see(call, how)
    return {(each.measure, each.head): each for measure in measurers_of(how) for each in measure(seen)}


def test_equal_keys_give_a_uniform_map() -> None:
    call = call_of()
    flat = AttentionCall(call.q, torch.ones_like(call.k), call.v, call.layout, 0, 0)
    found = found_in(flat)
    n = GRID.tokens
    assert found["entropy", 0].value == pytest.approx(math.log(n))
    assert found["entropy_normalised", 1].value == pytest.approx(1)
    assert found["pairs_needed_50_3d", 0].value == pytest.approx(0.5, abs=0.1)
    for name in ("same_place", "same_frame", "own_block_1d", "own_block_2d", "own_block_3d"):
        assert found[f"{name}_lift", 0].value == pytest.approx(1, rel=1e-5)
    assert found["class_margin", 0].label == "global"
    assert found["sink_mass", 0].value == pytest.approx(1 / n)


def test_equal_queries_and_keys_are_equally_important() -> None:
    x = torch.ones(1, 1, GRID.tokens, 16)
    found = found_in(AttentionCall(x, x, x, Layout(GRID), 0, 0))
    for kind in ("1d", "2d", "3d"):
        assert found[f"importance_gini_{kind}", 0].value == pytest.approx(0, abs=1e-6)
        assert found[f"importance_cv_{kind}", 0].value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("axes", "label"), [((1, 2), "temporal"), ((0,), "spatial"), ((0, 1, 2), "local")])
def test_heads_that_look_at_one_thing_have_its_class(axes: tuple[int, ...], label: str) -> None:
    places = torch.stack(torch.meshgrid(*(torch.arange(side) for side in GRID.shape), indexing="ij"), -1).reshape(-1, 3)
    x = torch.cat([12 * torch.nn.functional.one_hot(places[:, axis], 16).float() for axis in axes], 1)
    if label == "local":  # the own cuboid of 2 x 3 x 2 tokens, and no place of it more than the others
        cells = places // torch.tensor([2, 3, 2])
        x = torch.cat([12 * torch.nn.functional.one_hot(cells[:, axis], 16).float() for axis in axes], 1)
    q = x[None, None]
    found = found_in(AttentionCall(q, q, q, Layout(GRID), 0, 0))
    assert found["class_margin", 0].label == label
    if label == "temporal":
        assert found["same_place_mass", 0].value == pytest.approx(1, abs=1e-3)
        assert found["mean_dy", 0].value == pytest.approx(0, abs=1e-2)


def test_the_class_needs_a_lift_above_two() -> None:
    assert head_class({"same_place": 1.9, "same_frame": 1.0, "own_block_3d": 0.5}) == ("global", 1.9)
    assert head_class({"same_place": 1.0, "same_frame": 6.0, "own_block_3d": 3.0}) == ("spatial", 2.0)


def test_pairs_needed_without_groups_of_queries_are_those_of_the_others() -> None:
    mass = torch.rand(40, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mass /= mass.sum(1, keepdim=True)
    found = pairs_needed(mass, (0.5, 0.9), groups=10)
    for group in range(10):
        left = mass[torch.arange(40) % 10 != group].flatten().sort(descending=True).values
        for place, share in enumerate((0.5, 0.9)):
            count = next(n for n in range(1, 300) if left[:n].sum() >= share * left.sum() - 1e-12)
            assert found[1 + group, place] == count / len(left)


def test_gini_is_the_mean_difference_over_twice_the_mean() -> None:
    values = torch.rand(30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = (values[:, None] - values[None]).abs().mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(float(wanted))
    assert gini(torch.tensor([0.0, 0.0, 0.0, 1.0])) == pytest.approx(0.75)


def test_intervals_of_samples_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(3)
    whole = torch.rand(2000, generator=generator, dtype=torch.float64) ** 3
    median = float(whole.median())
    means = medians = 0
    for _ in range(200):
        sample = whole[torch.randperm(2000, generator=generator)[:200]]
        by_mean = of_mean(sample, 2000)
        means += by_mean.lo <= float(whole.mean()) <= by_mean.hi
        by_square = of_statistic(lambda at, x=sample: float(x[at].square().mean() ** 0.5), 200, 2000)
        medians += by_square.lo <= float(whole.square().mean() ** 0.5) <= by_square.hi
    assert median > 0
    assert 180 <= means <= 200
    assert 180 <= medians <= 200
    exact = of_mean(whole, 2000)
    assert exact.lo == exact.value == exact.hi


def test_sampled_figures_lie_in_their_intervals_around_the_exact_ones() -> None:
    call = call_of(4, spread=2.0)
    every, some = found_in(call), found_in(call, How(queries=128))
    for key, whole in every.items():
        if whole.value is None or key[0] == "sink_mass":
            continue
        few = some[key]
        assert few.value is not None
        assert whole.lo == whole.hi == whole.value
        if few.lo is not None and few.hi is not None:
            slack = 2 * (few.hi - few.lo) + 1e-6
            assert few.lo - slack <= whole.value <= few.hi + slack, key


@pytest.mark.parametrize("grid", [GRID, Grid(8, 16, 20)])
def test_sinks_are_the_keys_that_receive_most_of_all_queries(grid: Grid) -> None:
    """One key of 512 tokens is looked at, and two of 2,560."""
    call = call_of(5, grid)
    q, k = call.q.clone(), call.k.clone()
    q[..., 0], k[..., 0] = 4.0, 0.0
    k[0, 0, [77, 300, 400], 0] = torch.tensor([8.0, 6.0, 4.0])
    found = found_in(AttentionCall(q, k, call.v, call.layout, 0, 0), How(queries=grid.tokens))
    for head in range(2):
        weights = (q[0, head].double() @ k[0, head].double().T / 4).softmax(-1)
        wanted = weights.mean(0).sort(descending=True).values[: max(1, grid.tokens // 1000)].sum()
        row = found["sink_mass", head]
        assert row.value == pytest.approx(float(wanted), rel=1e-5)
        assert row.lo == row.hi == row.value


def test_sinks_are_not_told_from_some_queries() -> None:
    """Each query likes a key of its own, so that the best key of a sample is the one of a sampled query."""
    x = 9 * torch.eye(GRID.tokens)[None, None]
    call = AttentionCall(x, x, x, Layout(GRID), 0, 0)
    rows = {key: row for key, row in found_in(call, How(queries=64)).items() if key[0] == "sink_mass"}
    (row,) = rows.values()
    assert (row.status, row.value, row.lo, row.hi) == ("skipped", None, None, None)
    assert row.reason == "which keys receive most can only be told from all queries: --queries 512"
    assert found_in(call, How(queries=512))["sink_mass", 0].value == pytest.approx(1 / 512, rel=1e-4)


def test_self_similarity_is_the_mean_cosine_of_pairs_in_a_block() -> None:
    call = call_of(6, Grid(4, 8, 16))
    found = {(each.measure, each.head): each.value for each in measure_similarity(see(call, How()))}
    places = torch.arange(GRID.tokens)
    t, h, w = places // 128, places // 16 % 8, places % 16
    blocks = {"raster_64": places // 64, "raster_128": places // 128, "8x16": t, "4x4x4": h // 4 * 4 + w // 4}
    for name, block in blocks.items():
        same = (block[:, None] == block).double()
        for part, x in (("q", call.q[0, 1]), ("k", call.k[0, 1] - call.k[0, 1].mean(0))):
            unit = torch.nn.functional.normalize(x.double(), dim=-1)
            wanted = ((unit @ unit.T * same).sum(1) / same.sum(1)).mean()
            assert found[f"self_similarity_{part}_{name}", 1] == pytest.approx(float(wanted), rel=1e-4)


def test_a_grid_smaller_than_a_tile_skips_its_measures_with_the_reason() -> None:
    found = found_in(call_of(7, Grid(2, 2, 2)))
    assert found["self_similarity_k_4x4x4", None].reason == "grid 2x2x2 is smaller than a block of 4x4x4"
    assert found["self_similarity_q_raster_64", None].reason == "8 tokens are fewer than a block of 64"
    assert found["entropy", 0].value is not None


def test_equal_steps_are_alike_and_others_are_not() -> None:
    measure = block_mass_measurer()
    first, second, third = (see(call_of(seed, step=step, spread=2.0), How()) for step, seed in enumerate((8, 8, 9)))
    (skipped,) = measure(first)
    assert skipped.status == "skipped"
    assert "no earlier step" in skipped.reason
    assert [each.value for each in measure(second)] == pytest.approx([1.0, 1.0])
    assert max(each.value or 0 for each in measure(third)) < 0.9


@pytest.mark.parametrize("queries", [None, 100])
def test_overlap_is_that_of_the_token_masks(queries: int | None) -> None:
    how = How(queries=queries, methods=(Entry("vmoba", {"partition": [1, [4, 4], [2, 4, 4]]}),))
    measure = mask_measurer(Planner(how))
    calls = [call_of(seed, step=step) for step, seed in enumerate((10, 11))]
    list(measure(see(calls[0], how)))
    seen = see(calls[1], how)
    found = list(measure(seen))
    masks: list[Tensor] = [
        attnbench.select(
            each.q, each.k, method="vmoba", grid=GRID, step=each.step, partition=(1, (4, 4), (2, 4, 4))
        ).token_mask()[0][:, seen.queries]
        for each in calls
    ]
    for head, finding in enumerate(found):
        both, either = (masks[0][head] & masks[1][head]).sum(), (masks[0][head] | masks[1][head]).sum()
        assert finding.value == pytest.approx(float(both / either))
        assert finding.method == "vmoba"


def overlaps(method: str, **settings: object) -> list[list[Finding]]:
    """Return what is found of a method's masks in each of four steps, which differ in q and k."""
    how = How(methods=(Entry(method, settings),))
    measure = mask_measurer(Planner(how))
    return [list(measure(see(call_of(seed, step=seed), how))) for seed in range(4)]


@pytest.mark.parametrize(
    ("method", "settings"), [("sta", {}), ("radial", {"dense_steps": 2}), ("sliding-window", {"window": [3, 3, 3]})]
)
def test_masks_that_look_at_no_values_say_nothing_of_being_stable(method: str, settings: dict[str, object]) -> None:
    for found in overlaps(method, **settings):
        assert [(each.status, each.value) for each in found] == [("skipped", None)]
        assert found[0].method == method
        assert found[0].reason == "its masks do not look at q and k"


@pytest.mark.parametrize("method", ["full", "ditfastattn"])
def test_masks_that_keep_every_pair_say_nothing_of_being_stable(method: str) -> None:
    first, *others = ([(each.value, each.reason) for each in found] for found in overlaps(method))
    assert first == [(None, "there is no earlier step of this layer to compare with")]
    assert others == [[(None, "it keeps every pair in one of these steps")]] * 3


def test_the_masks_behind_dense_steps_are_compared() -> None:
    """Steps 0 and 1 are dense, and steps 2 and 3 choose."""
    _, dense, _, chosen = overlaps("svg1", dense_steps=2)
    assert [each.reason for each in dense] == ["it keeps every pair in one of these steps"]
    assert [each.status for each in chosen] == ["ok", "ok"]
    assert all(0 < (each.density or 0) < 1 for each in chosen)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    q, k, v = torch.ones(3, 1, 2, 8, 4)
    k[0, 1, 3, 2] = value
    with pytest.raises(attnbench.BadInput, match="k holds 1 NaN or Inf values as float32"):
        attnbench.analyze(q, k, v, grid=(2, 2, 2))


def test_huge_values_are_measured_or_refused_in_a_sentence() -> None:
    call = call_of(12, Grid(2, 4, 4), spread=1e6)
    found = found_in(call)
    assert found["entropy", 0].value == pytest.approx(0, abs=1e-3)
    q = 1e30 * call.q[0]
    with pytest.raises(attnbench.BadInput, match="NaN or overflow float32"):
        attnbench.analyze(q, q, call.v[0], grid=(2, 4, 4))


@pytest.mark.parametrize("spread", [1e6, 1e9, 1e12])
def test_weights_on_sinks_are_at_most_one_however_large_scores_are(spread: float) -> None:
    found = found_in(call_of(12, Grid(2, 4, 4), spread=spread))
    for head in range(2):
        value = found["sink_mass", head].value
        assert value is not None
        assert 0 <= value <= 1


def test_huge_outputs_are_refused_by_the_name_of_what_is_huge() -> None:
    q, k, v = call_of(12, Grid(2, 4, 4)).head(0)
    with pytest.raises(attnbench.BadInput, match="squared lengths of outputs of this v overflow float32; scale it"):
        attnbench.analyze(q[None], k[None], 1e30 * v[None], grid=(2, 4, 4))


def test_importance_does_not_depend_on_the_scale_of_q_and_k() -> None:
    """Shares are scaled to their largest, so that a power of two changes no bit, even where sums of scores overflow."""
    q, k, v = (torch.randn(2, 32, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    usual, huge = (attnbench.analyze(q * factor, k * factor, v, grid=(2, 4, 4)) for factor in (1.0, 2.0**61))
    for kind in ("1d", "2d", "3d"):
        assert bool((huge[f"query_importance_{kind}"].sum(-1) > 0.1).all())
        torch.testing.assert_close(
            huge[f"query_importance_{kind}"], usual[f"query_importance_{kind}"], rtol=1e-6, atol=0
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": (2, 2, 3)}, "q has 8 tokens, but grid and text make 12"),
        ({"block": (0, 1, 1)}, r"block is \(0, 1, 1\); it must be three whole numbers"),
        ({"block": "big"}, "block is 'big'; it must be"),
        ({"queries": 0}, "queries is 0; it must be a whole number of at least 1"),
        ({"seed": -1}, "seed is -1; it must be"),
        ({"text": 3}, "text is 3; it must be two whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], said: str) -> None:
    q = torch.ones(1, 8, 4)
    with pytest.raises(attnbench.BadInput, match=said):
        attnbench.analyze(q, q, q, **{"grid": (2, 2, 2)} | change)  # type: ignore[arg-type]  # some are wrong on purpose


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("q", "q is a NoneType; it must be a tensor"),
        ("k", "k is a NoneType; it must be a tensor"),
        ("v", "v is None; it must be a tensor like k, because energy is of the outputs"),
    ],
)
def test_a_tensor_that_is_missing_is_named(lost: str, said: str) -> None:
    given = [None if name == lost else torch.ones(1, 8, 4) for name in "qkv"]
    with pytest.raises(attnbench.BadInput, match=said):
        attnbench.analyze(*given, grid=(2, 2, 2))  # type: ignore[arg-type]  # one is wrong on purpose


def test_a_batch_is_refused() -> None:
    q = torch.ones(2, 1, 8, 4)
    with pytest.raises(attnbench.BadInput, match="q holds a batch of 2; analyze one item at a time"):
        attnbench.analyze(q, q, q, grid=(2, 2, 2))
