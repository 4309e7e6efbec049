"""The page about what attention looks like says what its committed run gives."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from attnbench.analysis.cuts import RULES
from attnbench.machine.environment import collect_environment
from attnbench.results.records.analysis import AnalysisRow
from attnbench.results.run import begin, choose_place

ROOT = Path(__file__).resolve().parents[2]


def test_tables_of_the_page_are_those_of_its_journal() -> None:
    written = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))["written"]
    text = (ROOT / "docs" / "analysis.md").read_text("utf-8")
    assert written("analysis.md") == text
    assert text.count("| locality |") == 1


def rows(run_id: str) -> list[AnalysisRow]:
    """Two layers of one head in one step, of which each was replaced, and its PSNR rises with its entropy."""
    fields: dict[str, Any] = {"run_id": run_id, "model": "mini", "grid": "2x4x4", "tokens": 32, "prompts": 7}
    every = [AnalysisRow(**fields, measure="clip_mini_class_accuracy", value=0.5)]
    for layer in (0, 1):
        at = {**fields, "layer": layer}
        for measure, value in (("entropy", 2.0 + layer), ("entropy_normalised", 0.5 + layer / 4)):
            every.append(AnalysisRow(**at, head=0, step=3, queries=32, measure=measure, value=value))
        every.append(AnalysisRow(**at, method="identity", measure="perturbed_psnr", value=10.0 + layer))
    every += [
        AnalysisRow(**fields, method="identity", measure="perturbed_psnr", value=5.0),
        AnalysisRow(**fields, method="identity", measure="spearman_entropy_psnr", value=-0.5, lo=-0.75, hi=0.25),
    ]
    return every


def test_what_replaced_attention_did_is_told_by_layer(tmp_path: Path) -> None:
    place = choose_place(tmp_path / "run")
    command = ["/usr/bin/attnbench", "analyze", "--perturb", "--out", "somewhere", "--seed", "1"]
    with begin(place, collect_environment("cpu", command), {"command": "analyze"}) as journal:
        journal.append(*rows(place.run_id))
    parts = runpy.run_path(str(ROOT / "scripts" / "analysis_page.py"))["PARTS"]
    about = parts["run"](place.folder)
    assert "7 prompts, 2 layers, 1 step, all 32 queries of each head." in about
    assert about.endswith("```\nattnbench analyze --perturb --seed 1\n```")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in parts["replaced"](place.folder).splitlines()]
    table = {row[0]: row[1:4] for row in cells if row}
    assert table["nothing"] == ["", "", "50%"]
    assert table["layer 0"] == ["0.500", "10.0", ""]
    assert table["layer 1"] == ["0.750", "11.0", ""]
    assert table["all layers"] == ["0.625", "5.0", ""]
    assert table["each layer, entropy over all steps"] == ["−0.50 [−0.75, 0.25]", ""]


def test_what_methods_and_rules_keep_is_told_as_means(tmp_path: Path) -> None:
    place = choose_place(tmp_path / "run")
    fields: dict[str, Any] = {"run_id": place.run_id, "model": "mini", "grid": "2x4x4", "tokens": 32, "prompts": 1,
                              "queries": 32, "step": 3}  # fmt: skip
    found = [AnalysisRow(**fields, layer=0, head=0, measure="entropy", value=1.0)]
    for method, density, value in (("sta", 0.25, 0.5), ("vmoba", 0.24, 0.75), ("svg2", 0.26, 0.625)):
        for measure in ("mass_recall", "mass_recall_worst", "mass_recall_worst_tenth", "approximation_error"):
            of = {**fields, "layer": 0, "method": method, "density": density, "measure": measure}
            found += [AnalysisRow(**of, head=head, value=value + head / 4 - 0.125) for head in (0, 1)]
    at = {**fields, "layer": 0, "head": 0, "settings": '{"density":0.25}'}
    found += [AnalysisRow(**at, measure=f"cut_recall_{rule}_3d", value=n / 8) for n, rule in enumerate(RULES)]
    best = {**fields, "head": None, "measure": "partition_regret", "settings": '{"density":0.25}', "label": "3d"}
    found += [AnalysisRow(**best, layer=layer, value=layer / 8) for layer in (0, 4)]
    with begin(place, collect_environment("cpu", ["analyze_mini.py", "OUT"]), {"command": "analyze"}) as journal:
        journal.append(*found)
    parts = runpy.run_path(str(ROOT / "scripts" / "analysis_page.py"))["PARTS"]

    def table(part: str) -> list[list[str]]:
        lines = parts[part](place.folder).splitlines()
        return [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]

    assert table("kept") == [
        ["vmoba", "0.240", *["0.750"] * 4], ["svg2", "0.260", *["0.625"] * 4], ["sta", "0.250", *["0.500"] * 4],
    ]  # fmt: skip
    assert table("rules") == [[rule, f"{n / 8:.3f}"] for n, rule in reversed(list(enumerate(RULES)))]
    assert table("partitions") == [["0", "1d", "3d in 1 of 1", "0.000"], ["4", "2d", "3d in 1 of 1", "0.500"]]
