"""Both versions are measured in turns, each in a process that finds its own code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attnbench.bench.gate.project import CannotRun, Version, prepare_base, prepare_head
from attnbench.bench.gate.turns import methods_of_one, order_of, take_turns, takes_turns
from attnbench.results.load import read
from attnbench.results.run import NoProgress

if TYPE_CHECKING:
    from tests.projects import Project

WORDS = ["run", "--grid", "2x4x4", "--heads", "1", "--head-dim", "16", "--inputs", "gaussian", "--rounds", "2"]


def versions(project: Project, scratch: Path) -> tuple[Version, Version]:
    scratch.mkdir()
    return prepare_base(project.root, project.first, scratch), prepare_head(project.root, scratch)


def test_versions_take_turns_so_that_a_drift_cancels() -> None:
    base, head = Version("base", "", Path()), Version("head", "", Path())
    order = order_of(base, head, 4)
    assert [each.name for each in order] == ["base", "head", "head", "base"] * 2
    places = {name: [place for place, each in enumerate(order) if each.name == name] for name in ("base", "head")}
    assert sum(places["base"]) == sum(places["head"])


@pytest.mark.slow  # the small version is tests/cli/test_gate.py's planted regression
def test_each_run_measures_its_own_version(project: Project, tmp_path: Path) -> None:
    project.slow_down(0.2)
    base, head = versions(project, tmp_path / "scratch")
    take_turns(base, head, [*WORDS, "--method", "thrown-away", "--stability-calls", "2"], tmp_path, 2, NoProgress())
    (before, _), (after, _) = (read(tmp_path / name).rows for name in ("base", "head"))
    assert before.cell_id == after.cell_id
    assert before.samples_ms
    assert min(after.samples_ms) > 200 > min(before.samples_ms)


@pytest.mark.slow
def test_two_runs_of_a_pair_take_turns_until_they_are_enough(project: Project, tmp_path: Path) -> None:
    base, head = versions(project, tmp_path / "scratch")
    seen: list[int] = []

    def enough(pairs: int) -> bool:
        seen.append(pairs)
        return True

    words = [*WORDS, "--method", "thrown-away", "--stability-calls", "2"]  # each cell in a process of its own
    take_turns(base, head, words, tmp_path, 5, NoProgress(), by_call=True, enough=enough)
    assert seen == [1]
    before, after = (read(tmp_path / name) for name in ("base", "head"))
    assert before.headers[0].in_turns == after.headers[0].in_turns != ""
    sets = [[s.input_set for s in found.samples[found.rows[0].run_id]] for found in (before, after)]
    assert sets[0] == sets[1]
    assert [row.verdict for found in (before, after) for row in found.rows] == ["ok", "ok"]


def test_an_attnbench_that_takes_no_turns_is_known_by_its_modules(tmp_path: Path) -> None:
    version = Version("base", "", tmp_path)
    assert takes_turns(version), "a project of methods is run by the attnbench that is installed"
    (tmp_path / "attnbench" / "bench").mkdir(parents=True)
    assert not takes_turns(version)
    (tmp_path / "attnbench" / "bench" / "in_turns.py").touch()
    assert takes_turns(version)


def test_methods_of_one_are_those_that_the_other_lacks(project: Project, tmp_path: Path) -> None:
    project.rename_method("renamed")
    base, head = versions(project, tmp_path / "scratch")
    assert methods_of_one(base, head) == ["renamed", "thrown-away"]
    assert methods_of_one(head, head) == []
    (base.folder / "attnbench").mkdir()
    (base.folder / "attnbench" / "__init__.py").write_text("raise SystemExit")
    assert methods_of_one(base, head) == [], "one that does not say lacks nothing"


def test_a_version_whose_run_fails_is_named_with_its_last_words(project: Project, tmp_path: Path) -> None:
    base, head = versions(project, tmp_path / "scratch")
    with pytest.raises(CannotRun, match=r"exit code 2: .*vanished") as caught:
        take_turns(base, head, [*WORDS, "--method", "vanished"], tmp_path, 1, NoProgress())
    assert caught.value.version == "base"
