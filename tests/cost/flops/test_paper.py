"""The paper's FLOPs tables: the closed form against products counted one by one, and what each row comes to."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.cost.flops import WAN_MODELS, forward_flops
from attnbench.cost.flops.paper import (
    LAYERS,
    TEXT,
    TOLERANCE,
    WIDTH,
    LayerKind,
    Printed,
    Recomputed,
    paper_tflop,
    recompute,
    recompute_all,
    verdict_of,
)
from attnbench.cost.flops.vmoba_tables import VMOBA_TABLES
from attnbench.kernels.grid import Grid

ROWS = recompute_all(VMOBA_TABLES)


def find(table: int, size: str, method: str) -> Recomputed:
    (row,) = (r for r in ROWS if (r.printed.table, r.printed.size, r.printed.method) == (table, size, method))
    return row


@pytest.mark.parametrize("grid", [Grid(21, 30, 52), Grid(24, 36, 64), Grid(1, 2, 3)])
def test_dense_is_the_model_with_its_text_and_without_its_ends(grid: Grid) -> None:
    model = forward_flops(WAN_MODELS["wan2.1-1.3b"], grid, text_tokens=TEXT)
    ends = model.patch_embedding + model.time_embedding + model.text_embedding + model.head
    assert paper_tflop(grid.tokens, [LayerKind()]) == pytest.approx((model.total - ends) / 1e12, rel=1e-12)


@given(
    st.integers(1, 10**5),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 200)), min_size=1, max_size=3),
)
def test_sparse_layers_add_scores_and_drop_pairs(tokens: int, kinds: list[tuple[float, int]]) -> None:
    dense = paper_tflop(tokens, [LayerKind()]) * 1e12
    saved = added = 0.0
    for density, blocks in kinds:
        layers = LAYERS / len(kinds)
        saved += layers * 2 * 2 * tokens * tokens * WIDTH * (1 - density)
        added += layers * 2 * tokens * blocks * WIDTH
    shares = [LayerKind(density, blocks) for density, blocks in kinds]
    assert paper_tflop(tokens, shares) * 1e12 == pytest.approx(dense - saved + added, rel=1e-9)


# What the closed form gives for the settings stated, computed apart from this program.
KNOWN = [
    (1, "81×480×832", "FullAttn", 281.64, "differs"),
    (1, "81×480×832", "SVG", 182.93, "agrees"),
    (1, "81×480×832", "MoBA", 133.46, "agrees"),
    (1, "81×480×832", "VMoBA", 145.25, "differs"),
    (1, "81×720×1280", "FullAttn", 1246.79, "agrees"),
    (1, "81×720×1280", "MoBA", 457.11, "agrees"),
    (1, "81×720×1280", "VMoBA", 520.09, "differs"),
    (2, "93×576×1024", "FullAttn", 705.02, "agrees"),
    (2, "93×576×1024", "MoBA", 282.63, "agrees"),
    (2, "93×576×1024", "VMoBA", 248.73, "agrees"),
    (2, "141×480×832", "FullAttn", 724.97, "agrees"),
    (2, "141×480×832", "VMoBA", 248.39, "agrees"),
    (5, "81×480×832", "VMoBA", 121.51, "differs"),
    (5, "81×320×512", "FullAttn", 67.73, "agrees"),
    (5, "81×320×512", "VMoBA", 40.48, "agrees"),
]


@pytest.mark.parametrize(("table", "size", "method", "tflop", "verdict"), KNOWN)
def test_rows_come_to_what_is_known_of_them(table: int, size: str, method: str, tflop: float, verdict: str) -> None:
    row = find(table, size, method)
    assert round(row.tflop, 2) == tflop
    assert row.verdict == verdict
    assert row.difference == pytest.approx(row.printed.tflop - row.tflop)
    assert row.relative == pytest.approx(row.printed.tflop / row.tflop - 1)


def test_the_rows_that_differ_are_these() -> None:
    differ = [(r.printed.table, r.printed.size, r.printed.method) for r in ROWS if r.verdict == "differs"]
    assert differ == [
        (1, "81×480×832", "FullAttn"), (1, "81×480×832", "VMoBA"), (1, "81×720×1280", "VMoBA"),
        (5, "81×480×832", "FullAttn"), (5, "81×480×832", "VMoBA"),
    ]  # fmt: skip
    factors = [(r.printed.size, r.printed.method) for r in ROWS if r.factor_verdict == "differs"]
    assert factors == [("81×480×832", "MoBA"), ("81×480×832", "VMoBA"), ("93×576×1024", "DiTFastAttn")]


def test_every_size_has_full_attention_and_four_methods_in_each_table() -> None:
    methods = ["FullAttn", "DiTFastAttn", "SVG", "MoBA", "VMoBA"]
    found: dict[tuple[int, str], list[str]] = {}
    for row in VMOBA_TABLES:
        found.setdefault((row.table, row.size), []).append(row.method)
    assert len(found) == 6
    assert all(names == methods for names in found.values())


@pytest.mark.parametrize("row", VMOBA_TABLES)
def test_the_stated_settings_have_the_printed_density(row: Printed) -> None:
    assert row.reading.density == pytest.approx(1 if row.density is None else row.density)
    assert (row.density is None) == (row.method == "FullAttn")


def test_what_the_notes_say_follows_from_the_numbers() -> None:
    mistyped, right = 282.64, 281.64
    factors = {r.printed.method: r.printed for r in ROWS[1:5]}
    for method in ("DiTFastAttn", "SVG"):
        assert factors[method].factor == round(right / factors[method].tflop, 2)
        assert factors[method].factor != round(mistyped / factors[method].tflop, 2)
    for method in ("MoBA", "VMoBA"):
        assert factors[method].factor == round(mistyped / factors[method].tflop, 2)
        assert factors[method].factor != round(right / factors[method].tflop, 2)
    vmoba = find(1, "81×480×832", "VMoBA").printed
    assert vmoba.tflop == pytest.approx(paper_tflop(32_760, [LayerKind(0.329, n) for n in (7, 24, 72)]), abs=0.05)
    assert vmoba.others[1].density == pytest.approx(0.31, abs=0.005)
    high = find(1, "81×720×1280", "VMoBA").printed
    low_end, high_end = (paper_tflop(75_600, [LayerKind(0.31 + d, n) for n in (7, 40, 36)]) for d in (-0.005, 0.005))
    assert high_end - low_end == pytest.approx(2 * 5.27, abs=0.01)
    assert low_end < high.tflop < high_end
    assert high.others[0].density == pytest.approx(0.262, abs=0.0005)
    assert find(5, "81×480×832", "VMoBA").printed.tflop == vmoba.tflop
    cut = find(2, "93×576×1024", "DiTFastAttn")
    assert cut.factor is not None
    assert cut.printed.factor == int(cut.factor * 100) / 100


def test_other_readings_that_agree_give_the_printed_digits() -> None:
    moba = [row for row in ROWS if row.printed.method == "MoBA" and row.others]
    assert len(moba) == 5
    for row in (*moba, find(1, "81×720×1280", "VMoBA")):
        other = row.others[-1]
        assert other.verdict == "agrees"
        assert round(other.tflop, 2) == row.printed.tflop


def test_a_value_agrees_up_to_the_tolerance_on_either_side() -> None:
    assert verdict_of(1000 * (1 + 0.99 * TOLERANCE), 1000) == "agrees"
    assert verdict_of(1000 * (1 - 0.99 * TOLERANCE), 1000) == "agrees"
    assert verdict_of(1000 * (1 + 1.01 * TOLERANCE), 1000) == "differs"
    assert verdict_of(1000 * (1 - 1.01 * TOLERANCE), 1000) == "differs"


@pytest.mark.parametrize("row", VMOBA_TABLES)
def test_a_wrong_digit_would_be_seen(row: Printed) -> None:
    full = paper_tflop(row.tokens, [LayerKind()])
    good = dataclasses.replace(row, tflop=round(recompute(row, full).tflop, 2), factor=2.0)
    wrong = dataclasses.replace(good, tflop=good.tflop + 1)
    assert recompute(good, full).verdict == "agrees"
    assert recompute(wrong, full).verdict == "differs"
    assert recompute(dataclasses.replace(good, factor=99.0), full).factor_verdict == "differs"
