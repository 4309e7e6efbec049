"""Which files a path of results stands for: links, loops, hidden names and what is no file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.results.find import LostLink, find_results


def find_journals(path: Path) -> list[Path]:
    return find_results(path)[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two journals, one of them a level down."""
    (tmp_path / "in" / "b").mkdir(parents=True)
    (tmp_path / "in" / "a.jsonl").touch()
    (tmp_path / "in" / "b" / "journal.jsonl").touch()
    return tmp_path / "in"


def found(root: Path) -> list[str]:
    return [str(each.relative_to(root)) for each in find_journals(root)]


def test_links_to_files_and_folders_are_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "else" / "deep").mkdir(parents=True)
    (tmp_path / "else" / "deep" / "c.jsonl").touch()
    (tmp_path / "one.jsonl.gz").touch()
    (root / "folder").symlink_to(tmp_path / "else")
    (root / "b" / "z.jsonl.gz").symlink_to(tmp_path / "one.jsonl.gz")
    assert found(root) == ["a.jsonl", "b/journal.jsonl", "b/z.jsonl.gz", "folder/deep/c.jsonl"]


def test_a_loop_ends_and_each_file_is_read_once_by_its_own_path(root: Path, tmp_path: Path) -> None:
    (root / "b" / "up").symlink_to(root)
    (root / "a-link-to-b").symlink_to("b")
    (root / "a-link.jsonl").symlink_to("b/journal.jsonl")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "back").symlink_to(tmp_path / "other")
    (root / "other").symlink_to(tmp_path / "other")
    assert found(root) == ["a.jsonl", "b/journal.jsonl"]


def test_a_linked_root_is_read_by_the_name_that_was_given(root: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(root)
    assert find_journals(tmp_path / "latest") == [tmp_path / "latest" / name for name in ("a.jsonl", "b/journal.jsonl")]


def test_names_that_begin_with_a_dot_are_skipped(root: Path) -> None:
    (root / "._a.jsonl").write_bytes(b"\0\5\26\7")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "c.jsonl").write_text("no journal")
    (root / ".link.jsonl").symlink_to("nowhere")
    assert found(root) == ["a.jsonl", "b/journal.jsonl"]
    assert len(attnbench.load_results(root)) == 0


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / ".mine").mkdir()
    (tmp_path / ".mine" / "a.jsonl").touch()
    assert found(tmp_path / ".mine") == ["a.jsonl"]


@pytest.mark.parametrize(
    ("name", "target"), [("lost.jsonl", "gone.jsonl"), ("lost.jsonl", "lost.jsonl"), ("disk", "/nowhere/at/all")]
)
def test_a_link_that_leads_nowhere_is_called_that_and_costs_nothing_else(root: Path, name: str, target: str) -> None:
    link = root / name
    link.symlink_to(target)
    (root / "clip.mp4").symlink_to("/nowhere/clip.mp4")  # no result
    said = f"{str(link)!r} is a link to {target!r}, which does not exist"
    with pytest.warns(LostLink) as warned:
        assert found(root) == ["a.jsonl", "b/journal.jsonl"]
    assert [str(each.message) for each in warned] == [said]
    with pytest.raises(BadInput) as error:
        find_journals(link)
    assert str(error.value) == said


def test_a_folder_of_lost_links_alone_holds_no_results(tmp_path: Path) -> None:
    (tmp_path / "lost.jsonl").symlink_to("gone.jsonl")
    with pytest.warns(LostLink), pytest.raises(BadInput, match="no results in"):
        find_journals(tmp_path)


def test_pipes_sockets_and_devices_are_refused_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe.jsonl")
    for path in (root, root / "pipe.jsonl"):
        with pytest.raises(BadInput, match=r"pipe\.jsonl' is a named pipe; a results journal must be a file"):
            attnbench.load_results(path)
    (root / "pipe.jsonl").unlink()
    monkeypatch.chdir(root)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s.jsonl")
        with pytest.raises(BadInput, match=r"s\.jsonl' is a socket"):
            find_journals(root)
    with pytest.raises(BadInput, match="'/dev/zero' is a device"):
        find_journals(Path("/dev/zero"))


def test_traces_are_found_with_the_journals(root: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for folder in (root / "traces", root / "b" / "traces"):
        folder.mkdir()
    (root / "traces" / "one.json.gz").touch()
    (root / "traces" / "notes.txt").touch()
    (root / "b" / "traces" / "two.json.gz").touch()
    (root / "three.json.gz").touch()
    both = {"one": root / "traces" / "one.json.gz", "two": root / "b" / "traces" / "two.json.gz"}
    assert find_results(root) == ([root / "a.jsonl", root / "b" / "journal.jsonl"], both)
    assert find_results(root / "a.jsonl") == ([root / "a.jsonl"], {"one": both["one"]})
