"""What a suite file expands to, and how what cannot be used is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.bench.suite import SuiteCell, SuiteOption, read_suite
from attnbench.kernels.errors import BadInput

RUN = {
    "res": SuiteOption("--res"), "heads": SuiteOption("--heads"), "inputs": SuiteOption("--inputs"),
    "weights": SuiteOption("--weights", path=True), "method": SuiteOption("--method", several=True),
    "layer": SuiteOption("--layer", several=True), "trace": SuiteOption("--trace", "--no-trace", flag=True),
    "compile": SuiteOption("--compile", flag=True),
}  # fmt: skip
OPTIONS = {"run": RUN, "sweep": {"over": SuiteOption("--over"), "res": SuiteOption("--res")}}


def cells(tmp_path: Path, text: str, command: str = "run") -> list[SuiteCell]:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return read_suite(path, OPTIONS, command, Path("out"))


def test_keys_are_the_long_options(tmp_path: Path) -> None:
    (cell,) = cells(
        tmp_path,
        '[[cells]]\nname = "a"\nres = "480p"\nheads = 3\ntrace = false\ncompile = true\nmethod = ["sta", "moba"]',
    )
    words = "--res 480p --heads 3 --no-trace --compile --method sta --method moba"
    assert cell == SuiteCell("a", "run", tuple(words.split()))
    assert cell.line == f"attnbench run {words}"


@given(
    st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from("abc"), min_size=1, unique=True),
)
def test_lists_multiply_out(tmp_path_factory: pytest.TempPathFactory, heads: list[int], res: list[str]) -> None:
    made = cells(tmp_path_factory.mktemp("s"), f'[[cells]]\nname = "{{res}}-{{heads}}"\nres = {res}\nheads = {heads}')
    expected = [(f"{r}-{h}", ("--res", r, "--heads", str(h))) for r, h in itertools.product(res, heads)]
    assert [(cell.name, cell.words) for cell in made] == expected


def test_an_option_that_takes_several_values_multiplies_only_over_lists(tmp_path: Path) -> None:
    (one,) = cells(tmp_path, "[[cells]]\nlayer = [0, 1]")
    assert one.words == ("--layer", "0", "--layer", "1")
    first, second = cells(tmp_path, "[[cells]]\nlayer = [[0], [1, 2]]")
    assert (first.words, second.words) == (("--layer", "0"), ("--layer", "1", "--layer", "2"))
    assert first.name != second.name


def test_defaults_are_shared_and_a_cell_comes_first(tmp_path: Path) -> None:
    text = '[defaults]\nres = "720p"\nheads = 2\n[[cells]]\nheads = 4\n[[cells]]\ncommand = "sweep"\nover = "tokens"'
    run, sweep = cells(tmp_path, text)
    assert run.words == ("--res", "720p", "--heads", "4")
    assert (sweep.command, sweep.words) == ("sweep", ("--res", "720p", "--over", "tokens"))


def test_the_typed_command_is_that_of_cells_that_name_none(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, '[[cells]]\nover = "tokens"', "sweep")
    assert cell.command == "sweep"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, '[[cells]]\nweights = "w"\ninputs = "video:clips/a.mp4"')
    assert cell.words == ("--weights", str(tmp_path / "w"), "--inputs", f"video:{tmp_path / 'clips' / 'a.mp4'}")
    (plain,) = cells(tmp_path, '[[cells]]\ninputs = "gaussian"')
    assert plain.words == ("--inputs", "gaussian")


def test_a_path_may_be_the_folder_of_an_earlier_cell(tmp_path: Path) -> None:
    first = '[[cells]]\nname = "first/{heads}"\nheads = [1, 2]\n'
    *_, one, two = cells(
        tmp_path, f'{first}[[cells]]\nname = "{{heads}}"\nheads = [1, 2]\nweights = "cell:first/{{heads}}"'
    )
    assert (one.words, one.needs) == (("--heads", "1", "--weights", "out/first/1"), ("first/1",))
    assert (two.words, two.needs) == (("--heads", "2", "--weights", "out/first/2"), ("first/2",))
    (plain,) = cells(tmp_path, '[[cells]]\ninputs = "cell:first"')  # no path
    assert (plain.words, plain.needs) == (("--inputs", "cell:first"), ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[cells]]\nname = "a"\n[[cells]]\nweights = "cell:b"', "cell 2 .*: unknown earlier cell 'b': .*known: a"),
        ('[[cells]]\nname = "a"\nweights = "cell:a"', "unknown earlier cell 'a'"),
        ('[[cells]]\nname = "a"\nweights = "cell:../a"', "weights '../a' in cell 1 .* must be a folder below --out"),
        ('[[cells]]\nname = "a"\nweights = "cell:{res}"', "weights '{res}' in cell 1 .* uses 'res'"),
        ("", "has no"),
        ("[[cells]]\nhead = 3", "cell 1 of suite .*: unknown key 'head': did you mean 'heads'"),
        ("[defaults]\nhead = 3\n[[cells]]", r"\[defaults\] of suite .*: unknown key 'head'.*did you mean 'heads'"),
        ('[[cells]]\ncommand = "sweeps"', "cell 1 .*: unknown command 'sweeps': did you mean 'sweep'"),
        ("[[cells]]\nheads = []", "heads in cell 1 .* is an empty list"),
        ("[[cells]]\nheads = {a = 1}", "heads {'a': 1} in cell 1 .* must be text or a number"),
        ("[[cells]]\nheads = true", "heads True in cell 1 .* must be text or a number"),
        ("[[cells]]\ntrace = 1", "trace 1 in cell 1 .* must be true or false"),
        ('[[cells]]\nname = "../x"', "name '../x' in cell 1 .* must be a folder below --out"),
        ('[[cells]]\nname = "/x"', "must be a folder below --out"),
        ('[[cells]]\nname = "{res}"', "uses 'res', which the cell does not set"),
        ('[[cells]]\nname = "{}"', "uses '', which the cell does not set"),
        ('[[cells]]\nname = ".hidden"', "does not begin with a dot"),
        ('[[cells]]\nname = "a/../b"', "must be a folder below --out"),
        ('[[cells]]\nname = "a\\u0000b"', "cannot be a folder"),
        (f'[[cells]]\nname = "{"x" * 300}"', "cannot be a folder: too long"),
        ('[[cells]]\nname = "a"\n[[cells]]\nname = "a/b"', "'a/b' and another cell would be one inside the other"),
        ('[[cells]]\nname = "a/b/c"\n[[cells]]\nname = "a"', "'a' and another cell would be one inside the other"),
        ('[[cells]]\nname = "a/b"\n[[cells]]\nname = "a//b"', "has two cells named 'a/b'"),
        ("[[cells]]\nmethod = []", "method in cell 1 .* is an empty list"),
        ("[[cells]]\nmethod = [[]]", "method in cell 1 .* is an empty list"),
        (f"[[cells]]\nheads = {list(range(200))}\nres = {list('abcdefghij') * 10}", "multiplies out to 20,000 cells"),
        ("a = " + "[" * 5000 + "]" * 5000, "is not TOML"),
        ("[[cells]]\nname = 3", "name 3 in cell 1 .* must be text"),
        ('[[cells]]\nname = "a"\n[[cells]]\nname = "a"', "has two cells named 'a'"),
        ("[[cells]", "is not TOML"),
        ("cells = 3", "must have one table"),
        ("[[cell]]\nheads = 1", "did you mean 'cells'"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_quoted(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        cells(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"missing\.toml' cannot be read: No such file"):
        read_suite(tmp_path / "missing.toml", OPTIONS, "run", tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        read_suite(tmp_path / "bytes.toml", OPTIONS, "run", tmp_path)
