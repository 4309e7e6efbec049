"""VBench's scores in a run of clips: paired and with floors like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnbench.clips.vbench_rows import add_vbench, read_scores
from attnbench.kernels.errors import BadInput
from attnbench.results.gaps import gaps
from attnbench.results.journal import JOURNAL, Journal, read_journal
from attnbench.results.records.cells import Environment, RunHeader
from attnbench.results.records.clips import ClipRow, QualityRow

VALUES = {"exact": 0.90, "kernel-floor": 0.91, "method": 0.60}


def clip(role: Any, seed: int) -> ClipRow:
    method, engine = {"method": ("sta", "triton"), "kernel-floor": ("full", "reference")}.get(role, ("full", "sdpa"))
    return ClipRow(
        run_id="run", clip_id=f"{role}{seed}", role=role, model="mini", method=method, engine=engine, seed=seed,
        prompt="3 moving east", status="ok", steps=10, dense_steps=2, clip_hash=f"{role}{seed}", frames=16,
        size="64x64", fps=8.0, video=f"videos/{role}{seed}.mp4",
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    environment = Environment(
        device="m", device_kind="cpu", cores=2, memory_gib=8.0, python="3.11", platform="Linux", packages={},
        started_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    request = {"command": "clips", "methods": {"sta": {}}, "prompts": ["3 moving east"], "seeds": 3}
    with Journal.create(tmp_path / "run", RunHeader(run_id="run", environment=environment, request=request)) as journal:
        for seed in range(3):
            for role in VALUES:
                journal.append(clip(role, seed))
    return tmp_path / "run"


def write_scores(folder: Path, **changes: Any) -> Path:
    """What VBench's part writes: values that rise by a hundredth with each seed, and one that is missing."""
    scores: list[dict[str, Any]] = [
        {"dimension": "imaging_quality", "video": f"{role}{seed}.mp4", "value": value + seed / 100, "status": "ok",
         "reason": "", "stand_in": False, **changes}
        for seed in range(3) for role, value in VALUES.items()
    ]  # fmt: skip
    scores[-1] |= {"value": None, "status": "skipped", "reason": "VBench left it out"}
    scores.append({**scores[0], "video": "stranger.mp4"})
    folder.mkdir(exist_ok=True)
    (folder / "vbench.json").write_text(json.dumps({"vbench": "0.1.5", "scores": scores}))
    return folder


def test_scores_become_rows_with_floors_and_gaps(run: Path, tmp_path: Path) -> None:
    outcome = add_vbench(run, write_scores(tmp_path / "scores"))
    assert len(outcome.rows) == 9 + 3
    (gap,) = gaps(outcome.rows)
    assert (gap.metric, gap.kind, gap.gap.pairs, gap.without_value) == ("vbench_imaging_quality", "score", 2, 1)
    assert gap.gap.mean == pytest.approx(-0.30)
    assert gap.kernel_floor is not None
    assert gap.kernel_floor.hi == pytest.approx(0.01)
    assert gap.seed_floor is not None
    assert gap.seed_floor.hi == pytest.approx(0.02)  # seed 0 against seed 2
    assert gap.judgement == "distinguishable"
    skipped = [row for row in outcome.rows if row.status == "skipped"]
    assert [(row.method, row.reason) for row in skipped] == [("sta", "skipped: VBench left it out")]


def test_the_same_scores_are_added_once(run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores")
    first = add_vbench(run, scores).rows
    assert add_vbench(run, scores).rows == first
    assert sum(isinstance(record, QualityRow) for record in read_journal(run / JOURNAL)) == len(first)


def test_scores_by_random_weights_say_so_in_their_name(run: Path, tmp_path: Path) -> None:
    rows = add_vbench(run, write_scores(tmp_path / "scores", stand_in=True)).rows
    assert {row.metric for row in rows} == {"vbench_imaging_quality_with_random_weights"}


def test_scores_of_other_videos_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no score of a video"):
        add_vbench(run, write_scores(tmp_path / "scores", video="stranger.mp4"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value": "high"}, "value"),
        ({"value": float("nan")}, "value"),
        ({"value": None}, "status 'ok' with value None"),
        ({"status": "fine"}, "status"),
        ({"dimension": None}, "dimension"),
        ({"status": "skipped", "value": None, "reason": None}, "reason"),
    ],
)
def test_a_damaged_score_is_refused_and_nothing_is_added(
    changes: dict[str, Any], said: str, run: Path, tmp_path: Path
) -> None:
    before = (run / JOURNAL).read_bytes()
    with pytest.raises(BadInput, match=rf"vbench\.json' has a damaged score of 'exact0\.mp4': .*{said}") as error:
        add_vbench(run, write_scores(tmp_path / "scores", **changes))
    assert "\n" not in str(error.value)
    assert (run / JOURNAL).read_bytes() == before


@pytest.mark.parametrize("text", [None, "", "[]", '{"scores": []}', '{"vbench": "0.1.5", "scores": [3]}'])
def test_another_file_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "vbench.json").write_text(text)
    with pytest.raises(BadInput, match=r"vbench\.json' (cannot be read|are not what)"):
        read_scores(tmp_path)
