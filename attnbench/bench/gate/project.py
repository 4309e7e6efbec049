"""The two versions of a project that a gate compares: a commit, and the project as it stands."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from attnbench.kernels.errors import BadInput
from attnbench.machine.git import git
from attnbench.machine.printed import last_words

INSTALL_SECONDS = 600


class CannotRun(Exception):
    """A version cannot be installed, or cannot run the cells.

    Attributes:
        version: "base" or "head".
        reason: why.
    """

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"{version} cannot run: {reason}")
        self.version, self.reason = version, reason


@dataclass(frozen=True)
class Version:
    """One version of the project.

    Attributes:
        name: "base", the commit, or "head", the project as it stands.
        commit: the commit that it is, or on which it rests.
        folder: what it was installed into: Python finds it there.
    """

    name: str
    commit: str
    folder: Path


def project_root(folder: Path) -> Path:
    """Return ``folder`` if it holds a project that can be installed, and git keeps its history.

    Raises:
        BadInput: if it does not.
    """
    if not (folder / "pyproject.toml").is_file() and not (folder / "setup.py").is_file():
        raise BadInput(f"{str(folder)!r} has no pyproject.toml; run the gate in the folder of the project it judges")
    if shutil.which("git") is None:
        raise BadInput("--against needs git, which is not installed, or not on the PATH")
    if git(folder, "rev-parse", "--is-inside-work-tree") is None:
        raise BadInput(f"{str(folder)!r} is not a git repository; --against needs the history of the project")
    return folder


def find_commit(root: Path, revision: str) -> str:
    """Return the commit, 40 hex digits, that a revision names.

    Raises:
        BadInput: if git knows no such commit here.
    """
    found = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not found:
        raise BadInput(
            f"--against {revision!r} is no commit of this repository; a shallow clone may lack it: "
            "git fetch it first, or check out with fetch-depth: 0"
        )
    return found.decode().strip()


def prepare_base(root: Path, commit: str, scratch: Path) -> Version:
    """Export the project of a commit, and install it into a folder below ``scratch``.

    Raises:
        CannotRun: if git cannot export it, it cannot be unpacked, or pip cannot install it.
    """
    packed = git(root, "archive", "--format=tar", commit, "--", ".", seconds=INSTALL_SECONDS)
    if packed is None:
        raise CannotRun("base", f"git cannot export {commit[:12]}; it may lack this folder")
    source = scratch / "base-source"
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(source, filter="data")
    except tarfile.TarError as error:  # as a link to an absolute path
        raise CannotRun("base", f"git's export of {commit[:12]} cannot be unpacked: {error}") from error
    return _install("base", commit, source, scratch / "base")


def prepare_head(root: Path, scratch: Path) -> Version:
    """Export the project as it stands, with changes and new files but without ignored ones, and install it likewise.

    Raises:
        CannotRun: if git cannot list its files, or pip cannot install it.
    """
    source = scratch / "head-source"
    source.mkdir()
    words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".")
    listed = git(root, *words, seconds=INSTALL_SECONDS)
    if listed is None:
        raise CannotRun("head", "git cannot list its files")
    for name in map(os.fsdecode, filter(None, listed.split(b"\0"))):
        given, target = root / name, source / name
        if given.is_symlink() or given.is_file():  # not one that was deleted, and no submodule
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(given, target, follow_symlinks=False)
    return _install("head", find_commit(root, "HEAD"), source, scratch / "head")


def _install(name: str, commit: str, source: Path, target: Path) -> Version:
    """Install the project in ``source`` into the folder ``target``, without what it depends on."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if _has_build_tools(source):  # otherwise pip must download them
        command.append("--no-build-isolation")
    command += ["--target", str(target), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CannotRun(name, f"pip took more than {INSTALL_SECONDS} s to install it") from error
    if done.returncode != 0:
        raise CannotRun(name, f"pip cannot install it: {last_words(done.stderr) or 'no message'}")
    return Version(name, commit, target)


def _has_build_tools(source: Path) -> bool:
    """Whether what builds the project is installed here, as far as names tell."""
    try:
        system = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
        names = [re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0] for requirement in system["requires"]]
        return bool(names) and all(metadata.version(name) for name in names)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, metadata.PackageNotFoundError):
        return False
