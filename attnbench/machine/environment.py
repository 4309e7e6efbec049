"""Where a run is measured: device, driver, package versions and the state of the checkout."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from attnbench.inputs.files import read_file
from attnbench.kernels.errors import BadInput
from attnbench.kernels.told import quoted
from attnbench.machine.code import STAMP, digest_of_package
from attnbench.machine.device import DeviceKind, device_name
from attnbench.machine.git import git
from attnbench.results.records.cells import Environment

PACKAGES = (
    "attnbench",
    "torch",
    "triton",
    "numpy",
    "flash-attn-4",
    "flash-attn",
    "nvidia-cutlass-dsl",
    "av",
    "diffusers",
    "transformers",
    "safetensors",
)
_CODE = ("attnbench", "methods", "kernels")
_GIB = 2**30


def collect_environment(device_kind: DeviceKind, command: list[str]) -> Environment:
    """Describe this machine, as it is now.

    Args:
        device_kind: what the run measures on; decides which device is named and whose memory is given.
        command: the command line as typed; the folder of the program itself is left out.

    Raises:
        Unsupported: if ``device_kind`` is "cuda" and there is no CUDA device.
    """
    import torch

    code = _git_state(Path(__file__).resolve().parents[1])
    return Environment(
        device=device_name(device_kind),
        device_kind=device_kind,
        cores=_usable_cores(),
        threads=torch.get_num_threads(),
        memory_gib=round(_memory_bytes(device_kind) / _GIB, 1),
        driver=driver_version(),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=_versions(device_kind),
        git_commit=code.commit,
        git_dirty=code.dirty,
        git_changes=code.changes,
        command=[Path(command[0]).name, *command[1:]] if command else [],
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def commit_here() -> tuple[str | None, bool]:
    """Return the commit of the code that runs, None if it is not known, and whether the code differs from it."""
    code = _git_state(Path(__file__).resolve().parents[1])
    return code.commit, bool(code.dirty)


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver, or None where NVML cannot tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no library, no driver, no permission: all mean that nothing can be read
        return None
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions(device_kind: DeviceKind) -> dict[str, str]:
    versions = {name: version for name in PACKAGES if (version := package_version(name))}
    if device_kind == "cuda":
        import torch

        cudnn: Any = torch.backends.cudnn  # torch leaves this module without types
        versions["cuda"] = str(torch.version.cuda)
        versions["cudnn"] = str(cudnn.version())
    return versions


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _memory_bytes(device_kind: DeviceKind) -> int:
    """Return the memory of the device: of the GPU, or of the machine as far as this process may use it."""
    if device_kind == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


@dataclass(frozen=True, slots=True)
class _Git:
    """The code that runs: its commit, whether it differs from it, and a digest of the difference."""

    commit: str | None = None
    dirty: bool | None = None
    changes: str | None = None


def _git_state(package: Path) -> _Git:
    """Describe the checkout that ``package`` runs from.

    If it is installed elsewhere, the commit is what ATTNBENCH_COMMIT says, for code that travels without git. With a
    digest, as ``scripts/stamp.py`` prints it, that tells whether the installed code differs. Dirty means that the code
    differs from the commit, new files included; results and reports do not count.

    Raises:
        BadInput: if ATTNBENCH_COMMIT is read and is neither.
    """
    root = package.parent
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != root or not _is_project(root):
        said = os.environ.get("ATTNBENCH_COMMIT")
        return _git_state_of_copy(package, said) if said else _Git()
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return _Git()
    status = _git(root, "status", "--porcelain", "--", *_CODE)
    if not status:
        return _Git(commit, None if status is None else False)
    return _Git(commit, True, _changes(root))


def _git_state_of_copy(package: Path, said: str) -> _Git:
    known = STAMP.fullmatch(said)
    if known is None:
        raise BadInput(
            f"ATTNBENCH_COMMIT is {quoted(said)}; it must be a commit, 4 to 40 hexadecimal digits, or what "
            "scripts/stamp.py prints"
        )
    if known[2] is None:
        return _Git(known[1])
    try:
        found = digest_of_package(package)
    except OSError:
        return _Git(known[1])
    return _Git(known[1], found != known[2], found if found != known[2] else None)


def _changes(root: Path) -> str | None:
    """Return a digest of what differs from the commit: of the diff, and of the names and contents of new files."""
    diff = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--", *_CODE)
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *_CODE)
    if diff is None or new is None:
        return None
    digest = hashlib.sha256(diff.encode(errors="surrogateescape"))
    for name in filter(None, new.split("\0")):
        digest.update(f"\0{name}\0".encode(errors="surrogateescape"))
        with contextlib.suppress(OSError):
            digest.update(read_file(root / name))
    return digest.hexdigest()


def _is_project(root: Path) -> bool:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return False
    return bool(project.get("name") == "attnbench")


def _git(folder: Path, *arguments: str) -> str | None:
    printed = git(folder, *arguments)
    return None if printed is None else printed.decode(errors="surrogateescape").strip()
