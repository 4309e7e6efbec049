"""A digest of attnbench's Python files, which tells whether code that travelled without git is what a commit holds."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

from attnbench.kernels.errors import BadInput
from attnbench.machine.git import git

STAMP = re.compile(r"([0-9a-f]{4,40})(?:\+([0-9a-f]{16}))?")
"""What ``ATTNBENCH_COMMIT`` may be: a commit, and the digest of its code."""

_FOLDERS = {"attnbench/": "", "methods/": "methods/", "kernels/": "kernels/"}
"""Where the folders of a checkout are in the installed package."""


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return 16 hex digits for files by their names in the package."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def digest_of_package(package: Path) -> str:
    """Return the digest of an installed package."""
    return digest_of({path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*.py")})


def stamp(root: Path, revision: str = "HEAD") -> str:
    """Return a commit of a checkout and the digest of its code, as ``ATTNBENCH_COMMIT`` takes it.

    Raises:
        BadInput: if git knows no such commit there.
    """
    known = git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    commit = "" if known is None else known.decode().strip()
    packed = git(root, "archive", "--format=tar", commit, "--", *_FOLDERS) if commit else None
    if packed is None:
        raise BadInput(f"{revision!r} is no commit of a checkout of attnbench in {str(root)!r} that git can export")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None and member.name.endswith(".py"):
                folder = member.name.partition("/")[0] + "/"
                files[_FOLDERS[folder] + member.name.removeprefix(folder)] = content.read()
    return f"{commit}+{digest_of(files)}"
