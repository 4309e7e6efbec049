from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.machine import device, environment
from attnbench.machine.code import stamp
from attnbench.machine.device import cpu_info, device_name
from attnbench.machine.environment import collect_environment, driver_version, package_version
from attnbench.results.records.cells import Environment


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout of a project named attnbench, from which the module believes it runs."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    root = (tmp_path / "checkout").resolve()
    for folder in ("attnbench", "methods", "kernels", "results"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file.py").write_text("x = 1\n")
    (root / "pyproject.toml").write_text('[project]\nname = "attnbench"\n')
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    monkeypatch.setattr(environment, "__file__", str(root / "attnbench" / "machine" / "environment.py"))
    return root


def state() -> tuple[str | None, bool | None]:
    found = collect_environment("cpu", [])
    return found.git_commit, found.git_dirty


def test_environment_describes_this_machine() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    found = collect_environment("cpu", ["/usr/somewhere/attnbench", "run", "--res", "480p"])
    assert found.device == device_name("cpu")
    assert found.device_kind == "cpu"
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0.1 < found.memory_gib < 1e5
    assert found.packages["torch"] == importlib.metadata.version("torch")
    assert found.packages["attnbench"] == importlib.metadata.version("attnbench")
    assert found.command == ["attnbench", "run", "--res", "480p"]
    assert before <= datetime.fromisoformat(found.started_at) <= datetime.now(UTC)
    assert Environment.model_validate_json(found.model_dump_json()) == found


def test_commit_of_a_clean_checkout(checkout: Path) -> None:
    assert state() == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("changed", ["attnbench/file.py", "methods/new.py", "kernels/file.py"])
def test_changed_or_new_code_makes_the_checkout_dirty(checkout: Path, changed: str) -> None:
    (checkout / changed).write_text("x = 2\n")
    assert state()[1] is True


@pytest.mark.parametrize("changed", ["attnbench/file.py", "methods/new.py"])
def test_two_dirty_trees_are_told_apart_and_one_is_itself(checkout: Path, changed: str) -> None:
    def digest() -> str | None:
        return collect_environment("cpu", []).git_changes

    assert digest() is None
    (checkout / changed).write_text("x = 2\n")
    first = digest()
    assert first is not None
    assert digest() == first
    (checkout / changed).write_text("x = 3\n")
    assert digest() not in (None, first)
    (checkout / changed).write_text("x = 2\n")
    assert digest() == first


def test_a_new_result_does_not_make_the_checkout_dirty(checkout: Path) -> None:
    (checkout / "results" / "table.json").write_text("{}")
    assert state()[1] is False


def test_a_hook_of_another_repository_does_not_mislead(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert state() == (commit, False)


def test_no_commit_yet_means_no_git_state(checkout: Path) -> None:
    git(checkout, "update-ref", "-d", "HEAD")
    assert state() == (None, None)


def test_an_installed_package_ignores_the_checkout_around_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / ".venv" / "lib" / "attnbench"
    installed.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(installed / "machine" / "environment.py"))
    monkeypatch.delenv("ATTNBENCH_COMMIT", raising=False)
    assert state() == (None, None)
    monkeypatch.setenv("ATTNBENCH_COMMIT", "c0ffee")
    assert state() == ("c0ffee", None)
    for said in ("main", "c0ffee ", "C0FFEE", "c0f", "c0ffee+", "c0ffee+12", "x" * 300):
        monkeypatch.setenv("ATTNBENCH_COMMIT", said)
        with pytest.raises(BadInput, match=r"ATTNBENCH_COMMIT is '.*'.*; it must be a commit"):
            state()
    monkeypatch.setenv("ATTNBENCH_COMMIT", "")
    assert state() == (None, None)


def test_a_copy_without_git_knows_whether_it_is_what_the_commit_holds(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "attnbench" / "file.py").write_text("x = 2\n")  # not committed: of no account for the stamp
    said = stamp(checkout)
    assert said.startswith(f"{commit}+")
    package = tmp_path / "site" / "attnbench"
    for folder in ("attnbench", "methods", "kernels"):
        (package / folder).mkdir(parents=True) if folder != "attnbench" else package.mkdir(parents=True)
        (package / (folder if folder != "attnbench" else "") / "file.py").write_text("x = 1\n")
    monkeypatch.setattr(environment, "__file__", str(package / "machine" / "environment.py"))
    monkeypatch.setenv("ATTNBENCH_COMMIT", said)
    assert state() == (commit, False)
    for change in ("x = 1 \n", "x = 1\ny = 1\n"):
        (package / "kernels" / "file.py").write_text(change)
        assert state() == (commit, True)
    (package / "kernels" / "file.py").write_text("x = 1\n")
    (package / "new.py").write_text("")
    assert state() == (commit, True)


def test_a_folder_without_the_commit_has_no_stamp(tmp_path: Path, checkout: Path) -> None:
    for folder, revision in ((tmp_path, "HEAD"), (checkout, "no-such"), (tmp_path / "nowhere", "HEAD")):
        with pytest.raises(BadInput, match=f"'{revision}' is no commit of a checkout"):
            stamp(folder, revision)


def test_another_projects_checkout_is_not_ours(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text('[project]\nname = "user-of-attnbench"\n')
    assert state() == (None, None)


def test_missing_git_is_no_error(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert state() == (None, None)


def test_cpu_name_comes_from_cpuinfo(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\nmodel name\t: Fast  CPU @ 3.0GHz\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: B\n"
    )
    assert cpu_info(path) == {"processor": "0", "model name": "Fast CPU @ 3.0GHz", "flags": "fpu avx2"}
    assert cpu_info(tmp_path / "missing") == {}


def test_cpu_without_a_model_name_is_still_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_info", dict)
    monkeypatch.setattr("platform.processor", lambda: "riscv")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert device_name("cpu") == "riscv (1 core)"


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="no CUDA device"):
        collect_environment("cuda", [])


def test_cuda_environment_describes_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=80 * 2**30))
    found = collect_environment("cuda", [])
    assert (found.device, found.device_kind, found.memory_gib) == ("A GPU", "cuda", 80.0)
    assert {"cuda", "cudnn"} <= found.packages.keys()


def test_driver_version_is_read_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlSystemGetDriverVersion=lambda: b"570.1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert driver_version() == "570.1"
    assert calls == ["init", "shutdown"]


def test_no_driver_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert driver_version() is None


def test_version_of_a_package_that_is_not_installed() -> None:
    assert package_version("surely-not-an-installed-package") is None
