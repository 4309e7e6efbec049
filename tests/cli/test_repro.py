"""``attnbench repro``: the command that it prints measures the same cell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbench.results.layers import mean_rows
from attnbench.results.load import read
from attnbench.results.records.cells import Row

Call = Callable[..., tuple[int, str, str]]
RESULTS = Path(__file__).resolve().parents[2] / "results"
QUICK = ("--device", "cpu", "--rounds", "1", "--stability-calls", "2", "--quiet")
TINY = (*QUICK, "--inputs", "gaussian", "--grid", "2x3x4")
H3 = (*QUICK, "--inputs", "gaussian", "--grid", "102x1x2", "--model", "minimax-h3", "--heads", "1", "--head-dim", "16")


@pytest.fixture(autouse=True)
def _one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnbench.machine.environment._git_state", lambda package: FAKE)


class FAKE:
    commit, dirty, changes = "a" * 40, False, None


def measured(call: Call, *words: str, out: str = "run") -> Row:
    """The last row of a run with these options."""
    code, _, said = call("run", *words, "--out", out)
    assert (code, said) == (0, "")
    return read(out).rows[-1]


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "sta", *TINY, "--heads", "2", "--kv-heads", "1", "--head-dim", "16"),
        ("-m", "vmoba:scope=query,select=topk,topk=2,partition=(1,(2,2),(2,3,2))", "--layers", "2", *TINY,
         "--heads", "1"),
        ("-m", "moba", "--set", "block_size=8", *TINY, "--heads", "1", "--model", "wan2.1-1.3b", "--seed", "3"),
        ("-m", "sliding-window:window=[0,1,1]", *TINY, "--heads", "1", "--batch", "2", "--direction", "fwdbwd"),
        ("-m", "full", *TINY, "--heads", "1", "--dtype", "float64", "--engine", "reference", "--in-process"),
        ("-m", "full", *H3),
        ("-m", "full", *H3, "--text-tokens", "951"),
    ],
)  # fmt: skip
def test_the_command_measures_the_same_cell(words: tuple[str, ...], call: Call) -> None:
    row = measured(call, *words)
    code, out, said = call("repro", row.row_id[:10], "run")
    assert (code, said) == (0, "")
    program, *again = shlex.split(out)
    assert program == "attnbench"
    other = measured(call, *again[1:], "--stability-calls", "2", "--quiet", out="again")
    assert (other.cell_id, other.heads_timed) == (row.cell_id, row.heads_timed)


def test_the_same_for_each_committed_row_names_its_model_and_format(call: Call) -> None:
    row = next(row for row in read(RESULTS / "h100" / "720p-video-fwd.jsonl.gz").rows if row.layer == 2)
    code, out, said = call("repro", row.row_id, str(RESULTS))
    assert code == 0
    assert out.startswith(
        "attnbench run --method vmoba --model wan2.1-1.3b --res 720p --layers 2 --dtype bfloat16 --inputs video "
        "--device cuda "
    )
    assert said.startswith("attnbench: the row was measured at commit ")
    assert said.endswith("; this code is commit aaaaaaaaaaaa\n")


def test_a_profile_is_made_again_as_a_profile_and_a_mean_with_all_its_layers(call: Call) -> None:
    place = str(RESULTS / "h100" / "profiles" / "576p-fwd.jsonl.gz")
    code, out, _ = call("repro", next(row.row_id for row in read(place).rows if row.method == "sta"), place)
    assert (code, out.split()[1]) == (0, "profile")
    mean = next(mean for mean in mean_rows(read(place)) if mean.method == "vmoba")
    code, out, _ = call("repro", mean.row_id, place)
    assert (code, out.split()[out.split().index("--layers") + 1]) == (0, "0,1,2")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zz", "no row_id begins with 'zz' among "),
        ("", "'' is no row_id: attnbench report --format csv lists them"),
        ("1", "row_id '1' is not unique: it begins "),
    ],
)
def test_a_name_that_stands_for_no_row_or_several_is_quoted(name: str, said: str, call: Call) -> None:
    code, out, err = call("repro", name, str(RESULTS / "h100"))
    assert (code, out) == (2, "")
    assert said in err


def test_run_measures_the_row_again_and_compares_it(call: Call) -> None:
    row = measured(call, "-m", "sta", *TINY, "--heads", "1")
    code, out, said = call("repro", row.row_id, "run", "--run", "--out", "again", "--quiet")
    assert code == 0
    assert read("again").rows[-1].cell_id == row.cell_id
    assert "A: as it was; B: now" in out
    assert said.startswith("attnbench run --method sta --grid 2x3x4")
    code, out, _ = call("repro", row.row_id, "run", "--run", "--out", "third", "--quiet", "--json")
    assert (code, json.loads(out)["folder"]) == (0, "third")
    code, _, said = call("repro", row.row_id, "run", "--out", "fourth")
    assert (code, "--out 'fourth' is for --run" in said) == (2, True)


def test_machines_get_the_words_and_what_differs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    row = measured(call, "-m", "sta", *TINY, "--heads", "1")
    monkeypatch.setattr(FAKE, "dirty", True)
    code, out, _ = call("repro", row.row_id, "run", "--json")
    found = json.loads(out)
    assert (code, found["row_id"], shlex.split(found["command"])) == (0, row.row_id, found["words"])
    assert (found["commit"], found["commit_here"]) == ("a" * 40, "a" * 40)
    assert found["differs"] == [
        "the row was measured at commit aaaaaaaaaaaa; this code is commit aaaaaaaaaaaa with uncommitted changes"
    ]


def test_a_mean_of_a_profile_is_a_profile_and_a_row_may_be_in_any_of_several_places(call: Call) -> None:
    places = [RESULTS / "h100" / "profiles" / "576p-fwd.jsonl.gz", RESULTS / "h200" / "480p-video-fwd.jsonl.gz"]
    for place, verb in zip(places, ("profile", "run"), strict=True):
        mean = next(mean for mean in mean_rows(read(place)) if mean.method == "vmoba")
        code, out, _ = call("repro", mean.row_id, *map(str, places))
        assert (code, out.split()[1]) == (0, verb)
