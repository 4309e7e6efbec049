"""The verdict on a few rounds, of which the baseline has a stray one: over ranks, or with --rounds 5."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest

from attnbench.report.cases import cases_of
from attnbench.report.judge import Verdict, judge
from attnbench.results.pairs import baseline_ids
from attnbench.results.records.cells import Row, Sample

Maker = Callable[..., Row]
DENSE = (8.73, 5.15, 5.16, 5.15, 5.16)
FAST, SLOW = (2.30, 2.31, 2.29, 2.30, 2.30), (3.20, 3.24, 3.18, 3.19, 3.21)


def judged(row_of: Maker, slow: tuple[float, ...] = SLOW, group: str = "", **columns: Any) -> Verdict:
    """Judge two methods by samples that were taken in the same rounds, or each in a process of its own."""
    rows, taken = [], []
    for method, own in (("full", DENSE), ("vmoba", FAST), ("moba", slow)):
        engine = {"engine": "sdpa"} if method == "full" else {}
        times = {"samples_ms": list(own), "latency_ms": statistics.median(own), "flags": "", "interval": "min-max"}
        row = row_of(method, **engine, **times, baseline_ms=5.16, **columns)
        rows.append(row)
        mine = row.cell_id if group else ""
        known = {"heads_timed": 12, "inputs_hash": row.inputs_hash, "threads": 2, "group": mine}
        for name, values in dict(
            zip(dict.fromkeys((row.cell_id, baseline_ids(row)[0])), (own, DENSE), strict=False)
        ).items():
            if name == row.cell_id or mine or method == "full":
                taken += [
                    Sample.model_validate({"cell_id": name, "round": place, "cold_ms": ms, **known})
                    for place, ms in enumerate(values)
                ]
    (case,) = cases_of(rows, {rows[0].run_id: taken})
    return judge(case)


def test_a_stray_round_of_the_baseline_makes_no_two_methods_alike(row_of: Maker) -> None:
    found = judged(row_of)
    assert found.leader is not None
    assert found.leader.method == "vmoba"
    assert found.ties == ()
    assert "cannot be told" not in found.sentence


def test_methods_whose_rounds_overlap_stay_alike(row_of: Maker) -> None:
    assert [row.method for row in judged(row_of, slow=(2.31, 2.32, 2.30, 2.31, 2.33)).ties] == ["moba"]


def test_methods_of_processes_of_their_own_share_no_rounds(row_of: Maker) -> None:
    assert [row.method for row in judged(row_of, group="own").ties] == ["moba"]


def test_the_stray_round_is_told(row_of: Maker) -> None:
    found = judged(row_of)
    said = "One of 5 rounds of its baseline took 8.73 ms instead of 5.16: an end of the interval rests on that."
    assert said in found.grounds.sentence
    assert found.grounds.spoilt
    assert said in found.sentences[-1]


@pytest.mark.parametrize(
    ("column", "known"), [({}, False), ({"host_ms": 1.0}, True), ({"latency_eager_ms": 2.4}, True)]
)
def test_the_cpu_is_not_acquitted_where_enqueuing_was_not_timed(
    row_of: Maker, column: dict[str, Any], known: bool
) -> None:
    said = judged(row_of, timer="events", **column).grounds.sentence
    assert ("Neither power cap nor CPU spoiled" in said) == known
    unknown = "No power cap spoiled vmoba or its baseline, full/sdpa. Enqueuing was not timed, so whether the CPU did"
    assert said.startswith(unknown) != known
