"""Each committed table has a suite beside it, and a suite asks for what its tables' journals say was asked for."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from attnbench.bench.request import read_request
from attnbench.bench.stability import GIVEN_CALLS
from attnbench.bench.step.session import StepRequest
from attnbench.bench.suite import SuiteCell, read_suite
from attnbench.cli import app
from attnbench.cli.suite import suite_options
from attnbench.clips.request import read_request as read_clips_request
from attnbench.inputs.shapes import resolve_shape
from attnbench.mini.coarse import NOT_COARSE
from attnbench.results.journal import TRAINING_LOG
from tests.committed import DEVICES, RESULTS

TRAINING = sorted(
    log.parent for folder in DEVICES for log in folder.rglob("*.jsonl*") if log.name.removesuffix(".gz") == TRAINING_LOG
)
STARTS = {
    "run": "attnbench.bench.session.start",
    "profile": "attnbench.bench.session.start",
    "step": "attnbench.bench.step.session.run_step",
    "clips": "attnbench.clips.session.start",
    "train": "attnbench.mini.train.start",
}
OVER_RANKS = {
    "run": "attnbench.scale.group_run.start_group",
    "step": "attnbench.scale.group_step.run_group_step",
}
"""What each command hands its request to."""


def place_of(journal: Path) -> Path:
    """Return what a suite calls a journal: the file without its ending, or its folder."""
    name = journal.name.removesuffix(".gz").removesuffix(".jsonl")
    return journal.parent if name == "journal" else journal.with_name(name)


def lines_of(journal: Path) -> list[dict[str, Any]]:
    content = journal.read_bytes()
    text = (gzip.decompress(content) if journal.suffix == ".gz" else content).decode()
    return [json.loads(line) for line in text.splitlines()]


def as_recorded(request: Any) -> Any:
    """Return a request as JSON holds it: tuples are lists. Paths are those of a command in the checkout."""
    return json.loads(json.dumps(vars(request), default=vars).replace(f"capture:{RESULTS.parent}/", "capture:"))


CELLS = [
    (suite.parent / cell.name, cell)
    for folder in DEVICES
    for suite in folder.rglob("*.toml")
    for cell in read_suite(suite, suite_options(get_command(app)), "run", suite.parent)
]
JOURNALS = sorted(
    journal
    for folder in DEVICES
    for journal in folder.rglob("*.jsonl*")
    if journal.name.removesuffix(".gz") != TRAINING_LOG
)


TO_MEASURE = RESULTS / "h200"
"""Its suites come before their tables: they are measured piece by piece."""


def test_each_table_is_named_by_one_cell_and_nothing_else_is() -> None:
    places = [place for place, _ in CELLS]
    assert len(places) == len(set(places)) > 40
    tables = {*map(place_of, JOURNALS), *TRAINING}
    begun_with = {place.parents[cell.name.count("/")] / need for place, cell in CELLS for need in cell.needs}
    missing = set(places) - begun_with - tables
    assert all(place.is_relative_to(TO_MEASURE) for place in missing)
    assert tables <= set(places)
    assert not begun_with & tables  # made on the way; a table that others begin with would be in both


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[SuiteCell], Any]:
    """Call the command of a cell; return the request that it would have measured."""

    class _Begun(Exception):
        pass

    def call(cell: SuiteCell) -> Any:
        def begin(request: Any, *rest: object) -> None:
            requests.append(request)
            raise _Begun

        requests: list[Any] = []
        monkeypatch.setattr(STARTS[cell.command], begin)
        if "--gpus" in cell.words:  # as one of the ranks
            gpus = cell.words[cell.words.index("--gpus") + 1]
            place = {"RANK": "0", "WORLD_SIZE": gpus, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
            for name, value in place.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr(OVER_RANKS[cell.command], begin)
        done = CliRunner().invoke(app, [cell.command, *cell.words])
        assert isinstance(done.exception, _Begun), done.output
        return requests[0]

    return call


def fewest_calls(asked: Any) -> int:
    """Return how often a committed GPU table repeats a call at least: as many tiles as 300 calls at 480p, 12 heads.

    Over ranks ten times: each rank runs the kernels of the other tables on some heads.
    """
    if (asked.gpus or 1) > 1:
        return 10
    tokens = resolve_shape(res=asked.res, grid=asked.grid).tokens
    given, own = 12 * resolve_shape(res="480p").tokens, (asked.heads or 12) * tokens
    return min(GIVEN_CALLS, math.ceil(GIVEN_CALLS * given / own))


@pytest.mark.parametrize(
    "cell", [cell for place, cell in CELLS if place not in set(map(place_of, JOURNALS))], ids=lambda cell: cell.name
)
def test_a_cell_without_a_table_could_be_measured(cell: SuiteCell, asked_for: Callable[[SuiteCell], Any]) -> None:
    asked_for(cell)


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_cell_asks_for_what_its_journal_records(journal: Path, asked_for: Callable[[SuiteCell], Any]) -> None:
    header, *records = lines_of(journal)
    (cell,) = (cell for place, cell in CELLS if place == place_of(journal))
    kinds = {record["kind"] for record in records}
    measured = {"step": "step", "clip": "clips", "phase": "profile"}
    assert cell.command == next((command for kind, command in measured.items() if kind in kinds), "run")
    recorded = dict(header["request"])
    command = recorded.pop("command", None)
    asked = asked_for(cell)
    if command is None:
        on_gpu = header["environment"]["device_kind"] == "cuda"
        assert asked.stability_calls >= fewest_calls(asked) if on_gpu else asked.stability_calls is None
        recorded.setdefault("stability_calls", asked.stability_calls)  # older journals do not hold it
        expected: Any = read_request(**recorded)
    elif command == "clips":
        expected = read_clips_request(**recorded)
    else:
        expected = StepRequest(**recorded | {"methods": read_request(methods=recorded["methods"]).methods})
    assert as_recorded(asked) == as_recorded(expected)


@pytest.mark.parametrize("name", ["720p-40-heads-allgather-fwdbwd", "step-720p-fwdbwd-ulysses"])
def test_cells_over_ranks_ask_for_them(name: str, asked_for: Callable[[SuiteCell], Any]) -> None:
    (cell,) = (cell for place, cell in CELLS if place == RESULTS / "h200" / "ranks" / name)
    asked = asked_for(cell)
    assert (asked.gpus, asked.parallel, asked.direction) == (
        2,
        name.split("-")[-2 if "heads" in name else -1],
        "fwdbwd",
    )


@pytest.mark.parametrize("folder", TRAINING, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_cell_asks_for_what_its_training_run_records(folder: Path, asked_for: Callable[[SuiteCell], Any]) -> None:
    (cell,) = (cell for place, cell in CELLS if place == folder)
    config, card = (json.loads((folder / name).read_text()) for name in ("config.json", "mini.json"))
    asked = asked_for(cell).as_json()
    assert {name: asked[name] for name in config} == config
    typed = card["environment"]["command"]  # what its configuration did not hold yet
    assert asked["full_seconds"] == float(typed[typed.index("--seconds") + 1])
    assert asked["judge"] == int(typed[typed.index("--clips") + 1]) == card["score"]["clips"]


@pytest.mark.parametrize("folder", TRAINING, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_training_run_begins_where_the_cell_that_its_own_names_ends(
    folder: Path, asked_for: Callable[[SuiteCell], Any]
) -> None:
    (cell,) = (cell for place, cell in CELLS if place == folder)
    (need,) = cell.needs
    (source,) = (each for place, each in CELLS if each.name == need and folder.is_relative_to(place.parents[1]))
    coarse, own = asked_for(source), asked_for(cell)
    begun = next(line["step"] for line in lines_of(folder / f"{TRAINING_LOG}.gz"))
    assert begun == coarse.steps + 1 == own.coarse_steps + 1
    there, here = coarse.as_json(), own.as_json()
    assert [name for name in here if name not in NOT_COARSE and there[name] != here[name]] == []
