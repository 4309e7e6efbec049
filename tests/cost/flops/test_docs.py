"""docs/flops.md shows what the program prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnbench.cost.flops.paper import LayerKind, paper_tflop
from attnbench.cost.flops.wan import WAN_MODELS, forward_flops
from attnbench.kernels.grid import Grid
from attnbench.report.terminal import flops as tables

PAGE = Path(__file__).resolve().parents[3] / "docs" / "flops.md"


@pytest.mark.parametrize("name", ["model_markdown", "paper_markdown"])
def test_the_tables_of_the_page_are_the_programs(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(
        rf"<!-- begin: {name}, from scripts/write_docs\.py -->\n\n(.*?)\n<!-- end -->", text, re.DOTALL
    )
    assert found == getattr(tables, name)(), "run: python scripts/write_docs.py flops.md"


def test_the_numbers_of_the_text_are_right() -> None:
    text = PAGE.read_text(encoding="utf-8")
    config, grid = WAN_MODELS["wan2.1-1.3b"], Grid(21, 30, 52)
    whole, short = (forward_flops(config, grid, text_tokens=tokens) for tokens in (512, 300))
    padding = sum(whole.parts[part] - short.parts[part] for part in ("cross_projections", "cross_pairs"))
    ends = whole.patch_embedding + whole.time_embedding + whole.text_embedding + whole.head
    own = paper_tflop(grid.tokens, [LayerKind()])
    assert own + (padding + ends) / 1e12 == pytest.approx(whole.total / 1e12)
    assert f"that is {own:.2f} TFLOP where the model takes {whole.total / 1e12:.2f}" in text
    assert f"which adds {padding / 1e12:.2f}, and embeddings and head add\n{ends / 1e12:.2f}" in text
    at_19 = paper_tflop(grid.tokens, [LayerKind(0.19, blocks) for blocks in (7, 24, 72)])
    assert f"{own / at_19:.2f}× less than full attention instead of {own / 149:.2f}×" in text
    stated = paper_tflop(75_600, [LayerKind(2 / 7, 7), LayerKind(0.25, 40), LayerKind(0.25, 36)])
    assert f"k = 2/10/9 would be {paper_tflop(75_600, [LayerKind()]) / stated:.2f}×" in text


def test_the_tolerance_of_the_page_holds_between_rounding_and_the_remarks() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = tables.paper_rows("vmoba")
    agreeing = max(abs(row.relative) for row in rows if row.verdict == "agrees")
    rounded = max(0.005 / row.tflop for row in rows)
    assert f"at most {rounded:.3%}".replace("%", " %") in text
    assert f"up to {agreeing:.3%}".replace("%", " %") in text


def test_what_the_page_points_to_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).exists(), target
