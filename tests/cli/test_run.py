"""`attnbench run` as a user calls it: what it prints, what it writes, how it exits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.kernels import engines
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.plan import Plan
from attnbench.results.journal import JOURNAL

SMALL = [
    "run", "--grid", "3x5x7", "--heads", "2", "--head-dim", "32", "--inputs", "gaussian", "--device", "cpu",
    "--rounds", "3",
]  # fmt: skip
Result = tuple[int, str, str]
Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 160 columns."""
    monkeypatch.setenv("COLUMNS", "160")


def plant(monkeypatch: pytest.MonkeyPatch, attend: Callable[[Tensor, Tensor, Tensor, Plan, float], Tensor]) -> None:
    """Let the engine named "faulty" run ``attend``."""
    faulty = dataclasses.replace(
        REFERENCE, name="faulty", dense=False,
        attend=lambda q, k, v, plan, scale, return_lse: (attend(q, k, v, plan, scale), None),
    )  # fmt: skip
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, "faulty": faulty})


def test_a_run_prints_a_table_and_writes_where_it_says(call: Call, tmp_path: Path) -> None:
    code, out, err = call(*SMALL, "--method", "moba", "--method", "sta", "--set", "moba.blocks=5", "--out", "mine")
    assert code == 0
    assert "Traceback" not in err
    for word in ("moba", "sta", "ok", "dense baseline: full/", "attnbench report mine"):
        assert word in out
    table = attnbench.load_results(tmp_path / "mine")
    assert table["verdict"].tolist() == ["ok", "ok"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_json_is_one_document_of_the_rows_without_samples(call: Call, tmp_path: Path) -> None:
    code, out, _ = call(*SMALL, "--method", "vmoba", "--json", "--out", "mine")
    assert code == 0
    document = json.loads(out)
    assert document["folder"] == "mine"
    assert [row["layer"] for row in document["rows"]] == [0, 1, 2]
    stored = attnbench.load_results(tmp_path / "mine")
    for row in document["rows"]:
        same = stored[stored["row_id"] == row["row_id"]].iloc[0]
        assert row["latency_ms"] == same["latency_ms"]
        assert "samples_ms" not in row
        assert row.keys() | {"samples_ms"} == set(stored.columns)
    (mean,), means = document["means"], attnbench.load_means(tmp_path / "mine")
    assert mean.keys() | {"samples_ms"} == set(means.columns)
    assert (mean["layers"], mean["latency_ms"]) == (means.loc[0, "layers"], means.loc[0, "latency_ms"])


def test_without_out_the_run_goes_to_results_and_latest_points_to_it(call: Call, tmp_path: Path) -> None:
    code, _, _ = call(*SMALL, "--method", "sta")
    assert code == 0
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert (tmp_path / "results" / "latest").resolve() == folder.resolve()
    assert [path.name for path in folder.iterdir()] == [JOURNAL]


def test_without_methods_a_few_run_and_each_once(call: Call) -> None:
    _, out, _ = call(*SMALL, "--json", "--out", "few")
    assert {row["method"] for row in json.loads(out)["rows"]} == {"full", "moba", "vmoba", "sliding-window", "sta"}
    _, out, _ = call(*SMALL, "--json", "--out", "twice", "--method", "sta", "--method", "sta")
    assert len(json.loads(out)["rows"]) == 1


def test_only_this_run_is_shown_where_the_folder_holds_others(call: Call) -> None:
    call(*SMALL, "--method", "moba", "--out", "all/earlier")
    _, out, _ = call(*SMALL, "--method", "sta", "--json", "--out", "all")
    assert [row["method"] for row in json.loads(out)["rows"]] == ["sta"]


def test_one_of_twelve_heads_is_said(call: Call) -> None:
    words = [word for word in SMALL if word not in ("--rounds", "3")]
    code, out, _ = call(*words, "--heads", "12", "--method", "sta", "--budget", "0.000001", "--out", "mine")
    assert code == 0
    assert "1 of 12 heads" in out


def test_settings_reach_the_method_and_are_recorded(call: Call) -> None:
    _, out, _ = call(*SMALL, "--method", "sta", "--set", "tile=2,2,2", "--set", "window=1,3,3", "--json", "--out", "x")
    (row,) = json.loads(out)["rows"]
    assert json.loads(row["settings"]) == {"tile": [2, 2, 2], "window": [1, 3, 3]}


@pytest.mark.parametrize(
    ("what", "verdict", "code"), [("incorrect", "incorrect", 1), ("raises", "error", 1), ("memory", "oom", 0)]
)
def test_the_exit_code_tells_an_incorrect_or_failed_cell(
    what: str, verdict: str, code: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> Tensor:
        if plan.k_order is not None and what != "incorrect":
            raise {"raises": ValueError("by the engine"), "memory": torch.OutOfMemoryError("by the engine")}[what]
        return REFERENCE.attend(q, k, v, plan, scale * (1.05 if plan.k_order is not None else 1), False)[0]

    plant(monkeypatch, attend)
    methods = ["--method", "moba", "--method", "sta", "--set", "sta.tile=2,2,2"]
    found, out, err = call(*SMALL, *methods, "--engine", "faulty", "--json", "--out", "mine")
    assert found == code
    assert "Traceback" not in err
    verdicts = {row["method"]: row["verdict"] for row in json.loads(out)["rows"]}
    assert verdicts == {"moba": "ok", "sta": verdict}
    _, table, _ = call("run", "--resume", "mine")
    assert verdict in table
    assert ("by the engine" in table) == (what != "incorrect")


def test_an_output_of_nan_is_shown_as_incorrect(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda q, k, v, plan, scale: torch.full_like(q, math.nan))
    code, out, _ = call(*SMALL, "--method", "sta", "--engine", "faulty", "--out", "mine")
    assert code == 1
    assert "incorrect" in out
    code, out, _ = call("run", "--resume", "mine", "--json")
    assert code == 1
    (row,) = json.loads(out)["rows"]
    assert (row["verdict"], row["latency_ms"], row["numerical_error"]) == ("incorrect", None, None)


def test_some_unsupported_cells_are_no_failure(call: Call) -> None:
    code, out, _ = call(
        *SMALL, "--method", "full", "--method", "moba", "--set", "moba.blocks=5", "--set", "moba.topk=2",
        "--engine", "sdpa", "--json", "--out", "mine",
    )  # fmt: skip
    assert code == 0
    assert {row["method"]: row["verdict"] for row in json.loads(out)["rows"]} == {"full": "ok", "moba": "unsupported"}


def test_a_finished_run_that_is_resumed_says_so_and_shows_its_table(call: Call) -> None:
    call(*SMALL, "--method", "sta", "--out", "mine")
    code, out, err = call("run", "--resume", "mine")
    assert code == 0
    assert "nothing left to do" in err
    assert "sta" in out


@pytest.mark.filterwarnings("default")  # as for users; here warnings are errors otherwise
def test_a_torn_last_line_is_said_once_and_the_run_goes_on(call: Call, tmp_path: Path) -> None:
    call(*SMALL, "--method", "sta", "--method", "moba", "--out", "mine")
    path = tmp_path / "mine" / JOURNAL
    path.write_bytes(path.read_bytes()[:-100])
    code, out, err = call("run", "--resume", "mine", "--json")
    assert code == 0
    torn = [line for line in err.splitlines() if "torn" in line]
    assert len(torn) == 1
    assert torn[0].startswith(f"attnbench: mine/{JOURNAL}: the last line (line ")
    assert [row["verdict"] for row in json.loads(out)["rows"]] == ["ok", "ok"]


def test_backward_and_other_dtypes_run(call: Call) -> None:
    _, out, _ = call(*SMALL, "--method", "full", "--direction", "fwdbwd", "--dtype", "bf16", "--json", "--out", "x")
    (row,) = json.loads(out)["rows"]
    assert (row["verdict"], row["direction"], row["dtype"]) == ("ok", "fwdbwd", "bfloat16")


def test_the_command_is_recorded_as_typed(call: Call, tmp_path: Path) -> None:
    words: list[Any] = [*SMALL, "--method", "sta", "--out", "mine"]
    call(*words)
    (environment,) = attnbench.load_results(tmp_path / "mine").attrs["environments"].values()
    assert environment["command"] == ["attnbench", *words]
