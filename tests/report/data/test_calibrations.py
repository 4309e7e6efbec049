"""What a report shows of calibrations: as numbers, as a figure, in words, and nothing where there are none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attnbench.cli import app
from attnbench.kernels.errors import BadInput
from attnbench.report.data.calibrations import calibration_figures, calibration_table, read_calibrations
from attnbench.report.html.page import Report, make_report
from attnbench.results.load import read
from attnbench.results.noise import NoiseModel, write_noise

TABLE = next(Path(__file__).resolve().parents[3].glob("results/h100/profiles/*.jsonl*"))
DETAILS = {
    "false_alarms": 0.01, "covered": 0.95, "covered_lo": 0.9, "covered_hi": 0.99,
    "found_0.1": 0.8, "found_0.1_lo": 0.7, "found_0.1_hi": 0.9, "found_0.02": 0.25,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the mask pictures out: they have their own test, and take a second each."""
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])


def calibration(folder: Path, **details: Any) -> Path:
    model = NoiseModel(
        device="A <CPU>", speedup_sd=0.012, latency_sd=0.034, runs=30, cells=5, provenance="measured", details=details
    )
    write_noise(model, folder / "noise.json")
    (folder / "calibration.json").write_text("{}")
    return folder


def page(*folders: Path) -> Report:
    found = [each for folder in folders for each in read_calibrations(folder)]
    return make_report(read(TABLE), calibrations=found)


def test_what_is_no_share_or_no_delay_is_left_out(tmp_path: Path) -> None:
    odd = {"found_.": 0.5, "found_1.2.3": 0.5, "found_0": 0.5, "found_1e-": 0.5, "found_9e9": 7.0, "covered": -1.0}
    calibration(tmp_path, **odd)
    (found,) = read_calibrations(tmp_path)
    assert (found.delays, found.covered) == ([], (None, None, None))


def test_shares_are_read_with_their_intervals_the_smallest_delay_first(tmp_path: Path) -> None:
    calibration(tmp_path / "a" / "mine", **DETAILS)
    (found,) = read_calibrations(tmp_path)
    assert (found.name, found.false_alarms, found.covered) == ("mine", 0.01, (0.95, 0.9, 0.99))
    assert [(each.delay, each.share, each.lo, each.hi) for each in found.delays] == [
        (0.02, 0.25, None, None), (0.1, 0.8, 0.7, 0.9),
    ]  # fmt: skip
    rows = list(calibration_table([found]).records())
    assert [(row["delay"], row["called"], row["covered"]) for row in rows] == [
        (0.0, 0.01, 0.95), (0.02, 0.25, None), (0.1, 0.8, None),
    ]  # fmt: skip
    (figure,) = calibration_figures([found])
    assert [(point.x, point.y) for point in figure.series[0].points] == [(2.0, 25.0), (10.0, 80.0)]


def test_the_page_shows_it(tmp_path: Path) -> None:
    made = page(calibration(tmp_path / "mine", **DETAILS))
    section = made.html[made.html.index('<section id="calibration"') :]
    section = section[: section.index("</section>")]
    words = ("Calibration in mine", "A &lt;CPU&gt;: from run to run speed-ups deviate by 1.2 %", "1 %", "95 %", "25 %")
    for word in (*words, "90.0 to 99.0 %", "70.0 to 90.0 %", 'data-table="calibration"', "<svg"):
        assert word in section
    assert [figure.section for figure in made.data.figures].count("calibration") == 1


def test_without_delays_there_is_a_table_and_no_figure(tmp_path: Path) -> None:
    made = page(calibration(tmp_path / "mine", false_alarms=0.0))
    assert 'id="calibration"' in made.html
    assert "calibration" not in [figure.section for figure in made.data.figures]


def test_several_are_chosen_by_their_folders(tmp_path: Path) -> None:
    made = page(*(calibration(tmp_path / name, **DETAILS) for name in ("one", "two")))
    assert [each.option for each in made.data.figures if each.section == "calibration"] == ["one", "two"]


@pytest.mark.parametrize("missing", ["noise.json", "calibration.json"])
def test_what_is_no_finished_calibration_is_absent(missing: str, tmp_path: Path) -> None:
    (calibration(tmp_path / "mine", **DETAILS) / missing).unlink()
    made = page(tmp_path)
    assert 'id="calibration"' not in made.html
    assert made.data.table("calibration") is None


def test_noise_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (calibration(tmp_path / "mine") / "noise.json").write_text("{")
    with pytest.raises(BadInput, match=r"noise\.json' is no noise model"):
        read_calibrations(tmp_path)


def test_the_command_reads_it_with_the_results(tmp_path: Path) -> None:
    folder = calibration(tmp_path / "mine", **DETAILS)
    (folder / TABLE.name).write_bytes(TABLE.read_bytes())
    out = tmp_path / "table.csv"
    words = ["report", str(tmp_path / "mine"), "--format", "csv", "--table", "calibration", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["path"] == str(out)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["delay"], row["called"], row["called_hi"]) for row in rows] == [
        ("0.0", "0.01", ""), ("0.02", "0.25", ""), ("0.1", "0.8", "0.9"),
    ]  # fmt: skip
