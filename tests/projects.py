"""A throw-away project with a method of its own, in a git repository of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "attnbench-thrown-away"
version = "1"

[project.entry-points."attnbench.methods"]
thrown-away = "thrown_away:METHOD"

[tool.setuptools]
py-modules = ["thrown_away"]
"""

MODULE = """
import time
from attnbench.methods import get_method
from dataclasses import replace

SECONDS = 0.0
STA = get_method("sta")

def plan(settings, q, k, call):
    time.sleep(SECONDS)
    return STA.plan(settings, q, k, call)

METHOD = replace(STA, name="thrown-away", plan=plan, depends_on_qk=True)
"""


class Project:
    """A project in a git repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch", "main")
        self.write("pyproject.toml", PYPROJECT)
        self.write("thrown_away.py", MODULE)
        self.write(".gitignore", "ignored.py\n")
        self.first = self.commit("first")

    def git(self, *words: str) -> str:
        settings = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(self.root), *settings, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def lose_method(self) -> None:
        """Register the method by another name."""
        self.write("pyproject.toml", PYPROJECT.replace("thrown-away =", "other ="))

    def rename_method(self, name: str) -> None:
        """Register and call the method by another name."""
        self.write("pyproject.toml", PYPROJECT.replace("thrown-away =", f"{name} ="))
        self.write("thrown_away.py", MODULE.replace('"thrown-away"', f'"{name}"'))

    def slow_down(self, seconds: float) -> None:
        self.write("thrown_away.py", MODULE.replace("SECONDS = 0.0", f"SECONDS = {seconds}"))
