"""What a resumed run may not change: every condition is compared, and named where it differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.errors import BadInput
from attnbench.results.conditions import content_digest, contents_of, require_same
from attnbench.results.records.cells import Environment, RunHeader

BASE: dict[str, Any] = {
    "device": "GPU", "device_kind": "cuda", "cores": 8, "threads": 8, "memory_gib": 80.0, "driver": "580",
    "python": "3.11", "platform": "Linux", "packages": {"torch": "2", "numpy": "2"}, "git_commit": "abc",
    "git_dirty": True, "git_changes": "d1", "started_at": "2026-01-01T00:00:00+00:00",
}  # fmt: skip
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "device": ({"device": "another GPU"}, "on 'GPU' and this is 'another GPU'"),
    "driver": ({"driver": "590"}, "driver 580 and this is driver 590"),
    "python": ({"python": "3.12"}, "python 3.11 and this is python 3.12"),
    "cores": ({"cores": 4}, "cores 8 and this is cores 4"),
    "threads": ({"threads": 4}, "threads 8 and this is threads 4"),
    "commit": ({"git_commit": "def"}, "git_commit abc and this is git_commit def"),
    "cleaned": ({"git_dirty": False, "git_changes": None}, "uncommitted changes d1 and this is git_dirty False, uncom"),
    "another dirty tree": ({"git_changes": "d2"}, "uncommitted changes d1 and this is uncommitted changes d2"),
    "a version": ({"packages": {"torch": "3", "numpy": "2"}}, "torch 2 and this is torch 3"),
    "a package more": ({"packages": {"torch": "2", "numpy": "2", "av": "1"}}, "av absent and this is av 1"),
    "a package less": ({"packages": {"torch": "2"}}, "numpy 2 and this is numpy absent"),
}  # fmt: skip
FREE = {"memory_gib": 79.0, "platform": "Linux of another day", "started_at": "2027", "command": ["attnbench"]}


def environment(**changes: Any) -> Environment:
    return Environment(**BASE | changes)


def check(
    here: Environment, contents: dict[str, str] | None = None, *, schema: int = 2, threads: Any = None,
    began: dict[str, str] | None = None,
) -> list[str]:  # fmt: skip
    header = RunHeader(schema_version=schema, run_id="run", environment=environment(), request={}, contents=began or {})
    notes: list[str] = []
    require_same(Path("folder"), header, here, contents or {}, notes.append, threads)
    return notes


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_refused_by_name(name: str) -> None:
    changes, said = CHANGES[name]
    with pytest.raises(BadInput, match=f"'folder' was measured .*{said}.*one run cannot hold both"):
        check(environment(**changes))


@given(st.sets(st.sampled_from(sorted(CHANGES))), st.sets(st.sampled_from(sorted(FREE))))
def test_a_run_goes_on_exactly_if_no_condition_changed(changed: set[str], free: set[str]) -> None:
    here: dict[str, Any] = {name: FREE[name] for name in free}
    for name in sorted(changed):
        here |= CHANGES[name][0]
    differs = environment(**here).model_dump(exclude=set(FREE)) != environment().model_dump(exclude=set(FREE))
    if differs:
        with pytest.raises(BadInput):
            check(environment(**here))
    else:
        assert check(environment(**here)) == []


def test_contents_are_compared_and_not_paths(tmp_path: Path) -> None:
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    first.write_bytes(b"frames")
    second.write_bytes(b"frames")
    began = contents_of({"inputs": first, "weights": None})
    assert check(environment(), contents_of({"inputs": second}), began=began) == []
    second.write_bytes(b"others")
    with pytest.raises(BadInput, match=r"content of inputs \w{12} and this is content of inputs \w{12}"):
        check(environment(), contents_of({"inputs": second}), began=began)
    with pytest.raises(BadInput, match="content of inputs absent"):
        check(environment(), {}, began=began)


def test_the_digest_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "a").write_bytes(b"12")
    digests = [content_digest(folder)]
    (folder / "vae" / "a").write_bytes(b"1")
    digests.append(content_digest(folder))
    (folder / "vae" / "a").rename(folder / "vae" / "b")
    digests.append(content_digest(folder))
    (folder / "c").write_bytes(b"")
    digests.append(content_digest(folder))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d").write_bytes(b"linked")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "vae" / "loop").symlink_to(folder)
    digests.append(content_digest(folder))
    (tmp_path / "elsewhere" / "d").write_bytes(b"replaced")
    digests.append(content_digest(folder))
    assert len(set(digests)) == 6
    with pytest.raises(BadInput, match="cannot be read"):
        content_digest(tmp_path / "missing" / "file")


def test_threads_that_were_used_are_compared() -> None:
    assert check(environment(), threads=([2, 2], 2)) == []
    assert check(environment(), threads=([], 4)) == []
    with pytest.raises(BadInput, match="threads 1, 2 and this is threads 2"):
        check(environment(), threads=([1, 2], 2))


def test_what_an_older_run_does_not_say_is_noted() -> None:
    more = {"packages": {**BASE["packages"], "av": "1"}}
    (note,) = check(environment(**more), {"inputs": "new"}, schema=1)
    assert "cannot be told" in note
    with pytest.raises(BadInput, match="torch 2 and this is torch 3"):
        check(environment(packages={"torch": "3"}), schema=1)


def test_what_macos_puts_into_a_folder_is_not_its_content(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("w")
    before = content_digest(tmp_path)
    (tmp_path / "._weights").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock").write_text("y")
    assert content_digest(tmp_path) == before


def test_what_python_caches_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("x = 1")
    before = content_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "code.pyc").write_bytes(b"1")
    assert content_digest(tmp_path) == before
    (tmp_path / "code.py").write_text("x = 2")
    assert content_digest(tmp_path) != before
