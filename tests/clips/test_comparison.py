"""The table that compares runs of clips, from their journals, gzipped or not."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import attnbench
from attnbench.clips import session
from attnbench.clips.metrics import gaps
from attnbench.clips.request import ClipsRequest
from attnbench.kernels.errors import BadInput
from attnbench.mini.config import PRESETS
from attnbench.report.gap_words import estimate_words
from attnbench.report.terminal.gaps import clip_run, comparison_table
from attnbench.results.load import read

Ask = Callable[..., ClipsRequest]
Table = Callable[..., list[str]]
METHODS: dict[str, dict[str, Any]] = {
    "sta": {"tile": [1, 4, 4], "window": [1, 1, 1]},
    "moba": {"blocks": 8, "topk": 2},
}


@pytest.fixture(scope="module")
def table() -> Table:
    def lines(*runs: Path) -> list[str]:
        return comparison_table([clip_run(path, read(path)) for path in runs]).markdown()

    return lines


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_table_of_a_run(table: Table, ask: Ask, tmp_path: Path, quiet: Any) -> None:
    session.start(ask(methods=METHODS, seeds=3), tmp_path / "run", quiet)
    lines = table(tmp_path / "run")
    assert cells(lines[0]) == ["method", "density", "psnr, dB ↑", "ssim ↑"]
    assert [cells(line)[0] for line in lines[2:]] == ["sta", "moba", "*another kernel*", "*another seed*"]
    grid = PRESETS["tiny"].grid
    q = torch.zeros(1, PRESETS["tiny"].heads, grid.tokens, PRESETS["tiny"].head_dim)
    plan = attnbench.select(q, q, method="sta", grid=grid, layer=0, **METHODS["sta"])
    kept = plan.pairs / (PRESETS["tiny"].heads * grid.tokens**2)
    assert cells(lines[2])[1] == f"{kept:.3f}"
    found = {(gap.method, gap.metric): gap for gap in gaps(read(tmp_path / "run").quality)}
    for line, method in zip(lines[2:4], METHODS, strict=True):
        for cell, metric in zip(cells(line)[2:], ("psnr", "ssim"), strict=True):
            gap = found[method, metric]
            assert cell.startswith(estimate_words(gap.gap))
            assert cell.endswith(f"({gap.judgement})") == (gap.judgement != "distinguishable")
    assert cells(lines[5])[2] == estimate_words(found["sta", "psnr"].seed_floor)

    journal = tmp_path / "run" / "journal.jsonl"
    packed = tmp_path / "packed" / "journal.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(journal.read_bytes()))
    assert table(packed.parent) == lines


def test_what_is_no_run_of_clips_is_refused(table: Table, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no-such-run"):
        table(tmp_path / "no-such-run")
    with pytest.raises(BadInput):
        table(tmp_path)


def test_runs_with_the_same_clips_of_full_attention_share_a_table(
    table: Table, ask: Ask, tmp_path: Path, quiet: Any
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    session.start(ask(methods=METHODS), first, quiet)
    session.start(ask(methods={"moba": {"blocks": 8, "topk": 4}}), second, quiet)
    lines = table(first, second)
    assert [cells(line)[0] for line in lines[2:5]] == ["sta", "moba · topk 2", "moba · topk 4"]
    assert [cells(line)[1:] for line in lines[2:4]] == [cells(line)[1:] for line in table(first)[2:4]]
    assert cells(lines[4])[1:] == cells(table(second)[2])[1:]
    assert lines[5:] == table(first)[4:]


def test_runs_that_cannot_share_a_table_are_refused(table: Table, ask: Ask, tmp_path: Path, quiet: Any) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    session.start(ask(), first, quiet)
    session.start(ask(seed=1, methods={"moba": {"blocks": 8, "topk": 2}}), second, quiet)
    with pytest.raises(BadInput, match="same clips of full attention"):
        table(first, second)
    with pytest.raises(BadInput, match="not 'sta "):
        table(first, first)
