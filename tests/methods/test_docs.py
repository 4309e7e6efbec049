"""The examples in the documentation run, and print what they say they print."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnbench
from attnbench.bench.conformance import CHECKS
from attnbench.kernels.engines import ENGINES
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import check_method, get_method, make_settings
from attnbench.methods.entries import parse_entry
from attnbench.methods.registry import BUILT_IN, GROUP

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def code_blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def printed_and_promised(code: str, names: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Run ``code``; return the lines it printed, and those that comments after its prints promise."""
    promised = re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    assert promised
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "<documentation>", "exec"), names)
    return out.getvalue().splitlines(), promised


@pytest.fixture(scope="module")
def dilated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The method of the page, as a file of its own."""
    path = tmp_path_factory.mktemp("documented") / "dilated_frames.py"
    path.write_text(code_blocks("adding-a-method.md", "python")[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("dilated_frames", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dilated_frames"] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["dilated_frames"]


def test_the_example_of_concepts() -> None:
    (code,) = code_blocks("concepts.md", "python")
    printed, promised = printed_and_promised(code, {})
    assert printed == promised


def test_the_example_of_adding_a_method(dilated: ModuleType) -> None:
    _, code = code_blocks("adding-a-method.md", "python")
    printed, promised = printed_and_promised(code, vars(dilated).copy())
    assert printed == promised
    assert check_method("dilated-frames", dilated.METHOD) is dilated.METHOD


@given(data=st.data(), every=st.integers(1, 6))
def test_the_method_of_the_page_keeps_what_it_says(
    data: st.DataObject, every: int, dilated: ModuleType, layouts: Helper, mask_where: Helper
) -> None:
    layout: Layout = data.draw(layouts())
    x = torch.zeros(1, 2, layout.tokens, 4)
    plan = attnbench.select(x, x, method=dilated.METHOD, grid=layout.grid, text=layout.text, every=every)
    frame = layout.grid.h * layout.grid.w
    expected = mask_where(layout, lambda query, key: (query // frame - key // frame) % every == 0)
    assert bool((plan.token_mask() == expected).all())


def test_the_method_of_the_page_meets_what_the_page_asks(dilated: ModuleType) -> None:
    method, layout = dilated.METHOD, Layout(Grid(21, 45, 80), (226, 0))
    with pytest.raises(BadInput, match="every is 0; it must be a whole number of at least 1"):
        make_settings(method, {"every": 0})
    resolved = method.resolve(make_settings(method, {"every": 99}), layout)
    assert resolved == make_settings(method, {"every": 21})
    assert method.resolve(resolved, layout) == resolved
    settings, small = method.twin(resolved, layout, 0)
    assert small.tokens < 200
    assert method.resolve(settings, small) == settings


def test_the_entry_point_of_the_page_is_the_one_that_is_looked_for() -> None:
    (code,) = code_blocks("adding-a-method.md", "toml")
    assert tomllib.loads(code)["project"]["entry-points"] == {GROUP: {"dilated-frames": "dilated_frames:METHOD"}}


def test_the_page_explains_every_check() -> None:
    text = (DOCS / "adding-a-method.md").read_text(encoding="utf-8").partition("## Checking it")[2]
    rows = re.findall(r"^\| ([\w ,]+) \| (?!what is asked)", text, flags=re.MULTILINE)
    assert [name for row in rows for name in row.split(", ")] == list(CHECKS)


def test_every_engine_has_its_row_and_they_are_in_the_order_of_auto() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", (DOCS / "engines.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows == list(ENGINES)


@pytest.mark.parametrize("page", ["concepts.md", "adding-a-method.md", "engines.md"])
def test_what_the_pages_point_to_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (DOCS / target).exists(), target
    for path in re.findall(r"`((?:methods|kernels|tests)/[\w./]*)`", text):
        assert (DOCS.parent / path).exists(), path


def test_every_method_says_what_it_keeps_where_that_is_published_and_what_it_needs() -> None:
    parts = (DOCS / "methods.md").read_text(encoding="utf-8").split("\n## ")
    for title in ("What each keeps", "What each needs"):
        (part,) = (part for part in parts if part.startswith(title))
        rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| `")]
        assert sorted(row[0].strip("| `") for row in rows) == sorted(BUILT_IN)
        assert {len(row) for row in rows} == {4}
        assert all(cell.strip(" |") for row in rows for cell in row)
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8").partition("## Methods")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", readme, flags=re.MULTILINE)) == sorted(BUILT_IN)


def test_the_settings_that_the_page_gives_for_models_are_settings() -> None:
    part = (DOCS / "methods.md").read_text(encoding="utf-8").partition("## Defaults per model")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([^|]+) \|", part, flags=re.MULTILINE)
    assert len(rows) > 30
    for name, cell in rows:
        for text in re.findall(r"`([^`]*=[^`]*)`", cell):
            make_settings(get_method(name), parse_entry(f"{name}:{text}").settings)
