"""The report's part about clips: figures, floors, judgements, players that play, and no word taken for a tag."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.clips.files import read_take
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.video import abreast, write_mp4
from attnbench.kernels.errors import BadInput
from attnbench.report.data.clips import frame_figures, gap_figures
from attnbench.report.gap_words import difference_words, ends_words, mean_words, names_of, value_words
from attnbench.report.html.clips_players import MOST, players_of
from attnbench.report.html.page import make_report
from attnbench.report.html.stories import clips_stories, plain_verdict
from attnbench.results.frames import frame_of, records_of
from attnbench.results.gaps import gaps
from attnbench.results.load import Results
from attnbench.results.records.cells import Environment, RunHeader
from attnbench.results.records.clips import ClipRow, QualityRow

HOSTILE = "<script>alert(1)</script><img src=x>{{ 7 * 7 }}"
NAME = ("vmoba", "{}", "triton")


def row(role: str, value: float | None = 30.0, seed: int = 0, **changes: Any) -> QualityRow:
    method, engine = {"method": ("vmoba", "triton"), "kernel-floor": ("full", "reference")}.get(role, ("full", "sdpa"))
    fields: dict[str, Any] = {
        "run_id": "run", "model": "mini", "method": method, "engine": engine, "prompt": "3 moving north", "seed": seed,
        "metric": "psnr", "value": value, "reference": None if role == "exact" else f"full/sdpa, seed {seed}",
        "status": "ok" if value is not None else "skipped", "reason": "" if value is not None else "skipped: get it so",
        "role": role, "reference_seed": seed, "metric_kind": "distance", "better": "higher", "unit": "dB",
        "per_frame": [] if value is None else [value - 1, value + 1], "frames": 2, "size": "64x64", "fps": 8.0,
        "clip_hash": "a",
    }  # fmt: skip
    return QualityRow(**fields | changes)


def rows() -> list[QualityRow]:
    found = []
    for seed in range(8):
        found += [row("method", 30 + seed / 4, seed), row("kernel-floor", 50 + seed / 4, seed)]
        found.append(row("seed-floor", 10 + seed / 4, seed, reference_seed=seed + 1))
        score: dict[str, Any] = {"metric": "mini_class_accuracy", "metric_kind": "score", "unit": "", "per_frame": []}
        found += [row("method", float(seed > 2), seed, **score), row("exact", 1.0, seed, **score)]
        found.append(row("method", None, seed, metric="lpips", unit=""))
    return found


def clip(folder: Path, seed: int, player: str, **changes: Any) -> tuple[Path, ClipRow]:
    fields: dict[str, Any] = {
        "run_id": "run", "clip_id": str(seed), "role": "method", "model": "mini", "method": "vmoba",
        "engine": "triton", "prompt": "3 moving north", "seed": seed, "status": "ok", "steps": 10, "dense_steps": 2,
        "densities": [0.25, None, 0.35], "clip_hash": "a", "player": player,
    }  # fmt: skip
    return folder, ClipRow(**fields | changes)


ENVIRONMENT = Environment(
    device="Test CPU", device_kind="cpu", cores=2, memory_gib=8.0, python="3.11", platform="Linux", packages={},
    started_at="2026-01-02T03:04:05Z",
)  # fmt: skip


def results(found: list[QualityRow], *clips: tuple[Path, ClipRow]) -> Results:
    header = RunHeader(run_id="run", environment=ENVIRONMENT, request={})
    return Results(headers=(header,), quality=tuple(found), clips=clips)


@pytest.fixture
def played(tmp_path: Path) -> tuple[Path, ClipRow]:
    shades = torch.linspace(0, 255, 16).to(torch.uint8)[:, None, None, None].expand(16, 64, 64, 3).contiguous()
    write_mp4(tmp_path / "one.mp4", abreast([Clip(shades, 8)] * 3))
    return clip(tmp_path, 0, "one.mp4")


@pytest.fixture
def quick_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])


def test_the_section_says_how_far_the_clips_moved_and_beside_what(played: tuple[Path, ClipRow]) -> None:
    (section,) = clips_stories(rows(), gaps(rows()), [played], {"run": ENVIRONMENT})
    assert section.title == "Clips of mini: vmoba"
    (sentence,) = section.finding
    assert sentence.startswith("vmoba: psnr against full attention's clips is 30.88 dB [")
    assert "farther from it than another exact kernel, but closer than another seed" in sentence
    facts = dict(section.facts)
    assert facts["Denoising steps"] == "10, of which the first 2 are dense"
    assert (facts["Full attention"], facts["Kernel floor"], facts["Seeds"]) == (
        "sdpa",
        "reference",
        "0, 1, 2, 3, 4, 5, 6, 7",
    )
    (psnr,) = section.lines
    assert psnr[0] == "vmoba"
    assert [words.split()[0] for words in psnr[2:5]] == ["30.9", "50.9", "10.9"]
    assert psnr[5].startswith("slightly different, subject lost in 38% of the clips")
    assert section.shares == [
        ("mini_class_accuracy", "full (sdpa)", "8 of 8", "[68%, 100%]"),
        ("mini_class_accuracy", "vmoba", "5 of 8", "[31%, 86%]"),
    ]  # Wilson
    assert section.skipped == ["lpips skipped: get it so"]
    assert [(scene.title, len(scene.players)) for scene in section.scenes] == [("3 moving north, seed 0", 1)]
    assert section.scenes[0].players[0].note == "density 0.300, by triton"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (51.0, "as close as another exact kernel"), (35.0, "slightly different, closer than another seed"),
        (22.0, "visibly different, closer than another seed"), (9.0, "as different as another seed"),
    ],
)  # fmt: skip
def test_a_verdict_is_plain(value: float, said: str) -> None:
    found = [each for each in rows() if each.role != "method"]
    found += [row("method", value + seed / 40, seed) for seed in range(8)]
    (gap,) = (each for each in gaps(found) if each.metric == "psnr")
    assert plain_verdict(gap) == said


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (8, "same subject"),
        (7, "subject lost in 12% of the clips, which may be chance"),
        (0, "subject lost in 100% of the clips"),
    ],
)
def test_a_verdict_speaks_of_the_subject_where_it_was_scored(right: int, said: str) -> None:
    found = [each for each in rows() if each.role != "method" or each.metric == "psnr"]
    shown = [each for each in rows() if each.role == "method" and each.metric == "mini_class_accuracy"]
    found += [each.model_copy(update={"value": float(number < right)}) for number, each in enumerate(shown)]
    psnr, subject = (
        next(each for each in gaps(found) if each.metric == name) for name in ("psnr", "mini_class_accuracy")
    )
    assert plain_verdict(psnr, subject) == f"slightly different, {said}"


def test_runs_of_the_same_methods_are_told_apart_by_their_titles() -> None:
    per_query = '{"scope":"query"}'
    found = [row("method", settings='{"scope":"head"}'), row("method", run_id="second", settings=per_query)]
    titles = [section.title for section in clips_stories(found, gaps(found), [], {})]
    assert titles == ["Clips of mini: vmoba · scope head", "Clips of mini: vmoba · scope query"]
    again = [*found, row("method", run_id="third", settings=per_query), row("method", run_id="fourth", method="sta")]
    assert [section.title for section in clips_stories(again, gaps(again), [], {})] == [
        "Clips of mini: vmoba · scope head",
        "Clips of mini: vmoba · scope query, run second",
        "Clips of mini: vmoba · scope query, run third",
        "Clips of mini: sta",
    ]


def test_curves_have_both_floors_and_every_frame() -> None:
    (first, *_) = frame_figures(rows())
    assert first.option == "3 moving north, seed 0 · run run"
    assert [(each.name, [point.y for point in each.points]) for each in first.series] == [
        ("vmoba", [29.0, 31.0]), ("another kernel: reference", [49.0, 51.0]), ("another seed: 1", [9.0, 11.0]),
    ]  # fmt: skip


def test_a_metric_is_drawn_beside_both_floors() -> None:
    (figure,) = gap_figures(gaps(rows()))
    assert [(bar.line, bar.part, round(bar.size, 1)) for bar in figure.bars] == [
        ("vmoba", "vmoba", 30.9), ("another exact kernel", "floor", 50.9), ("another seed", "floor", 10.9),
    ]  # fmt: skip


def test_players_are_limited_and_the_others_named(tmp_path: Path) -> None:
    (tmp_path / "p.mp4").write_bytes(b"clip")
    made = [clip(tmp_path, seed, "p.mp4") for seed in range(MOST + 3)] + [clip(tmp_path, 99, "gone.mp4")]
    keys = [(each.prompt, each.seed) for _, each in made]
    players, left = players_of(made, keys, {NAME: "vmoba"})
    assert sum(map(len, players.values())) == MOST
    assert left == f"In {tmp_path} there are more: 3 players. No longer where the run left them: 1 player."
    assert players[keys[0]][0].uri == "data:video/mp4;base64,Y2xpcA=="


@pytest.mark.usefixtures("quick_masks")
def test_words_of_users_are_never_tags(tmp_path: Path) -> None:
    found = [
        row("method", 30.0, prompt=HOSTILE, settings=json.dumps({"a": HOSTILE})),
        row("method", None, metric="lpips", prompt=HOSTILE, reason=HOSTILE),
    ]
    failed = clip(tmp_path, 0, "", status="failed", clip_hash="", reason=HOSTILE, prompt=HOSTILE, weights=HOSTILE)
    html = make_report(results(found, failed)).html
    assert "<script>alert" not in html
    assert "<img src=x>" not in html
    assert "{{ 7 * 7 }}" in html
    assert "Not made:" in html


@pytest.mark.usefixtures("quick_masks")
def test_a_page_of_clips_alone_speaks_of_clips_only() -> None:
    html = make_report(results(rows())).html
    assert "Sparse attention on Test CPU" in html
    assert 'id="quality"' in html
    assert 'id="answer"' not in html
    assert "Speed-up" not in re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL)
    assert "2026-01-02T03:04:05Z" in html
    with pytest.raises(BadInput, match="hold no rows"):
        make_report(results([]))
    broken = frame_of(QualityRow, rows()).assign(metric_kind="size")
    with pytest.raises(BadInput, match="metric_kind"):
        records_of(QualityRow, broken)


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (0.9999999, "1.00", "+1.00"), (1.0, "1.00", "+1.00"), (0.99987, "0.99987", "+0.99987"),
        (0.9912, "0.9912", "+0.9912"), (0.25, "0.250", "+0.250"), (-0.25, "-0.250", "−0.250"),
        (3.98e-5, "4.0e-05", "+4.0e-05"), (1e-15, "0", "0"), (0.0, "0", "0"), (1234.6, "1,230", "+1,230"),
    ],
)  # fmt: skip
def test_numbers_are_written_alike(value: float, plain: str, signed: str) -> None:
    assert (value_words(value), difference_words(value)) == (plain, signed)


def test_what_is_not_there_is_a_dash_and_extremes_are_called_so() -> None:
    assert (mean_words(None), ends_words(None)) == ("–", "")
    two = gaps([row("method", 30.0, 0), row("method", 32.0, 1)])[0].gap
    assert (mean_words(two), ends_words(two)) == ("31.0", "extremes [30.0, 32.0]")
    assert mean_words(two, signed=True) == "+31.0"


def test_methods_with_two_settings_have_two_names() -> None:
    both = [row("method", settings='{"topk":3}'), row("method", settings='{"topk":5}'), row("method", method="sta")]
    assert list(names_of(both).values()) == ["vmoba · topk 3", "vmoba · topk 5", "sta"]


@pytest.mark.usefixtures("quick_masks")
@pytest.mark.parametrize("way", ["absolute", "upwards", "link to a file", "link to a folder", "itself", "null", "loop"])
def test_a_clip_outside_of_its_journals_folder_is_never_read(way: str, tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret.mp4", tmp_path / "run"
    secret.write_text("a secret")
    folder.mkdir()
    (folder / "file.mp4").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    player = {
        "absolute": str(secret), "upwards": "../secret.mp4", "link to a file": "file.mp4",
        "link to a folder": "folder/secret.mp4", "itself": ".", "null": "a\0b", "loop": "loop/a.mp4",
    }[way]  # fmt: skip
    found, words = players_of([clip(folder, 0, player)], [("3 moving north", 0)], {})
    assert found[("3 moving north", 0)] == []
    assert words == "Outside of the run's folder and not read: 1 player."
    assert read_take(folder, player, "") is None
    page = make_report(results(rows(), clip(folder, 0, player))).html
    assert "a secret" not in page
    assert base64.b64encode(b"a secret").decode()[:8] not in page


def test_a_run_that_is_reached_by_a_link_keeps_its_clips(played: tuple[Path, ClipRow], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    found, words = players_of([(tmp_path / "link", played[1])], [("3 moving north", 0)], {})
    assert len(found[("3 moving north", 0)]) == 1
    assert words == ""
