"""docs/methods-compared.md: sections appear when their tables do, and say what the tables hold."""

from __future__ import annotations

import gzip
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import attnbench

ROOT = Path(__file__).resolve().parents[2]
MADE: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "methods_compared.py"))


def test_the_page_is_up_to_date_and_says_so_without_tables(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "methods-compared.md").read_text()
    assert MADE["sections"]() in page
    assert MADE["sections"](tmp_path) == MADE["sections"](tmp_path / "absent") == MADE["NOT_MEASURED"]


def test_a_section_has_a_line_for_each_method_with_its_interval(tmp_path: Path) -> None:
    shutil.copy(ROOT / "results" / "intel-xeon-2-cores" / "720p.jsonl", tmp_path / "720p.jsonl")
    text = MADE["sections"](tmp_path)
    assert "## 720p, defaults, forward, on video" in text
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    means = attnbench.load_means(tmp_path)
    sparse = means[means.method != "full"]
    assert set(lines) == set(sparse.method)
    for _, row in sparse.iterrows():
        numbers = (row.latency_ms, row.latency_lo_ms, row.latency_hi_ms)
        assert "{:.3g} ({:.3g} to {:.3g})".format(*numbers) in lines[row.method]
        assert f" {row.density:.3f} |" in lines[row.method]
    fastest = sparse.sort_values("latency_ms").iloc[0]
    assert f"Fastest is `{fastest.method}`" in text
    header = json.loads((tmp_path / "720p.jsonl").read_text().splitlines()[0])
    assert f"Measured at commit `{header['environment']['git_commit'][:9]}`." in text


def test_what_the_tables_say_together_is_what_their_lines_say() -> None:
    said = [line for line in MADE["sections"]().splitlines() if line.startswith("- **")]
    shown = [table for table in tables(without="on the mini model") if len(table) > 1]
    assert len(said) == len(shown) > 1
    for line, table in zip(said, shown, strict=True):
        ranked = [each for each in table if each["speed-up"] and "unmatched" not in each["method"]]
        speedups = [float(each["speed-up"]) for each in ranked]
        assert f"{len({each['method'] for each in ranked})} methods, from {min(speedups):.2f} times" in line
        assert f"to {max(speedups):.2f} times" in line
        slower, costly = line.partition("Slower than")[2].partition(".")[0], line.partition("Selecting takes")[2]
        for each in ranked:
            assert (each["method"] in slower) == (float(each["speed-up"]) < 1)
            share = float(each["selection, ms"].partition("(")[2].partition(" ")[0])
            assert (each["method"] in costly) == (share > 15) or share == 15  # which may be more or less


def test_clips_get_a_section_with_both_floors(tmp_path: Path) -> None:
    folder = ROOT / "results" / "intel-xeon-2-cores" / "clips"
    shutil.copytree(folder, tmp_path / "clips")
    text = MADE["sections"](tmp_path)
    quality = attnbench.load_quality(tmp_path)
    psnr = quality[(quality.metric == "psnr") & (quality.method == "vmoba")].value
    (line,) = (line for line in text.splitlines() if line.startswith("| `vmoba`"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3].startswith(f"{psnr.mean():.1f}")
    assert cells[4] == str(len(psnr))
    assert all(cells[5:7]), "both floors"
    kept = [x for line in lines_of(tmp_path / "clips") if line["method"] == "vmoba" for x in line["densities"]]
    density = sum(kept) / len(kept)
    assert abs(density - 0.2) > 0.03 * 0.2
    assert cells[2] == f"{density:.2f}, unmatched"
    assert "## Clips of the mini model" in text
    assert "## What the tables say" not in text, "there is no table of latencies"


def test_clips_are_ranked_among_methods_that_kept_the_density() -> None:
    page = MADE["sections"]().partition("## Clips of the mini model")[2]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| `"]
    matched = [cells for cells in shown if "unmatched" not in cells[2]]
    assert 1 < len(matched) < len(shown)
    assert shown[: len(matched)] == matched, "the others come last"
    for cells in shown:
        density = float(cells[2].removesuffix(", unmatched"))
        assert (cells in matched) <= (0.194 - 0.005 <= density <= 0.206 + 0.005)
    for part in (matched, shown[len(matched) :]):
        psnr = [float(cells[3].split()[0]) for cells in part]
        assert psnr == sorted(psnr, reverse=True)
    assert f"{matched[0][0]} is nearest and {matched[-1][0]} farthest." in page


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Return the clips of a journal in a folder."""
    (journal,) = folder.glob("journal.jsonl*")
    lines = map(json.loads, gzip.decompress(journal.read_bytes()).decode().splitlines())
    return [line for line in lines if line["kind"] == "clip"]


def test_a_table_of_the_mini_model_is_by_error() -> None:
    shown = [table for table in tables() if table not in tables(without="on the mini model")]
    assert shown
    for table in shown:
        stateless = [line for line in table if "unmatched" not in line["method"] and not line["refresh, ms"]]
        errors = [float(line["error"]) for line in stateless]
        assert errors == sorted(errors)


def tables(without: str = "no such title") -> list[list[dict[str, str]]]:
    """Return the lines of each table of latencies, by the titles of its columns, but for sections of another kind."""
    found = []
    for section in MADE["sections"]().split("## ")[1:]:
        if without in section.partition("\n")[0]:
            continue
        lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
        cells = [[cell.strip() for cell in line] for line in lines if not line[0].startswith(" ---")]
        if cells and "latency, ms" in cells[0]:
            found.append([dict(zip(cells[0], row, strict=True)) for row in cells[1:]])
    return found


def test_two_settings_of_a_method_can_be_told_apart() -> None:
    for table in tables():
        lines = [(line["method"], line["setting"]) for line in table]
        assert len(set(lines)) == len(lines)


def test_methods_with_a_state_are_ranked_by_the_mean_step() -> None:
    shown = tables()
    for table in tables(without="on the mini model"):
        ranked = [
            line["latency, ms"] for line in table if "unmatched" not in line["method"] and "(" in line["latency, ms"]
        ]
        latencies = [float(latency.split("(")[0]) for latency in ranked]
        assert latencies == sorted(latencies)
    means = attnbench.load_means(ROOT / "results" / "h200" / "methods")
    charged = means[means.latency_amortised_ms.notna()]
    assert len(charged) > 0
    for _, row in charged.iterrows():
        speedup = row.baseline_ms / row.latency_amortised_ms
        expected = (f"{speedup:.2f}", f"{row.latency_ms:.3g}", f"{row.refresh_ms:.3g}")
        assert any(
            line["latency, ms"].startswith(f"{row.latency_amortised_ms:.3g} (")
            and (line["speed-up"], line["between, ms"], line["refresh, ms"]) == expected
            for table in shown
            for line in table
            if line["method"].startswith(f"`{row.method}`")
        )
