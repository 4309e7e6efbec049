from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from attnbench.kernels.errors import BadInput
from attnbench.results.bootstrap import tail_of
from attnbench.results.gaps import Gap, gaps, judgement_of
from attnbench.results.means import (
    Estimate,
    Values,
    difference_floor,
    distance_floor,
    mean_estimate,
    paired_difference,
)
from attnbench.results.records.clips import Better, Kind, QualityRow, Role

number = st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda x: round(x, 3))
keys = st.tuples(st.sampled_from(["cat", "dog", "tree"]), st.integers(0, 6))
many = st.dictionaries(keys, number, min_size=1, max_size=15)


def one_prompt(values: Iterable[float]) -> Values:
    return {("cat", seed): float(value) for seed, value in enumerate(values)}


@examples(max_examples=30)
@given(many, st.randoms(use_true_random=False))
def test_the_mean_lies_within_its_interval_whatever_the_order(values: Values, random: np.random.Generator) -> None:
    shuffled = list(values.items())
    random.shuffle(shuffled)
    found = mean_estimate(values)
    assert mean_estimate(dict(shuffled)) == found
    assert found.mean == pytest.approx(np.mean(list(values.values())), abs=1e-9)
    if found.lo is not None and found.hi is not None:
        assert min(values.values()) - 1e-9 <= found.lo <= found.mean + 1e-9
        assert found.mean - 1e-9 <= found.hi <= max(values.values()) + 1e-9


@examples(max_examples=30)
@given(many, many)
def test_exchanging_the_two_sides_turns_the_sign(a: Values, b: Values) -> None:
    if not a.keys() & b.keys():
        with pytest.raises(BadInput, match="nothing can be paired"):
            paired_difference(a, b)
        return
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward == -backward
    assert -backward == paired_difference(dict(reversed(a.items())), b)


def test_only_the_same_prompt_and_seed_are_paired() -> None:
    a = {("cat", 0): 5.0, ("cat", 1): 7.0, ("dog", 0): 100.0}
    b = {("cat", 1): 4.0, ("cat", 0): 4.0, ("dog", 1): -100.0}
    found = paired_difference(a, b)
    assert (found.mean, found.lo, found.hi, found.kind, found.pairs) == (2.0, 1.0, 3.0, "min-max", 2)


def test_pairing_takes_out_what_prompts_have_in_common() -> None:
    generator = np.random.default_rng(0)
    base, noise = generator.normal(0, 10, 20), generator.normal(0, 0.1, 20)
    found = paired_difference(one_prompt(base + 1 + noise), one_prompt(base))
    assert found.lo is not None
    assert found.hi is not None
    assert 0.9 < found.lo < 1 < found.hi < 1.1


def test_a_single_pair_has_no_interval_and_says_so() -> None:
    found = paired_difference(one_prompt([3.0]), one_prompt([1.0]))
    assert (found.mean, found.lo, found.hi, found.kind) == (2.0, None, None, None)
    assert found.reason == "1 pair: an interval needs at least 2"


def covered(make: Callable[[np.random.Generator], Values], truth: float, trials: int) -> float:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(trials):
        found = mean_estimate(make(generator))
        assert found.lo is not None
        assert found.hi is not None
        hits += found.lo <= truth <= found.hi
    return hits / trials


@pytest.mark.parametrize("size", [6, 10, 24])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(size: int) -> None:
    share = covered(lambda generator: one_prompt(generator.normal(2, 3, size)), 2.0, 500)
    assert 0.92 < share < 0.985  # chance alone moves it by 0.02


def test_seeds_of_one_prompt_do_not_pass_for_independent() -> None:
    def clustered(generator: np.random.Generator) -> Values:
        prompts = generator.normal(0, 1, 12)
        return {
            (f"p{i}", seed): prompt + 0.1 * generator.normal() for i, prompt in enumerate(prompts) for seed in range(4)
        }

    assert 0.92 < covered(clustered, 0.0, 300) < 0.985
    assert mean_estimate(clustered(np.random.default_rng(0))).resampled == "prompts"
    assert mean_estimate(one_prompt(range(8))).resampled == "pairs"


@pytest.mark.parametrize(("freedom", "student"), [(5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)])
def test_tails_are_those_of_students_distribution(freedom: int, student: float) -> None:
    wider = student * math.sqrt((freedom + 1) / freedom)
    assert tail_of(freedom + 1) == pytest.approx(math.erfc(wider / math.sqrt(2)) / 2, rel=0.02)


@pytest.mark.parametrize("make", [distance_floor, difference_floor])
def test_a_floor_is_narrower_for_a_mean_of_more_pairs(make: Callable[..., Estimate]) -> None:
    noise = np.random.default_rng(1).normal(0, 1, 40).tolist()
    widths = [floor.hi - floor.lo for pairs in (1, 4, 64) if (floor := make(noise, pairs)).hi and floor.lo]
    assert len(widths) == 3
    assert widths == sorted(widths, reverse=True)


@examples(max_examples=20)
@given(st.lists(number, min_size=2, max_size=12))
def test_a_floor_of_differences_is_even_around_0_and_blind_to_their_signs(differences: list[float]) -> None:
    floor = difference_floor(differences, len(differences))
    assert floor.lo is not None
    assert (floor.mean, floor.lo) == (0, -(floor.hi or 0.0))
    flipped = difference_floor([-value for value in differences], len(differences))
    assert flipped.hi == pytest.approx(floor.hi, abs=1e-9)


@pytest.mark.parametrize("values", [{}, {("cat", 0): math.nan}, {("cat", 0): 1.0, ("cat", 1): math.inf}])
def test_what_has_no_mean_is_refused(values: Values) -> None:
    with pytest.raises(BadInput):
        mean_estimate(values)
    with pytest.raises(BadInput):
        distance_floor(list(values.values()), 4)


def interval(lo: float, mean: float, hi: float) -> Estimate:
    return Estimate(mean, lo, hi, "bootstrap95", 10)


@pytest.mark.parametrize(
    ("gap", "kind", "better", "judgement"),
    [
        (interval(28, 31, 34), "distance", "higher", "indistinguishable"),
        (interval(50, 60, 70), "distance", "higher", "indistinguishable"),
        (interval(20, 29, 31), "distance", "higher", "undecided"),
        (interval(20, 22, 24), "distance", "higher", "distinguishable"),
        (interval(20, 22, 24), "distance", "lower", "indistinguishable"),
        (interval(50, 60, 70), "distance", "lower", "distinguishable"),
        (interval(39, 41, 43), "distance", "lower", "undecided"),
        (interval(50, 60, 70), "score", "higher", "distinguishable"),
        (interval(28, 29, 31), "score", "higher", "undecided"),
        (interval(20, 35, 50), "score", "lower", "indistinguishable"),
        (interval(20, 28, 50), "score", "higher", "undecided"),
        (interval(20, 45, 50), "score", "lower", "undecided"),
        (interval(20, 28, 50), "distance", "higher", "undecided"),
        (Estimate(20, None, None, None, 1), "distance", "higher", "undecided"),
        (Estimate(35, None, None, None, 1), "distance", "higher", "indistinguishable"),
    ],
)
def test_judgements_against_a_floor_of_30_to_40(gap: Estimate, kind: Kind, better: Better, judgement: str) -> None:
    assert judgement_of(gap, interval(30, 35, 40), kind=kind, better=better) == judgement


def test_without_two_values_there_is_no_floor() -> None:
    for floor in (None, distance_floor([3.0], 5)):
        assert judgement_of(interval(1, 2, 3), floor, kind="distance", better="higher") == "no floor"


def row(role: Role, value: float | None, seed: int = 0, *, kind: Kind = "distance", **changed: object) -> QualityRow:
    """A row as measure_pairs makes it; the reference is full/sdpa of ``reference_seed``, by default the same seed."""
    made: dict[str, object] = {
        "run_id": "run",
        "model": "mini",
        "method": "vmoba" if role == "method" else "full",
        "engine": "reference" if role == "kernel-floor" else "sdpa",
        "prompt": "cat",
        "seed": seed,
        "metric": "psnr" if kind == "distance" else "consistency",
        "value": value,
        "reference": None if role == "exact" else f"full/sdpa, seed {changed.get('reference_seed', seed)}",
        "reference_seed": seed,
        "status": "skipped" if value is None else "ok",
        "reason": "skipped: no weights" if value is None else "",
        "role": role,
        "metric_kind": kind,
        "better": "higher",
        "frames": 16,
        "size": "64x64",
        "fps": 8.0,
        "clip_hash": "0" * 16,
    }
    return QualityRow.model_validate(made | changed)


def table(method: list[float], kernel: list[float], seeds: list[float]) -> list[QualityRow]:
    roles: list[tuple[Role, list[float]]] = [("method", method), ("kernel-floor", kernel)]
    rows = [row(role, value, seed) for role, values in roles for seed, value in enumerate(values)]
    return rows + [row("seed-floor", value, 100 + seed, reference_seed=seed) for seed, value in enumerate(seeds)]


def only(rows: list[QualityRow]) -> Gap:
    (gap,) = gaps(rows)
    return gap


def test_a_distance_stands_beside_its_two_floors() -> None:
    gap = only(table([20, 21, 22], [40, 41, 42, 43], [10, 11, 12]))
    assert (gap.gap.mean, gap.gap.lo, gap.gap.hi) == (21, 20, 22)
    assert gap.kernel_floor is not None
    assert (gap.kernel_floor.lo, gap.kernel_floor.hi) == (40, 43)
    assert gap.beyond_kernel is not None
    assert (gap.beyond_kernel.mean, gap.beyond_kernel.pairs) == (-20, 3)
    assert gap.judgement == "distinguishable"
    assert gap.sentence.endswith(
        "farther from it than another exact kernel, but closer than another seed (with few pairs)"
    )
    assert "[20, 22, extremes] over 3 pairs; another kernel 41.5" in gap.sentence


def test_a_method_as_far_as_another_seed_is_said_to_be() -> None:
    generator = np.random.default_rng(0)
    far, near = (generator.normal(mean, 1, 12).tolist() for mean in (11, 40))
    gap = only(table(generator.normal(11, 1, 12).tolist(), near, far))
    assert gap.sentence.endswith("and as far as another seed")


def test_a_method_within_the_kernel_floor_is_indistinguishable() -> None:
    gap = only(table([40.5, 41.5], [40, 42], [10, 11]))
    assert gap.judgement == "indistinguishable"
    assert gap.sentence.endswith("indistinguishable from another exact kernel (with few pairs)")


def test_nothing_is_written_without_a_sign() -> None:
    rows = [row(role, 1.0, seed, kind="score") for seed in (0, 1) for role in ("exact", "kernel-floor", "method")]
    sentence = only(rows).sentence
    assert "another kernel 0 [0, 0, extremes]" in sentence
    assert "-0" not in sentence


def test_another_kernel_under_the_name_of_a_method_is_seldom_told_from_it() -> None:
    generator = np.random.default_rng(5)
    found = [
        only(table(*(generator.normal(mean, 2, 12).tolist() for mean in (30, 30, 10)))).judgement for _ in range(200)
    ]
    assert found.count("distinguishable") <= 4
    assert found.count("indistinguishable") >= 170


def test_a_score_is_compared_with_full_attention_of_the_same_seed() -> None:
    rows = []
    for seed, level in enumerate([0.2, 0.5, 0.9]):
        rows += [
            row("exact", level, seed, kind="score"),
            row("method", level - 0.1, seed, kind="score"),
            row("kernel-floor", level + 0.01 * (-1) ** seed, seed, kind="score"),
            row("seed-floor", level + 0.3, 50 + seed, kind="score", reference_seed=seed),
        ]
    gap = only(rows)
    assert (gap.gap.mean, gap.gap.lo, gap.gap.hi) == pytest.approx((-0.1, -0.1, -0.1))
    assert gap.kernel_floor is not None
    assert gap.seed_floor is not None
    assert (gap.kernel_floor.hi, gap.seed_floor.hi) == pytest.approx((0.01, 0.3))
    assert (gap.judgement, gap.beyond_kernel) == ("distinguishable", None)
    assert "minus full attention's is -0.1" in gap.sentence
    assert "closer than another seed" in gap.sentence


def test_rows_without_a_value_or_a_partner_are_counted_not_averaged() -> None:
    rows = table([20, 21, 22], [40, 41, 42], [])
    assert only([*rows, row("method", None, 7)]).without_value == 1
    lonely = [row("method", 0.5, kind="score"), row("exact", 0.4, 1, kind="score"), row("method", 0.6, 1, kind="score")]
    gap = only(lonely)
    assert (gap.gap.mean, gap.gap.pairs, gap.without_value) == (pytest.approx(0.2), 1, 1)


def test_a_metric_skipped_everywhere_has_no_gap() -> None:
    assert gaps([row("method", None, seed) for seed in range(3)]) == []


def test_methods_settings_runs_and_metrics_are_told_apart() -> None:
    rows = [
        row("method", 20.0),
        row("method", 30.0, settings='{"topk":3}'),
        row("method", 40.0, method="sta"),
        row("method", 50.0, metric="ssim"),
        row("method", 60.0, run_id="other"),
        row("method", 70.0, model="wan"),
    ]
    assert [gap.gap.mean for gap in gaps(rows)] == [20, 50, 30, 40, 60, 70]
    assert {gap.judgement for gap in gaps(rows)} == {"no floor"}
    assert all("no clips of another exact kernel" in gap.sentence for gap in gaps(rows))


def test_a_metric_that_was_added_later_stands_with_its_method() -> None:
    rows = [row("method", 10.0 * seed, seed, method=name, metric=metric)
            for metric in ("psnr", "vbench_x") for name in ("vmoba", "sta") for seed in (0, 1)]  # fmt: skip
    assert [(gap.method, gap.metric) for gap in gaps(rows)] == [
        ("vmoba", "psnr"), ("vmoba", "vbench_x"), ("sta", "psnr"), ("sta", "vbench_x"),
    ]  # fmt: skip


def test_two_values_for_one_clip_are_refused() -> None:
    with pytest.raises(BadInput, match="two values of psnr for prompt 'cat', seed 0"):
        gaps([row("method", 20.0), row("method", 21.0)])
