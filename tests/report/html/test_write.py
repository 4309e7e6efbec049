from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.report.formats.place import place_of
from attnbench.report.source import newest_run
from attnbench.results.files import write_whole

Maker = Callable[..., Any]


def test_the_newest_run_is_the_one_that_started_last(row_of: Maker, table_of: Maker, environment_of: Maker) -> None:
    rows = [row_of(run_id="b"), row_of(run_id="a"), row_of(run_id="c")]
    times = {"a": "2026-03-01T00:00:00Z", "b": "2026-02-01T00:00:00Z", "c": "2026-01-01T00:00:00Z"}
    table = table_of(rows, **{run: environment_of(started_at=time) for run, time in times.items()})
    assert newest_run(table) == "a"
    assert newest_run(replace(table, headers=())) == "c"


def test_where_the_report_goes(tmp_path: Path) -> None:
    assert place_of(None, "run-1") == Path("reports/run-1.html")
    assert place_of(tmp_path, "run-1") == tmp_path / "run-1.html"
    assert place_of(tmp_path / "mine.html", "run-1") == tmp_path / "mine.html"
    assert place_of(tmp_path, "../../etc/x").parent == tmp_path
    (tmp_path / "folder.html").mkdir()
    assert place_of(tmp_path / "folder.html", "run-1") == tmp_path / "folder.html" / "run-1.html"


def test_a_report_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_whole("old ×".encode(), path)
    write_whole("new ×".encode(), path)
    assert path.read_text(encoding="utf-8") == "new ×"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(b"old", tmp_path / "page.html")

    def full_disk(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(BadInput, match="No space left"):
        write_whole(b"new", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="--out"):
        write_whole(b"page", tmp_path / "file" / "page.html")
