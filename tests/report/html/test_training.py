"""The section of the page about training runs, by the committed ones and by damaged copies."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnbench.cli import app
from attnbench.kernels.errors import BadInput
from attnbench.report.data.trained import training_figures, training_stories
from attnbench.report.data.training_rows import training_table
from attnbench.report.html.page import make_report
from attnbench.results.load import Results
from attnbench.results.training import training_groups

NATIVE = Path(__file__).resolve().parents[3] / "results" / "h100" / "native"


@pytest.fixture(autouse=True)
def quick_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the mask pictures out: they have their own test, and take a second each."""
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])


def some_runs(folder: Path, *names: str) -> Path:
    for name in names:
        shutil.copytree(NATIVE / name, folder / name)
    return folder


def test_the_command_writes_a_page_of_training_runs(tmp_path: Path) -> None:
    folder = some_runs(tmp_path / "native", "full-0", "full-1", "vmoba-0", "vmoba-1")
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "page.html"), "--json"])
    assert result.exit_code == 0
    (section,) = json.loads(result.stdout)["sections"]
    assert (section["kind"], section["title"]) == ("training", "Training runs in native")
    assert section["facts"]["runs"] == "4, seeds 0 and 1"
    compared = CliRunner().invoke(app, ["compare", str(folder)]).stdout.splitlines()
    page = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8")).replace("\N{NO-BREAK SPACE}", " ")
    cells = [cell.strip() for line in compared if line.startswith("| vmoba") for cell in line.split("|")[1:-1]]
    assert len(cells) == 11 + 6
    assert [cell for cell in cells if f">{cell}</" not in page] == []
    assert "held-out loss" in page
    assert "Sparse attention on NVIDIA H100 80GB HBM3" in page


def test_curves_are_means_over_seeds_within_their_range() -> None:
    by_steps, by_seconds = training_figures(training_groups(NATIVE))
    assert (by_steps.option, by_seconds.option) == ("by steps", "by seconds")
    assert {"full", "vmoba", "vmoba-1d"} <= {series.name for series in by_steps.series}
    for series in (*by_steps.series, *by_seconds.series):
        assert [point.x for point in series.points] == sorted(point.x for point in series.points)
        for point in series.points:
            assert point.lo is None or point.hi is None or point.lo <= point.y <= point.hi
        assert (series.points[0].lo is None) == series.name.startswith("vmoba-"), "ablations have one seed"


def test_the_finding_is_what_the_intervals_say() -> None:
    (section,) = training_stories(training_groups(NATIVE))
    by_steps, by_seconds = section.finding
    assert by_steps.startswith("Held-out loss after 250 steps: that of moba, sliding-window, sta, vmoba")
    assert "that of sliding-window, sta, vmoba-1d, vmoba-2d and vmoba-3d is above full's" in by_seconds
    assert "that of moba, vmoba, vmoba-local and vmoba-topk is not distinguishable from full's" in by_seconds
    assert section.notes == []


def test_runs_that_cannot_be_compared_are_named_and_the_others_shown(tmp_path: Path) -> None:
    folder = some_runs(tmp_path / "runs", "full-0", "sta-0")
    shutil.copytree(NATIVE / "full-0", folder / "20260102T030405Z-train-full")
    (folder / "sta-0" / "mini.json").unlink()
    (section,) = training_stories(training_groups(tmp_path))
    assert section.facts[1] == ("runs", "1, seeds 0")
    assert len(section.notes) == 2
    assert "20260102T030405Z-train-full' has the method and seed of" in section.notes[0]
    assert "sta-0' holds no finished run" in section.notes[1]
    assert section.finding[0].startswith("full ends at a held-out loss of 0.0")


def test_a_page_shows_the_runs_of_each_folder_and_follows_links(tmp_path: Path) -> None:
    some_runs(tmp_path / "here" / "one", "full-0")
    (tmp_path / "here" / "two").symlink_to(some_runs(tmp_path / "there", "sta-0"), target_is_directory=True)
    made = make_report(Results(), training=training_groups(tmp_path / "here"))
    assert [part.title for part in made.parts] == ["Training runs in one", "Training runs in there"]
    assert all(f'id="{part.anchor}"' in made.html and part.title in made.html for part in made.parts)


def test_what_has_no_checkpoint_yet_is_said(tmp_path: Path) -> None:
    folder = some_runs(tmp_path / "native", "full-0")
    (folder / "full-0" / "mini.json").unlink()
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert isinstance(result.exception, BadInput)
    assert "full-0' holds no finished run" in str(result.exception)


def test_the_table_that_is_saved_holds_the_numbers_of_the_words() -> None:
    (group,) = training_groups(NATIVE)
    table = training_table([group])
    assert table is not None
    found = {str(record["method"]): record for record in table.records()}
    losses, clips = (table for _, table in training_stories([group])[0].tables)
    for words in losses.rows:
        record = found[words[0]]
        assert words[6] == "{loss_by_steps:.4f} [{loss_by_steps_lo:.4f}, {loss_by_steps_hi:.4f}]".format(**record)
        assert words[9].startswith("{loss_by_seconds:.4f} [".format(**record))
        if record["gap_by_steps"] is not None:
            assert words[7].startswith("{gap_by_steps:+.4f} [{gap_by_steps_lo:+.4f}, ".format(**record))
        assert (words[3], words[4]) == (str(record["seeds"]), f"{record['step_ms']:.1f}")
        assert int(words[8]) == round(float(record["steps_by_seconds"] or 0))
    for words in clips.rows:
        assert words[2].startswith("{class_right} of {clips} = ".format(**found[words[0]]))
    made = make_report(Results(), training=[group])
    assert '<span data-table="training">' in made.html
    assert training_table([]) is None


def test_runs_without_a_common_step_still_have_their_cost_in_the_table(tmp_path: Path) -> None:
    (group,) = training_groups(some_runs(tmp_path / "native", "full-0", "sta-0"))
    one, other = group.runs
    late = replace(other, checkpoints=tuple(replace(each, step=each.step + 1) for each in other.checkpoints))
    table = training_table([replace(group, runs=(one, late))])
    assert table is not None
    for record in table.records():
        assert (record["steps"], record["loss_by_steps"], record["gap_by_seconds"]) == (None, None, None)
        assert record["step_ms"]
        assert record["class_right"]
