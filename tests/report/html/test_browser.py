"""The page in a real browser: what a reader does with it, in light, dark, on a phone, in print and without a script."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.video import abreast, write_mp4
from attnbench.report.data.page import page_data
from attnbench.report.formats.flat import chosen_table, csv_bytes
from attnbench.report.formats.write import Asked, write_comparison
from attnbench.report.html.page import make_report
from attnbench.results.load import Results, read
from attnbench.results.records.clips import ClipRow, QualityRow
from tests.report.two_devices import DEVICES, report_of_two

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FOLDER = Path(__file__).parents[2] / "browser"
H100 = Path(__file__).parents[3] / "results/h100"
FACETS = ["device", "shape", "direction", "dtype", "inputs", "model"]

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on this machine"),
    pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules/playwright-core").is_dir() or not (FOLDER / "node_modules/axe-core").is_dir(),
        reason="no playwright-core and axe-core: npm install --prefix tests/browser",
    ),
]

Maker = Callable[..., Any]
Seen = dict[str, dict[str, Any]]
ASKED = {
    "density < 0.2": "", "density<.2, speed-up>2": "", "speedup>2×": "", "baseline=flash4": "", "moba": "",
    "triton": "", "flash4": "",
    "settings=tile": "", '"two-call" trust=verified': "", 
    "6×8": "No row has “6×8” in method or trust. For settings, settings=6×8 would be right.",
    "40 heads": "No row has “40 heads” in method or trust. Device, shape, direction, dtype, inputs and model are",
    "density": "Not understood: “density” is a column, so density<0.5 would be right.",
    "densty<0.2": "“densty” is none of the columns, which are method, speed-up, ms, density,",
    "density<much": "“much” in “density<much” is not a number: density<0.5 would be right.",
    "density<": "“density<”: a column, then <, <=, >, >= or =, then a value, as in density<0.2, would be right.",
    "trust>capped": "“trust>capped”: trust holds words, so trust=capped would be right.",
    "moba densty<0.2": "“densty” is none of the columns",
    "nothing-like-it": "No row has “nothing-like-it” in method or trust.",
    "moba density<0.001": "No row has all of “moba density<0.001”.",
    "density=0.123": "", "x" * 90: f"No row has “{'x' * 59}…” in method or trust.",
}  # fmt: skip
"""What is typed into a filter, and what is said of it."""
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
OF_A_DEVICE = ("steps", "quality", "clips", "training", "calibration")
SHORT = "480p, 12 heads of 128, 21×30×52 = 32,760 tokens (7)"
DRAWN_OF_A_DEVICE = ("quality", "training", "calibration")
HERE = "576p, 12 heads, forward and backward, video inputs"
SHAPE = "#selectors select[data-facet=shape]"
DIRECTION = "#selectors select[data-facet=direction]"


def observe(pages: list[dict[str, Any]], folder: Path) -> Seen:
    """Open pages in one browser and return what was seen of each: console, requests, and the result of every step."""
    assert BROWSER is not None
    plan = folder / "plan.json"
    plan.write_text(json.dumps(pages))
    command = ["node", str(FOLDER / "observe.mjs"), BROWSER, str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen: Seen = json.loads(done.stdout)
    for name, each in seen.items():
        failed = [found for found in each["found"] if str(found).startswith("failed:")]
        assert failed == [], name
        assert each["requests"] == [], name
        assert each["console"] == [], name
    return seen


def clips_in(folder: Path) -> Results:
    """Return results with one clip of 16 frames beside full attention's, and its metrics."""
    shades = torch.linspace(0, 255, 16).to(torch.uint8)[:, None, None, None].expand(16, 64, 64, 3).contiguous()
    write_mp4(folder / "one.mp4", abreast([Clip(shades, 8)] * 3))
    shared: dict[str, Any] = {"run_id": "clips", "model": "mini", "method": "vmoba", "engine": "triton", "prompt": "3"}
    clip = ClipRow(
        **shared, clip_id="0", role="method", seed=0, status="ok", steps=10, dense_steps=2, densities=[0.25, 0.35],
        clip_hash="a", player="one.mp4",
    )  # fmt: skip
    long = [
        json.dumps({"scope": "query", "select": "topk", "threshold": 0.25, "refresh_every": 4, "topk": topk})
        for topk in ([2, 6, 12], [3, 15, 30])
    ]
    rows = []
    for settings in long:
        rows.append(
            QualityRow(
                **shared | {"settings": settings}, seed=0, metric="psnr", value=20.0, status="ok", role="method",
                reference="full/sdpa, seed 0", reference_seed=0, metric_kind="distance", better="higher", unit="dB",
                frames=2, size="64x64", fps=8.0, clip_hash="a",
            )
        )  # fmt: skip
    for role, value in (("method", 30.0), ("kernel-floor", 50.0), ("seed-floor", 10.0)):
        for seed in range(3):
            method = "vmoba" if role == "method" else "full"
            rows.append(
                QualityRow(
                    **shared | {"method": method}, seed=seed, metric="psnr", value=value + seed, status="ok", role=role,
                    reference=f"full/sdpa, seed {seed}", reference_seed=seed, metric_kind="distance", better="higher",
                    unit="dB", per_frame=[value - 1, value + 1], frames=2, size="64x64", fps=8.0, clip_hash="a",
                )
            )  # fmt: skip
    return Results(quality=tuple(rows), clips=((folder, clip),))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of profiled cells, of clips, and of hostile words."""
    from tests.report.conftest import environment, make_row, make_table
    from tests.report.two_runs import source, two_runs

    folder = tmp_path_factory.mktemp("pages")
    kept = json.dumps([[1000 if query >= key else 100 for key in range(21)] for query in range(21)])
    hostile = [
        make_row("full", engine="sdpa", density=1.0, latency_ms=100.0, device=HOSTILE),
        make_row("sta", device=HOSTILE, settings={"a": HOSTILE}, kept_by_frame=kept),
        make_row(HOSTILE, device=HOSTILE, latency_ms=70.0, kept_by_frame=kept),
        make_row("vmoba", device=HOSTILE, verdict="error", reason=HOSTILE),
    ]  # fmt: skip
    runs = [f"run-{day}" for day in (1, 2)]
    steady = [
        make_row(method, run_id=run, latency_ms=ms) for run in runs for method, ms in (("full", 100.0), ("sta", 40.0))
    ]
    when = {
        run: environment(started_at=f"2026-01-0{day}T00:00:00Z", git_commit=f"abc{day}")
        for day, run in enumerate(runs, 1)
    }
    made = {
        "history": make_report(make_table(steady, **when)),
        "cells": make_report(read(H100 / "profiles"), source=["results/h100/profiles"]),
        "clips": make_report(clips_in(folder)),
        "hostile": make_report(make_table(hostile), source=[HOSTILE]),
        "devices": report_of_two(),
    }
    paths = {}
    for name, report in made.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(report.html, encoding="utf-8")
    hostile_run = source("b", 2, sta={"inputs": HOSTILE}, moba={"verdict": "error", "reason": HOSTILE})
    for name, other in (("compared", two_runs()[1]), ("hostile compared", hostile_run)):
        paths[name] = folder / f"{name}.html"
        write_comparison(two_runs()[0], other, paths[name], Asked())
    return paths


@pytest.fixture(scope="module")
def seen(pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Everything that is done to the pages, in one start of the browser."""

    def page(name: str, file: str, *steps: list[Any], mode: str = "", hash: str = "") -> dict[str, Any]:
        return {"name": name, "file": str(pages[file]), "mode": mode, "steps": steps, "hash": hash}

    ranked = "#ranked"
    plan = [
        page("sort", "cells", ["rows", ranked], ["click", "#ranked thead th:nth-child(4) button"], ["rows", ranked],
             ["attribute", "#ranked thead th:nth-child(4)", "aria-sort"],
             ["click", "#ranked thead th:nth-child(4) button"], ["rows", ranked],
             ["attribute", "#ranked thead th:nth-child(4)", "aria-sort"], ["count", "#ranked [aria-sort]"]),
        page("filter", "cells", ["count", "#trade-off .mark"], ["fill", "#ranked-filter", "density<0.2"],
             ["rows", ranked], ["count", "#trade-off .mark"], ["attribute", "#ranked table", "aria-rowcount"],
             ["fill", "#ranked-filter", "two-call"], ["rows", ranked], ["text", "#ranked-count"],
             ["fill", "#all-filter", "vmoba 480p layer=1"], ["rows", "#all-cells"],
             ["fill", "#ranked-filter", "capped"], ["rows", ranked], ["fill", "#all-filter", "1 head"],
             ["rows", "#all-cells"], ["fill", "#all-filter", "40 heads"], ["count", "#all-cells tbody th"],
             ["text", "#all-said"]),
        page("engines", "cells", ["rows", ranked], ["fill", "#ranked-filter", "triton"], ["rows", ranked],
             ["fill", "#ranked-filter", "flash4"], ["rows", ranked], ["fill", "#ranked-filter", "riton"],
             ["count", "#ranked tbody th"], ["fill", "#ranked-filter", ""],
             ["attributes", "#ranked tbody .mark", "class"], ["attributes", "#trade-off .mark", "class"]),
        page("select", "cells", ["text", "#verdict"], ["texts", f"{SHAPE} option"],
             ["select", SHAPE, SHORT], ["text", "#verdict"],
             ["rows", ranked], ["focused"]),
        page("read", "cells", ["scrollTo", "#memory"], ["place", "nav"], ["place", "#memory"],
             ["contents", "#here option"], ["value", "#here select"], ["contents", "section:not([hidden]) h2 .of"],
             ["select", "#here select", HERE], ["place", "#memory"], ["text", "#verdict"],
             ["contents", f"{SHAPE} option:checked"], ["value", "#here select"], ["scroll"],
             ["contents", "section:not([hidden]) h2 .of"], ["select", SHAPE, SHORT.replace("(7)", "(elsewhere 7)")],
             ["focused"], mode="phone"),
        page("counts", "cells", *(
            step for shape in (SHORT, "576p, 12 heads of 128, 24×36×64 = 55,296 tokens (7)")
            for step in (["select", SHAPE, shape], ["rows", ranked], ["text", "#ranked-count"], ["room", ranked])
        )),
        page("jump", "cells", ["text", "#jump"], ["pick", DIRECTION, "forward and backward"],
             ["text", "#jump"], ["text", "#verdict"], ["attribute", "#jump", "aria-live"], ["pick", SHAPE, SHORT[:-4]],
             ["text", "#jump"], ["pick", SHAPE, "720p, 12 heads of 128, 21×45×80 = 75,600 tokens"],
             ["text", "#jump"]),
        page("said", "cells", *(
            step for words in ASKED
            for step in (["fill", "#ranked-filter", words], ["text", "#ranked-said"], ["count", "#ranked tbody th"])
        ), ["fill", "#all-filter", "spede>2"], ["text", "#all-said"]),
        page("frontier", "cells", ["contents", "#trade-off text.word"], ["fill", "#ranked-filter", "nothing-like-it"],
             ["count", "#trade-off svg path"], ["fill", "#ranked-filter", ""], ["contents", "#trade-off text.word"]),
        page("address", "cells", ["address"], ["select", SHAPE, SHORT], ["address"], ["click", "nav a[href='#cells']"],
             ["address"], ["text", "#verdict"], ["back"], ["back"], ["text", "#verdict"]),
        page("named", "cells", ["text", "#verdict"], ["text", "#jump"], hash="#at=480p-12-heads-fwd-video&to=phases"),
        page("misnamed", "cells", ["text", "#verdict"], ["text", "#jump"], hash="#at=%3Cimg%20src%3Dx%3E"),
        page("linked", "cells", ["text", "#verdict"], ["text", "#jump"], hash="#cells"),
        page("trust", "cells", ["text", "#trust-note"], ["rows", ranked], ["room", ranked]),
        page("history", "history", ["scroll"], ["contents", "#history .tick"], ["focus", "#history .pane"],
             ["press", "ArrowRight"], ["text", "#tip"]),
        page("bars", "clips", ["scroll"], ["contents", "#quality .word"]),
        page("keys", "cells", ["focus", "#ranked tbody button"], ["focused"], ["press", "ArrowDown"], ["focused"],
             ["press", "End"], ["focused"], ["press", "Home", "Enter"], ["text", "#row-title"],
             ["texts", "#row code"], ["press", "Escape"], ["count", "dialog[open]"],
             ["focus", "#trade-off .pane"], ["press", "ArrowRight"], ["text", "#tip"], ["press", "Escape"],
             ["attribute", "#tip", "hidden"]),
        page("download", "cells", ["download", "#ranked-savers button:first-child"],
             ["download", "#ranked-savers button:last-child"], ["download", "#trade-off .savers button"],
             ["download", "#everything button"], ["click", "#ranked tbody button"],
             ["download", "#row .savers button"]),
        page("saved", "cells", ["download", "#ranked-savers button"], ["download", "#all-savers button"],
             ["download", "[data-table=phases] button"], ["download", "[data-table=runs] button"],
             ["select", "#here select", HERE], ["download", "[data-table=phases] button"]),
        page("sections", "cells", ["scroll"], ["contents", "section:not([hidden]) > h2"],
             ["contents", "nav li:not([hidden])"], ["count", "section svg[role=img]"], ["width"], ["wide"],
             ["cutPlaceholders"], ["tops", "#selectors > .facet"], ["tops", ".fixed .facet"]),
        page("devices", "devices", *(
            step for device in DEVICES
            for step in (["pick", "#selectors select[data-facet=device]", device],
                         *(["contents", f"#{name} [data-selections]:not([hidden])"] for name in OF_A_DEVICE),
                         *(["download", f"#{name} h2 .savers button"] for name in OF_A_DEVICE),
                         *(["download", f"#{name} .figure .savers button"] for name in DRAWN_OF_A_DEVICE))
        ), ["contents", ".elsewhere"], ["click", "#steps .elsewhere button"], ["text", "#verdict"],
             ["count", "main section:has(table):not(:has(.savers))"]),
        page("phone", "cells", ["scroll"], ["width"], ["wide"], ["texts", "#ranked thead th"],
             ["contents", f"{SHAPE} option:checked"],
             ["scrollAcross", ranked], ["text", "#answer .sideways"], ["cutPlaceholders"], mode="phone"),
        page("dark", "cells", ["colours", "#trade-off .mark", "fill"], ["colours", "body", "backgroundColor"],
             mode="dark"),
        page("light", "cells", ["colours", "#trade-off .mark", "fill"], ["colours", "body", "backgroundColor"]),
        page("print", "cells", ["colours", "nav, .choose, .savers, #selectors select", "display"],
             ["texts", "#ranked thead th"], ["texts", "#selectors .facet"],
             mode="dark print"),
        page("no script", "cells", ["text", "#answer"], ["count", "section svg[role=img]"], ["struck"], ["cutWords"],
             mode="no script"),
        page("play", "clips", ["play", "video"], ["texts", "#quality tbody tr"]),
        page("hostile", "hostile", ["scroll"], ["text", "#answer"], ["click", "#ranked tbody button"], ["text", "#row"],
             ["press", "Escape"], ["focus", "#trade-off .pane"], ["press", "ArrowRight"], ["text", "#tip"],
             ["count", "main img:not([src^='data:'])"], ["count", "script"]),
        *(
            page(f"axe {file} {mode}", file, ["scroll"], ["sideways"], ["struck"], ["cutWords"], ["twins"], ["axe"],
                 mode=mode)
            for file in pages
            for mode in ("light", "dark", "phone")
        ),
        page("maps", "hostile", ["scroll"], ["count", "#masks .heat"], ["contents", "#masks .choose option"],
             ["select", "#masks .choose select", f"{HOSTILE}, layer 0"], ["count", "#masks .heat"],
             ["download", "#masks .savers button:first-child"], ["count", "#masks .masks figure"]),
        page("compared", "compared", ["text", "#verdict"], ["texts", ".compared .badge"],
             ["count", ".compared .whisker"], ["colours", ".compared .key .mark", "fill"],
             ["download", "#compared .savers button:first-child"], ["wide"]),
        page("hostile compared", "hostile compared", ["text", "main"], ["count", "script"], ["count", "img"]),
        page("axe dialog", "cells", ["click", "#ranked tbody button"], ["axe"]),
    ]  # fmt: skip
    return observe(plan, tmp_path_factory.mktemp("seen"))


def first(rows: list[list[str]]) -> list[str]:
    return [row[0] for row in rows]


def test_a_heading_sorts_and_says_so(seen: Seen) -> None:
    before, _, up, rising, _, down, falling, sorted_by = seen["sort"]["found"]
    speedups = [float(row[1].split("×")[0]) for row in before]
    assert speedups == sorted(speedups, reverse=True)
    densities = [float(row[3]) for row in up]
    assert densities == sorted(densities)
    assert [float(row[3]) for row in down] == sorted(densities, reverse=True)
    assert (rising, falling, sorted_by) == ("ascending", "descending", 1)


def test_a_filter_takes_words_and_comparisons_and_the_picture_follows(seen: Seen) -> None:
    marks, _, light, fewer, count, _, named, said, _, cells, *_ = seen["filter"]["found"]
    assert light
    assert all(float(row[3]) < 0.2 for row in light)
    assert (fewer, int(count)) == (len(light), len(light) + 1)
    assert fewer < marks
    assert first(named)
    assert all("two-call" in name for name in first(named))
    assert said == f"{len(named)} of {marks} methods and settings"
    assert {(row[0], row[4]) for row in cells} == {("vmoba", "1")}
    assert all("480p" in row[10] for row in cells)


def test_words_are_looked_for_where_a_reader_sees_them(seen: Seen) -> None:
    *_, capped, _, one, _, none, said = seen["filter"]["found"]
    assert capped
    assert all("capped" in row[4] for row in capped), "and not in the column of the baseline"
    assert one
    assert all(", 1 head, " in row[10] for row in one)
    assert (none, said) == (0, "No row has “40 heads” in method, engine, trust or selection.")


def test_a_filter_finds_every_row_that_shows_the_word(seen: Seen) -> None:
    """Also where the name of a row does not say its engine, because its method has only one."""
    every, _, triton, _, flash4, _, none, *_ = seen["engines"]["found"]
    assert {"sta triton", "vmoba · triton", "full flash4"} <= set(first(every))
    for word, kept in (("triton", triton), ("flash4", flash4)):
        assert kept == [row for row in every if word in row[0].split()]
    assert none == 0


def test_a_row_has_the_mark_that_it_has_in_the_picture(seen: Seen) -> None:
    *_, rows, points = seen["engines"]["found"]
    assert sorted(rows) == sorted(points)
    assert any("hollow" in look for look in rows), "one method has two engines"


def test_selectors_count_cells_and_change_everything(seen: Seen) -> None:
    before, options, _, after, rows, focused = seen["select"]["found"]
    assert before.startswith("At 720p")
    assert after.startswith(f"At 480p, 12 heads, on NVIDIA H100 80GB HBM3, {rows[0][0]} (")
    assert f" {rows[0][1].split('×')[0]}× [" in after
    assert len(options) == 4
    assert all(re.search(r"\((elsewhere )?\d+\)$", option) for option in options)
    assert any("1 head of 128" in option for option in options)
    assert "480p" in focused


def test_what_is_shown_is_named_and_chosen_wherever_one_reads(seen: Seen) -> None:
    _, bar, memory, options, value, named, _, after, verdict, shape, chosen, _, others, *_ = seen["read"]["found"]
    assert bar[0] == 0, "the bar stays at the top"
    assert 0 < memory[0] < bar[1] + 30, "and the section begins below it"
    assert abs(after[0] - memory[0]) < 3, "and stays there when another selection is shown"
    assert len(options) == 5
    assert HERE in options
    assert value != chosen
    assert verdict.startswith("At 576p, forward and backward,")
    assert shape[0].startswith("576p, ")
    assert {words for words in named if words} == {"720p, 12 heads, forward, video inputs"}
    assert {words for words in others if words} == {HERE}
    assert len([words for words in others if words]) >= 4


def test_selectors_and_table_count_the_same(seen: Seen) -> None:
    found = seen["counts"]["found"]
    for rows, said, room in (found[1:4], found[5:8]):
        assert said == f"{len(rows)} of 7 methods and settings" == "7 of 7 methods and settings"
        assert room[0] <= room[1]


def test_a_selector_that_moves_another_one_says_so(seen: Seen) -> None:
    none, _, moved, verdict, live, _, back, _, straight = seen["jump"]["found"]
    assert none == ""
    assert verdict.startswith("At 576p, forward and backward,")
    words = "720p, 12 heads of 128, 21×45×80 = 75,600 tokens"
    assert moved.startswith(
        f"Nothing was measured for forward and backward with {words}. Shown instead: shape 576p, 12"
    )
    assert back == f"Nothing was measured for {SHORT[:-4]} with forward and backward. Shown instead: direction forward."
    assert (live, straight) == ("polite", "")


def test_each_point_of_the_frontier_has_its_name_and_an_empty_picture_has_no_lines(seen: Seen) -> None:
    named, _, left, _, again = seen["frontier"]["found"]
    assert any(each.startswith("sta") for each in named)
    assert left == 0
    assert again == named


def test_a_filter_says_what_it_does_not_understand(seen: Seen) -> None:
    *found, _, said = seen["said"]["found"]
    for place, (words, complaint) in enumerate(ASKED.items()):
        _, told, rows = found[3 * place : 3 * place + 3]
        if complaint:
            assert complaint in told, words
            assert (rows == 0) == complaint.startswith("No row"), words
        else:
            assert told == "", words
            assert rows > 0, words
    assert said.startswith("Not understood: “spede” is none of the columns")


def test_the_address_names_the_selection(seen: Seen) -> None:
    none, _, chosen, _, further, verdict, _, _, first_again = seen["address"]["found"]
    assert (none, chosen) == ("", "#at=480p-12-heads-fwd-video")
    assert further == f"{chosen}&to=cells"
    assert verdict.startswith("At 480p")
    assert first_again.startswith("At 720p")
    assert [text[:7] for text in seen["named"]["found"]] == ["At 480p", ""]
    verdict, told = seen["misnamed"]["found"]
    assert verdict.startswith("At 720p")
    assert told.startswith("This report has nothing named “<img src=x>”. It has 720p-12-heads-fwd-video, ")
    assert [text[:7] for text in seen["linked"]["found"]] == ["At 720p", ""]


def test_trust_names_the_baseline_and_its_column_is_whole(seen: Seen) -> None:
    note, rows, room = seen["trust"]["found"]
    assert "its baseline, full/flash4" in note.replace("Its", "its")
    assert {row[-1].split()[0] for row in rows} == {"flash4"}
    assert room[0] <= room[1]


def test_the_axis_of_a_history_has_days_and_commits(seen: Seen) -> None:
    _, ticks, _, _, tip = seen["history"]["found"]
    assert ticks[:4] == ["2026-01-01", "abc1+", "2026-01-02", "abc2+"]
    assert "2026-01-01 abc1" in tip


def test_bars_that_differ_have_names_that_differ(seen: Seen) -> None:
    names = [name for name in seen["bars"]["found"][1] if "×" in name]
    assert names == ["refresh_every 4, topk 2×6×12", "refresh_every 4, topk 3×15×30"]


def test_keys_go_through_rows_and_points_and_open_a_row_with_its_command(seen: Seen) -> None:
    _, one, _, two, _, last, _, title, code, _, left, _, _, tip, _, hidden = seen["keys"]["found"]
    assert len({one, two, last}) == 3
    assert title.strip() == one.split("\n")[0]
    assert code[0].startswith("attnbench profile --method 'sta:tile=[6,8,8]'")
    assert "--res 720p" in code[0]
    assert code[1].startswith("attnbench repro ")
    assert code[1].endswith(" results/h100/profiles")
    assert left == 0
    assert "speed-up" in tip
    assert hidden == ""


def test_what_is_saved_is_what_is_shown(seen: Seen) -> None:
    table, records, figure, everything, _, row = seen["download"]["found"]
    assert [name for name, _ in (table, records, figure, everything)] == [
        "means-720p-12-heads-fwd-video.csv", "means-720p-12-heads-fwd-video.json",
        "trade-off-error-720p-12-heads-fwd-video.csv", "report.json",
    ]  # fmt: skip
    names, *lines = csv.reader(io.StringIO(table[1], newline=""))
    known = json.loads(records[1])
    assert len(lines) == len(known)
    assert [line[names.index("label")] for line in lines] == [each["label"] for each in known]
    data = json.loads(everything[1])
    (means,) = (each for each in data["tables"] if each["name"] == "means")
    columns = [column["name"] for column in means["columns"] if column["name"] != "selection"]
    assert names == [*FACETS, *columns] == list(known[0])
    chosen = [str(data["selections"][0][facet]) for facet in FACETS]
    assert {tuple(line[: len(FACETS)]) for line in lines} == {tuple(chosen)}
    heading, *points = csv.reader(io.StringIO(figure[1], newline=""))
    assert heading == [*FACETS, "series", "method", "x", "y", "lo", "hi", "label", "row_id"]
    assert {tuple(line[: len(FACETS)]) for line in points} == {tuple(chosen)}
    assert row[0].startswith("row-")
    assert "attnbench profile" in row[1]
    assert chosen[0] in row[1]


@pytest.mark.parametrize("name", ["means", "cells", "phases", "runs"])
def test_a_table_that_is_saved_has_the_columns_that_report_writes(seen: Seen, name: str) -> None:
    """What rows were measured on is in columns of its own, on the page and in files of ``report --format csv``."""
    places = {"means": 0, "cells": 1, "phases": 2, "runs": 3}
    file, text = seen["saved"]["found"][places[name]]
    written = csv_bytes(chosen_table(page_data(read(H100 / "profiles")), name)).decode()
    (names, *lines), (wanted, *rows) = (list(csv.reader(io.StringIO(each, newline=""))) for each in (text, written))
    assert names == wanted
    of_selection = name in ("means", "phases")
    assert file == (f"{name}-720p-12-heads-fwd-video.csv" if of_selection else f"{name}.csv")
    if name == "phases":
        facets = [names.index(facet) for facet in FACETS]
        rows = [row for row in rows if [row[at] for at in facets] == [lines[0][at] for at in facets]]
        assert 0 < len(lines) == len(rows)
        file, text = seen["saved"]["found"][5]
        others = list(csv.DictReader(io.StringIO(text, newline="")))
        assert file == "phases-576p-12-heads-fwdbwd-video.csv"
        assert {each["direction"] for each in others} == {"forward and backward"}
    if name in ("cells", "phases"):
        keys = [names.index(each) for each in ("row_id", "device", "shape", "direction", "inputs", "method", "layer")]
        told = ([[line[key] for key in keys] for line in each] for each in (lines, rows))
        assert next(told) == next(told)
        assert all(line[keys[1]] for line in lines)


def test_every_section_is_drawn_and_nothing_is_cut_off(seen: Seen) -> None:
    _, headings, links, pictures, width, wide, *_ = seen["sections"]["found"]
    titles = [heading.split("CSV")[0].split(" 720p")[0].strip() for heading in headings[1:]]
    assert titles == links
    assert {"Break-even", "Where the time goes", "From ideal to measured", "Roofline", "All cells"} <= set(titles)
    assert pictures >= 6
    assert wide == []
    assert width[0] <= width[1]


def test_the_map_of_a_selection_is_chosen_by_method_and_saved(seen: Seen) -> None:
    _, cells, options, _, others, file, gallery = seen["maps"]["found"]
    assert (cells, others) == (441, 441)
    assert len(options) == 2
    assert options[0].endswith("layer 0")
    assert file[0].startswith("masks-480p-12-heads-fwd-video-")
    assert file[0].endswith("-layer-0.csv")
    heading, *lines = csv.reader(io.StringIO(file[1], newline=""))
    assert heading == [*FACETS, "line", "at", "value"]
    assert [line[len(FACETS) :] for line in lines[:2]] == [["query 0", "key 0", "1"], ["query 0", "key 1", "0.1"]]
    assert gallery > 0


def test_a_phone_shows_speed_up_and_latency_first_and_scrolls_only_boxes(seen: Seen) -> None:
    _, width, wide, heads, shape, _, across, cut = seen["phone"]["found"]
    assert shape[0].startswith("720p, 12 heads of 128, ")
    assert width == [390, 390]
    assert wide == []
    assert [head.split()[0] for head in heads[:4]] == ["method", "speed-up", "ms", "density"]
    assert {"trust", "ideal", "error", "recall", "MiB", "baseline"} <= set(heads), "nothing is left out"
    assert across.startswith("← speed-up")
    assert cut == []


def test_a_wide_screen_shows_every_selector_in_one_line(seen: Seen) -> None:
    *_, cut, facets, fixed = seen["sections"]["found"]
    assert (cut, facets, fixed) == ([], 1, 1)


def test_columns_out_of_sight_are_named_and_a_wide_screen_has_few(seen: Seen) -> None:
    for name, each in seen.items():
        if name.startswith("axe ") and name != "axe dialog":
            _, sideways, struck, cut, twins, _ = each["found"]
            assert (struck, cut, twins) == ([], [], []), name
            assert [(box, missing) for box, _, missing in sideways if missing] == [], name
            few = name.endswith("phone") or "hostile" in name or {box for box, *_ in sideways} <= {"All cells, scrolls"}
            assert few, name
    name, out, _ = seen["axe cells phone"]["found"][1][0]
    assert (name, out) == ("Ranked methods, scrolls", 6)


def test_sections_follow_the_device_and_say_where_more_is(seen: Seen) -> None:
    *found, elsewhere, _, verdict, unsaved = seen["devices"]["found"]
    each = 2 * len(OF_A_DEVICE) + len(DRAWN_OF_A_DEVICE) + 1
    for place, device in enumerate(DEVICES):
        _, *parts = found[place * each : (place + 1) * each]
        shown, files = parts[: len(OF_A_DEVICE)], parts[len(OF_A_DEVICE) : 2 * len(OF_A_DEVICE)]
        for file, text in parts[2 * len(OF_A_DEVICE) :]:
            heading, *lines = csv.reader(io.StringIO(text, newline=""))
            assert heading[0] == "device", file
            assert {line[0] for line in lines} == {device}, file
            assert not {"shape", "direction", "inputs"} & set(heading), file
        assert all(len(texts) == 1 for texts in shown)
        for name, (file, text) in zip(OF_A_DEVICE, files, strict=True):
            lines = list(csv.DictReader(io.StringIO(text, newline="")))
            assert lines, file
            assert all(device in (line.get("device") or line["run_id"]) for line in lines), name
    assert elsewhere == ["More was measured on First GPU"] * len(OF_A_DEVICE)
    assert verdict.startswith("At 480p on First GPU")
    assert unsaved == 0


def test_dark_and_light_have_colours_of_their_own(seen: Seen) -> None:
    (dark, ground), (light, paper) = seen["dark"]["found"], seen["light"]["found"]
    assert len(dark) == len(light) > 4
    assert all(one != other for one, other in zip(dark, light, strict=True))
    assert ground != paper == ["rgb(255, 255, 255)"]


def test_print_keeps_the_results_and_drops_the_controls(seen: Seen) -> None:
    display, heads, facets = seen["print"]["found"]
    assert [facet.split("\n") for facet in facets[:2]] == [
        ["shape", "720p, 12 heads of 128, 21×45×80 = 75,600 tokens"], ["direction", "forward"],
    ]  # fmt: skip
    assert set(display) == {"none"}
    assert len([head for head in heads if head]) >= 9


def test_without_a_script_the_answer_is_there(seen: Seen) -> None:
    text, pictures, struck, cut = seen["no script"]["found"]
    assert "At 720p" in text
    assert "6.77×" in text
    assert pictures >= 6
    assert (struck, cut) == ([], [])


def test_a_clip_plays(seen: Seen) -> None:
    (ready, moved, width), lines = seen["play"]["found"]
    assert (ready, moved, width) == (4, True, 784)
    assert len(lines) == 3
    assert lines[-1].endswith("different, closer than another seed")


def test_hostile_words_are_shown_as_text(seen: Seen) -> None:
    _, answer, _, row, _, _, _, tip, images, scripts = seen["hostile"]["found"]
    assert answer.count(HOSTILE) >= 3
    assert HOSTILE in row
    assert tip
    assert (images, scripts) == (0, 2)


def test_axe_finds_nothing(seen: Seen) -> None:
    found = {name: each["found"][-1] for name, each in seen.items() if name.startswith("axe")}
    assert len(found) == 22
    assert {name: complaints for name, complaints in found.items() if complaints} == {}


def test_two_runs_are_compared_with_verdicts_colours_and_a_file(seen: Seen) -> None:
    sentence, badges, whiskers, colours, file, wide = seen["compared"]["found"]
    assert sentence.startswith("Of 5 cells that both have, 2 are slower in B")
    assert {"SLOW", "FAST", "SAME", "AMBIGUOUS", "broken", "only in A", "only in B"} == set(badges)
    assert whiskers == 5
    assert len(set(colours)) == len({"moba", "nabla", "sta", "radial", "vmoba", "full", "sliding-window"})
    assert (file[0], file[1].count("SLOW"), wide) == ("comparison.csv", 2, [])
    told, scripts, images = seen["hostile compared"]["found"]
    assert HOSTILE in told
    assert (scripts, images) == (2, 0)
