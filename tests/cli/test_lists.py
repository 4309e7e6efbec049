"""Options that take lists, in every command that has one; the old names of options; and the groups of the help."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from attnbench.cli import COMMANDS, app
from attnbench.cli.groups import COMMAND_GROUPS, group_of_option
from attnbench.cli.lists import read_names, read_numbers
from attnbench.cli.old_words import OLD_WORDS, OldWord, in_new_words
from attnbench.kernels.errors import BadInput

Call = Callable[..., tuple[int, str, str]]
GROUP = typer.main.get_command(app)
OPTIONS = {
    name: {word for parameter in GROUP.commands[name].params for word in (*parameter.opts, *parameter.secondary_opts)}  # type: ignore[attr-defined]  # a group of commands
    for name in COMMANDS
    if name != "vbench"
}


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 20)), min_size=1, max_size=6))
def test_numbers_and_ranges_are_read_in_order_each_once(parts: list[tuple[int, int]]) -> None:
    texts = [f"{first}-{first + more}" if more else f" {first}" for first, more in parts]
    expected = list(dict.fromkeys(number for first, more in parts for number in range(first, first + more + 1)))
    assert read_numbers("--layers", [",".join(texts)]) == read_numbers("--layers", texts) == expected


def test_no_list_is_none_and_names_are_read_alike() -> None:
    assert read_numbers("--layers", None) is read_names("--models", None) is None
    assert read_names("--models", ["a, b", "c", "a"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text", ["", " ", "0,", ",1", "1,,2", "-1", "1-", "8-5", "0-10000", "1.5", "one", "1 2", "1-2-3", "١", "9" * 30]
)
def test_what_is_no_list_is_quoted(text: str) -> None:
    with pytest.raises(BadInput, match=re.escape(f"--layers {text!r} ")):
        read_numbers("--layers", ["0", text])


def test_names_need_text_between_commas() -> None:
    with pytest.raises(BadInput, match="--models 'a,,b' must be names with commas between them"):
        read_names("--models", ["a,,b"])


@pytest.mark.parametrize("words", [["--layers", "0,2-3"], ["--layers", "0", "--layers=2", "--layers", "3"]])
def test_a_command_takes_a_list_in_one_word_or_several(words: list[str], call: Call) -> None:
    code, out, _ = call("flops", "--method", "vmoba", "--grid", "6x8x12", "--model", "wan2.1-1.3b", *words, "--json")
    assert (code, [cell["layer"] for cell in json.loads(out)["cells"]]) == (0, [0, 2, 3])


@pytest.mark.parametrize("command", OLD_WORDS)
def test_an_old_word_stands_for_an_option_that_exists_and_is_none_itself(command: str) -> None:
    for old, new in OLD_WORDS[command].items():
        assert new in OPTIONS[command]
        assert old not in OPTIONS[command]


@pytest.mark.filterwarnings("default::attnbench.cli.old_words.OldWord")
def test_an_old_word_works_and_says_what_to_type(call: Call) -> None:
    asked = ("flops", "--method", "vmoba", "--grid", "6x8x12", "--json")
    code, out, said = call(*asked, "--layer", "1")
    assert (code, [cell["layer"] for cell in json.loads(out)["cells"]]) == (0, [1])
    assert said.splitlines() == ["attnbench: --layer of flops is now --layers; the old name goes with the next version"]
    assert call(*asked, "--layers", "1") == (0, out, "")


def test_what_follows_a_double_dash_is_no_option() -> None:
    with pytest.warns(OldWord, match="--steps of clips is now --sampler-steps"):
        words = in_new_words("clips", ["--steps=3", "--", "--steps"])
    assert words == ["--sampler-steps=3", "--", "--steps"]
    assert in_new_words("capture", ["--steps", "3"]) == ["--steps", "3"]


def test_a_suite_may_still_use_an_old_key(call: Call, tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(
        '[[cells]]\nname = "new"\ncommand = "train"\ntrain_steps = 3\nmodel = "tiny"\n'
        '[[cells]]\nname = "old"\ncommand = "train"\nsteps = 3\nmodel = "tiny"\n'
    )
    code, out, _ = call("train", "--suite", "suite.toml", "--dry-run")
    assert code == 0
    assert [line.partition(": ")[2] for line in out.splitlines()] == [
        "attnbench train --train-steps 3 --model tiny", "attnbench train --steps 3 --model tiny",
    ]  # fmt: skip


def test_every_command_and_every_option_is_in_a_group() -> None:
    grouped = [name for names in COMMAND_GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS)
    lacking = {
        word
        for name, words in OPTIONS.items()
        for word in words
        if word.startswith("--") and not word.startswith("--no-") and group_of_option(word) is None and word != "--help"
    }
    assert lacking == set()


def test_the_help_shows_the_groups() -> None:
    said = CliRunner().invoke(app, ["--help"]).output
    assert [group for group in COMMAND_GROUPS if group in said] == list(COMMAND_GROUPS)
    said = CliRunner().invoke(app, ["run", "--help"]).output
    headings = re.findall(r"─ ([A-Z][a-z ]+) ─", said)
    assert headings == [
        "Options", "What is asked for", "Where it runs", "How it is timed", "Suites", "Output",
    ]  # fmt: skip
