"""Means over layers against sums by hand: weights, rounds, speed-ups, and what is missing."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

import attnbench
from attnbench.results.journal import line_of
from attnbench.results.layers import Mean, MeanRow, mean_rows, means_of
from attnbench.results.load import Results, Unfinished, read
from attnbench.results.pairs import baseline_ids
from attnbench.results.records.cells import Cell, Choices, Environment, Row, RunHeader, Sample

ROOT = Path(__file__).resolve().parents[2]
DENSE = [8.0, 9.0, 10.0, 7.0]
TIMES = {0: [1.0, 2.0, 3.0, 4.0], 1: [4.0, 3.0, 2.0, 1.0], 2: [2.0, 2.0, 8.0, 2.0]}


def row(layer: int = 0, alike: int | None = None, times: list[float] | None = None, **changes: Any) -> Row:
    cell = Cell(
        method="vmoba", settings_given="{}", settings="{}", layer=layer, grid="3x5x7", text_tokens=(0, 0), batch=1,
        heads=2, kv_heads=2, head_dim=32, dtype="float32", direction="fwd", inputs="gaussian", inputs_content="",
        seed=0, engine="reference", device="a machine",
    ).model_copy(update={name: changes.pop(name) for name in list(changes) if name in Cell.model_fields})  # fmt: skip
    verdict = changes.get("verdict", "ok")
    timed: dict[str, Any] = {}
    if verdict == "ok":
        taken = TIMES[layer] if times is None else times
        middle = statistics.median(taken)
        timed = {"samples_ms": taken, "latency_ms": middle, "baseline_ms": 8.5, "speedup": 8.5 / middle}
    fields: dict[str, Any] = {
        "row_id": f"r{layer}", "run_id": "run", "cell_id": cell.identity, "verdict": verdict, "tokens": 105,
        "heads_timed": 2, "engine_version": "1", "inputs_hash": "h", "threads": 2, "layers_alike": alike,
        "baseline": "full/sdpa", "density": 0.1 * (layer + 1), "numerical_error": 0.01 * (layer + 1), "plan_bytes": 10,
    }  # fmt: skip
    return Row.model_validate({**cell.model_dump(), **fields, **timed, **changes})


def samples(rows: list[Row], group: bool = False) -> list[Sample]:
    """Samples of rows and of the dense baseline, which a cell with rounds of its own has in these."""

    def sample(name: str, number: int, time: float, of: str) -> Sample:
        return Sample(cell_id=name, round=number, cold_ms=time, heads_timed=2, inputs_hash="h", threads=2, group=of)

    found = []
    for number_of_row, each in enumerate(rows):
        of = each.cell_id if group else ""
        found += [sample(each.cell_id, number, time, of) for number, time in enumerate(each.samples_ms)]
        if group or number_of_row == 0:
            shift = number_of_row if group else 0
            found += [sample(baseline_ids(each)[0], number, time + shift, of) for number, time in enumerate(DENSE)]
    return found


def mean(rows: list[Row], taken: list[Sample] | None = None) -> Mean:
    (found,) = means_of(rows, None if taken is None else {"run": taken})
    return found


def test_each_round_is_the_weighted_mean_of_the_kinds() -> None:
    rows = [row(0, 14), row(1, 13), row(2, 13)]
    found = mean(rows, samples(rows))
    by_hand = [(14 * a + 13 * b + 13 * c) / 40 for a, b, c in zip(*TIMES.values(), strict=True)]
    assert [own for own, _ in found.rounds.values()] == pytest.approx(by_hand)
    assert [dense for _, dense in found.rounds.values()] == DENSE
    assert found.row.latency_ms == pytest.approx(statistics.median(by_hand))
    assert found.row.speedup == pytest.approx(8.5 / statistics.median(by_hand))
    assert found.row.layers == "0×14, 1×13, 2×13"
    assert found.row.density == pytest.approx((14 * 0.1 + 13 * 0.2 + 13 * 0.3) / 40)
    assert (found.row.numerical_error, found.row.plan_bytes) == (0.03, 10)


def test_without_a_model_kinds_count_equally() -> None:
    found = mean([row(0), row(1)])
    assert found.layers == "0×1, 1×1"
    assert [own for own, _ in found.rounds.values()] == [2.5] * 4


def test_cells_with_rounds_of_their_own_have_a_baseline_each() -> None:
    rows = [row(0, 30), row(1, 10)]
    found = mean(rows, samples(rows, group=True))
    assert [dense for _, dense in found.rounds.values()] == pytest.approx([each + 0.25 for each in DENSE])


def test_only_rounds_that_all_kinds_have_count() -> None:
    rows = [row(0), row(1, times=[4.0, 3.0])]
    assert list(mean(rows, samples(rows)).rounds) == [0, 1]


@pytest.mark.parametrize("verdict", ["incorrect", "oom", "unsupported"])
def test_there_is_no_latency_if_one_kind_lacks_it(verdict: str) -> None:
    found = mean([row(0), row(1, verdict=verdict, reason="it was so"), row(2)])
    assert (found.verdict, found.reason) == (verdict, "layer 1: it was so")
    assert (found.row.latency_ms, found.row.speedup, found.row.samples_ms, found.rounds) == (None, None, [], {})


def test_the_mean_of_one_kind_is_its_row() -> None:
    one = row(0, 30)
    shown = mean([one]).row.model_dump()
    assert shown.pop("layers") == "0×30"
    assert shown == one.model_dump()


def test_other_settings_runs_and_engines_asked_for_are_other_means() -> None:
    others = [
        row(1, settings_given='{"topk":3}'),
        row(1, run_id="other"),
        row(1, engine_asked="sdpa"),
        row(1, method="x"),
    ]
    assert len(means_of([row(0), *others])) == 5
    assert len(means_of([row(0), row(1, engine="sdpa", settings='{"topk":3}')])) == 1, "what it came to is no matter"


def test_means_have_the_columns_of_rows_with_layers_in_place_of_layer() -> None:
    path = ROOT / "results" / "h100" / "480p-video-fwd.jsonl.gz"
    rows, means = attnbench.load_results(path), attnbench.load_means(path)
    assert list(means.columns) == ["layers" if name == "layer" else name for name in rows.columns]
    vmoba = means.set_index("method").loc["vmoba"]
    assert vmoba["layers"] == "0×10, 1×10, 2×10"
    by_hand = [sum(each) / 3 for each in zip(*rows[rows.method == "vmoba"].samples_ms, strict=True)]
    assert vmoba["latency_ms"] == pytest.approx(statistics.median(by_hand))
    assert vmoba["latency_lo_ms"] <= vmoba["latency_ms"] <= vmoba["latency_hi_ms"]
    one = means.set_index("method").loc["sta"]
    assert one["latency_ms"] == rows.set_index("method").loc["sta", "latency_ms"]
    assert means.attrs["environments"] == rows.attrs["environments"]


def test_nothing_stores_a_mean() -> None:
    results = read(ROOT / "results" / "intel-xeon-2-cores")
    assert isinstance(results, Results)
    assert not any(isinstance(each, MeanRow) for each in results.rows)
    assert [each.layers for each in mean_rows(results) if each.method == "vmoba"] == ["0×10, 1×10, 2×10"]


def test_a_run_that_lacks_a_kind_of_layer_has_no_mean_and_says_so(tmp_path: Path) -> None:
    """As kill -9 leaves a run whose cells have processes of their own."""
    rows = [row(0, 10), row(1, 10), row(2, 10)]
    planned = Choices(heads=2, rounds=4, cells={each.cell_id: each.mean_identity for each in rows})
    environment = Environment(
        device="a machine", device_kind="cpu", cores=2, memory_gib=8.0, python="3.11", platform="Linux", packages={},
        command=["attnbench", "run"], started_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    header = RunHeader(run_id="run", environment=environment, request={})
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(map(line_of, [header, planned, *rows[:2]])))
    with pytest.warns(Unfinished, match="1 of 3 cells have no row: this run is not finished"):
        found = attnbench.load_means(path).iloc[0]
    assert (found["verdict"], found["layers"]) == ("error", "0×10, 1×10")
    assert found["reason"] == "the run is not finished: 1 of 3 kinds of layers have no row"
    assert found[["latency_ms", "speedup", "latency_eager_ms"]].isna().all()
    path.write_text("".join(map(line_of, [header, planned, *rows])))
    assert attnbench.load_means(path).iloc[0]["verdict"] == "ok"
