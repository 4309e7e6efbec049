"""Figures of what methods and budgets keep, and of what replaced attention costs."""

from __future__ import annotations

from typing import Any

import pytest

from attnbench.report.data.figure import Figure, table_of
from attnbench.report.data.kept_pairs import kept_figures
from attnbench.results.records.analysis import AnalysisRow


def row(measure: str, value: float | None, **fields: Any) -> AnalysisRow:
    given: dict[str, Any] = {
        "run_id": "r", "model": "mini", "measure": measure, "value": value, "tokens": 64, "grid": "4x4x4", "layer": 0,
        "head": 0, "step": 0,
    }  # fmt: skip
    return AnalysisRow(**given | fields)


def figures(rows: list[AnalysisRow]) -> dict[str, Figure]:
    found = {figure.name: figure for figure in kept_figures(rows)}
    for figure in found.values():
        assert table_of(figure).rows
    return found


def test_methods_are_placed_by_density_and_recall() -> None:
    rows = [
        row("mass_recall", value, method=method, settings=settings, density=0.2, head=head, points=[value] * 4,
            shape="h=2,w=2")
        for method, settings, values in (("sta", "{}", (0.4, 0.6)), ("vmoba", '{"scope":"query"}', (0.7, 0.9)))
        for head, value in enumerate(values)
    ]  # fmt: skip
    found = figures(rows)
    recall = found["analysis-0-mass-recall"]
    assert [(each.name, each.points[0].x, each.points[0].y) for each in recall.series] == [
        ("sta", 0.2, pytest.approx(0.5)), ("vmoba", 0.2, pytest.approx(0.8)),
    ]  # fmt: skip
    assert recall.words.startswith("vmoba keeps most: 0.800 of the weight")
    assert [strip.values for strip in found["analysis-0-places-1"].strips] == [pytest.approx((0.8, 0.8))] * 2


def test_entries_of_one_method_are_told_apart_by_their_settings() -> None:
    rows = [
        row("mass_recall_worst_tenth", 0.5, method="vmoba", settings=settings, density=0.2)
        for settings in ('{"scope":"query"}', '{"scope":"head"}')
    ]
    (figure,) = figures(rows).values()
    assert [each.name for each in figure.series] == ["vmoba scope=query", "vmoba scope=head"]


def test_the_lost_weight_is_drawn_by_distance() -> None:
    rows = [
        row("mass_lost", 0.5, method="sta", density=0.2, points=[0.1, 0.3, 0.1], shape="dt=3"),
        row("mass_lost", 0.0, method="full", density=1.0, points=[0.0, 0.0, 0.0], shape="dt=3"),
    ]
    figure = figures(rows)["analysis-0-lost"]
    assert [point.y for point in figure.series[0].points] == [0.1, 0.3, 0.1]
    assert "sta 0.800" in figure.words


def test_budgets_are_drawn_from_the_worst_tenth_on_for_each_density() -> None:
    rows = []
    for density in (0.25, 0.5):
        settings = f'{{"density":{density}}}'
        rows.append(row("global_gain_3d", 0.0, settings=settings))
        for rule, first in (("topk_query", 0.4), ("minmax_head", 0.1)):
            points = [first + density, *[0.9] * 9]
            rows.append(row(f"cut_recall_{rule}_3d", 0.8, settings=settings, points=points, shape="tenth=10"))
    found = figures(rows)
    title = "One budget for the head, or one for each query"
    assert [figure.option for figure in found.values()] == [
        f"{title}, 3D blocks, density 0.25", f"{title}, 3D blocks, density 0.5"
    ]  # fmt: skip
    first = next(iter(found.values()))
    assert "holds 0.350 with a budget of the head and 0.650 with a fixed one" in first.words


def test_replaced_layers_are_a_map() -> None:
    rows = [
        row("perturbed_psnr", value, method=method, layer=layer, head=None, step=None)
        for method, values in (("uniform", (9.0, 20.0, 30.0)), ("identity", (7.0, 12.0, 33.0)))
        for layer, value in zip((None, 0, 1), values, strict=True)
    ]
    rows.append(row("perturbed_psnr", 1.0, method="uniform", head=None, step=3))  # one step alone is not in it
    (figure,) = figures(rows).values()
    assert [(cell.line, cell.at, cell.value) for cell in figure.cells][:3] == [
        ("identity", "layer 0", 12.0), ("identity", "layer 1", 33.0), ("identity", "all layers", 7.0),
    ]  # fmt: skip
    assert figure.words == "Least with identity in all layers: 7.00 dB."


def test_rows_of_attention_itself_make_none_of_these_figures() -> None:
    skipped = row("mass_recall", None, method="sta", status="skipped", reason="it cannot")
    assert figures([row("entropy", 3.0), skipped]) == {}


def test_rows_without_maps_have_no_figure_of_places() -> None:
    """Journals that are kept small leave maps and curves out."""
    own = {"method": "sta", "density": 0.2}
    rows = [row("mass_recall", 0.5, **own), row("mass_lost", 0.5, **own)]
    rows += [row("global_gain_3d", 0.0, settings='{"density":0.25}')]
    rows += [row(f"cut_recall_{rule}_3d", 0.5, settings='{"density":0.25}') for rule in ("topk_query", "minmax_head")]
    assert list(figures(rows)) == ["analysis-0-mass-recall"]


def test_entropy_is_set_against_what_replacing_a_layer_costs() -> None:
    rows = [
        row("entropy_normalised", 0.1 * layer + 0.05 * head, layer=layer, head=head, step=step)
        for layer in range(3) for head in range(2) for step in range(2)
    ]  # fmt: skip
    replaced: dict[str, Any] = {"head": None, "step": None}
    for method in ("identity", "uniform"):
        rows += [row("perturbed_psnr", 10.0 + layer, method=method, layer=layer, **replaced) for layer in range(3)]
        rows.append(row("perturbed_psnr", 5.0, method=method, layer=None, **replaced))
        rows.append(row("perturbed_psnr", 40.0, method=method, **replaced | {"step": 1}))  # of one step alone
    rows.append(row("spearman_entropy_psnr", 0.75, method="identity", layer=None, **replaced))
    figure = figures(rows)["analysis-0-entropy-cost"]
    assert [each.name for each in figure.series] == ["identity", "uniform"]
    for series in figure.series:
        assert [point.x for point in series.points] == pytest.approx([0.025, 0.125, 0.225])
        assert [point.y for point in series.points] == [10.0, 11.0, 12.0]
    assert figure.words == "Rank correlation over layers: 0.750 for identity."


@pytest.mark.parametrize("settings", ["", "{", "[1]", '{"density":"half"}'])
def test_settings_that_no_run_writes_end_no_figure(settings: str) -> None:
    rows = [row("mass_recall", 0.5, head=0, method="sta", settings=each, density=0.25) for each in ("{}", settings)]
    rows += [row("global_gain_3d", 0.1, head=0, settings=settings)]
    assert figures(rows)
