"""The two versions of a project: what is exported, what is installed, and what is said where that fails."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attnbench.bench.gate.project import CannotRun, find_commit, prepare_base, prepare_head, project_root
from attnbench.kernels.errors import BadInput

if TYPE_CHECKING:
    from tests.projects import Project


def test_base_is_the_commit_and_head_is_what_lies_there(project: Project, tmp_path: Path) -> None:
    project.write("thrown_away.py", "changed = True\n")
    project.write("ignored.py", "")
    project.write("new.py", "")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    base = prepare_base(project.root, find_commit(project.root, "main"), scratch)
    head = prepare_head(project.root, scratch)
    assert (base.commit, head.commit) == (project.first, project.first)
    assert "SECONDS" in (base.folder / "thrown_away.py").read_text()
    assert (head.folder / "thrown_away.py").read_text() == "changed = True\n"
    assert list(base.folder.glob("attnbench_thrown_away-1.dist-info/entry_points.txt"))
    exported = {path.name for path in (scratch / "head-source").iterdir()}
    assert "new.py" in exported
    assert "ignored.py" not in exported


def test_a_deleted_file_is_not_exported(project: Project, tmp_path: Path) -> None:
    project.write("thrown_away.py", "")
    (project.root / ".gitignore").unlink()
    prepare_head(project.root, tmp_path)
    assert not (tmp_path / "head-source/.gitignore").exists()


def test_a_version_that_cannot_be_installed_is_named_with_the_reason(project: Project, tmp_path: Path) -> None:
    project.write("pyproject.toml", "[project]\nname = 3\n")
    with pytest.raises(CannotRun, match="head cannot run: pip cannot install it: ") as caught:
        prepare_head(project.root, tmp_path)
    assert caught.value.version == "head"


@pytest.mark.slow
def test_a_base_that_cannot_be_installed_is_named_as_such(project: Project, tmp_path: Path) -> None:
    project.write("pyproject.toml", "[project]\nname = 3\n")
    with pytest.raises(CannotRun) as caught:
        prepare_base(project.root, project.commit("broken"), tmp_path)
    assert caught.value.version == "base"


def test_a_base_that_cannot_be_unpacked_is_told(project: Project, tmp_path: Path) -> None:
    (project.root / "out").symlink_to("/etc")
    with pytest.raises(CannotRun, match=r"base cannot run: git's export of .* cannot be unpacked: .*'out'"):
        prepare_base(project.root, project.commit("a link to an absolute path"), tmp_path)


@pytest.mark.parametrize("revision", ["nothing", "--help", "HEAD:pyproject.toml", "", "a b"])
def test_what_is_no_commit_is_refused(project: Project, revision: str) -> None:
    with pytest.raises(BadInput, match="is no commit of this repository"):
        find_commit(project.root, revision)


def test_a_hook_of_another_repository_does_not_mislead(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", other], check=True)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert find_commit(project_root(project.root), "main") == project.first


def test_without_git_it_is_said(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="--against needs git"):
        project_root(project.root)


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no pyproject\.toml"):
        project_root(tmp_path)
