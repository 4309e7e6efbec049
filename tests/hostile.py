"""Journals and videos as a careless tool, a full disk or an enemy might leave them, from a seed."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnbench.results.records.analysis import AnalysisRow, PremiseRow
from attnbench.results.records.cells import SCHEMA_VERSION, Environment, PhaseRow, Row, RunHeader, Sample, digest
from attnbench.results.records.clips import ClipRow, QualityRow

Line = dict[str, Any]

STRINGS = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "\x1b]0;title\x07", "\x1b[2J\x1b[31mred", "\x9b31m",
    "$\\frac{", "$x^{", "_^$%&~#\\", "{{ 7 * 7 }}", "{% raw %}", "[/red]", "[link=x]y", "%s%n{0}{}", "../../etc/passwd",
    "/etc/passwd", "\u202egnp.exe", "a|b\nc|d", "\r\n\r\n", "\0", "", " ", "-->", "]]>", "</style>", "\u2028",
    "漢字" * 50, "x" * 5000, "1" * 5000, "[" * 3000, "{" * 3000, "null", "NaN", "é̂́" * 200, "🏳️‍🌈",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**25, 0.0, -0.0, 0.5, -1e-300, 5e-324, 1e308, -1e308, "", "1", "1e9",
    [], [[]], {}, {"a": {}}, [1, "a", None], [0.0] * 3,
)  # fmt: skip
RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "-" + "9" * 5000,
    "[" * 20_000,
    '{"a":' * 20_000,
    "tru",
    "'a'",
)
"""Written into a line as they are, in the place of a value."""


def journal(run_id: str, generator: random.Random) -> list[Line]:
    """Return the lines of a sound journal: two methods and the baseline, three rounds, phases, clips and metrics."""
    environment = Environment(
        device="a machine", device_kind="cpu", cores=2, memory_gib=8.0, python="3.11", platform="Linux",
        packages={"torch": "2"}, command=["attnbench", "run"], started_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    header = RunHeader(run_id=run_id, environment=environment, request={"methods": {"sta": {}, "vmoba": {}}})
    lines = [line("run", header)]
    baseline_ms = 0.0
    for method, ms in (("full", 4.0), ("sta", 2.0), ("vmoba", 3.0)):
        samples = [ms * generator.uniform(0.97, 1.03) for _ in range(3)]
        middle = sorted(samples)[1]
        baseline_ms = baseline_ms or middle
        row = make_row(
            run_id, method, samples, density := 1.0 if method == "full" else 0.4, baseline_ms=baseline_ms,
            speedup=baseline_ms / middle, translation=baseline_ms / middle * density,
        )  # fmt: skip
        lines += [
            line(
                "sample",
                Sample(cell_id=row.cell_id, round=number, cold_ms=ms, heads_timed=2, inputs_hash="h", threads=1),
            )
            for number, ms in enumerate(samples)
        ]
        lines.append(line("row", row))
        phase = {
            "row_id": row.row_id, "run_id": run_id, "cell_id": row.cell_id, "pass": "fwd", "phase": "attend",
            "time_ms": 1.0, "time_lo_ms": 0.9, "time_hi_ms": 1.1, "provenance": "measured", "engine": "reference",
            "kernels": 3, "flops": 1e9, "bytes": 1e6,
        }  # fmt: skip
        lines.append(line("phase", PhaseRow.model_validate(phase)))
    for role, value in (("exact", None), ("method", 30.0), ("kernel-floor", 50.0)):
        method = "vmoba" if role == "method" else "full"
        shared = {
            "run_id": run_id, "model": "mini", "method": method, "engine": "reference", "prompt": "3 moving north",
            "seed": 0, "role": role, "status": "ok", "size": "64x64", "fps": 8.0, "frames": 2, "clip_hash": role,
        }  # fmt: skip
        lines.append(line("clip", ClipRow(
            **shared, clip_id=role, steps=10, dense_steps=2, densities=[0.25, None], raw="raw/a.safetensors",
            video="videos/a.mp4", player="players/a.mp4",
        )))  # fmt: skip
        if value is not None:
            lines.append(line("quality", QualityRow(
                **shared, metric="psnr", value=value, reference="full/reference, seed 0", reference_seed=0,
                metric_kind="distance", better="higher", unit="dB", per_frame=[value, value], reference_hash="exact",
            )))  # fmt: skip
    lines.append(line("analysis", AnalysisRow(
        run_id=run_id, model="mini", layer=0, head=1, step=2, measure="entropy", value=5.0, lo=4.9, hi=5.1,
        points=[1.0, 2.0], shape="dt=2", queries=64, tokens=105, grid="3x5x7",
    )))  # fmt: skip
    lines.append(line("premise", PremiseRow(
        run_id=run_id, premise="locality", claim="heads are local", sources="VMoBA", statistic="median lift",
        holds=">= 2", fails="<= 1.2", verdict="holds", value=3.0, lo=2.5, hi=3.5, tested_on="mini, 2 heads",
    )))  # fmt: skip
    return lines


def line(kind: str, record: Any) -> Line:
    """Return a record as a line of a journal."""
    return {"kind": kind, **record.model_dump(mode="json", by_alias=True)}


def make_row(run_id: str, method: str, samples: list[float], density: float, **changes: Any) -> Row:
    """Return a sound row; changes of the cell's fields too."""
    fields: dict[str, Any] = {
        "method": method, "settings": "{}", "layer": 0, "grid": "3x5x7", "text_tokens": (0, 0), "batch": 1, "heads": 2,
        "kv_heads": 2, "head_dim": 32, "dtype": "float32", "direction": "fwd", "inputs": "gaussian", "seed": 0,
        "engine": "reference", "device": "a machine", "run_id": run_id, "verdict": "ok", "tokens": 105,
        "heads_timed": 2, "engine_version": "1", "latency_ms": sorted(samples)[1], "latency_lo_ms": min(samples),
        "latency_hi_ms": max(samples), "interval": "min-max", "samples_ms": samples, "timer": "perf_counter",
        "baseline": "full/reference", "baseline_ms": 4.0, "speedup": 4.0 / sorted(samples)[1],
        "translation": 4.0 / sorted(samples)[1] * density, "density": density, "threads": 1, "inputs_hash": "h",
    } | changes  # fmt: skip
    return Row.model_validate(named({"kind": "row", **fields}))


def named(fields: Line) -> Line:
    """Return a row's fields with the cell_id and row_id that belong to them."""
    given = {name: value for name, value in fields.items() if name != "kind"}
    made = Row.model_construct(**{**given, "row_id": "", "cell_id": ""})
    return {**given, "cell_id": made.identity, "row_id": digest([given["run_id"], made.identity])}


def _renamed(lines: list[Line]) -> list[Line]:
    """Give rows whose fields changed the digests of these, and what belongs to the rows the same, where it can be."""
    names: dict[object, tuple[str, str]] = {}
    found = []
    for fields in lines:
        try:
            fresh = {"kind": "row", **named(fields)} if fields.get("kind") == "row" else fields
        except Exception:  # of pydantic and json, for what cannot be digested
            fresh = fields
        if fresh is not fields:
            names[fields.get("cell_id") if isinstance(fields.get("cell_id"), str) else None] = (
                fresh["cell_id"], fresh["row_id"],
            )  # fmt: skip
        found.append(fresh)
    for fields in found:
        old = fields.get("cell_id")
        if fields.get("kind") != "row" and isinstance(old, str) and old in names:
            fields["cell_id"] = names[old][0]
            if "row_id" in fields:
                fields["row_id"] = names[old][1]
    return found


def _text(lines: list[Line]) -> bytes:
    return "".join(json.dumps(fields) + "\n" for fields in lines).encode()


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values within a value, itself left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for name, each in inner:
        found += [(*path, name), *_places(each, (*path, name))]
    return found


def _put(fields: Any, path: tuple[Any, ...], value: Any) -> None:
    for name in path[:-1]:
        fields = fields[name]
    fields[path[-1]] = value


def _torn(lines: list[Line], generator: random.Random) -> bytes:
    content = _text(lines)
    return content[: generator.randrange(len(content))]


def _flipped(lines: list[Line], generator: random.Random) -> bytes:
    content = bytearray(_text(lines))
    for _ in range(generator.randint(1, 8)):
        content[generator.randrange(len(content))] = generator.randrange(256)
    return bytes(content)


def _repeated(lines: list[Line], generator: random.Random) -> bytes:
    return _text([each for fields in lines for each in [fields] * generator.choice((0, 1, 1, 2, 3))])


def _shuffled(lines: list[Line], generator: random.Random) -> bytes:
    return _text(generator.sample(lines, len(lines)))


def _one_kind(lines: list[Line], generator: random.Random) -> bytes:
    kind = generator.choice(["run", "sample", "row", "phase", "clip", "quality", "analysis", "premise"])
    return _text([fields for fields in lines if (fields["kind"] == kind) == generator.choice((True, False))])


def _other_value(lines: list[Line], generator: random.Random) -> bytes:
    for _ in range(generator.randint(1, 3)):
        fields = generator.choice(lines)
        _put(fields, generator.choice(_places(fields)), generator.choice(VALUES))
    return _text(_renamed(lines) if generator.random() < 0.7 else lines)


def _raw_value(lines: list[Line], generator: random.Random) -> bytes:
    fields = generator.choice(lines)
    _put(fields, generator.choice(_places(fields)), "HERE")
    return _text(lines).replace(b'"HERE"', generator.choice(RAW).encode(), 1)


def _strings(lines: list[Line], generator: random.Random) -> bytes:
    """Put a string into one field of all lines, or into every text that says anything."""
    name = generator.choice(
        ["method", "settings", "settings_given", "engine", "device", "inputs", "grid", "run_id", "model", "prompt",
         "reason", "phase", "metric", "baseline", "player", "raw", "video", "unit", "size", "dtype", "environment"]
    )  # fmt: skip
    text = generator.choice(STRINGS)
    for fields in lines:
        if name == "environment" and name in fields:
            fields[name] |= {"device": text, "platform": text, "packages": {text: text}, "command": [text]}
        elif name == "reason" and fields["kind"] == "row" and fields["method"] == "sta":
            timed = ("latency_ms", "latency_lo_ms", "latency_hi_ms", "speedup", "translation", "interval")
            fields |= dict.fromkeys(timed) | {"samples_ms": [], "verdict": "error", "reason": text}
        elif name in fields:
            fields[name] = text
    return _text(_renamed(lines))


def _schema(lines: list[Line], generator: random.Random) -> bytes:
    version = generator.choice(
        [1, 2, SCHEMA_VERSION, SCHEMA_VERSION + 1, "1", "2", "99", "new", "", None, 0, -3, 2.0, []]
    )
    absent = generator.random() < 0.3
    for fields in lines:
        if "schema_version" in fields and generator.random() < 0.7:
            fields["schema_version"] = version
            if absent:
                del fields["schema_version"]
    return _text(lines)


def _fields(lines: list[Line], generator: random.Random) -> bytes:
    for _ in range(generator.randint(1, 3)):
        fields = generator.choice(lines)
        if generator.random() < 0.6:
            del fields[generator.choice(list(fields))]
        else:
            fields[generator.choice(STRINGS)] = generator.choice(VALUES)
        if not fields:
            lines.remove(fields)
    return _text(lines)


def _extreme(lines: list[Line], generator: random.Random) -> bytes:
    """Scale all times, or make a size huge: every record stays sound by itself."""
    factor = generator.choice((1e-300, 1e-9, 1e9, 1e290))
    size = generator.choice(("tokens", "heads", "head_dim", "batch", "layer", "seed", "flops_dense", "executed_pairs"))
    for fields in lines:
        if generator.random() < 0.5:
            for name in list(fields):
                if name.endswith("_ms") and isinstance(fields[name], float):
                    fields[name] *= factor
            fields |= {"samples_ms": [ms * factor for ms in fields["samples_ms"]]} if "samples_ms" in fields else {}
        elif fields["kind"] == "row":
            fields[size] = generator.choice((0, 1, 2**31, 2**62, 10**18))
    return _text(_renamed(lines))


def _encoded(lines: list[Line], generator: random.Random) -> bytes:
    content = _text(lines)
    return generator.choice([
        b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n"), content.replace(b"\n", b"\n\n\n"),
        content + b"\n \n",
        content.decode().encode("utf-16"), content.replace(b"a machine", b"\xfcber"), content.rstrip(b"\n"),
        content.replace(b"\n", b"\r"), b"", b"\n", b"\0" * 100, b"[" + content + b"]", content.replace(b"{", b"[", 3),
    ])  # fmt: skip


MUTATIONS: tuple[Callable[[list[Line], random.Random], bytes], ...] = (
    _torn, _flipped, _repeated, _shuffled, _one_kind, _other_value, _other_value, _raw_value, _strings, _strings,
    _schema, _fields, _extreme, _encoded,
)  # fmt: skip


def write_hostile(folder: Path, seed: int) -> str:
    """Write a journal that something happened to, the same for each seed, and return what did."""
    generator = random.Random(seed)
    mutation = MUTATIONS[seed % len(MUTATIONS)]
    content = mutation(journal("mutated", generator), generator)
    folder.mkdir(parents=True)
    if generator.random() < 0.1:
        packed = gzip.compress(content)
        cut = generator.choice((len(packed), len(packed) // 2, 3))
        (folder / "journal.jsonl.gz").write_bytes(generator.choice((packed[:cut], content)))
    else:
        (folder / "journal.jsonl").write_bytes(content)
    return mutation.__name__.strip("_")
