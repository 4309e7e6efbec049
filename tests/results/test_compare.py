from __future__ import annotations

import json
import math
import random
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from attnbench.cli import app
from attnbench.kernels.errors import BadInput
from attnbench.results.compare import Comparison, compare_tables
from attnbench.results.estimates import middle
from attnbench.results.layers import mean_rows
from attnbench.results.load import Results
from attnbench.results.noise import NoiseModel
from attnbench.results.pairs import baseline_ids
from attnbench.results.records.cells import Cell, Environment, Row, RunHeader, Sample
from attnbench.results.verdicts import runs_needed

CELL: dict[str, Any] = {
    "method": "moba",
    "settings_given": "{}",
    "settings": '{"blocks":60}',
    "layer": 0,
    "step": None,
    "grid": "21x45x80",
    "text_tokens": (0, 0),
    "batch": 1,
    "heads": 12,
    "kv_heads": 12,
    "head_dim": 128,
    "dtype": "bfloat16",
    "direction": "fwd",
    "inputs": "video",
    "inputs_content": "",
    "seed": 0,
    "engine_asked": None,
    "engine": "reference",
    "device": "CPU one (2 cores)",
}
STEADY = [10.0 + 0.001 * step for step in range(20)]


def row(samples: list[float] | None = None, run: str = "run-1", **changes: Any) -> Row:
    """A valid row of the journal; ``changes`` may name fields of the cell and of the row."""
    verdict = changes.get("verdict", "ok")
    samples = (STEADY if samples is None else samples) if verdict == "ok" else []
    cell = {**CELL, **{name: value for name, value in changes.items() if name in CELL}}
    cell_id = Cell.model_validate(cell).identity
    measured = {"latency_ms": statistics.median(samples) if samples else None, "samples_ms": samples}
    fixed = {"row_id": f"{run}-{cell_id}", "run_id": run, "cell_id": cell_id, "verdict": verdict, "tokens": 75600}
    setup = {"heads_timed": 1, "engine_version": "1", "inputs_hash": "abc", "threads": 2, "timer": "wall"}
    return Row.model_validate({**cell, **fixed, **measured, **setup, **changes})


def header(run: str, started: str = "2025-01-01T00:00:00+00:00", **environment: Any) -> RunHeader:
    fields: dict[str, Any] = {
        "device": CELL["device"], "device_kind": "cpu", "cores": 2, "memory_gib": 8.0, "python": "3.11",
        "platform": "Linux", "packages": {}, "started_at": started,
    }  # fmt: skip
    return RunHeader(run_id=run, environment=Environment(**fields | environment), request={})


def table(*rows: Row, **started: str) -> Results:
    """Results with these rows; ``started`` says when each run was started."""
    runs = sorted({entry.run_id for entry in rows})
    headers = (header(run, started.get(run.replace("-", "_"), "2025-01-01T00:00:00+00:00")) for run in runs)
    return Results(headers=tuple(headers), rows=rows)


def scaled(factor: float) -> list[float]:
    return [factor * sample for sample in STEADY]


def only(result: Comparison) -> Any:
    (cell,) = result.cells
    return cell


@pytest.mark.parametrize(
    ("factor", "change", "exit_code"), [(1.5, "slower", 1), (0.5, "faster", 0), (1.01, "same", 0), (0.99, "same", 0)]
)
def test_a_clear_change_is_named(factor: float, change: str, exit_code: int) -> None:
    result = compare_tables(table(row()), table(row(scaled(factor))))
    cell = only(result)
    assert cell.change == change
    assert cell.ratio == pytest.approx(factor, rel=1e-9)
    assert cell.lo <= cell.ratio <= cell.hi
    assert cell.judged_by == "latency"
    assert result.exit_code == exit_code
    assert result.geometric_mean == pytest.approx(factor)


def test_noise_as_large_as_the_change_is_unclear() -> None:
    noisy = [5.0, 9.0, 10.0, 11.0, 12.0, 18.0, 7.0, 14.0]
    result = compare_tables(table(row(noisy)), table(row([1.05 * sample for sample in noisy])))
    assert only(result).change == "unclear"
    assert result.exit_code == 3


def test_a_regression_weighs_more_than_an_unclear_cell() -> None:
    noisy = [5.0, 20.0, 10.0]
    a = table(row(), row(noisy, seed=1))
    b = table(row(scaled(2)), row(noisy, seed=1))
    result = compare_tables(a, b)
    assert result.counts == {"slower": 1, "unclear": 1}
    assert result.exit_code == 1


def test_threshold_moves_the_line() -> None:
    a, b = table(row()), table(row(scaled(1.1)))
    assert only(compare_tables(a, b)).change == "slower"
    assert only(compare_tables(a, b, threshold=0.11, margin=0.2)).change == "same"


def test_one_sample_is_never_enough() -> None:
    result = compare_tables(table(row([10.0])), table(row([20.0])))
    cell = only(result)
    assert (cell.change, cell.ratio) == ("unclear", pytest.approx(2.0))
    assert "single sample" in cell.reason


@pytest.mark.parametrize("verdict", ["incorrect", "error", "oom", "timeout", "unsupported", "throttled"])
def test_a_cell_that_stopped_working_is_broken(verdict: str) -> None:
    result = compare_tables(table(row()), table(row(verdict=verdict, reason="it went wrong")))
    cell = only(result)
    assert cell.change == "broken"
    assert cell.reason == f"ok in A, {verdict} in B: it went wrong"
    assert (cell.ratio, result.geometric_mean, result.exit_code) == (None, None, 1)


def test_a_cell_that_never_worked_is_skipped() -> None:
    result = compare_tables(table(row(verdict="oom", reason="40 GiB")), table(row()))
    assert (only(result).change, only(result).reason) == ("skipped", "oom in A: 40 GiB")
    assert result.exit_code == 4


@pytest.mark.parametrize("before", [[row(verdict="incorrect")], [row(seed=5)]])
def test_an_incorrect_cell_in_b_always_fails(before: list[dict[str, Any]]) -> None:
    result = compare_tables(table(*before), table(row(verdict="incorrect")))
    assert result.counts["broken"] == 1
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("field", "value"), [("threads", 8), ("heads_timed", 2), ("timer", "events"), ("inputs_hash", "def")]
)
def test_measured_otherwise_is_not_comparable(field: str, value: object) -> None:
    result = compare_tables(table(row()), table(row(scaled(3), **{field: value})))
    cell = only(result)
    assert cell.change == "not comparable"
    assert field in cell.reason
    assert str(value) in cell.reason
    assert result.exit_code == 4


def test_unknown_on_both_sides_agrees() -> None:
    unknown = {"threads": None, "inputs_hash": None}
    other = row(seed=9)  # makes pandas turn the missing number into NaN
    result = compare_tables(table(row(**unknown), other), table(row(**unknown), other))
    assert result.counts == {"same": 2}


def test_cells_of_one_table_are_listed() -> None:
    result = compare_tables(table(row(), row(method="sta")), table(row(), row(method="vmoba")))
    assert {(cell.change, cell.cell["method"]) for cell in result.cells} == {
        ("same", "moba"),
        ("only in A", "sta"),
        ("only in B", "vmoba"),
    }
    assert result.exit_code == 1, "what vanished is a regression"


def test_other_hardware_is_refused_by_name() -> None:
    result = compare_tables(table(row()), table(row(device="GPU two")))
    assert result.refusal is not None
    assert "CPU one (2 cores)" in result.refusal
    assert "GPU two" in result.refusal
    assert (result.exit_code, result.cells) == (4, ())


def test_other_cells_of_the_same_hardware_are_nothing_comparable() -> None:
    result = compare_tables(table(row()), table(row(grid="21x30x52")))
    assert result.refusal is None
    assert result.counts == {"only in A": 1, "only in B": 1}
    assert result.exit_code == 4


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_newest_run_of_a_cell_counts(order: tuple[int, int]) -> None:
    runs = [row(scaled(9), run="run-old"), row(run="run-new")]
    started = {"run_old": "2025-03-01T09:00:00Z", "run_new": "2025-03-01T09:30:00.5+00:00"}
    result = compare_tables(table(*(runs[index] for index in order), **started), table(row()))
    assert only(result).change == "same"


def test_a_failure_in_the_newest_run_is_not_hidden_by_an_older_success() -> None:
    runs = [row(run="run-old"), row(run="run-new", verdict="incorrect")]
    b = table(*runs, run_old="2025-03-01T09:00:00Z", run_new="2025-03-02T09:00:00Z")
    assert only(compare_tables(table(row()), b)).change == "broken"


def test_geometric_mean_is_over_compared_cells_only() -> None:
    a = table(row(), row(seed=1), row(seed=2), row(seed=3))
    b = table(row(scaled(2)), row(scaled(8), seed=1), row(seed=2, verdict="oom"), row(scaled(50), seed=4))
    assert compare_tables(a, b).geometric_mean == pytest.approx(4.0)


def test_worst_cells_come_first() -> None:
    a = table(*(row(seed=seed) for seed in range(4)))
    b = table(row(), row(scaled(2), seed=1), row(seed=2, verdict="error"), row(scaled(3), seed=3))
    assert [cell.cell["seed"] for cell in compare_tables(a, b).cells] == [2, 3, 1, 0]


def test_changed_versions_are_named() -> None:
    before = header("run-1", packages={"torch": "2.12.0", "numpy": "2.4"}, driver="570")
    after = header("run-1", packages={"torch": "2.13.0", "numpy": "2.4"}, driver=None)
    a, b = Results(headers=(before,), rows=(row(),)), Results(headers=(after,), rows=(row(),))
    changes = compare_tables(a, b).environment_changes
    assert changes == ("driver: 570 in A, none in B", "torch: 2.12.0 in A, 2.13.0 in B")


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_that_is_no_fraction_is_refused(threshold: float) -> None:
    with pytest.raises(BadInput, match="threshold"):
        compare_tables(table(row()), table(row()), threshold)


def test_an_empty_table_is_nothing_comparable() -> None:
    assert compare_tables(table(), table(row())).exit_code == 4
    assert compare_tables(table(), table()).exit_code == 4


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Results]:
    """Tables by file name, in place of files."""
    known: dict[str, Results] = {}
    monkeypatch.setattr("attnbench.results.load.read", lambda path: known[Path(path).name])
    return known


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["compare", *arguments])
    return result.exit_code, result.stdout


def test_command_prints_the_table(tables: dict[str, Results]) -> None:
    tables["a"] = table(row(), row(method="sta"))
    tables["b"] = table(row(scaled(2)), row(method="sta"))
    code, text = invoke("a", "b")
    assert code == 1
    first = next(line for line in text.splitlines() if "SLOW" in line)
    name, a, b, slower, _, a_ms, b_ms, verdict = first.split()
    assert (name, a, b, slower, a_ms, b_ms, verdict) == ("moba", "–", "–", "2.000", "10.01", "20.02", "SLOW")
    assert "1 SLOW, 1 SAME; threshold 3.0%, margin 10%" in text
    assert "geometric mean of B / A: 1.414" in text


def test_command_prints_one_json_object(tables: dict[str, Results]) -> None:
    tables["a"], tables["b"] = table(row()), table(row(verdict="oom"))
    code, text = invoke("a", "b", "--json")
    found = json.loads(text)
    assert code == found["exit_code"] == 1
    assert found["counts"] == {"broken": 1}
    assert found["cells"][0]["cell"]["method"] == "moba"
    assert found["cells"][0]["ratio"] is None


def test_command_refuses_other_hardware_in_one_sentence(tables: dict[str, Results]) -> None:
    tables["a"], tables["b"] = table(row()), table(row(device="GPU [two]"))
    code, text = invoke("a", "b")
    assert code == 4
    said = "Not compared: A was measured on CPU one (2 cores), B on GPU [two]: not the same hardware."
    assert " ".join(text.split()) == said


def test_command_takes_a_threshold(tables: dict[str, Results]) -> None:
    tables["a"], tables["b"] = table(row()), table(row(scaled(1.2)))
    assert invoke("a", "b", "--threshold", "0.25", "--margin", "0.3")[0] == 0
    assert invoke("a", "b")[0] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["old"], "compared in pairs, A and B: 1 given"),
        (["old", "old", "old"], "compared in pairs, A and B: 3 given"),
        (["old", "old", "--seconds", "3"], "--seconds is for training runs, and 'old' holds none"),
    ],
)
def test_latency_tables_come_in_pairs_and_know_no_training(
    words: list[str], said: str, tables: dict[str, Results]
) -> None:
    tables["old"] = table(row())
    result = CliRunner().invoke(app, ["compare", *words])
    assert isinstance(result.exception, BadInput)
    assert said in str(result.exception)


def test_command_needs_neither_torch_nor_pandas_nor_numpy() -> None:
    runs = Path(__file__).resolve().parents[2] / "results" / "intel-xeon-2-cores"
    blocked = ["torch", "pandas", "numpy", "matplotlib"]
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked}))  # an import of one of these raises ImportError\n"
        f"sys.argv = ['attnbench', 'compare', {str(runs)!r}, {str(runs)!r}, '--json']\n"
        "from attnbench.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"] == {"unclear": 5}, "three rounds do not say much"
    assert found["geometric_mean"] == pytest.approx(1.0)


DENSE = [40.0, 41.0, 39.0, 44.0, 40.5, 38.0, 43.0, 40.2, 39.9, 41.7, 40.3, 40.6]


def beside_dense(factor: float = 1.0, machine: float = 1.0, layers: int = 1, **changes: Any) -> Results:
    """A method whose rounds rise and fall with those of its dense baseline; ``machine`` is how slow all of it is."""
    rows, samples = [], []
    for layer in range(layers):
        times = [machine * factor * time * (0.25 + 0.002 * (number % 3)) for number, time in enumerate(DENSE)]
        one = row(times, **{"layer": layer, "baseline": "full/sdpa", **changes})
        rows.append(one)
        for number, time in enumerate(times):
            samples.append(sample(one, one.cell_id, number, time))
            if layer == 0:
                samples.append(sample(one, baseline_ids(one)[0], number, machine * DENSE[number]))
    return Results(headers=table(*rows).headers, rows=tuple(rows), samples={"run-1": tuple(samples)})


def sample(of: Row, name: str, number: int, time: float) -> Sample:
    taken = {"heads_timed": of.heads_timed, "inputs_hash": of.inputs_hash, "threads": of.threads}
    return Sample.model_validate({"cell_id": name, "round": number, "cold_ms": time, **taken})


@pytest.mark.parametrize(("machine", "change"), [(1.1, "same"), (0.92, "same"), (1.6, "unclear"), (0.5, "unclear")])
def test_a_slower_machine_is_no_slower_method(machine: float, change: str) -> None:
    result = compare_tables(beside_dense(), beside_dense(machine=machine))
    cell, beside = only(result), middle([math.log(ms) for ms in DENSE]).value
    assert (cell.change, cell.judged_by) == (change, "speed-up")
    assert cell.ratio == pytest.approx(1.0)
    assert cell.b_ms / cell.a_ms == pytest.approx(machine)
    assert cell.a_speedup == pytest.approx(cell.b_speedup)
    if change == "unclear":
        assert cell.reason.startswith("machine too busy: the dense baseline took 40.5 ms in A, ")
        assert f", {math.exp(beside) * machine:.3g} ms in B" in cell.reason


def test_pairing_takes_out_only_a_part_of_a_change_of_the_machine() -> None:
    """The speed-up falls by 15 % where the machine became half as slow again: that is no slower method."""
    found = only(compare_tables(beside_dense(), beside_dense(1.15, machine=1.5)))
    assert (found.change, "machine too busy" in found.reason) == ("unclear", True)
    assert only(compare_tables(beside_dense(), beside_dense(1.15))).change == "slower"
    assert only(compare_tables(beside_dense(), beside_dense(2.0, machine=1.5))).change == "slower", "a large one is"


@pytest.mark.parametrize(
    ("methods", "change"), [((1.3, 1.4), "unclear"), ((1.3, 1.0), "slower"), ((1.0, 0.9), "slower")]
)
def test_a_dense_baseline_is_slower_only_if_the_methods_beside_it_are_not(
    methods: tuple[float, float], change: str
) -> None:
    def run(dense: float, factors: tuple[float, float]) -> Results:
        full = row([dense * ms for ms in DENSE], method="full", settings="{}", engine="sdpa", baseline="full/sdpa")
        rows, samples = [full], [sample(full, full.cell_id, n, dense * ms) for n, ms in enumerate(DENSE)]
        for name, factor in zip(("moba", "sta"), factors, strict=True):
            own = [factor * ms / 4 for ms in DENSE]
            one = row(own, method=name, baseline="full/sdpa")
            rows.append(one)
            samples += [sample(one, one.cell_id, n, ms) for n, ms in enumerate(own)]
        return Results(headers=table(*rows).headers, rows=tuple(rows), samples={"run-1": tuple(samples)})

    found = compare_tables(run(1.0, (1.0, 1.0)), run(1.5, methods))
    (dense,) = (cell for cell in found.cells if cell.cell["method"] == "full")
    assert dense.change == change
    assert ("machine too busy" in dense.reason) == (change == "unclear")


def test_where_runs_differ_too_much_it_says_how_many_are_needed() -> None:
    noise = NoiseModel(device="here", speedup_sd=0.1, latency_sd=0.1, runs=30, provenance="measured")
    found = only(compare_tables(beside_dense(), beside_dense(), noise=noise))
    assert found.change == "unclear"
    assert found.reason == "machine too busy: runs of the same code differ by 10.0%, so it takes about 29 runs of each"


def test_a_busy_machine_is_named_where_there_is_no_verdict() -> None:
    noise = NoiseModel(device="here", speedup_sd=0.1, latency_sd=0.1, runs=30, provenance="measured")
    found = only(compare_tables(beside_dense(), beside_dense(flags="busy-machine,unstable"), noise=noise))
    assert found.reason == "machine too busy: others used it during B (flag busy-machine)"
    assert only(compare_tables(beside_dense(), beside_dense(2.0, flags="busy-machine"))).change == "slower"


@pytest.mark.parametrize("margin", [0.05, 0.1])
@pytest.mark.parametrize("sd", [0.02, 0.1])
def test_the_runs_that_are_said_to_be_needed_are_enough(sd: float, margin: float) -> None:
    """Drawn from the model, with the deviation known, nine of ten unchanged methods have an interval in the margin."""
    runs, generator = runs_needed(sd, margin), random.Random(3)
    error = sd * math.sqrt(2 / runs)
    drawn = [generator.gauss(0, error) for _ in range(4000)]
    same = sum(abs(each) + 1.96 * error <= math.log1p(margin) for each in drawn) / len(drawn)
    assert same >= 0.88
    assert same <= 0.99 or runs <= 2, "and not many more than enough"


def test_rounds_are_paired_so_that_the_noise_of_the_machine_does_not_hide_a_change() -> None:
    assert only(compare_tables(beside_dense(), beside_dense(1.06))).change == "slower"
    assert only(compare_tables(beside_dense(), beside_dense(1.02))).change == "same"
    assert only(compare_tables(beside_dense(), beside_dense(0.9))).change == "faster"


def test_another_baseline_makes_the_latency_the_judge_and_is_said() -> None:
    cell = only(compare_tables(beside_dense(), beside_dense(baseline="full/cudnn")))
    assert cell.judged_by == "latency"
    assert "baseline: full/sdpa in A, full/cudnn in B" in cell.attributes


@pytest.mark.parametrize(
    ("attribute", "before", "after"),
    [("engine", "triton", "reference"), ("settings", "{}", '{"a":1}'), ("inputs", "video", "video:x.mp4")],
)
def test_what_the_request_came_to_is_an_attribute_that_is_shown_and_judged(
    attribute: str, before: str, after: str
) -> None:
    a, b = (beside_dense(factor, **{attribute: value}) for factor, value in ((1.0, before), (50.0, after)))
    result = compare_tables(a, b)
    cell = only(result)
    assert (cell.change, result.exit_code) == ("slower", 1)
    assert cell.attributes == (f"{attribute}: {before} in A, {after} in B",)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("density", 0.1, 0.3),
        ("approximation_error", 0.1, 9.0),
        ("peak_extra_mib", 10.0, 1e5),
        ("numerical_error", 1e-5, 1e-3),
    ],
)
def test_what_got_worse_at_equal_time_is_a_regression(name: str, before: float, after: float) -> None:
    result = compare_tables(beside_dense(**{name: before}), beside_dense(**{name: after}))
    assert (only(result).change, result.exit_code) == ("worse", 1)
    assert name.replace("_", " ") in only(result).reason
    assert only(compare_tables(beside_dense(**{name: after}), beside_dense(**{name: before}))).change == "same"
    lost = only(compare_tables(beside_dense(**{name: before}), beside_dense(**{name: None})))
    assert lost.change == ("same" if name == "peak_extra_mib" else "worse")
    shown = ("peak memory: known in A, not known in B",) if name == "peak_extra_mib" else ()
    assert lost.attributes == shown
    assert only(compare_tables(beside_dense(**{name: None}), beside_dense(**{name: before}))).change == "same"


def test_stability_that_is_not_known_any_more_is_worse() -> None:
    cell = only(compare_tables(beside_dense(stability="stable"), beside_dense(stability=None)))
    assert (cell.change, "stable in A, not known in B" in cell.reason) == ("worse", True)
    assert only(compare_tables(beside_dense(stability=None), beside_dense(stability=None))).change == "same"


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("deterministic", "unstable", "worse"),
        ("stable", "unstable", "worse"),
        ("deterministic", "stable", "same"),
        ("unstable", "unstable", "same"),
        (None, "unstable", "same"),
        ("unstable", "stable", "same"),
    ],
)
def test_a_method_that_became_unstable_is_worse(before: str | None, after: str, change: str) -> None:
    cell = only(compare_tables(beside_dense(stability=before), beside_dense(stability=after)))
    assert cell.change == change
    assert (f"{before} in A, {after} in B" in cell.reason) == (change == "worse")
    shown = [f"stability: {before} in A, {after} in B"] if change == "same" and before not in (None, after) else []
    assert list(cell.attributes) == shown


def test_one_unstable_layer_makes_the_mean_unstable() -> None:
    steady = beside_dense(layers=2, stability="stable")
    shaky = replace(steady, rows=(steady.rows[0], steady.rows[1].model_copy(update={"stability": "unstable"})))
    assert only(compare_tables(steady, shaky)).change == "worse"
    (mean,) = mean_rows(replace(shaky, rows=tuple(row.model_copy(update={"flags": ""}) for row in shaky.rows)))
    assert (mean.stability, mean.flags) == ("unstable", "")


def test_an_engine_that_changed_is_a_regression_where_it_is_held() -> None:
    a, b = beside_dense(), beside_dense(0.5, engine="triton")
    assert compare_tables(a, b).exit_code == 0
    held = compare_tables(a, b, hold_engine=True)
    assert (only(held).change, held.exit_code) == ("other engine", 1)
    assert only(held).reason == "reference ran it in A, triton in B; faster: significant, and more than 3%"
    assert only(held).ratio == pytest.approx(0.5, rel=1e-6)
    meant = compare_tables(a, b, hold_engine=True, allow_engine=["moba"])
    assert (only(meant).change, only(meant).allowed, meant.exit_code) == ("faster", True, 0)
    assert compare_tables(a, a, hold_engine=True).exit_code == 0
    slower = compare_tables(a, beside_dense(2.0, engine="triton"), hold_engine=True)
    assert only(slower).change == "slower"
    with pytest.raises(BadInput, match="--allow-engine"):
        compare_tables(a, b, allow_engine=["mobs"])


def test_the_terminal_says_what_each_verdict_rests_on(tables: dict[str, Results]) -> None:
    tables["a"] = table(row(), row(method="sta"), row(method="vmoba"))
    tables["b"] = table(row(scaled(2)), row(method="sta"), row(scaled(0.5), method="vmoba"))
    text = invoke("a", "b")[1]
    assert "SLOW: significant, and more than 3%" in text
    assert "FAST: significant, and more than 3%" in text
    assert "SAME: within 10%" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_method_is_judged_by_the_mean_over_its_layers() -> None:
    a = beside_dense(layers=3)
    cell = only(compare_tables(a, beside_dense(layers=3)))
    assert (cell.change, cell.cell["layers"]) == ("same", "0×1, 1×1, 2×1")
    lost = only(compare_tables(a, beside_dense(layers=2)))
    assert lost.change == "not comparable"
    assert "layers: 0×1, 1×1, 2×1 in A, 0×1, 1×1 in B" in lost.reason


def test_what_may_be_missing_is_said_and_is_no_regression(tables: dict[str, Results]) -> None:
    tables["a"], tables["b"] = table(row(), row(method="sta")), table(row())
    assert invoke("a", "b")[0] == 1
    code, text = invoke("a", "b", "--allow-missing", "sta")
    assert code == 0
    assert "allowed to be missing" in text
    result = CliRunner().invoke(app, ["compare", "a", "b", "--allow-missing", "stq"])
    assert isinstance(result.exception, BadInput)


def test_a_large_table_has_few_false_alarms_and_finds_what_is_slower() -> None:
    """Forty methods whose runs differ by the noise that the model says, two of them 15 % slower."""
    generator = random.Random(5)

    def run(slower: bool) -> Results:
        found = []
        for seed in range(40):
            level = 10 * math.exp(generator.gauss(0, 0.017) + (0.14 if slower and seed in (3, 4) else 0))
            found.append(row([level * math.exp(generator.gauss(0, 0.03)) for _ in range(12)], seed=seed))
        return table(*found)

    noise = NoiseModel(device="here", speedup_sd=0.009, latency_sd=0.017, runs=24, provenance="measured")
    result = compare_tables(run(False), run(True), noise=noise)
    assert {cell.cell["seed"] for cell in result.cells if cell.change == "slower"} == {3, 4}
    assert compare_tables(run(False), run(False), noise=noise).exit_code in (0, 3)


@pytest.mark.parametrize(("scatter", "exit_code"), [(0.005, 0), (0.1, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_without_a_model_of_the_machine_runs_may_differ_as_much_as_rounds(
    scatter: float, exit_code: int, seed: int
) -> None:
    """On a shared host rounds scatter by 10 %, and whole runs too: that is no change of the method."""
    generator = random.Random(seed)

    def run() -> Results:
        level = 10 * math.exp(generator.gauss(0, scatter))
        return table(row([level * math.exp(generator.gauss(0, scatter)) for _ in range(200)]))

    assert compare_tables(run(), run()).exit_code == exit_code


def test_the_table_fits_80_columns_with_long_settings(tables: dict[str, Results]) -> None:
    settings = ['{"partition":[3,[9,10],[7,15,20]],"scope":"head"}', '{"partition":[1,[8,4]],"scope":"query"}']
    tables["a"] = table(*(row(method="vmoba", settings_given=each) for each in settings), row())
    tables["b"] = table(row(method="vmoba", settings_given=settings[0], verdict="oom", reason="x " * 200), row())
    for line in invoke("a", "b")[1].splitlines():
        assert len(line) <= 80, line


def test_command_writes_markdown_and_junit(tables: dict[str, Results], tmp_path: Path) -> None:
    tables["a"] = table(row(), row(method="sta"), row(method="full"))
    tables["b"] = table(row(scaled(2)), row(method="sta"))
    code, text = invoke("a", "b", "--markdown", "--junit", str(tmp_path / "x.xml"))
    assert code == 1
    assert re.search(r"\| moba \| – \| – \| 2.000 \| [\d.]+–[\d.]+ \| 10.01 \| 20.02 \|", text)
    suite = ElementTree.parse(tmp_path / "x.xml").getroot()
    failed = {case.get("name") for case in suite if case.find("failure") is not None}
    assert (suite.get("tests"), suite.get("failures"), failed) == ("3", "2", {"moba", "full"})


@pytest.mark.parametrize(
    ("a", "b", "code", "failed", "errors"),
    [
        ([row([10.0, 13.0])], [row([10.4, 12.9])], 3, {"moba"}, []),
        ([row([10.0, 13.0]), row(method="sta")], [row([10.4, 12.9])], 1, {"sta"}, []),
        ([row()], [row(device="GPU")], 4, set(), ["not the same hardware"]),
        ([row()], [row(method="sta")], 4, {"moba"}, []),
        ([], [row()], 4, set(), ["A and B have no cell in common"]),
        ([], [], 4, set(), ["no cell in common"]),
        ([row(verdict="oom")], [row()], 4, set(), ["oom in A"]),
    ],
)
def test_junit_fails_where_the_command_does_and_says_why(
    tables: dict[str, Results], tmp_path: Path, a: list[Row], b: list[Row], code: int, failed: set[str],
    errors: list[str],
) -> None:  # fmt: skip
    tables["a"], tables["b"] = table(*a), table(*b)
    assert invoke("a", "b", "--junit", str(tmp_path / "x.xml"))[0] == code
    suite = ElementTree.parse(tmp_path / "x.xml").getroot()
    assert {case.get("name") for case in suite if case.find("failure") is not None} == failed
    said = [str(error.get("message")) for error in suite.findall("testcase/error")]
    assert [part in message for part, message in zip(errors, said, strict=True)] == [True] * len(errors)
    assert (suite.get("failures"), suite.get("errors")) == (str(len(failed)), str(len(errors)))
    assert suite.get("tests") == str(len(suite))


def test_a_method_that_only_one_side_knows_is_lost_or_new(tables: dict[str, Results]) -> None:
    def unknown(name: str, found: Results) -> Results:
        headers = tuple(each.model_copy(update={"unknown_methods": [name]}) for each in found.headers)
        return replace(found, headers=headers)

    tables["a"] = unknown("sta", table(row(), row(method="vmoba")))
    tables["b"] = unknown("vmoba", table(row(), row(method="sta")))
    code, text = invoke("a", "b")
    assert code == 1
    assert "vmoba: B does not know this method\n" in text
    assert "sta: new: A does not know this method\n" in text
    code, text = invoke("a", "b", "--allow-missing", "vmoba")
    assert code == 0
    assert "vmoba: B does not know this method; allowed to be missing\n" in text
