"""Figures and words of a run of ``attnbench analyze``."""

from __future__ import annotations

from typing import Any

import pytest

from attnbench.report.data.attention_maps import NOT_ENDED, analysis_figures, analysis_stories
from attnbench.results.premises import premises
from attnbench.results.records.analysis import AnalysisRow, PremiseRow


def row(measure: str, value: float, layer: int = 0, head: int = 0, step: int = 0, **more: Any) -> AnalysisRow:
    fields: dict[str, Any] = {"run_id": "r", "model": "mini", "grid": "2x4x4", "tokens": 32, "queries": 32} | more
    return AnalysisRow(measure=measure, value=value, layer=layer, head=head, step=step, **fields)


def test_entropy_is_the_mean_over_heads_of_each_layer_and_step() -> None:
    rows = [
        row("entropy_normalised", 0.2 + 0.1 * head + 0.01 * step, 3, head, step) for head in (0, 1) for step in (0, 4)
    ]
    (figure,) = analysis_figures(rows)
    assert [(cell.line, cell.at) for cell in figure.cells] == [("layer 3", "step 0"), ("layer 3", "step 4")]
    assert [cell.value for cell in figure.cells] == pytest.approx([0.25, 0.29])


def test_classes_are_counted_by_layer() -> None:
    labels = {0: ["temporal", "temporal", "local", "global"], 1: ["spatial"] * 4}
    rows = [
        row("class_margin", 2.0, layer, head, label=label)
        for layer, own in labels.items()
        for head, label in enumerate(own)
    ]
    (figure,) = analysis_figures(rows)
    assert [strip.values for strip in figure.strips] == [(0.5, 0, 0.25, 0.25), (0, 1.0, 0, 0)]


def test_all_figures_of_a_section_have_names_of_their_own() -> None:
    rows = [
        *(row("entropy_normalised", 0.5, 0, head) for head in range(3)),
        *(row("frame_mass", 0.6, 0, head, points=[0.6, 0.4], shape="dt=2") for head in range(3)),
        *(row("importance_gini_3d", 0.1, 0, head, points=[1.0, 1.0, 0.9, 1.1], shape="h=2,w=2") for head in range(3)),
        *(row("block_mass_correlation", 0.9, 0, head, 1) for head in range(3)),
        *(row(f"pairs_needed_{share}_3d", share / 200, 0, head) for head in range(3) for share in (50, 90)),
    ]
    figures = analysis_figures([*rows, *(each.model_copy(update={"run_id": "s"}) for each in rows)])
    assert len(figures) == 10
    assert len({figure.option for figure in figures}) == len({figure.name for figure in figures}) == 10


LIFTS = ("same_place_lift", "same_frame_lift", "own_block_3d_lift")
LOCAL = [row(measure, 5.0, 0, head) for head in range(6) for measure in LIFTS]
STORED = PremiseRow(
    run_id="r", premise="locality", claim="What it was said to be then.", sources="VMoBA", statistic="median",
    holds="≥ 9", fails="≤ 8", verdict="does not hold", value=5.0, lo=5.0, hi=5.0, tested_on="mini: 1 layer, 6 heads",
)  # fmt: skip


@pytest.mark.parametrize(("model", "said"), [("mini", "It is not Wan."), ("video", "not those of Wan"), ("wan", "")])
def test_what_is_not_a_real_model_is_said_to_be_none(model: str, said: str) -> None:
    (story,) = analysis_stories([each.model_copy(update={"model": model}) for each in LOCAL], [STORED])
    assert any("Wan" in sentence for sentence in story.sentences) == bool(said)
    assert any(said in sentence for sentence in story.sentences)


def test_verdicts_are_by_the_bounds_of_today_and_of_all_premises() -> None:
    (story,) = analysis_stories(LOCAL, [STORED])
    assert [name for name, _ in story.claims] == [each.name for each in premises()]
    assert dict(story.claims)["locality"].startswith(premises()[0].claim)
    assert {line[0]: line[1] for line in story.table.rows}["locality"] == "holds"
    assert story.sentences[0].startswith(f"Of {len(premises())} premises, 1 holds")
    assert any(sentence.startswith("locality was tested on mini: 1 layer, 6 heads") for sentence in story.sentences)


def test_a_run_that_judged_nothing_did_not_end() -> None:
    (story,) = analysis_stories(LOCAL, [])
    assert story.sentences[0] == NOT_ENDED
    assert story.table.rows == story.claims == ()


@pytest.mark.parametrize("settings", ["", "{", "[1]", '{"density":"half"}', '{"density":NaN}', '{"density":1e999}'])
def test_settings_that_no_run_writes_are_no_density(settings: str) -> None:
    rows = [row("global_gain_3d", 0.1, 0, head, settings=settings) for head in range(6)]
    (story,) = analysis_stories(rows, [STORED])
    assert (
        "global-before-fixed was tested on mini: 1 layer, 6 heads, 1 step, 1 prompt, 32 of 32 queries."
        in story.sentences
    )
