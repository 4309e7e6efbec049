from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from attnbench.report.cases import Case, baseline_row, cases_of, speedups_of
from attnbench.report.clip_quality import clip_quality
from attnbench.report.data.page import page_data
from attnbench.report.formats.markdown import markdown_text
from attnbench.report.judge import judge, place_words, speedup_words
from attnbench.results.layers import means_of
from attnbench.results.load import Results
from attnbench.results.records.cells import Environment, Row, RunHeader, canonical_json
from attnbench.results.records.clips import QualityRow

Maker = Callable[..., Any]
ENVIRONMENT = Environment.model_validate(
    {
        "device": "Test CPU", "device_kind": "cpu", "cores": 2, "memory_gib": 7.6, "python": "3.11",
        "platform": "Linux", "packages": {}, "started_at": "2026-01-02T03:04:05Z",
    }
)  # fmt: skip


def told(*rows: Row) -> str:
    (case,) = cases_of(rows)
    return " ".join(judge(case).sentences)


@pytest.fixture
def dense(row_of: Maker) -> Row:
    return row_of("full", engine="sdpa", latency_ms=100.0, density=1.0)


def test_the_fastest_method_is_named_with_its_real_and_ideal_speedup(row_of: Maker, dense: Row) -> None:
    (case,) = cases_of([dense, row_of("sta", latency_ms=40.0, density=0.2), row_of("moba", latency_ms=50.0)])
    found = judge(case)
    assert found.sentence == (
        "At 480p on Test CPU, sta (reference) is 2.50× [2.38, 2.63] as fast as the fastest dense kernel (sdpa); "
        "5.00× would be ideal at density 0.200; relative error 0.310."
    )
    assert (found.outcome, found.leader and found.leader.method, found.ideal) == ("faster", "sta", 5.0)


def test_a_verdict_names_the_shape_that_it_is_about(row_of: Maker) -> None:
    rows = [row_of(method, heads=heads, kv_heads=heads) for heads in (12, 1) for method in ("full", "sta")]
    verdicts = [judge(case).sentence for case in cases_of(rows)]
    assert [sentence.split(", sta")[0] for sentence in verdicts] == [
        "At 480p, 12 heads, on Test CPU", "At 480p, 1 head, on Test CPU",
    ]  # fmt: skip


def test_slower_than_dense_is_said_plainly(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta", latency_ms=250.0))
    assert text.startswith("At 480p on Test CPU, no sparse method is as fast as the fastest dense kernel (sdpa);")
    assert "the nearest is sta (reference), 0.400×" in text


def test_overlapping_intervals_are_no_win(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta", latency_ms=99.0))
    assert "no sparse method is clearly faster" in text
    assert "the interval holds 1" in text


def test_more_than_the_density_allows_is_not_called_ideal(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta", latency_ms=40.0, density=0.5))
    assert "density 0.500 allows 2.00×, so something besides skipped pairs helped too" in text
    assert "ideal" not in text


def test_both_passes_another_grid_and_another_dense_method_are_told(row_of: Maker) -> None:
    asked = {"direction": "fwdbwd", "grid": "20x30x52", "baseline": "sliding-window/flex"}
    rows = [row_of("full", engine="sdpa", latency_ms=100.0, **asked), row_of("sta", **asked)]
    assert told(*rows).startswith("At 20×30×52 tokens, forward and backward, on Test CPU, sta (reference) is 2.50×")
    assert "kernel (sliding-window/flex);" in told(*rows)


def test_the_reference_engine_is_not_taken_for_the_method(row_of: Maker, dense: Row) -> None:
    assert "says little about the method" in told(dense, row_of("sta", engine="reference"))
    assert "reference" not in told(dense, row_of("sta", engine="triton"))


def test_heads_that_were_not_timed_are_stated(row_of: Maker, dense: Row) -> None:
    assert "1 of 12 heads timed" in told(row_of("sta", heads_timed=1))
    assert "heads timed" not in told(dense, row_of("sta", heads_timed=12))


def test_cells_without_latency_are_counted_with_their_verdict(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta"), row_of("moba", verdict="incorrect"), row_of("vmoba", verdict="oom"))
    assert "2 of 4 cells have no latency: moba (incorrect), vmoba (oom)." in text


def test_nothing_timed_only_dense_and_no_baseline(row_of: Maker, dense: Row) -> None:
    assert told(row_of("moba", verdict="oom")) == "No cell of this run has a latency: the table says why."
    assert told(dense) == ("At 480p on Test CPU, only dense attention was timed: full (sdpa) takes 100 ms [98, 103].")
    (case,) = cases_of([row_of("full", engine="unfused", latency_ms=900.0, density=1.0, flags="power-capped")])
    assert judge(case).grounds.sentence == "full was power-capped."
    alone = row_of("sta", baseline=None, baseline_ms=None, speedup=None, translation=None)
    assert "No dense baseline was measured" in told(alone)


def test_the_speedup_pairs_the_extremes(row_of: Maker, dense: Row) -> None:
    row = row_of("sta", latency_ms=50.0, latency_lo_ms=40.0, latency_hi_ms=60.0, samples_ms=[40.0, 50.0, 60.0])
    (case,) = cases_of([dense, row])
    found = case.speedups[row.row_id]
    assert (found.value, found.lo, found.hi) == pytest.approx((2.0, 98.0 / 60.0, 103.0 / 40.0))
    assert speedup_words(found) == "2.00× [1.63, 2.58]"


def test_rows_of_several_runs_are_compared_each_with_its_own_baseline(row_of: Maker) -> None:
    old, new = (
        (
            row_of(
                "full",
                engine=engine,
                latency_ms=dense,
                run_id=run,
                baseline=f"full/{engine}",
                baseline_ms=dense,
                speedup=1.0,
            ),
            row_of(method, latency_ms=ms, run_id=run, baseline=f"full/{engine}", baseline_ms=dense, speedup=dense / ms),
        )
        for run, engine, dense, method, ms in (("a", "sdpa", 90.0, "moba", 60.0), ("b", "flex", 120.0, "sta", 40.0))
    )
    (case,) = cases_of(new)
    (older,) = cases_of(old)
    both = Case((*old, *new), (*older.means, *case.means), speedups={**older.speedups, **case.speedups})
    assert judge(both).sentence == judge(case).sentence
    assert ", sta (reference) is 3.00× [2.85, 3.15] as fast as the fastest dense kernel (flex)" in told(*new)


def test_the_fastest_method_is_named_and_not_the_fastest_layer(row_of: Maker, dense: Row) -> None:
    layers = [
        row_of("vmoba", layer=layer, latency_ms=ms, layers_alike=10) for layer, ms in enumerate([20.0, 35.0, 38.0])
    ]
    assert ", sta (reference) is 3.33×" in told(dense, *layers, row_of("sta", latency_ms=30.0))
    assert ", vmoba (reference, mean over 30 layers, 10 each like layers 0, 1 and 2) is 3.23×" in told(dense, *layers)


@pytest.mark.parametrize(
    ("grid", "words"), [("21x30x52", "480p"), ("24x36x64", "576p"), ("21x45x80", "720p"), ("1x2x3", "1×2×3 tokens")]
)
def test_a_grid_is_told_by_the_name_of_its_format(row_of: Maker, grid: str, words: str) -> None:
    assert place_words(row_of("sta", grid=grid)) == words


@pytest.mark.parametrize(
    "methods",
    [[{"method": "sta", "settings": {"window": [1, 3, 5]}}, {"method": "sta"}], {"sta": {"window": [1, 3, 5]}}],
)
def test_clips_are_joined_by_method_and_the_settings_given(row_of: Maker, dense: Row, methods: object) -> None:
    header = RunHeader(run_id="clips", environment=ENVIRONMENT, request={"methods": methods})
    made = clips_of("sta", {}, {"tile": [8, 4, 4], "window": [1, 3, 5]})
    quality = clip_quality(Results(headers=(header,), quality=made.quality))
    asked, other = (
        row_of("sta", latency_ms=ms, settings={"tile": [6, 8, 8], **given}, settings_given=canonical_json(given))
        for ms, given in ((40.0, {"window": [1, 3, 5]}), (50.0, {}))
    )
    for row, said in ((asked, True), (other, False)):
        (case,) = cases_of([dense, row])
        assert ("; PSNR of mini's clips 21.0 dB" in judge(case, quality).sentence) == said
        assert (judge(case, quality).quality is not None) == said
        assert judge(case, quality).elsewhere == (
            ""
            if said
            else "No clips were made with these settings of sta. With others its clips have a PSNR of 21.0 dB, where "
            "another exact kernel gives 57.0; they are of mini."
        )


def test_clips_of_another_model_are_said_to_be(row_of: Maker, dense: Row) -> None:
    quality = clip_quality(clips_of("sta", {"window": [1, 3, 5]}, {"window": [1, 3, 5]}))
    asked, other = (
        row_of("sta", settings_given=canonical_json(given), model="wan2.1-1.3b")
        for given in ({"window": [1, 3, 5]}, {})
    )
    found = [
        judge(cases_of([dense.model_copy(update={"model": row.model}), row])[0], quality) for row in (asked, other)
    ]
    assert found[0].quality is not None
    assert found[0].elsewhere == "Clips, and PSNR, are of mini, not of wan2.1-1.3b."
    assert found[1].quality is None
    assert found[1].elsewhere.endswith("; they are of mini, not of wan2.1-1.3b.")


def test_pages_name_the_model_of_clips_or_say_that_there_are_none(row_of: Maker, table_of: Maker) -> None:
    clips = clips_of("sta", {"window": [1, 3, 5]}, {"window": [1, 3, 5]})
    given = canonical_json({"window": [1, 3, 5]})
    rows = [row_of("full", engine="sdpa", density=1.0), row_of("sta", settings_given=given)]
    without = page_data(table_of(rows))
    with_clips = page_data(
        replace(table_of(rows), quality=clips.quality, headers=(*table_of(rows).headers, *clips.headers))
    )

    assert without.selections[0].quality == "No clips were made in these runs."
    assert "PSNR" not in markdown_text(without)
    assert "PSNR (mini), dB" in markdown_text(with_clips)
    (means,) = (table for table in with_clips.tables if table.name == "means")
    assert [each["psnr_model"] for each in means.records() if each["method"] == "sta"] == ["mini"]


TILE, WINDOW = {"tile": [6, 8, 8]}, {"window": [3, 3, 3]}


@pytest.mark.parametrize(
    ("timed", "made", "joined"),
    [
        ({}, TILE | WINDOW, True),
        (TILE, {}, True),
        (TILE, WINDOW, True),
        (WINDOW, {"tile": [4, 4, 4]}, False),
        ({"window": [1, 3, 5]}, {}, False),
    ],
)
def test_it_does_not_matter_whether_defaults_were_spelled_out(
    row_of: Maker, dense: Row, timed: dict[str, Any], made: dict[str, Any], joined: bool
) -> None:
    quality = clip_quality(clips_of("sta", made, {"tile": [4, 8, 8], "window": [1, 1, 1]}))  # as a grid cut them
    row = row_of("sta", settings={**TILE, **WINDOW, **timed}, settings_given=canonical_json(timed))
    (case,) = cases_of([dense, row])
    assert (judge(case, quality).quality is not None) == joined
    (case,) = cases_of([dense, row.model_copy(update={"density_asked": 0.2})])
    assert judge(case, quality).quality is None, "clips were not made at a density that was asked for"


def test_a_method_that_is_not_installed_is_joined_by_what_was_given(row_of: Maker, dense: Row) -> None:
    quality = clip_quality(clips_of("elsewhere", {"a": 1}, {"a": 1, "b": 2}))
    for given, joined in (({"a": 1}, True), ({"a": 2}, False)):
        (case,) = cases_of([dense, row_of("elsewhere", settings_given=canonical_json(given))])
        assert (judge(case, quality).quality is not None) == joined
    (case,) = cases_of([dense, row_of("moba")])
    assert judge(case, quality).elsewhere == "No clips of moba were made, so there is no PSNR."


def clips_of(method: str, given: dict[str, Any], resolved: dict[str, Any]) -> Results:
    def metric(role: str, value: float) -> QualityRow:
        exact = role != "method"
        return QualityRow.model_validate(
            {
                "run_id": "clips", "model": "mini", "method": "full" if exact else method, "prompt": "3", "seed": 0,
                "settings": "{}" if exact else canonical_json(resolved), "engine": "sdpa", "role": role,
                "metric": "psnr", "metric_kind": "distance", "better": "higher", "unit": "dB", "value": value,
                "reference": "full (sdpa), seed 0", "status": "ok", "frames": 16, "size": "64x64", "fps": 8.0,
                "clip_hash": "a",
            }
        )  # fmt: skip

    request = {"methods": [{"method": method, "settings": given}]}
    header = RunHeader(run_id="clips", environment=ENVIRONMENT, request=request)
    return Results(headers=(header,), quality=(metric("kernel-floor", 57.0), metric("method", 21.0)))


CAPPED = {"engine": "sdpa", "latency_ms": 100.0, "density": 1.0, "flags": "power-capped"}


HIGH, LOW = "The speed-up may therefore be too high.", "The speed-up may therefore be too low."
EITHER = "The speed-up may therefore be too low or too high."


@pytest.mark.parametrize(
    ("dense", "own", "words"),
    [
        ("power-capped", "", f"Its baseline, full/sdpa, was power-capped; sta was not flagged. {HIGH}"),
        ("", "cpu-bound", f"Its baseline, full/sdpa, was not flagged; sta was CPU-bound. {LOW}"),
        ("busy-machine", "busy-machine",
         f"Both sta and its baseline, full/sdpa, were disturbed by others on the machine. {EITHER}"),
        ("unstable", "unstable", "Both sta and its baseline, full/sdpa, were unstable."),
        ("unstable", "", "Its baseline, full/sdpa, was unstable; sta was not flagged."),
        ("power-capped,unstable", "cpu-bound",
         f"Its baseline, full/sdpa, was power-capped and unstable; sta was CPU-bound. {EITHER}"),
        ("", "", "Neither power cap nor CPU spoiled sta or its baseline, full/sdpa."),
        (None, None, "Whether power cap or CPU spoiled sta or its baseline, full/sdpa, is not recorded."),
        (None, "power-capped",
         "Whether power cap or CPU spoiled its baseline, full/sdpa, is not recorded; sta was power-capped."),
    ],
)  # fmt: skip
def test_what_spoils_the_verdict_is_told_of_the_baseline_too(
    row_of: Maker, dense: str | None, own: str | None, words: str
) -> None:
    rows = row_of("full", **CAPPED | {"flags": dense}), row_of("sta", latency_ms=30.0, flags=own)
    (case,) = cases_of([*rows, row_of("moba", latency_ms=60.0, flags="unstable")])
    found = judge(case)
    assert found.grounds.sentence == words
    assert found.grounds.spoilt == bool(dense or own)
    assert (words in found.sentences) == bool(dense or own)


def test_a_baseline_of_an_older_run_is_judged_and_its_noise_counts(row_of: Maker) -> None:
    sta = row_of("sta", latency_ms=50.0, run_id="a", flags="", samples_ms=[49.0, 50.0, 51.0])
    old = row_of("full", run_id="a", samples_ms=[80.0, 100.0, 125.0], **CAPPED)
    new = row_of("full", run_id="b", **CAPPED | {"flags": ""})
    means = {mean.row.row_id: mean for mean in means_of([old, new, sta])}
    rows = tuple(means[each.row_id].row for each in (new, sta))
    case = Case((new, sta), rows, (baseline_row(old),), speedups=speedups_of(means.values()))
    assert judge(case).grounds.sentence.startswith("Its baseline, full/sdpa, was power-capped; sta was not flagged.")
    ratio = case.speedups[sta.row_id]
    assert (ratio.lo, ratio.hi) == pytest.approx((80 / 51, 125 / 49))


def test_near_ties_are_voiced_in_the_verdict(row_of: Maker, dense: Row) -> None:
    first = row_of("sta", latency_ms=40.0, density=0.2)  # 2.50 [2.38, 2.63]
    near, far = row_of("moba", latency_ms=41.0), row_of("moba", latency_ms=60.0)
    said = "; moba at 2.44× [2.32, 2.56] cannot be told from it, because the intervals overlap; "
    assert said in told(dense, first, near)
    assert "cannot be told" not in told(dense, first, far)
    slow = told(dense, row_of("sta", latency_ms=250.0), row_of("moba", latency_ms=251.0))
    assert re.search(r"; moba at 0.398× \[.*\] cannot be told from it, because the intervals overlap\.", slow)
    many = [row_of(name, latency_ms=41.0) for name in ("moba", "vmoba", "bsa", "vsa")]
    (case,) = cases_of([dense, first, *many])
    assert len(judge(case).ties) == 4
    assert " and 2 more cannot be told from it" in judge(case).sentence


def test_ties_are_those_whose_intervals_overlap(row_of: Maker, dense: Row) -> None:
    rows = [row_of(f"m{ms}", latency_ms=float(ms)) for ms in range(40, 60, 3)]
    (case,) = cases_of([dense, *rows])
    found = case.speedups
    expected = [row.method for row in rows[1:] if found[row.row_id].hi >= found[rows[0].row_id].lo]
    assert [row.method for row in judge(case).ties] == expected != []
    assert len(expected) < len(rows) - 1


def test_what_the_cpu_held_up_and_may_be_faster_is_named(row_of: Maker, dense: Row) -> None:
    first = row_of("sta", latency_ms=40.0, density=0.2)
    near = {"latency_ms": 44.0, "samples_ms": [44.0, 44.0]}
    said = r"; moba at 2\.27× \[.*\] was CPU-bound and may be faster; "
    assert re.search(said, told(dense, first, row_of("moba", flags="cpu-bound", **near)))
    assert "may be faster" not in told(dense, first, row_of("moba", flags="slow-enqueue", **near))
    assert "may be faster" not in told(dense, first, row_of("moba", flags="cpu-bound", latency_ms=51.0))
    tied = told(dense, first, row_of("moba", flags="cpu-bound", latency_ms=40.5))
    assert "cannot be told from it" in tied
    assert "may be faster" not in tied
    both = told(dense, first, *(row_of(name, flags="cpu-bound", **near) for name in ("moba", "vsa")))
    assert "were CPU-bound and may be faster" in both


def test_errors_of_training_say_that_gradients_were_not_compared(row_of: Maker) -> None:
    def text(**columns: Any) -> str:
        return told(*(row_of(name, **columns, latency_ms=ms) for name, ms in (("full", 100.0), ("sta", 40.0))))

    said = "gradients were not compared with those of full attention"
    assert said in text(direction="fwdbwd")
    assert said not in text(direction="fwd")
    assert said not in text(direction="fwdbwd", approximation_error=None)


def test_slow_enqueuing_that_holds_nothing_up_is_told_with_its_figures(row_of: Maker) -> None:
    slow = {"flags": "slow-enqueue", "host_ms": 60.0, "latency_eager_ms": 42.0}
    (case,) = cases_of([row_of("full", engine="sdpa", latency_ms=100.0, flags=""), row_of("sta", **slow)])
    found = judge(case)
    assert found.grounds.sentence == (
        "Neither power cap nor CPU spoiled sta or its baseline, full/sdpa. Enqueuing sta takes 60.0 ms of the CPU, but "
        "back to back a call takes 42.0 ms, 5% more than its latency."
    )
    assert not found.grounds.spoilt


def test_a_baseline_that_the_cpu_held_up_is_told_where_only_dense_attention_was_timed(row_of: Maker) -> None:
    rows = (
        row_of("full", engine="unfused", latency_ms=900.0, flags=""),
        row_of("full", engine="sdpa", flags="cpu-bound"),
    )
    (case,) = cases_of([rows[0]])
    case = replace(case, baselines=(baseline_row(rows[1]),))
    assert judge(case).grounds.sentence == f"Its baseline, full/sdpa, was CPU-bound; full was not flagged. {HIGH}"
