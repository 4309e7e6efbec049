"""What is asked for: prompt files, and the classes and directions of the mini model."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbench.clips.prompts import check_prompts, read_prompts
from attnbench.kernels.errors import BadInput
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.mini.prompts import class_prompts, mini_prompt


def test_a_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat on a sofa\n\n  rain, ‘heavy’ \r\n", encoding="utf-8")
    assert read_prompts(path) == ["a cat on a sofa", "rain, ‘heavy’"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "are empty"), (b" \n\t\n", "are empty"), (b"\xff\xfe\x00", "not text"), (None, "No such")],
)
def test_a_file_without_prompts_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=said) as error:
        read_prompts(path)
    assert repr(str(path)) in str(error.value)


def test_a_mark_that_some_editors_put_first_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\n", encoding="utf-8-sig")
    assert read_prompts(path) == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [(["a", " "], "is empty"), (["a", "b", "a"], "is given twice"), (["caf\udce9"], "not text in UTF-8")],
)
def test_prompts_that_are_empty_come_twice_or_are_no_text_are_refused(prompts: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        check_prompts(prompts)


def test_a_prompt_of_the_mini_model_is_a_class_and_a_direction() -> None:
    said, label, direction = mini_prompt(" Circle  moving North-West ")
    assert (said, CLASSES[label], DIRECTIONS[direction]) == ("circle moving north-west", "circle", "north-west")
    assert mini_prompt("7 south") == ("7 moving south", 7, DIRECTIONS.index("south"))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a cat on a sofa", "must be a class and a direction"),
        ("circel moving north", "did you mean 'circle'"),
        ("3 moving northeast", "did you mean 'north-east'"),
    ],
)
def test_another_prompt_is_refused_with_the_closest_words(prompt: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        mini_prompt(prompt)


def test_classes_become_prompts() -> None:
    assert class_prompts("3:north, ring:west") == ["3 moving north", "ring moving west"]
    every = class_prompts("all")
    assert [prompt.split()[0] for prompt in every] == list(CLASSES)
    assert {prompt.split()[2] for prompt in every} == set(DIRECTIONS)
    assert class_prompts("circle") == [every[CLASSES.index("circle")]]


@pytest.mark.parametrize(("text", "said"), [(",", "names no class"), ("11", "unknown class '11'"), ("3:", "direction")])
def test_classes_that_do_not_exist_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        class_prompts(text)
