"""What the mapping of folders to packages can break without any other test noticing."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

import attnbench
from attnbench.cli import COMMANDS
from attnbench.cli.lazy import LazyCommands

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "triton", "numpy", "pandas", "pyarrow", "matplotlib", "av", "jinja2")


@pytest.fixture(scope="module")
def check_wheel() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "scripts" / "check_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def room_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def test_commands_import_only_typer_and_the_standard_library_at_the_top() -> None:
    light = {*sys.stdlib_module_names, "typer", "attnbench"}
    for path in room_files("attnbench/cli"):
        top = ast.parse(path.read_text(encoding="utf-8")).body
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
        assert {name for name in names if name.partition(".")[0] not in light} == set(), path.name


def loaded_by(arguments: list[str]) -> set[str]:
    """The modules of a process that imported attnbench and ran this command, if any."""
    call = f"sys.argv = ['attnbench', *{arguments!r}]\nfrom attnbench.cli import main\nmain()" if arguments else ""
    program = (
        f"import atexit, json, sys, attnbench\natexit.register(lambda: print(json.dumps(sorted(sys.modules))))\n{call}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "attnbench" in loaded
    return loaded


@pytest.mark.parametrize("arguments", [[], *(["ls", kind] for kind in ("shapes", "models", "inputs"))])
def test_lists_and_plain_import_load_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(arguments).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["report", "--help"], ["run", "--help"], ["compare", "--help"]]
)
def test_help_loads_nothing_heavy_nor_what_reads_options(arguments: list[str]) -> None:
    assert loaded_by(arguments).isdisjoint((*HEAVY, "pydantic"))


@pytest.mark.parametrize("arguments", [["--version"], ["compare", "--help"], ["ls", "shapes"]])
def test_a_command_imports_no_other_command(arguments: list[str]) -> None:
    commands = {f"attnbench.cli.{name}" for name in COMMANDS}
    assert loaded_by(arguments) & commands == {f"attnbench.cli.{name}" for name in arguments[:1] if name in COMMANDS}


def test_each_file_of_the_command_line_is_a_command_or_shared() -> None:
    files = {path.stem for path in room_files("attnbench/cli")}
    assert files == {
        *COMMANDS,
        "__init__",
        "groups",
        "lazy",
        "lists",
        "old_words",
        "options",
        "progress",
        "ranks",
        "suite",
        "suite_on",
        "terminal",
        "threads",
    }
    for name in COMMANDS:
        assert LazyCommands([name])[name].name == name


def test_words_of_the_report_load_nothing_heavy() -> None:
    program = "import json, sys, attnbench.report.words; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert set(json.loads(done.stdout)).isdisjoint(HEAVY)


def test_every_exported_name_is_there() -> None:
    names = attnbench.__all__
    assert len(set(names)) == len(names)
    assert {"attention", "select", "load_results"} <= set(names) <= set(dir(attnbench))
    for name in names:
        assert getattr(attnbench, name).__name__ == name


def test_exports_are_what_a_type_checker_sees() -> None:
    """Type checkers read the imports under TYPE_CHECKING, programs __all__: a name in one alone is half an export."""
    tree = ast.parse(Path(attnbench.__file__).read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(attnbench.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        attnbench.no_such_name  # noqa: B018 - the access itself is the test


def test_every_package_is_listed_and_marked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    rooms = {"attnbench": "attnbench", "methods": "attnbench.methods", "kernels": "attnbench.kernels"}
    tree = {
        ".".join([package, *path.relative_to(ROOT / room).parent.parts])
        for room, package in rooms.items()
        for path in room_files(room)
    }
    assert set(settings["packages"]) == tree
    for room, package in rooms.items():
        for path in room_files(room):
            assert (path.parent / "__init__.py").is_file(), f"{path} is in a folder of {package} without __init__.py"


def test_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert attnbench.__version__ == project["version"]


def test_wheel_layout_follows_the_mapping(check_wheel: ModuleType) -> None:
    names = ["attnbench/py.typed", "kernels/engines/base.py", "methods/moba.py", "tests/test_x.py", "README.md"]
    files = [PurePosixPath(name) for name in names]
    expected = {"attnbench/py.typed", "attnbench/kernels/engines/base.py", "attnbench/methods/moba.py"}
    assert check_wheel.expected_in_wheel(files) == expected


def test_wheel_differences_are_named(check_wheel: ModuleType) -> None:
    problems = check_wheel.wheel_problems({"attnbench/a.py", "attnbench/b.mp4"}, {"attnbench/a.py", "attnbench/old.py"})
    assert problems == ["missing from the wheel: attnbench/b.mp4", "in the wheel but not in the tree: attnbench/old.py"]


def test_paths_of_one_machine_are_found(check_wheel: ModuleType, tmp_path: Path) -> None:
    somewhere = "/".join(["", "home", "someone", "run"])
    (tmp_path / "notes.md").write_text(
        f"fine: https://example.org{somewhere} and ~{somewhere}\nnot fine: {somewhere}\n"
    )
    (tmp_path / "clip.mp4").write_bytes(b"\xff\xfe " + somewhere.encode())
    files = check_wheel.project_files(tmp_path)
    assert check_wheel.path_problems(tmp_path, files) == [f"notes.md:2 names a path of one machine: {somewhere}"]


def test_size_limit_names_the_largest_file(check_wheel: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(2000))
    (tmp_path / "small.bin").write_bytes(bytes(10))
    files = check_wheel.project_files(tmp_path)
    assert check_wheel.size_problems(tmp_path, files, limit=2010) == []
    (problem,) = check_wheel.size_problems(tmp_path, files, limit=2009)
    assert "large.bin" in problem


def test_project_files_leave_out_what_git_ignores(check_wheel: ModuleType, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "kernels/new.py", "gone.py", "results/runs/now/journal.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / ".gitignore").write_text("results/runs/\n")
    for arguments in (["init", "-q"], ["add", "pyproject.toml", "gone.py"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "gone.py").unlink()
    assert [str(file) for file in check_wheel.project_files(tmp_path)] == [
        ".gitignore",
        "kernels/new.py",
        "pyproject.toml",
    ]


def test_project_files_without_git_leave_out_litter(check_wheel: ModuleType, tmp_path: Path) -> None:
    for name in (
        "pyproject.toml",
        "kernels/a.py",
        "kernels/__pycache__/a.pyc",
        ".mypy_cache/x",
        ".venv/y",
        "a.egg-info/z",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [str(file) for file in check_wheel.project_files(tmp_path)] == ["kernels/a.py", "pyproject.toml"]


def test_a_failing_command_is_shown_with_its_output(check_wheel: ModuleType) -> None:
    with pytest.raises(check_wheel.CheckFailed, match=r"(?s)some words.*exit code 3"):
        check_wheel.run([sys.executable, "-c", "import sys; print('some words'); sys.exit(3)"])
