from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbench.report.cases import Case, cases_of
from attnbench.report.charts.latency import (
    latency_figure,
    latency_words,
    png_uri,
    svg_uri,
    tradeoff_figure,
    tradeoff_words,
)
from attnbench.results.load import Results

Maker = Callable[..., Any]


@pytest.fixture
def case(table: Results) -> Case:
    (case,) = cases_of(table.rows)
    return case


def decoded(uri: str, mime: str) -> bytes:
    head, _, body = uri.partition(",")
    assert head == f"data:{mime};base64"
    return base64.b64decode(body, validate=True)


def test_every_latency_stands_at_its_value_and_the_baseline_is_a_line(case: Case) -> None:
    (axes,) = latency_figure(case).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["full", "sta", "vmoba · layer 0", "vmoba · layer 1", "vmoba · layer 2"]
    drawn = {tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 1}
    assert {100.0, 34.5, 62.0, 71.0, 80.0} <= {value for (value,) in drawn}
    assert any(list(line.get_xdata()) == [100.0, 100.0] for line in axes.lines)
    assert "ms" in axes.get_xlabel()
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[0] == 0


def test_latencies_far_apart_get_a_logarithmic_axis_that_says_so(row_of: Maker) -> None:
    (case,) = cases_of([row_of("full", density=1.0, latency_ms=100.0), row_of("sta", latency_ms=9000.0)])
    (axes,) = latency_figure(case).axes
    assert axes.get_xscale() == "log"
    assert "logarithmic" in axes.get_xlabel()


def test_the_ideal_line_is_one_over_density(case: Case) -> None:
    figure = tradeoff_figure(case)
    assert figure is not None
    (axes,) = figure.axes
    ideal = next(line for line in axes.lines if "ideal" in str(line.get_label()))
    np.testing.assert_allclose(ideal.get_xdata() * ideal.get_ydata(), 1.0)
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    assert (0.19, pytest.approx(100 / 34.5)) in [(x, y) for x, y in points]
    assert len(points) == 4
    assert axes.get_xlabel().startswith("density")
    assert axes.get_ylabel().startswith("speed-up")


def test_no_tradeoff_without_a_sparse_row(row_of: Maker) -> None:
    (case,) = cases_of([row_of("full", density=1.0)])
    assert tradeoff_figure(case) is None


def test_svg_is_xml_without_links_to_the_outside_and_repeats_itself(case: Case) -> None:
    first, second = svg_uri(latency_figure(case)), svg_uri(latency_figure(case))
    assert first == second
    tree = ET.fromstring(decoded(first, "image/svg+xml"))
    links = [value for node in tree.iter() for name, value in node.attrib.items() if name.endswith("href")]
    assert all(link.startswith("#") for link in links)


def test_png_opens_and_has_few_colours(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(decoded(png_uri(latency_figure(case)), "image/png"))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 16)) <= 64


def test_a_label_may_look_like_mathematics(row_of: Maker) -> None:
    (case,) = cases_of([row_of("sta", settings={"a": "$x$"}), row_of("sta", settings={"a": r"$\frac{$"})])
    assert svg_uri(latency_figure(case))


def test_words_hold_every_figure(case: Case) -> None:
    assert "sta 34.5 ms" in latency_words(case)
    assert "full/sdpa: 100 ms" in latency_words(case)
    assert "sta: density 0.190, speed-up 2.90×" in tradeoff_words(case)
