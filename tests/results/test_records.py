"""The records of a journal: identity of cells, what a row may not say, and the JSON Schema in docs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from attnbench.results.records.cells import Cell, Environment, Row, RunHeader, Sample, canonical_json, digest
from attnbench.results.records.clips import ClipRow, QualityRow

ROOT = Path(__file__).resolve().parents[2]

# The fixed columns, in the words of the design: whoever reads results by these names must go on working.
FIXED_COLUMNS = {
    "row_id", "run_id", "cell_id", "verdict", "method", "settings", "layer", "step", "engine", "engine_version",
    "device", "model", "tokens", "grid", "text_tokens", "batch", "heads", "heads_timed", "kv_heads", "head_dim",
    "dtype", "direction", "inputs", "inputs_hash", "seed", "density", "latency_ms", "latency_lo_ms",
    "latency_hi_ms", "latency_warm_ms", "samples_ms", "timer", "threads", "baseline", "speedup", "translation",
    "flops_dense", "flops_algorithmic", "flops_executed", "executed_pairs", "numerical_error", "approximation_error",
    "peak_extra_mib", "schema_version", "settings_given", "engine_asked",
}  # fmt: skip


def cell(**changes: Any) -> Cell:
    fields: dict[str, Any] = {
        "method": "sta", "settings": "{}", "layer": 0, "grid": "3x5x7", "text_tokens": (0, 0), "batch": 1, "heads": 2,
        "kv_heads": 2, "head_dim": 32, "dtype": "float32", "direction": "fwd", "inputs": "gaussian", "seed": 0,
        "engine": "reference", "device": "a machine",
    }  # fmt: skip
    return Cell(**fields | changes)


def row(of: Cell | None = None, **changes: Any) -> Row:
    of = of or cell()
    fields: dict[str, Any] = {
        **of.model_dump(), "row_id": "r", "run_id": "run", "cell_id": of.identity, "verdict": "ok", "tokens": 105,
        "heads_timed": 2, "engine_version": "1", "latency_ms": 2.0, "samples_ms": [2.0],
    }  # fmt: skip
    return Row(**fields | changes)


@pytest.fixture(scope="module")
def write_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / "scripts" / "write_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))


@given(st.dictionaries(st.text(), st.one_of(NUMBERS, st.text())))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert digest(value) == digest(backwards)
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})


ASKED: dict[str, Any] = {
    "method": "moba", "settings_given": '{"a":1}', "density_asked": 0.2, "layer": 1, "step": 0, "grid": "3x5x8",
    "text_tokens": (0, 1), "batch": 2, "heads": 4, "kv_heads": 1, "head_dim": 64, "dtype": "bfloat16",
    "direction": "fwdbwd", "inputs": "video", "inputs_content": "0123456789abcdef", "seed": 1, "engine_asked": "sdpa",
    "device": "another machine", "gpus": 2, "parallel": "allgather",
}  # fmt: skip
CAME_TO: dict[str, Any] = {"settings": '{"a":2}', "engine": "sdpa"}


def test_a_cell_is_what_was_asked_and_not_what_that_came_to() -> None:
    assert {*ASKED, *CAME_TO} == Cell.model_fields.keys()
    known = cell(settings_given="{}", inputs_content="")
    identities = {known.identity, *(known.model_copy(update={name: value}).identity for name, value in ASKED.items())}
    assert len(identities) == 1 + len(ASKED)
    assert {known.model_copy(update={name: value}).identity for name, value in CAME_TO.items()} == {known.identity}


def test_inputs_are_told_by_kind_and_content_where_that_is_known() -> None:
    def identity(inputs: str, content: str | None) -> str:
        return cell(settings_given="{}", inputs=inputs, inputs_content=content).identity

    assert identity("video:a.mp4", "1") == identity("video:/b/c.mp4", "1") != identity("video:a.mp4", "2")
    assert identity("video:a.mp4", "1") != identity("capture:a.mp4", "1")
    assert identity("video:a.mp4", None) != identity("video:b.mp4", None), "all that is known of them is the path"


def test_where_it_is_not_known_what_was_asked_what_ran_stands_in_for_it() -> None:
    assert cell().identity == cell(settings_given="{}", engine_asked="reference").identity
    assert cell().identity != cell(engine="sdpa").identity


def test_neither_identity_has_changed_since_tables_were_first_written() -> None:
    """Committed tables are compared by it: a change makes every cell of them a stranger."""
    assert cell().legacy_identity == "96faa5d998105220"
    assert cell(settings_given="{}", inputs_content="").identity == "37df462150042d73"


def test_the_fixed_columns_are_there() -> None:
    assert FIXED_COLUMNS.issubset(Row.model_fields)


def test_a_row_survives_json_and_gives_its_cell_back() -> None:
    one = row(samples_ms=[2.0, 2.5], latency_ms=2.25, density=0.25, text_tokens=(0, 0))
    assert Row.model_validate_json(one.model_dump_json()) == one
    assert one.cell() == cell()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "incorrect"}, "a latency with verdict 'incorrect'"),
        ({"verdict": "throttled", "latency_ms": None}, "a latency with verdict 'throttled'"),  # its samples
        ({"verdict": "oom", "latency_ms": None, "samples_ms": [], "speedup": 2.0}, "a latency with verdict 'oom'"),
        ({"latency_ms": None}, "verdict 'ok' without a latency"),
        ({"latency_ms": 1.9}, "latency_ms is 1.9, and the median of samples_ms is 2"),
        ({"baseline_ms": 8.0, "speedup": 5.0}, "speedup is 5, and baseline_ms / latency_ms is 4"),
        ({"speedup": 5.0}, "a speedup without baseline_ms"),
        (
            {"baseline_ms": 8.0, "speedup": 4.0, "density": 0.1, "translation": 9.0},
            "translation is 9, and speedup x de",
        ),
        ({"translation": 9.0}, "translation is 9, and speedup x density is 0"),
        ({"latency_lo_ms": 1.0}, "the interval is 1.0 to None, the median 2, and samples_ms are from 2 to 2"),
        ({"latency_hi_ms": 1.9}, "the interval is None to 1.9"),
        ({"density": 0.1, "flops_dense": 10**9, "flops_algorithmic": 5 * 10**8}, "flops_algorithmic is 500000000, and"),
        ({"numerical_error": 0.5, "numerical_tolerance": 0.1}, "verdict 'ok' with a numerical_error of 0.5, above"),
        ({"samples_ms": []}, "verdict 'ok' without a latency"),
        ({"cell_id": "0" * 16}, "is not the digest"),
        ({"seed": 5}, "is not the digest"),
        ({"verdict": "fine"}, "verdict"),
        ({"latency_ms": 0.0}, "latency_ms"),
        ({"latency_ms": float("nan")}, "latency_ms"),
        ({"speedup": float("inf")}, "speedup"),
        ({"density": 1.2}, "density"),
        ({"latency": 2.0}, "latency"),
        ({"kernels": "{"}, "kernels must be a JSON list of names"),
        ({"kernels": '{"a": 1}'}, "kernels must be a JSON list of names"),
        ({"kernels": "[1]"}, "kernels must be a JSON list of names"),
        ({"kernels": '[""]'}, "kernels must be a JSON list of names"),
        ({"kernels": "[" * 50_000}, "kernels must be a JSON list of names"),
        ({"kernels": json.dumps(["x" * 100_000])}, "of up to 100,000 characters"),
        *(
            ({"kept_by_frame": text}, "kept_by_frame must be a JSON list of T lists of T whole numbers")
            for text in ("[", "{}", "[[1]]", "[[0,1],[1]]", "[[0,1],[1,1001]]", "[[0,1],[1,0.5]]", "[" * 50_000)
        ),
        ({"flags": "busy"}, "flags must be some of power-capped, cpu-bound, slow-enqueue, busy-machine, unstable"),
        ({"flags": "unstable,"}, "flags must be"),
        ({"flags": "unstable,unstable"}, "each once"),
        ({"stability": "shaky"}, "stability"),
        ({"executed_pairs": 10**14}, "at most"),
        ({"executed_pairs": 11, "flops_executed": 10 * 128}, "executed_pairs is 11, and at most 10 are possible"),
        ({"executed_pairs": 10**40}, "a number of more than 30 digits, which is no figure that can be measured"),
        ({"plan_bytes": 10**5000}, "plan_bytes is a number of more than 30 digits"),
        ({"tokens": 10**31}, "a number of more than 30 digits"),
    ],
)
def test_a_row_that_cannot_be_true_is_refused(changes: dict[str, Any], said: str) -> None:
    row()
    with pytest.raises(ValidationError, match=said):
        row(**changes)


def test_what_an_engine_may_execute_is_a_row() -> None:
    tile = 128 * 128
    assert row(executed_pairs=tile, flops_executed=tile * 128, flags="", kernels="[]").executed_pairs == tile
    assert row(flags="cpu-bound,unstable", kernels='["a","b"]').flags == "cpu-bound,unstable"


def test_a_row_without_a_latency_needs_none() -> None:
    none = row(verdict="unsupported", reason="cannot", latency_ms=None, samples_ms=[])
    assert none.latency_ms is None


@pytest.mark.parametrize(("direction", "products"), [("fwd", 2), ("fwdbwd", 7)])
def test_a_row_of_schema_1_gets_its_executed_pairs_from_its_operations(direction: str, products: int) -> None:
    of = cell(direction=direction)
    known = {"flops_executed": products * 2 * 32 * 1000 + 9, "flops_selection": 9}
    assert row(of, schema_version=1, **known).executed_pairs == 1000
    assert row(of, schema_version=1, **known | {"flops_selection": 10}).executed_pairs is None  # not exact
    assert row(of, schema_version=1, **known | {"flops_selection": None}).executed_pairs is None
    assert row(of, **known).executed_pairs is None  # schema 2 says so if it knows
    assert row(of, executed_pairs=900, **known).executed_pairs == 900


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        row().verdict = "incorrect"


def test_every_field_says_what_it_is() -> None:
    for record in (Row, RunHeader, Sample, Environment, ClipRow, QualityRow):
        assert [name for name, field in record.model_fields.items() if not field.description] == [], record.__name__


def test_the_json_schema_in_docs_is_current(write_docs: ModuleType) -> None:
    stored = (ROOT / "docs" / "results-schema.json").read_text(encoding="utf-8")
    assert stored == write_docs.schema_text(), "run: python scripts/write_docs.py"


def test_the_table_of_columns_in_docs_is_current(write_docs: ModuleType) -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert text == write_docs.written("results.md"), "run: python scripts/write_docs.py"
    assert all(f"| `{name}` |" in text for name in Row.model_fields)


def test_what_several_gpus_come_to_in_docs_is_current(write_docs: ModuleType) -> None:
    text = (ROOT / "docs" / "parallel.md").read_text(encoding="utf-8")
    assert text == write_docs.written("parallel.md"), "run: python scripts/write_docs.py parallel.md"


def test_the_json_schema_describes_lines_as_they_are_written(write_docs: ModuleType) -> None:
    schema = json.loads(write_docs.schema_text())
    assert schema["$schema"].startswith("https://json-schema.org/")
    lines = {option["$ref"].rpartition("/")[2] for option in schema["oneOf"]}
    known = {"RunHeader", "Sample", "Row", "PhaseRow", "StepRecord", "ClipRow", "QualityRow"}
    assert lines == known | {"AnalysisRow", "PremiseRow"}
    assert "pass" in schema["$defs"]["PhaseRow"]["required"]
    written = json.loads(row().model_dump_json()) | {"kind": "row"}
    described = schema["$defs"]["Row"]
    assert set(described["properties"]) == set(written)
    assert set(described["required"]) == {"kind", *(n for n, f in Row.model_fields.items() if f.is_required())}
    assert described["properties"]["kind"] == {"const": "row", "type": "string"}
    assert described["additionalProperties"] is False
    assert described["properties"]["verdict"]["enum"][0] == "ok"


def test_units_of_columns_follow_their_names(write_docs: ModuleType) -> None:
    units = {name: write_docs.unit(name) for name in Row.model_fields}
    named = {name: unit for name, unit in units.items() if unit}
    assert named["latency_ms"] == named["samples_ms"] == named["baseline_ms"] == "ms"
    assert (named["peak_extra_mib"], named["plan_bytes"], named["sm_clock_mhz"]) == ("MiB", "bytes", "MHz")
    assert (named["power_w"], named["temperature_c"], units["density"]) == ("W", "°C", "")
    assert {name for name in units if name.endswith(("_ms", "_mib", "_mhz", "_w", "_c", "_bytes"))} <= named.keys()


def test_writing_twice_changes_nothing(write_docs: ModuleType) -> None:
    text = f"before\n{write_docs.BEGIN.format('a')}\nstale words\n{write_docs.END}\nafter\n"
    once = write_docs.with_part(text, "a", "new words\n")
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "stale words" not in once
    assert "new words" in once
    assert write_docs.with_part(once, "a", "new words\n") == once
    with pytest.raises(ValueError, match="begin: a"):
        write_docs.with_part("a page without the marks", "a", "new words")
