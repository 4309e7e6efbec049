"""The waterfall chart: what it says in words, and that it draws every kind of bar."""

from __future__ import annotations

import pytest

from attnbench.cost.waterfall import Span, build_waterfall
from attnbench.report.charts.waterfall import waterfall_figure, waterfall_words

PHASES = {"attend": Span(6.6, 6.5, 6.7), "pool": Span.of(0.1), "merge": Span.of(0.8)}


@pytest.mark.parametrize("attend", [6.6, 3.0])
def test_every_bar_is_drawn_where_the_one_before_ends(attend: float) -> None:
    phases = {**PHASES, "attend": Span.of(attend)}
    waterfall = build_waterfall(Span(8.0, 7.9, 8.1), Span.of(24.0), 0.2, 0.95, phases)
    axes = waterfall_figure(waterfall).axes[0]
    bars = [bar for bar in axes.patches if hasattr(bar, "get_width")]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(bars) == len(names) == len(waterfall.bars) + 3
    assert names == ["dense × density", *(bar.name for bar in waterfall.bars), "unexplained", "measured"]
    end = 0.0
    for bar in bars[:-1]:
        assert bar.get_x() == pytest.approx(end)
        end = bar.get_x() + bar.get_width()
    assert end == pytest.approx(bars[-1].get_width()) == pytest.approx(8.0)
    hatched = [name for name, bar in zip(names, bars, strict=True) if bar.get_hatch()]
    assert hatched == ["padding", "kernel inefficiency"]


def test_the_words_name_every_loss_and_what_rests_on_a_model() -> None:
    said = waterfall_words(build_waterfall(Span(8.0, 7.9, 8.1), Span.of(24.0), 0.2, 0.95, PHASES))
    assert said == (
        "Dense × density: 4.80 ms. Then selection 0.100, merge 0.800, padding 0.330 (modelled), kernel inefficiency "
        "1.47 (modelled); unexplained 0.500, between 0.300 and 0.700. Measured: 8.00 ms."
    )


def test_an_interval_that_does_not_hold_its_value_is_drawn_all_the_same() -> None:
    waterfall = build_waterfall(Span(8.0, 9.0, 9.5), Span.of(24.0), 0.2, 0.95, PHASES)
    assert waterfall_figure(waterfall).axes[0].patches
