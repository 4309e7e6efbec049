"""``attnbench.run`` and its kin from Python: the rows of the commands, and the same refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.methods.entries import Entry
from attnbench.methods.registry import BUILT_IN

SMALL: dict[str, Any] = {
    "grid": "2x3x4", "heads": 1, "head_dim": 32, "inputs": "gaussian", "rounds": 3, "device": "cpu", "layer": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_returns_its_rows_and_where_they_are(tmp_path: Path) -> None:
    methods = ["sta", "sta:tile=(1,1,2)", Entry("full")]
    frame = attnbench.run(methods, settings={"sta.window": (1, 1, 1)}, out=tmp_path / "mine", **SMALL)
    assert list(frame["method"]) == ["sta", "sta", "full"]
    assert all('"window":[1,1,1]' in text for text in frame["settings"][:2])
    assert frame["settings"][0] != frame["settings"][1]
    assert set(frame["verdict"]) == {"ok"}
    assert frame.attrs["folder"] == str(tmp_path / "mine")
    assert attnbench.load_results(tmp_path / "mine")["row_id"].tolist() == frame["row_id"].tolist()
    again = attnbench.run(resume=tmp_path / "mine")
    assert again["row_id"].tolist() == frame["row_id"].tolist()


def test_a_profile_returns_phases_and_the_report_is_a_file(tmp_path: Path) -> None:
    phases = attnbench.profile("sta", repeats=1, trace=False, **SMALL)
    assert {"attend"} <= set(phases["phase"])
    assert not list(tmp_path.rglob("*.json.gz"))
    page = attnbench.write_report()
    assert page.parent == Path("reports")
    assert "sta" in page.read_text()
    assert attnbench.write_report(phases.attrs["folder"], tmp_path / "page.html") == tmp_path / "page.html"


def test_methods_are_listed() -> None:
    assert attnbench.list_methods()[: len(BUILT_IN)] == list(BUILT_IN)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"grids": "3"}, "'grids' is not an option of a run; known: res, frames"),
        ({"method": 3}, "method 3 must be a name"),
        ({"method": "stb"}, "unknown method 'stb': did you mean 'sta'"),
        ({"heads": "many"}, "heads 'many' cannot be used"),
        ({"settings": {"moba.topk": 3}, "method": "sta"}, "setting 'moba.topk' is for method 'moba', which is not run"),
        ({"settings": [1], "method": "sta"}, r"settings \[1\] must map names to values"),
        ({"settings": {1: 2}, "method": "sta"}, "must map names to values"),
        ({"methods": ["sta"]}, "'methods' is not an option of a run"),
        ({"method": "sta", "out": ""}, "out '' names no folder"),
        ({"method": "sta:window=1,window=2"}, "sets 'window' twice"),
        ({"resume": "x", "heads": 2}, "resume repeats the run as it was asked for; leave out heads"),
    ],
)
def test_what_cannot_be_used_is_quoted(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    for function in (attnbench.run, attnbench.profile):
        with pytest.raises(BadInput, match=said):
            function(**arguments)
    for repeats in (0, 2.5, "3", True, float("nan")):
        with pytest.raises(BadInput, match=r"repeats .* must be a whole number of at least 1"):
            attnbench.profile(repeats=repeats)  # type: ignore[arg-type]  # that is the test
    assert list(tmp_path.iterdir()) == []


def test_only_the_run_itself_is_returned(tmp_path: Path) -> None:
    attnbench.run("sta", out=tmp_path / "outer" / "inner", **SMALL)
    frame = attnbench.run("full", out=tmp_path / "outer", **{**SMALL, "grid": (2, 3, 4)})
    assert list(frame["method"]) == ["full"]
    assert list(frame["grid"]) == ["2x3x4"]
