"""The committed page of the H100: it is what the command writes, and the command still writes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attnbench.cli import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "reports/h100.html"
MEGABYTES = 4


def data_of(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    found: dict[str, Any] = json.loads(text)
    return found


def facets(data: dict[str, Any]) -> set[tuple[str, ...]]:
    names = ("device", "shape", "direction", "dtype", "inputs", "model")
    return {tuple(each[name] for name in names) for each in data["selections"]}


def test_the_page_answers_for_every_resolution_and_direction() -> None:
    answers = {
        (each["shape"][:4], each["direction"]): each
        for each in data_of(PAGE)["selections"]
        if each["inputs"] == "video" and "12 heads" in each["shape"]
    }
    for resolution in ("480p", "576p", "720p"):
        for direction in ("forward", "forward and backward"):
            each = answers[resolution, direction]
            assert re.search(r"is [\d.]+× \[.*\] as fast as the fastest dense kernel", each["sentence"])
            assert "would be ideal" in each["sentence"]
            assert "relative error" in each["sentence"]
            assert each["trust"]
            assert each["baselines"].startswith("full/")


@pytest.mark.slow  # it reads all results of the H100
def test_the_command_still_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = tmp_path / "h100.html"
    done = CliRunner().invoke(app, ["report", "results/h100", "--out", str(page)])
    assert done.exit_code == 0, done.output
    assert page.stat().st_size < MEGABYTES * 1e6
    missing = facets(data_of(PAGE)) - facets(data_of(page))
    assert missing == set(), "run: attnbench report results/h100 --out reports/h100.html"
