"""`attnbench sweep` as a user calls it: what it measures, keeps, prints and draws."""

from __future__ import annotations

import json
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import attnbench
from attnbench.bench import bench as runner
from attnbench.bench import session
from attnbench.bench.sweep.session import load_sweep
from attnbench.results.journal import JOURNAL, read_journal
from attnbench.results.plans import SWEEP
from attnbench.results.records.cells import Sample

Call = Callable[..., tuple[int, str, str]]

SMALL = [
    "sweep", "--grid", "4x6x8", "--heads", "2", "--head-dim", "32", "--inputs", "gaussian", "--device", "cpu",
    "--rounds", "6",
]  # fmt: skip
TOKENS = ["--over", "tokens", "--points", "60,190", "--method", "sta", "--set", "sta.tile=2,2,2"]


def test_every_point_is_a_run_and_all_of_them_are_one_table(
    call: Call, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbench.cli.progress.EVERY", 0.0)
    code, out, err = call(*SMALL, *TOKENS, "--method", "vmoba", "--out", "mine")
    assert code == 0
    assert "Traceback" not in err
    table = attnbench.load_results("mine")
    assert len(table) == 2 * (1 + 3)
    assert set(table["verdict"]) == {"ok"}
    assert table["run_id"].nunique() == 2
    names = {f"tokens-{tokens}" for tokens in table["tokens"]}
    assert {path.name for path in (small / "mine").iterdir()} == {*names, SWEEP, "curve.svg"}
    for name in names:
        assert list((small / "mine" / name).iterdir()) == [small / "mine" / name / JOURNAL]
    for word in ("sta", "vmoba, mean of layers 0, 1, 2", "dense baseline", "translation", "curve.svg"):
        assert word in out
    assert "point 2 of 2" in err


def test_json_holds_curves_that_follow_from_the_rows(call: Call, small: Path) -> None:
    code, out, _ = call(*SMALL, *TOKENS, "--json", "--out", "mine")
    assert code == 0
    document = json.loads(out)
    assert (document["folder"], document["over"]) == ("mine", "tokens")
    (curve,) = document["curves"]
    rows = {row["tokens"]: row for row in document["rows"]}
    assert [point["tokens"] for point in curve["points"]] == sorted(rows)
    for point in curve["points"]:
        row = rows[point["tokens"]]
        assert point["speedup"]["value"] == pytest.approx(row["speedup"])
        assert point["translation"]["value"] == pytest.approx(row["translation"])
        assert point["interval"] == "bootstrap95"
        assert point["dense_samples"] == 6
    assert curve["sentence"].startswith("sta ")
    assert ET.parse(document["picture"]).getroot().tag.endswith("svg")


def test_baseline_samples_are_those_behind_the_baseline(call: Call, small: Path) -> None:
    call(*SMALL, *TOKENS, "--out", "mine")
    table = load_sweep(Path("mine"))
    for row in table.to_dict("records"):
        assert len(row["baseline_samples_ms"]) == len(row["samples_ms"])
        assert statistics.median(row["baseline_samples_ms"]) == pytest.approx(row["baseline_ms"])
        assert row["baseline_samples_ms"] != row["samples_ms"]


def test_an_interrupted_sweep_goes_on_where_it_was(call: Call, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []
    original = runner.Bench.time_round

    def interrupted(self: Any, number: int, rounds: int, journal: Any) -> None:
        timed.append(number)
        if len(timed) == 9:  # in the fourth round of the second of three points
            raise KeyboardInterrupt
        original(self, number, rounds, journal)

    points = [*TOKENS[:2], "--points", "60,100", "--points", "190", *TOKENS[4:]]
    monkeypatch.setattr(runner.Bench, "time_round", interrupted)
    code, _, err = call(*SMALL, *points, "--out", "mine")
    assert code == 130
    assert "Go on with: attnbench sweep --resume mine" in err
    monkeypatch.setattr(runner.Bench, "time_round", original)
    begun = sorted(path.parent.name for path in small.rglob(JOURNAL))
    assert len(begun) == 2
    before = {name: (small / "mine" / name / JOURNAL).read_bytes() for name in begun}

    code, out, _ = call("sweep", "--resume", "mine", "--json")
    assert code == 0
    after = {name: (small / "mine" / name / JOURNAL).read_bytes() for name in begun}
    unchanged = [name for name in begun if before[name] == after[name]]
    assert len(unchanged) == 1  # the finished point
    for name in begun:
        assert after[name].startswith(before[name])
    (curve,) = json.loads(out)["curves"]
    assert len(curve["points"]) == 3
    for path in small.rglob(JOURNAL):
        rounds = [record.round for record in read_journal(path) if isinstance(record, Sample)]
        assert sorted(rounds) == sorted([*range(6)] * 2)  # the method and the baseline, no round twice


def test_a_sweep_does_not_go_on_under_other_conditions(call: Call, small: Path) -> None:
    clip = small / "clip.mp4"
    bundled = resources.files("attnbench.inputs.data") / "big_buck_bunny.mp4"
    clip.write_bytes(bundled.read_bytes())
    call(*SMALL, *TOKENS, "--inputs", f"video:{clip}", "--out", "mine")
    journals = {path: path.read_bytes() for path in small.rglob(JOURNAL)}
    assert len(journals) == 2
    clip.write_bytes(bundled.read_bytes() + bytes(8))
    code, _, err = call("sweep", "--resume", "mine")
    assert code == 2
    assert "content of inputs" in err
    clip.write_bytes(bundled.read_bytes())
    last = sorted(journals)[-1]
    last.write_bytes(journals[last].replace(b'"packages": {', b'"packages": {"gone": "3", ', 1))
    code, _, err = call("sweep", "--resume", "mine")
    assert code == 2
    assert "with gone 3 and this is gone absent" in err


def test_over_density_the_curve_is_over_density(call: Call, small: Path) -> None:
    words = ["--over", "density", "--points", "0.3,0.9", "--method", "moba", "--set", "blocks=10", "--out", "mine"]
    code, out, _ = call(*SMALL, *words, "--json")
    assert code == 0
    (curve,) = json.loads(out)["curves"]
    assert curve["axis"] == "density"
    assert [point["x"] for point in curve["points"]] == pytest.approx([0.3, 0.9], abs=0.03)


def test_over_frames_the_grid_grows_in_time(call: Call, small: Path) -> None:
    words = ["--over", "frames", "--points", "5,9", "--method", "sta", "--out", "mine"]
    code, out, _ = call(*SMALL, *words)
    assert code == 0
    assert sorted(attnbench.load_results("mine")["grid"]) == ["2x6x8", "3x6x8"]
    assert "frames" in out


def test_without_out_the_sweep_goes_to_results_and_latest_points_to_it(call: Call, small: Path) -> None:
    code, _, _ = call(*SMALL, *TOKENS)
    assert code == 0
    (folder,) = (small / "results" / "runs").iterdir()
    assert folder.name.endswith("-sweep")
    assert (small / "results" / "latest").resolve() == folder.resolve()
    assert len(attnbench.load_results(small / "results" / "latest")) == 2


def test_a_point_that_no_engine_serves_is_left_out_and_the_others_go_on(
    call: Call, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = session.start

    def refuse_small(request: Any, out: Path, progress: Any) -> Any:
        if out.name.startswith("tokens-6") or out.name.startswith("tokens-5"):
            raise attnbench.Unsupported("too small for this engine")
        return original(request, out, progress)

    monkeypatch.setattr(session, "start", refuse_small)
    code, out, err = call(*SMALL, *TOKENS, "--json", "--out", "mine")
    assert code == 0
    assert "left out: too small for this engine" in err
    assert len(json.loads(out)["curves"][0]["points"]) == 1
    monkeypatch.setattr(session, "start", lambda *_: (_ for _ in ()).throw(attnbench.Unsupported("for none")))
    code, _, err = call(*SMALL, *TOKENS, "--out", "other")
    assert code == 2
    assert "attnbench: for none" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep"], "--over is missing: give what to vary, one of tokens, density, frames"),
        (["sweep", "--over", "size"], "unknown --over 'size'"),
        (["sweep", "--over", "tokens", "--points", "4k"], "--points '4k' must be numbers"),
        (["sweep", "--over", "tokens", "--points", "4000,nan"], "--points nan must be a finite number"),
        (["sweep", "--over", "frames", "--points", "inf"], "--points inf must be a finite number"),
        (["sweep", "--over", "frames", "--to", "inf"], "--to inf must be a finite number"),
        (["sweep", "--over", "tokens", "--from", "nan"], "--from nan must be a finite number"),
        (["sweep", "--over", "tokens", "--points", "1e30"], "--points 1e+30 must be at most 1,000,000,000,000"),
        (["sweep", "--over", "frames", "--to", "1e30"], "--to 1e+30 must be at most 1,000,000,000,000"),
        (["sweep", "--over", "density", "--method", "full"], "'full' has no setting"),
        (["sweep", "--resume", "nowhere"], "nothing to resume: 'nowhere' has no sweep.json"),
        (["sweep", "--resume", "nowhere", "--seed", "3"], "leave out --seed"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(words: list[str], said: str, call: Call, small: Path) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert list(small.iterdir()) == []


def test_a_folder_that_holds_results_is_refused(call: Call, small: Path) -> None:
    call(*SMALL, *TOKENS, "--out", "mine")
    before = sorted(small.rglob("*"))
    code, _, err = call(*SMALL, *TOKENS, "--out", "mine")
    assert code == 2
    assert "'mine' holds" in err
    (small / "mine" / SWEEP).write_text("{}")
    code, _, err = call("sweep", "--resume", "mine")
    assert code == 2
    assert "is not a sweep" in err
    assert sorted(small.rglob("*")) == before
