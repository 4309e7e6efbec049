"""Write the generated parts of docs/ again: tables between marks, pictures and the JSON Schema.

python scripts/write_docs.py                       # all of them
python scripts/write_docs.py results.md flops.md   # some files
python scripts/write_docs.py --check               # writes nothing; exit code 1 if a file is out of date

A generated part of a page stands between ``<!-- begin: NAME, from scripts/write_docs.py -->`` and ``<!-- end -->``.
inputs.md takes a minute or two: it selects at 55,296 tokens for 24 heads. The others take seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import runpy
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import attnbench
from attnbench.cost.ranks import count_call
from attnbench.cost.waterfall import ZERO, Bar, Span, Waterfall
from attnbench.inputs.make import make_inputs
from attnbench.inputs.shapes import Shape, resolve_shape
from attnbench.inputs.structure import locality, union_density
from attnbench.kernels.grid import Grid
from attnbench.parallel.deal import WAYS
from attnbench.report.charts.waterfall import waterfall_figure
from attnbench.report.data.schema import json_schema
from attnbench.report.terminal.flops import model_markdown, paper_markdown
from attnbench.report.waterfalls import waterfall_of
from attnbench.report.word_table import WordTable
from attnbench.results.load import Results, load_steps, read
from attnbench.results.records.analysis import AnalysisRow, PremiseRow
from attnbench.results.records.cells import Environment, PhaseRow, RanksSample, Row, RunHeader, Sample
from attnbench.results.records.clips import ClipRow, QualityRow
from attnbench.results.records.steps import StepRecord

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BEGIN = "<!-- begin: {}, from scripts/write_docs.py -->"
END = "<!-- end -->"

# Records of a journal: docs/results-schema.json and docs/results.md

LINES: dict[str, type[BaseModel]] = {
    "run": RunHeader,
    "sample": Sample,
    "row": Row,
    "phase": PhaseRow,
    "step": StepRecord,
    "clip": ClipRow,
    "quality": QualityRow,
    "analysis": AnalysisRow,
    "premise": PremiseRow,
}
UNITS = {"ms": "ms", "mib": "MiB", "gib": "GiB", "mhz": "MHz", "w": "W", "c": "°C", "bytes": "bytes"}


def schema_text() -> str:
    """Return the JSON Schema of one line of a journal."""
    _, document = models_json_schema([(model, "validation") for model in LINES.values()])
    for kind, model in LINES.items():
        described = document["$defs"][model.__name__]
        described["properties"] = {"kind": {"const": kind, "type": "string"}, **described["properties"]}
        described["required"] = ["kind", *described["required"]]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of an attnbench results journal",
        "oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in LINES.values()],
        **document,
    }
    return json.dumps(schema, indent=1) + "\n"


def unit(name: str) -> str:
    """Return the unit that a field's name ends with, or nothing."""
    return UNITS.get(name.rpartition("_")[2], "") if "_" in name else ""


def values(described: dict[str, Any]) -> str:
    """Say which values a field may have: its type, or its words where they are few."""
    options = described.get("anyOf", [described])
    kinds = []
    for option in options:
        if "enum" in option:
            kinds.append(", ".join(option["enum"]))
        elif "$ref" in option:
            kinds.append(option["$ref"].rpartition("/")[2].lower())
        elif "prefixItems" in option:
            kinds.append(f"{len(option['prefixItems'])} {option['prefixItems'][0]['type']}s")
        elif "items" in option:
            kinds.append(f"{values(option['items'])}s")
        elif option.get("type") != "null":
            kinds.append(option.get("type", "any"))
    return "; ".join(kinds)


def record_table(model: type[BaseModel]) -> str:
    """Return a Markdown table of the model's fields. A ° marks those that may be empty."""
    properties = model.model_json_schema()["properties"]
    lines = ["| name | unit | values | meaning |", "|---|---|---|---|"]
    for name, described in properties.items():
        empty = " °" if any(option.get("type") == "null" for option in described.get("anyOf", [])) else ""
        lines.append(f"| `{name}` | {unit(name)} | {values(described)}{empty} | {described['description']} |")
    return "\n".join(lines)


def record_tables() -> str:
    """Return the tables of all records, each below its title."""
    parts = {
        "A row (`kind: row`): one cell of one run": Row,
        "A phase (`kind: phase`): where the time of a cell went": PhaseRow,
        "A whole step (`kind: step`): with one kind of self-attention": StepRecord,
        "A metric of a clip (`kind: quality`)": QualityRow,
        "A clip (`kind: clip`)": ClipRow,
        "A measure of attention (`kind: analysis`)": AnalysisRow,
        "A verdict on a premise (`kind: premise`)": PremiseRow,
        "A sample (`kind: sample`): one timed call": Sample,
        "What a sample over several ranks has besides (`ranks`)": RanksSample,
        "The first line (`kind: run`)": RunHeader,
        "Its environment": Environment,
    }
    return "\n\n".join(f"### {title}\n\n{record_table(model)}" for title, model in parts.items())


# How inputs differ: docs/inputs.md

KINDS = ("1-D", "2-D", "3-D")
TITLES = ("locality", *(f"density {kind}" for kind in KINDS), *(f"union {kind}" for kind in KINDS))
RES, HEADS, SEED = "576p", 12, 0


def measure_inputs(spec: str, shape: Shape) -> list[tuple[float, ...]]:
    """Return, for each head, the numbers named by TITLES."""
    inputs = make_inputs(spec, shape, heads=HEADS, dtype=torch.float32, device=torch.device("cpu"), seed=SEED)
    rows = []
    for head in range(HEADS):
        q, k = inputs.q[:, head : head + 1], inputs.k[:, head : head + 1]
        plans = [attnbench.select(q, k, method="vmoba", grid=shape.grid, layer=layer) for layer in range(len(KINDS))]
        densities = [plan.density for plan in plans]
        unions = [union_density(plan) for plan in plans]
        rows.append((locality(q[0, 0], k[0, 0], shape.grid), *densities, *unions))
    return rows


def inputs_table(rows: dict[str, list[tuple[float, ...]]]) -> str:
    """Return a Markdown table: each head of the first inputs, and lowest, mean and highest head of all."""
    lines: list[tuple[str, ...]] = []

    def add(name: str, head: str, numbers: list[float]) -> None:
        lines.append((name, head, *(f"{number:.3f}" for number in numbers)))

    for name, by_head in rows.items():
        if name == next(iter(rows)):
            for head, numbers in enumerate(by_head):
                add(name, str(head), list(numbers))
        for title, summary in (("lowest", min), ("**mean**", statistics.mean), ("highest", max)):
            add(name, title, [float(summary(column)) for column in zip(*by_head, strict=True)])
    header = ("inputs", "head", *TITLES)
    return "\n".join(WordTable(header, tuple(lines), frozenset(range(2, len(header)))).markdown())


def inputs_block() -> str:
    """Return what was measured on, and the table."""
    torch.set_num_threads(2)  # another number adds in another order, and a near tie may fall the other way
    shape = resolve_shape(res=RES, heads=HEADS)
    rows = {spec: measure_inputs(spec, shape) for spec in ("video", "gaussian")}
    return (
        f"{RES}, grid {shape.grid}, {shape.tokens:,} tokens, {HEADS} heads of {shape.head_dim}, seed {SEED}, VMoBA at "
        f"its defaults.\n\n{inputs_table(rows)}"
    )


# Where the time goes, from committed profiles: docs/why-sparse-is-slow.md and its pictures
#
# VMoBA is the mean of its three kinds of layers, which a model has equally many of.

PROFILES = ROOT / "results" / "h100" / "profiles"
ENGINES = {"two-call": "-two-call", "triton": ""}
STEPS = ("480p-step-fwd", "480p-step-fwdbwd")
LENGTHS = ("480p", "576p", "720p")
LOSSES = ("selection", "permute", "index", "merge", "padding", "kernel inefficiency", "launch gaps")


def waterfalls(name: str, method: str) -> list[tuple[Row, Waterfall]]:
    """Return the rows of a method in a profiled table, by layer, and where the time of each goes."""
    results = read(PROFILES / f"{name}.jsonl.gz")
    phases = results.phases_by_row
    found = []
    for row in sorted(results.rows, key=lambda row: row.layer):
        waterfall = waterfall_of(row, phases[row.row_id]) if row.method == method else None
        if waterfall is not None:
            found.append((row, waterfall))
    return found


def mean_waterfall(waterfalls: Sequence[Waterfall]) -> Waterfall:
    """Return the mean of waterfalls, bar by bar; a bar is modelled if one of its parts is."""

    def over(spans: Sequence[Span]) -> Span:
        total = ZERO
        for span in spans:
            total = total + span
        return total.times(1 / len(spans))

    bars = []
    for name in dict.fromkeys(bar.name for waterfall in waterfalls for bar in waterfall.bars):
        own = [next((bar for bar in w.bars if bar.name == name), Bar(name, ZERO, "measured")) for w in waterfalls]
        kind = "modelled" if any(bar.kind == "modelled" for bar in own) else "measured"
        bars.append(Bar(name, over([bar.span for bar in own]), kind))
    order = [*LOSSES[:-1], "other kernels", LOSSES[-1]]
    return Waterfall(
        over([w.dense for w in waterfalls]),
        over([w.ideal for w in waterfalls]),
        tuple(sorted(bars, key=lambda bar: order.index(bar.name) if bar.name in order else len(order))),
        over([w.unexplained for w in waterfalls]),
        over([w.latency for w in waterfalls]),
    )


def vmoba(res: str, engine: str) -> Waterfall:
    """Return the mean waterfall of VMoBA's three kinds of layers."""
    return mean_waterfall([waterfall for _, waterfall in waterfalls(f"{res}-fwd{ENGINES[engine]}", "vmoba")])


def loss_table() -> list[str]:
    """Return the lines of a table: what each loss takes, by length and engine."""
    columns = [(res, engine, vmoba(res, engine)) for res in LENGTHS for engine in ENGINES]
    lines = [
        ("dense", *(f"{w.dense.ms:.1f}" for *_, w in columns)),
        ("dense × density", *(f"{w.ideal.ms:.2f}" for *_, w in columns)),
    ]
    for loss in LOSSES:
        spans = [next((bar.span.ms for bar in w.bars if bar.name == loss), 0.0) for *_, w in columns]
        lines.append((loss, *(f"{ms:.2f}" for ms in spans)))
    lines.append(("unexplained", *(f"{w.unexplained.ms:.2f}" for *_, w in columns)))
    lines.append(("**measured**", *(f"**{w.latency.ms:.2f}**" for *_, w in columns)))
    lines.append(("speed-up", *(f"{w.dense.ms / w.latency.ms:.2f}×" for *_, w in columns)))
    lines.append(("translation", *(f"{w.ideal.ms / w.latency.ms:.2f}" for *_, w in columns)))
    header = ("ms", *(f"{res} {engine}" for res, engine, _ in columns))
    return WordTable(header, tuple(lines), frozenset(range(1, len(header)))).markdown()


def blocks_of(row: Row) -> int:
    """Return how many blocks of keys a layer of VMoBA or MoBA has."""
    settings = json.loads(row.settings)
    if row.method == "moba":
        return ceil(row.tokens / settings["block_size"])
    size = settings["partition"][row.layer % 3]
    sizes = [size] if isinstance(size, int) else size
    grid = Grid.of(row.grid).shape
    sides = grid[-len(sizes) :] if row.layer % 3 else grid[:1]
    return prod(ceil(side / size) for side, size in zip(sides, sizes, strict=True))


def layer_table(res: str) -> list[str]:
    """Return the lines of a table: the layers of VMoBA one by one, and MoBA."""
    header = ("", "blocks", "density", "promised", "two-call", "triton")
    lines = []
    for method in ("vmoba", "moba"):
        pairs = zip(*(waterfalls(f"{res}-fwd{suffix}", method) for suffix in ENGINES.values()), strict=True)
        for (slow, published), (_, ours) in pairs:
            assert slow.density
            times = [f"{w.latency.ms:.1f} ms, {w.dense.ms / w.latency.ms:.2f}×" for w in (published, ours)]
            name = f"{method}{f' layer {slow.layer}' if method == 'vmoba' else ''}"
            lines.append((name, str(blocks_of(slow)), f"{slow.density:.3f}", f"{1 / slow.density:.1f}×", *times))
    return WordTable(header, tuple(lines), frozenset(range(1, len(header)))).markdown()


def step_table(name: str) -> list[str]:
    """Return the lines of a table: a step of a whole model with each kind of self-attention."""
    header = (
        "self-attention", "step", "attention alone", "its speed-up", "predicted for the step", "speed-up of the step",
    )  # fmt: skip
    lines = []
    steps = load_steps(PROFILES / f"{name}.jsonl.gz")
    for step in steps:
        figures = (step.attention_speedup, step.predicted_speedup, step.step_speedup)
        times = f"{step.step_ms:.0f} ms", f"{step.attention_ms:.0f} ms"
        lines.append((step.name, *times, *(f"{figure:.2f}×" for figure in figures)))
    lines.append(("none", f"{steps[0].without_ms:.0f} ms", "", "", "", ""))
    return WordTable(header, tuple(lines), frozenset(range(1, len(header)))).markdown()


def picture(engine: str) -> str:
    """Return the waterfall of an engine at 576p as SVG; both pictures have the same axis."""
    both = {name: vmoba("576p", name) for name in ENGINES}
    plt.rcParams["svg.hashsalt"] = "attnbench"  # the same names in the same picture each time
    figure = waterfall_figure(both[engine])
    figure.axes[0].set_xlim(0, 1.2 * max(w.latency.ms for w in both.values()))
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return file.getvalue()


# What attention looks like: scripts/analysis_page.py


def analysis_part(part: str) -> str:
    """Return a generated part of docs/analysis.md."""
    return str(runpy.run_path(str(ROOT / "scripts" / "analysis_page.py"))["PARTS"][part]())


ANALYSIS_PARTS = ("run", "premises", "layers", "partitions", "kept", "rules", "replaced")


# Claims, and the README's table: scripts/claims.py


def claims_part(page: str, part: str) -> str:
    """Return a generated part of docs/claims.md or of the README."""
    parts = runpy.run_path(str(ROOT / "scripts" / "claims.py"))["PARTS"]
    return str(parts[page][part]())


CLAIMS = {
    "claims.md": (
        "claims on FLOPs",
        "claims on latency",
        "claims on models",
        "clocks",
        "figures of the README",
        "table of latencies",
    ),
    "../README.md": ("latencies",),
}


# All methods in one table: scripts/methods_compared.py


def compared_sections() -> str:
    """Return the generated part of docs/methods-compared.md."""
    return str(runpy.run_path(str(ROOT / "scripts" / "methods_compared.py"))["sections"]())


# What is written where


def lines_of(make: Callable[..., list[str]], *arguments: str) -> Callable[[], str]:
    """Return a function that makes lines and joins them."""
    return lambda: "\n".join(make(*arguments))


def report_schema_text() -> str:
    """Return the JSON Schema of the data of a report."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **json_schema()}
    return json.dumps(schema, indent=1) + "\n"


# What several ranks come to: docs/parallel.md

WAN = {"12 heads (Wan 1.3B)": 12, "40 heads (Wan 14B)": 40}
RANKS_ROWS = "*/ranks/*.jsonl.gz"
"""Committed runs over several GPUs, below results/."""


def ranks_counts() -> str:
    """Return a table of what follows from counting, at 720p."""
    rows = []
    for name, heads in WAN.items():
        for ranks in (2, 4, 8):
            for way in WAYS if heads % ranks else WAYS[:2]:
                call = count_call(way, ranks, heads=heads, kv_heads=heads, tokens=75600, head_dim=128, itemsize=2)
                share, sent = f"{call.share:.4f}".rstrip("0"), call.sent / 2**20
                rows.append((name, str(ranks), way, share, f"{1 / call.share:.2f}×", f"{sent:.0f}"))
    header = ("heads", "GPUs", "`parallel`", "share of the pairs", "at most", "sends, MiB")
    return "\n".join(WordTable(header, tuple(rows), frozenset({1, 3, 4, 5})).markdown())


def ranks_measured(ranks: int = 8) -> str:
    """Return what committed runs over GPUs took, and what the model makes of them; a sentence where there are none."""
    found = [read(path) for path in sorted((ROOT / "results").glob(RANKS_ROWS))]
    rows = [row for each in found for row in each.rows if row.gpus is not None and row.latency_ms is not None]
    if not rows:
        return "No run over several GPUs is committed yet, so there are no times here."
    page = runpy.run_path(str(ROOT / "scripts" / "ranks_page.py"))
    steps = page["steps"]([record for each in found for record in each.steps])
    return "\n\n".join(filter(None, (page["calls"](rows, ranks), steps)))


def committed(folder: Path) -> Results:
    """Return the runs that are committed in a folder; nothing where there is only their suite."""
    return read(folder) if any(folder.glob("*.jsonl.gz")) else Results()


def break_even_measured() -> str:
    """Return from how many tokens on methods beat dense attention; a sentence where no run is committed."""
    page = runpy.run_path(str(ROOT / "scripts" / "break_even_page.py"))
    return str(page["table"](committed(ROOT / "results" / "h200-sweeps")))


def steps_measured() -> str:
    """Return what steps took with and without CUDA graphs; a sentence where no run is committed."""
    page = runpy.run_path(str(ROOT / "scripts" / "steps_page.py"))
    return str(page["table"](committed(ROOT / "results" / "h200" / "steps").steps))


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "results.md": {"records": record_tables},
    "analysis.md": {part: partial(analysis_part, part) for part in ANALYSIS_PARTS},
    "flops.md": {"model_markdown": model_markdown, "paper_markdown": paper_markdown},
    "why-sparse-is-slow.md": {
        "losses": lines_of(loss_table),
        "layers": lines_of(layer_table, "576p"),
        **{name: lines_of(step_table, name) for name in STEPS},
    },
    "inputs.md": {"inputs": inputs_block},
    "methods-compared.md": {"sections": compared_sections},
    "torch-compile.md": {"steps": steps_measured},
    "sweep.md": {"break-even": break_even_measured},
    "parallel.md": {"counts": ranks_counts, "measured": ranks_measured},
    **{page: {part: partial(claims_part, page, part) for part in parts} for page, parts in CLAIMS.items()},
}
"""The generated parts of each page by name."""

WHOLE: dict[str, Callable[[], str]] = {
    "results-schema.json": schema_text,
    "report-schema.json": report_schema_text,
    **{f"why-sparse-is-slow-{engine}.svg": partial(picture, engine) for engine in ENGINES},
}
"""Files that are generated as a whole."""


def with_part(text: str, name: str, part: str) -> str:
    """Return a page with what stands between the marks of that name written anew.

    Raises:
        ValueError: if the page lacks the marks.
    """
    mark = BEGIN.format(name)
    before, begin, rest = text.partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs a line {mark!r} and a line {END!r}")
    return f"{before}{mark}\n\n{part.rstrip()}\n\n{END}{after}"


def written(name: str) -> str:
    """Return a file of docs/ as it should be."""
    if name in WHOLE:
        return WHOLE[name]()
    text = (DOCS / name).read_text(encoding="utf-8")
    for part, make in PAGES[name].items():
        text = with_part(text, part, make())
    return text


def main() -> int:
    files = [*WHOLE, *PAGES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(files)}; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file is out of date")
    options = parser.parse_args()
    if unknown := [name for name in options.files if name not in files]:
        parser.error(f"{unknown[0]!r} is no file with generated parts: those are {', '.join(files)}")
    stale = []
    for name in options.files or files:
        text = written(name)
        if text != (DOCS / name).read_text(encoding="utf-8"):
            stale.append(name)
            if not options.check:
                (DOCS / name).write_text(text, encoding="utf-8")
    for name in stale:
        print(f"docs/{name} {'is out of date' if options.check else 'written'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
