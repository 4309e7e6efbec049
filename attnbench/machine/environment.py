"""Where a run is measured: device, driver, package versions and the state of the checkout."""

from __future__ import annotations

import os
import platform
import subprocess
import tomllib
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from attnbench.machine.device import DeviceKind, device_name
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
_HOOK_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set by a hook: they point to another checkout
_GIB = 2**30


def collect_environment(device_kind: DeviceKind, command: list[str]) -> Environment:
    """Describe this machine, as it is now.

    Args:
        device_kind: what the run measures on; decides which device is named and whose memory is given.
        command: the command line as typed; the folder of the program itself is left out.

    Raises:
        Unsupported: if ``device_kind`` is "cuda" and there is no CUDA device.
    """
    commit, dirty = _git_state(Path(__file__).resolve().parents[1])
    return Environment(
        device=device_name(device_kind),
        device_kind=device_kind,
        cores=_usable_cores(),
        memory_gib=round(_memory_bytes(device_kind) / _GIB, 1),
        driver=driver_version(),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=_versions(device_kind),
        git_commit=commit,
        git_dirty=dirty,
        command=[Path(command[0]).name, *command[1:]] if command else [],
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


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


def _git_state(package: Path) -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the checkout that ``package`` runs from.

    If it is installed elsewhere, the commit is what ATTNBENCH_COMMIT says, for code that travels without git. Dirty
    means that the code differs from the commit, new files included; results and reports do not count.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != package.parent or not _is_project(package.parent):
        return os.environ.get("ATTNBENCH_COMMIT") or None, None
    commit = _git(package.parent, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return None, None
    changes = _git(package.parent, "status", "--porcelain", "--", *_CODE)
    return commit, None if changes is None else changes != ""


def _is_project(root: Path) -> bool:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return False
    return bool(project.get("name") == "attnbench")


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, or None if it is missing, slow or says no."""
    inherited = {name: value for name, value in os.environ.items() if name not in _HOOK_VARIABLES}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=inherited,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
