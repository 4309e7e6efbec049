"""docs/claims.md and the README say what the committed results say."""

from __future__ import annotations

import gzip
import json
import re
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
README = " ".join((ROOT / "README.md").read_text("utf-8").split())


@pytest.fixture(scope="module")
def claims() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "claims.py"))


@pytest.fixture(scope="module")
def every(claims: dict[str, Any]) -> list[Any]:
    groups = ("flops_claims", "latency_claims", "model_claims", "demo_claims", "readme_claims", "table_claims")
    return [claim for group in groups for claim in claims[group]()]


def test_the_pages_hold_what_is_computed(claims: dict[str, Any]) -> None:
    for name, parts in claims["PARTS"].items():
        page = (ROOT / "docs" / name).read_text("utf-8")
        stale = [
            part for part, make in parts.items() if f"from scripts/write_docs.py -->\n\n{make()}\n\n<!--" not in page
        ]
        assert stale == [], "run: python scripts/write_docs.py claims.md ../README.md"


def test_the_readme_says_each_figure_that_was_computed_for_it(claims: dict[str, Any]) -> None:
    figures = [*claims["demo_claims"](), *claims["readme_claims"]()]
    assert [claim.claim for claim in figures if claim.claim not in README] == []
    assert len(figures) >= 15


def test_each_row_of_the_table_of_latencies_has_its_speed_ups_and_files(claims: dict[str, Any]) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("| video |", "| gaussian |"))]
    for line, claim in zip(lines, claims["table_claims"](), strict=True):
        inputs, case, *figures = (part.strip() for part in line.strip("|").split("|"))
        assert claim.claim == f"{inputs}, {case}"
        speedups = re.findall(r"[\d.]+×(?: \[[^]]+\])?", " ".join(figures))
        assert speedups
        assert [speedup for speedup in speedups if speedup not in claim.ours] == []
        assert len(claim.journal.split(", ")) == len(speedups)


def test_each_claim_has_a_verdict_and_says_where_it_comes_from(claims: dict[str, Any], every: list[Any]) -> None:
    for claim in every:
        assert claim.verdict in (claims["REPRODUCED"], claims["NOT"], claims["UNTESTED"])
        if claim.verdict != claims["UNTESTED"]:
            assert claim.suite != claims["NONE"], claim.claim
        for suite in (name for name in claim.suite.split(", ") if name.endswith(".toml")):
            assert (RESULTS / suite).is_file(), claim.claim
        for journal in (
            name for name in claim.journal.split(", ") if name.startswith(("h100/", "h200/", "intel-", "../"))
        ):
            path = RESULTS / journal
            assert path.exists() or path.with_name(f"{path.name}.jsonl.gz").is_file(), claim.claim


def lines_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(RESULTS / "h100" / f"{name}.jsonl.gz", "rt", encoding="utf-8")]


@pytest.mark.parametrize(
    ("table", "dense_of"), [("576p-video-fwd", "576p-video-fwd"), ("480p-gaussian-fwdbwd", "480p-gaussian-fwdbwd")]
)
def test_a_mean_over_layers_is_formed_round_by_round(claims: dict[str, Any], table: str, dense_of: str) -> None:
    lines = lines_of(table)
    cells = {line["cell_id"]: line["method"] for line in lines if line["kind"] == "row"}
    rounds: dict[tuple[str, int], list[float]] = {}
    for line in lines:
        if line["kind"] == "sample":
            rounds.setdefault((cells[line["cell_id"]], line["round"]), []).append(line["cold_ms"])
    own, dense = (
        statistics.median(statistics.fmean(times) for (method, _), times in rounds.items() if method == wanted)
        for wanted in ("vmoba", "full")
    )
    mean = claims["only"](table)
    assert mean.ms.median == pytest.approx(own)
    assert mean.speedup.value == pytest.approx(dense / own)
    assert mean.speedup.lo <= mean.speedup.value <= mean.speedup.hi
    assert f"{dense / own:.2f}× [" in README


def test_the_published_code_is_compared_with_the_dense_kernel_of_its_session(claims: dict[str, Any]) -> None:
    folder = RESULTS / "h100" / "published"
    code = [row for row in json.loads((folder / "vmoba.json").read_text()) if row["peer"] == "vmoba head_global"]
    for row in json.loads((folder / "dense.json").read_text())["rows"]:
        if row["peer"] == "FA4 dense" and row["dir"] == "fwd":
            mine = statistics.fmean(each["fwd"] for each in code if each["n"] == row["n"])
            assert claims["published_speedup"](row["n"], "fwd") == pytest.approx(row["ms"] / mine)
            assert f"{mine:.1f} ms, {row['ms'] / mine:.2f}× |" in README
