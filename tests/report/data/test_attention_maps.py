"""Figures and words of a run of ``attnbench analyze``."""

from __future__ import annotations

from typing import Any

import pytest

from attnbench.report.data.attention_maps import analysis_figures, analysis_stories
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


@pytest.mark.parametrize(("model", "said"), [("mini", "It is not Wan."), ("video", "not those of Wan"), ("wan", "")])
def test_what_is_not_a_real_model_is_said_to_be_none(model: str, said: str) -> None:
    premise = PremiseRow(
        run_id="r", premise="locality", claim="Heads are local.", sources="VMoBA", statistic="median", holds="≥ 2",
        fails="≤ 1", verdict="holds", value=3.0, lo=2.5, hi=3.5, tested_on=f"{model}: 1 layer, 6 heads",
    )  # fmt: skip
    (story,) = analysis_stories([row("entropy", 1.0, model=model)], [premise])
    assert story.sentences[0] == "Of 1 premises, 1 holds."
    assert any("not" in sentence for sentence in story.sentences) == bool(said)
    assert any(said in sentence for sentence in story.sentences)
    assert story.table.rows[0][:4] == ("locality", "holds", "3.00", "[2.50, 3.50]")
