"""Hostile logs, cards and configurations of training runs through everything that reads them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.report.data.page import page_data
from attnbench.report.data.trained import training_figures, training_stories
from attnbench.report.html.svg import svg_of
from attnbench.report.training_tables import by_method, clips_table, loss_table
from attnbench.results.load import Results
from attnbench.results.training import load_training, read_log, training_groups
from tests.hostile import STRINGS, VALUES
from tests.report.test_training_tables import write_run

RAW = ("NaN", "-Infinity", "1e999", "9" * 5000, "[" * 20_000, '{"a":' * 20_000, "tru")
NAMES = ("train.jsonl", "config.json", "mini.json")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for name, each in inner for place in ((*path, name), *places(each, (*path, name)))]


def mutate(folder: Path, generator: random.Random) -> str:
    """Change a file of a run, and return what was done."""
    name = generator.choice(NAMES)
    path = folder / name
    lines = [json.loads(line) for line in path.read_text().splitlines()] if name == NAMES[0] else None
    document = lines or json.loads(path.read_text())
    how = generator.choice(("value", "value", "value", "raw", "lost", "shuffled", "cut", "other"))
    where = generator.choice(places(document))
    inner = document
    for step in where[:-1]:
        inner = inner[step]
    if how == "lost":
        del inner[where[-1]]
    elif how == "shuffled" and lines:
        generator.shuffle(lines)
        lines += lines[:3]
    elif how == "other":
        document = generator.choice((*VALUES, *STRINGS))
    elif how in ("value", "raw"):
        inner[where[-1]] = "HERE" if how == "raw" else generator.choice((*VALUES, 10**18, *STRINGS))
    if lines is not None and isinstance(document, list):
        text = "".join(json.dumps(line) + "\n" for line in document)
    else:
        text = json.dumps(document)
    text = text.replace('"HERE"', generator.choice(RAW), 1)
    path.write_text(text[: generator.randrange(len(text))] if how == "cut" else text)
    return f"{how} in {name} at {where}"


def refuse(call: Callable[[], object]) -> None:
    """Let a call return, or refuse in one short sentence."""
    said = ""
    try:
        call()
    except BadInput as error:
        said = str(error)
    assert len(said) < 1000
    assert "\n" not in said


def compare(folder: Path) -> None:
    grouped = by_method(load_training(folder))
    loss_table(grouped, next(iter(grouped)))
    clips_table(grouped, next(iter(grouped)))


def show(folder: Path) -> None:
    """Do with the runs below a folder what a report does, what a comparison does, and what training does."""
    groups = training_groups(folder)
    training_stories(groups)
    if any(group.runs for group in groups):
        page_data(Results(), groups)
    for figure in training_figures(groups):
        svg_of(figure, ())
    refuse(lambda: compare(folder))
    for run in folder.iterdir():
        refuse(partial(read_log, run))


@pytest.mark.parametrize(
    "seeds", [range(150), range(2641, 2642), pytest.param(range(1000, 3000), marks=pytest.mark.slow)]
)
def test_hostile_training_runs_are_shown_or_left_out_with_a_sentence(tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        folder, generator = tmp_path / str(seed), random.Random(seed)
        for method, ms in (("full", 100.0), ("sta", 50.0)):
            write_run(folder / f"{method}-0", ms, 24, lambda step: [1 / step, 2 / step, 3 / step])
        chosen = generator.choice((("full-0",), ("sta-0",), ("full-0", "sta-0")))
        done = [mutate(folder / name, generator) for name in chosen]
        try:
            show(folder)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {done}") from error
