"""The waterfall: bars add up to the latency, and nothing hides in one of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.cost.waterfall import LOSSES, Span, Waterfall, build_waterfall
from attnbench.kernels.errors import BadInput

PHASES = {"attend": Span(6.0, 5.9, 6.2), "pool": Span.of(0.1), "select": Span.of(0.5), "merge": Span(0.8, 0.7, 0.9)}


def of(**changes: Any) -> Waterfall:
    given_values: dict[str, Any] = {
        "latency": Span(8.0, 7.9, 8.1), "dense": Span(25.0, 24.0, 26.0), "density": 0.2, "kept_share": 0.9,
        "phases": PHASES,
    }  # fmt: skip
    return build_waterfall(**given_values | changes)


def spans(waterfall: Waterfall) -> dict[str, Span]:
    return {bar.name: bar.span for bar in waterfall.bars}


def test_each_loss_is_what_its_phases_took() -> None:
    waterfall = of()
    bars = spans(waterfall)
    assert waterfall.ideal.ms == pytest.approx(5.0)
    assert bars["selection"].ms == pytest.approx(0.6)
    assert bars["merge"] == Span(0.8, 0.7, 0.9)
    assert bars["padding"].ms == pytest.approx(0.6)
    assert bars["kernel inefficiency"].ms == pytest.approx(6.0 * 0.9 - 5.0)
    assert "permute" not in bars, "a loss that nothing was lost to is not drawn"
    assert [bar.kind for bar in waterfall.bars if bar.name in ("padding", "kernel inefficiency")] == ["modelled"] * 2
    assert {bar.kind for bar in waterfall.bars if bar.name in ("selection", "merge")} == {"measured"}


def test_what_is_left_over_is_shown_with_the_intervals_of_everything() -> None:
    waterfall = of()
    assert waterfall.unexplained.ms == pytest.approx(8.0 - 7.4)
    assert waterfall.unexplained.lo == pytest.approx(7.9 - (6.2 + 0.6 + 0.9))
    assert waterfall.unexplained.hi == pytest.approx(8.1 - (5.9 + 0.6 + 0.7))
    assert waterfall.unexplained_share == pytest.approx(0.6 / 8.0)


def test_a_kernel_that_computes_kept_pairs_only_has_no_padding_and_no_model() -> None:
    waterfall = of(kept_share=1.0)
    assert "padding" not in spans(waterfall)
    assert {bar.kind for bar in waterfall.bars} == {"measured"}


def test_a_kernel_faster_than_the_dense_one_gains() -> None:
    assert spans(of(phases={"attend": Span.of(4.0)}, kept_share=1.0))["kernel inefficiency"].ms == pytest.approx(-1.0)


positive = st.floats(0.01, 100)
PARTS = ["attend", *(name for group in LOSSES.values() for name in group)]


@given(
    latency=positive, dense=positive, density=st.floats(0.01, 1), kept_share=st.floats(0.1, 1),
    phases=st.dictionaries(st.sampled_from(PARTS), positive),
)  # fmt: skip
def test_the_bars_and_what_is_left_over_add_up_to_the_latency(
    latency: float, dense: float, density: float, kept_share: float, phases: dict[str, float]
) -> None:
    times = {name: Span(ms, 0.9 * ms, 1.2 * ms) for name, ms in phases.items()}
    waterfall = of(latency=Span.of(latency), dense=Span.of(dense), density=density, kept_share=kept_share, phases=times)
    total = waterfall.ideal.ms + sum(bar.span.ms for bar in waterfall.bars) + waterfall.unexplained.ms
    assert total == pytest.approx(latency, abs=1e-9)
    assert waterfall.unexplained.ms == pytest.approx(latency - sum(phases.values()), abs=1e-9)
    for span in (waterfall.unexplained, *spans(waterfall).values()):
        assert span.lo <= span.ms + 1e-9
        assert span.ms <= span.hi + 1e-9


def test_parts_of_the_attention_kernel_do_not_count_twice() -> None:
    inside = {**PHASES, "qk": Span.of(3.0), "softmax": Span.of(1.0), "av": Span.of(2.0)}
    assert of(phases=inside) == of()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phases": {"tea": Span.of(1.0)}}, "no loss contains the phase 'tea'"),
        ({"density": 0.0}, "density is 0.0; it must be above 0 and at most 1"),
        ({"kept_share": 1.5}, "kept_share is 1.5"),
    ],
)
def test_what_cannot_be_broken_down_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        of(**changes)
