from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from attnbench.clips.metrics import (
    METRICS,
    Labelled,
    Metric,
    Pair,
    QualityRow,
    measure_pair,
    measure_pairs,
    metric_named,
)
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measure import Scores, missing_rows
from attnbench.clips.metrics.measured import Measured, Skipped
from attnbench.kernels.errors import BadInput
from attnbench.results.records.clips import Role

MakeClip = Callable[..., Clip]


def brightness(clip: Clip) -> Measured:
    return Measured(float(clip.frames.double().mean()), made_by="a test")


def difference(clip: Clip, reference: Clip) -> Measured:
    return Measured(brightness(clip).value - brightness(reference).value, (1.0, 2.0), 0, "a test")


DISTANCE = Metric("difference", "lower", "levels", distance=difference)
SCORE = Metric("brightness", "higher", score=brightness)


def named(clip: Clip, seed: int = 0, method: str = "full", engine: str = "sdpa", prompt: str = "a cat") -> Labelled:
    return Labelled(clip, "mini", method, prompt, seed, engine)


@pytest.fixture
def pair(make_clip: MakeClip) -> Pair:
    return Pair(named(make_clip(1), method="vmoba"), named(make_clip(0)))


def test_a_distance_gives_one_row_that_says_what_was_compared(pair: Pair) -> None:
    (row,) = measure_pair(pair, [DISTANCE], run_id="run")
    assert row.value == difference(pair.clip.clip, pair.reference.clip).value
    assert (row.run_id, row.model, row.method, row.prompt, row.seed) == ("run", "mini", "vmoba", "a cat", 0)
    assert (row.metric, row.reference, row.role) == ("difference", "full/sdpa, seed 0", "method")
    assert (row.metric_kind, row.better, row.unit, row.per_frame) == ("distance", "lower", "levels", [1.0, 2.0])
    assert (row.frames, row.size, row.made_by) == (3, "40x48", "a test")
    assert (row.clip_hash, row.reference_hash) == (pair.clip.clip.digest, pair.reference.clip.digest)


def test_a_score_is_given_once_for_each_reference(make_clip: MakeClip) -> None:
    dense = named(make_clip(0))
    pairs = [
        Pair(named(make_clip(1), method="vmoba"), dense),
        Pair(named(make_clip(2), method="sta"), dense),
        Pair(named(make_clip(3), engine="reference"), dense, "kernel-floor"),
        Pair(named(make_clip(4), seed=1), dense, "seed-floor"),
    ]
    rows = list(measure_pairs(pairs, [SCORE], run_id="run"))
    assert [row.role for row in rows] == ["method", "exact", "method", "kernel-floor", "seed-floor"]
    exact = rows.pop(1)
    assert (exact.value, exact.reference) == (brightness(dense.clip).value, None)
    assert [row.value for row in rows] == [brightness(each.clip.clip).value for each in pairs]
    assert {row.reference for row in rows} == {"full/sdpa, seed 0"}
    assert [row.seed for row in rows] == [0, 0, 0, 1]
    assert {row.reference_seed for row in rows} == {0}


def test_a_clip_is_scored_once_however_often_it_stands_there(make_clip: MakeClip) -> None:
    scored: list[str] = []

    def counting(clip: Clip) -> Measured:
        scored.append(clip.digest)
        return brightness(clip)

    dense = named(make_clip(0))
    pairs = [Pair(named(make_clip(seed), method=f"m{seed}"), dense) for seed in (1, 2)]
    list(measure_pairs(pairs, [Metric("counting", "higher", score=counting)], run_id="run"))
    assert len(scored) == len(set(scored)) == 3


def test_scores_are_carried_from_call_to_call(make_clip: MakeClip) -> None:
    scored: list[str] = []

    def counting(clip: Clip) -> Measured:
        scored.append(clip.digest)
        return brightness(clip)

    metric, scores, dense = Metric("counting", "higher", score=counting), Scores(), named(make_clip(0))
    pairs = [Pair(named(make_clip(seed), method=f"m{seed}"), dense) for seed in (1, 2)]
    rows = [row for pair in pairs for row in measure_pairs([pair], [metric], run_id="run", scores=scores)]
    assert [row.role for row in rows] == ["method", "exact", "method"]
    assert len(scored) == 3


def test_a_fidelity_sees_the_prompt_of_its_clip(make_clip: MakeClip) -> None:
    asked: list[str] = []

    def follows(clip: Clip, prompt: str) -> Measured:
        asked.append(prompt)
        return Measured(float(prompt == "a cat"))

    metric, scores = Metric("follows", "higher", fidelity=follows), Scores()
    same = make_clip(0)
    for prompt in ("a cat", "a dog"):
        pair = Pair(named(same, method="sta", prompt=prompt), named(same, prompt=prompt))
        rows = list(measure_pairs([pair], [metric], run_id="run", scores=scores))
        assert [(row.role, row.metric_kind) for row in rows] == [("method", "score"), ("exact", "score")]
        assert {row.value for row in rows} == {float(prompt == "a cat")}
    assert asked == ["a cat", "a dog"], "equal frames are scored once a prompt"


def test_a_clip_that_could_not_be_made_has_a_reason_in_every_row(pair: Pair) -> None:
    rows = missing_rows(pair, [DISTANCE, SCORE], run_id="run", reason="out of memory")
    assert [(row.metric, row.method, row.value, row.reason, row.clip_hash) for row in rows] == [
        (name, "vmoba", None, "skipped: out of memory", "") for name in ("difference", "brightness")
    ]


def raising(error: Exception) -> Callable[[Clip, Clip], Measured]:
    def fail(clip: Clip, reference: Clip) -> Measured:
        raise error

    return fail


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (raising(Skipped("weights are missing: get them")), "skipped: weights are missing: get them"),
        (raising(RuntimeError("out of\n  luck")), "failed: RuntimeError: out of luck"),
        (lambda clip, reference: Measured(math.nan), "failed: the metric gave nan"),
        (lambda clip, reference: Measured(1.0, (1.0, math.inf)), "failed: the metric gave inf"),
    ],
)
def test_a_metric_without_a_value_is_a_row_with_its_reason_and_the_others_go_on(
    metric: Callable[[Clip, Clip], Measured], said: str, pair: Pair
) -> None:
    bad, good = measure_pair(pair, [Metric("bad", "lower", distance=metric), DISTANCE], run_id="run")
    assert (bad.status, bad.value, bad.per_frame, bad.reason) == ("skipped", None, [], said)
    assert good.status == "ok"


def test_progress_counts_to_the_end(pair: Pair) -> None:
    told: list[tuple[int, int, str]] = []
    list(measure_pairs([pair, pair], [DISTANCE, SCORE], run_id="run", on_progress=lambda *words: told.append(words)))
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[0][2] == "difference of vmoba/sdpa, seed 0"


def test_pairs_may_come_one_by_one(pair: Pair) -> None:
    told: list[int] = []
    rows = measure_pairs(
        (pair for _ in range(2)), [DISTANCE], run_id="run", total=2, on_progress=lambda *words: told.append(words[1])
    )
    assert next(rows).metric == "difference"
    assert len(list(rows)) == 1
    assert told == [2, 2]


@pytest.mark.parametrize(
    ("seeds", "role", "said"),
    [
        ((0, 1), "method", "the same seed"),
        ((0, 1), "kernel-floor", "the same seed"),
        ((1, 1), "seed-floor", "different"),
    ],
)
def test_seeds_must_fit_the_role(seeds: tuple[int, int], role: Role, said: str, make_clip: MakeClip) -> None:
    clip = make_clip()
    with pytest.raises(BadInput, match=said):
        Pair(named(clip, seeds[0]), named(clip, seeds[1]), role)


def test_clips_that_are_no_pair_are_refused(make_clip: MakeClip) -> None:
    with pytest.raises(BadInput, match="'a dog' and 'a cat'"):
        Pair(named(make_clip(), prompt="a dog"), named(make_clip()))
    with pytest.raises(BadInput, match="size and length"):
        Pair(named(make_clip(length=2)), named(make_clip()))
    with pytest.raises(BadInput, match="'exact' is its reference"):
        Pair(named(make_clip()), named(make_clip()), "exact")


def test_the_standard_metrics_all_answer_for_a_small_clip(pair: Pair) -> None:
    rows = measure_pair(pair, run_id="run")
    assert [row.metric for row in rows if row.role == "method"] == [metric.name for metric in METRICS]
    assert all(row.reason.startswith("skipped: ") for row in rows if row.status == "skipped")
    assert {row.metric: row.value for row in rows}["ssim"] is not None
    assert "176x176" in next(row.reason for row in rows if row.metric == "ms_ssim")


def test_a_metric_is_found_by_its_name_and_an_unknown_one_refused() -> None:
    assert metric_named("psnr_pooled").pooled
    with pytest.raises(BadInput, match="did you mean 'ms_ssim'"):
        metric_named("msssim")


def test_a_metric_is_a_distance_or_a_score() -> None:
    with pytest.raises(BadInput, match="must have exactly one of"):
        Metric("both", "higher", distance=difference, score=brightness)
    with pytest.raises(BadInput, match="must have exactly one of"):
        Metric("neither", "higher")


@pytest.mark.parametrize(
    "changed",
    [
        {"value": None},
        {"status": "skipped", "reason": "no weights"},
        {"status": "skipped", "value": None, "per_frame": []},
        {"status": "skipped", "value": None, "reason": "no weights"},
        {"value": math.nan},
    ],
)
def test_a_row_has_a_value_or_a_reason_never_both(changed: dict[str, object], pair: Pair) -> None:
    (row,) = measure_pair(pair, [DISTANCE], run_id="run")
    with pytest.raises(ValidationError):
        QualityRow(**{**row.model_dump(), **changed})
