"""Check what an editable install hides: that the wheel holds every module, is typed, and runs outside the repository.

methods/ and kernels/ are mapped to attnbench.methods and attnbench.kernels. In an editable install a package that is
missing from the list in pyproject.toml works all the same, and a type check at the root of the repository skips the
mapped folders. So everything here is done on a wheel, built from a clean export and installed into a scratch folder.

Run it with the interpreter of an environment that has the test extra: ``python scripts/check_wheel.py``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"attnbench": "attnbench", "methods": "attnbench/methods", "kernels": "attnbench/kernels"}
MAX_BYTES = 22 * 2**20
NOT_EXPORTED = {".git", ".venv", "build", "dist", "runs", "__pycache__"}
DEVELOPER_PATHS = re.compile(r"(?<![\w./~-])/(?:home|Users|root|work)/\w[\w./-]*")

# Runs the command line; then every module of the package must have come from the folder given as first argument.
# The finder of an editable install goes first, or it would serve a package that the wheel lacks.
PROBE = """
import pathlib, sys
folder = pathlib.Path(sys.argv.pop(1))
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
from attnbench.cli import main
try:
    main()
finally:
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == "attnbench" and not pathlib.Path(module.__file__).is_relative_to(folder):
            sys.exit(f"{name} was imported from {module.__file__}, not from the wheel")
"""


class CheckFailed(Exception):
    """What is wrong, in words for the person who must mend it."""


def project_files(root: Path) -> list[PurePosixPath]:
    """Return the files of the project: tracked, or new and not ignored; without git all but known litter."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = []
    if "pyproject.toml" not in listed:  # no git, or a checkout of something else that ignores this folder
        listed = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        listed = [name for name in listed if not any(map(_is_litter, PurePosixPath(name).parts))]
    return sorted(PurePosixPath(name) for name in set(listed) if name and (root / name).is_file())


def _is_litter(part: str) -> bool:
    return part in NOT_EXPORTED or part.endswith((".egg-info", "_cache"))


def expected_in_wheel(files: Iterable[PurePosixPath]) -> set[str]:
    """Return where every file of the three rooms must lie in an installed wheel, package data included."""
    return {f"{ROOMS[file.parts[0]]}/{file.relative_to(file.parts[0])}" for file in files if file.parts[0] in ROOMS}


def wheel_problems(expected: set[str], installed: set[str]) -> list[str]:
    """Return one line for each file that the wheel lacks or should not have."""
    missing = [f"missing from the wheel: {name}" for name in sorted(expected - installed)]
    return missing + [f"in the wheel but not in the tree: {name}" for name in sorted(installed - expected)]


def size_problems(root: Path, files: Iterable[PurePosixPath], limit: int = MAX_BYTES) -> list[str]:
    """Return a line if the files are together larger than ``limit`` bytes, with the three largest."""
    sizes = sorted(((root / file).stat().st_size, str(file)) for file in files)
    total = sum(size for size, _ in sizes)
    if total <= limit:
        return []
    largest = ", ".join(f"{name} ({size / 2**20:.1f} MiB)" for size, name in reversed(sizes[-3:]))
    return [f"all files together are {total / 2**20:.1f} MiB, more than {limit / 2**20:.0f} MiB; largest: {largest}"]


def path_problems(root: Path, files: Iterable[PurePosixPath]) -> list[str]:
    """Return a line for each text that names a folder of somebody's machine."""
    problems = []
    for file in files:
        try:
            text = (root / file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = ((text.count("\n", 0, match.start()) + 1, match[0]) for match in DEVELOPER_PATHS.finditer(text))
        problems += [f"{file}:{line} names a path of one machine: {path}" for line, path in found]
    return problems


def export(root: Path, files: Iterable[PurePosixPath], target: Path) -> None:
    """Copy the files, and nothing else, to ``target``: no old build folder can then fill a gap."""
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file, target / file)


def build_and_install(source: Path, scratch: Path) -> Path:
    """Build the wheel of ``source`` and return the folder it is installed into."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels, installed = scratch / "wheels", scratch / "installed"
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)])
    (wheel,) = wheels.glob("*.whl")
    run([*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", str(installed), str(wheel)])
    return installed


def run(command: list[str], cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output; the output is shown only if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise CheckFailed(f"{done.stdout.rstrip()}\nfailed with exit code {done.returncode}: {' '.join(command)}")
    return done.stdout


def run_from_wheel(installed: Path, *arguments: str) -> str:
    """Run the command line of the installed wheel from an empty folder, and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    probe = installed.parent / "probe.py"
    probe.write_text(PROBE, encoding="utf-8")
    with tempfile.TemporaryDirectory() as empty:
        return run([sys.executable, "-P", str(probe), str(installed), *arguments], Path(empty), environment)


def require(problems: list[str]) -> None:
    """Raise if there is any problem."""
    if problems:
        raise CheckFailed("\n".join(problems))


def check(root: Path, scratch: Path) -> None:
    """Run all checks, saying each before it starts."""
    files = project_files(root)
    say(f"{len(files)} files: size, and no path of one machine")
    require(size_problems(root, files) + path_problems(root, files))

    say("wheel from a clean export: every module and all package data")
    export(root, files, scratch / "source")
    installed = build_and_install(scratch / "source", scratch)
    present = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    require(wheel_problems(expected_in_wheel(files), {name for name in present if name.startswith("attnbench/")}))

    say("command line of the wheel, outside the repository")
    for arguments in (("--help",), ("ls", "methods")):
        if not run_from_wheel(installed, *arguments).strip():
            raise CheckFailed(f"attnbench {' '.join(arguments)} printed nothing")

    say("types of the wheel")
    settings = ["--config-file", str(root / "pyproject.toml"), "--cache-dir", str(root / ".mypy_cache" / "wheel")]
    run([sys.executable, "-m", "mypy", *settings], cwd=installed)


def say(step: str) -> None:
    """Print a step at once, also into a pipe."""
    print(f"check_wheel: {step}", flush=True)


def main() -> int:
    """Check the repository that this script lies in."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends with it
    with tempfile.TemporaryDirectory(prefix="attnbench-wheel-") as scratch:
        try:
            check(ROOT, Path(scratch).resolve())
        except CheckFailed as failure:
            print(failure, file=sys.stderr)
            return 1
    say("fine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
