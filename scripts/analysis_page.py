"""The generated parts of docs/analysis.md, from the committed run beside it. ``write_docs.py`` writes them."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnbench.analysis.call import KINDS
from attnbench.analysis.cuts import RULES
from attnbench.analysis.perturb import CORRELATION
from attnbench.analysis.swaps import MAPS
from attnbench.report.data.attention_maps import CLASSES
from attnbench.report.premise_words import premise_words, tested_words
from attnbench.results.load import Results, read
from attnbench.results.premises import judge
from attnbench.results.records.analysis import AnalysisRow

DOCS = Path(__file__).resolve().parents[1] / "docs"
RUN = DOCS / "analysis-run.jsonl.gz"
KEPT = DOCS / "analysis-methods.jsonl.gz"
"""A run that looks at what all methods keep."""
LAYER_MEASURES = {
    "entropy / ln N": "entropy_normalised",
    "own frame": "same_frame_mass",
    "pairs for 90 %": "pairs_needed_90_3d",
    "like the step before": "block_mass_correlation",
}
KEPT_MEASURES = {
    "recall": "mass_recall", "worst tenth": "mass_recall_worst_tenth", "worst 1 %": "mass_recall_worst",
    "error": "approximation_error",
}  # fmt: skip
"""Columns of what methods keep, and their measures."""
EFFECTS = {"PSNR, dB": "psnr", "class": "mini_class_accuracy", "motion": "mini_motion_accuracy"}
"""Columns of what replaced attention does, and the metric of each."""


def command(results: Results) -> str:
    """Return the command of a run as it was typed, without its folder."""
    (run,) = results.headers
    words = list(run.environment.command)
    if words[0].endswith(".py"):
        return shlex.join(["python", f"scripts/{words[0]}", "OUT", *words[2:]])
    at = words.index("--out") if "--out" in words else len(words)
    return shlex.join([*words[:at], *words[at + 2 :]])


def about(path: Path = RUN) -> str:
    """Return on what the run was made, for what, and by which command."""
    results = read(path)
    (run,) = results.headers
    heads = [row for row in results.analysis if row.measure == "entropy"]
    prompts = max(row.prompts for row in heads)
    counts = {"prompt": prompts, "layer": len({row.layer for row in heads}), "step": len({row.step for row in heads})}
    looked, tokens = heads[0].queries, heads[0].tokens
    queries = f"all {tokens:,} queries" if looked == tokens else f"{looked:,} of {tokens:,} queries"
    words = ", ".join([f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items()])
    few = " One prompt says little." if prompts == 1 else ""
    return "\n".join(
        [
            f"The run: {run.environment.device}, {words}, {queries} of each head.{few}",
            "",
            "```",
            command(results),
            "```",
        ]
    )


def verdicts(path: Path = RUN) -> str:
    """Return the verdicts on premises from the run, by the bounds of today, and what each of them says."""
    found = read(path)
    judged = judge(found.analysis, found.analysis[0].run_id)
    claims = [f"- `{row.premise}` ({row.sources}): {row.claim}" for row in judged]
    return "\n".join([" ".join(tested_words(judged)), "", *premise_words(judged).markdown(), "", *claims])


def layers(path: Path = RUN) -> str:
    """Return the classes of heads and some measures of each layer, means over its heads and steps."""
    rows = [row for row in read(path).analysis if row.value is not None and row.layer is not None]
    lines = _head("layer", *CLASSES, *LAYER_MEASURES)
    for layer in sorted({row.layer or 0 for row in rows}):
        own = [row for row in rows if row.layer == layer]
        words = [row.label for row in own if row.measure == "class_margin"]
        shares = (f"{words.count(word) / len(words):.0%}" for word in CLASSES)
        means = (_mean(row.value or 0 for row in own if row.measure == name) for name in LAYER_MEASURES.values())
        lines.append(f"| {layer} | {' | '.join([*shares, *means])} |")
    return "\n".join(lines)


def partitions(path: Path = RUN) -> str:
    """Return which partition of VMoBA is the best for each layer, and what the one that it takes holds less."""
    rows = [row for row in read(path).analysis if row.measure == "partition_regret" and row.head is None and row.label]
    densities = sorted({row.budget for row in rows if row.budget is not None})
    lines = _head("layer", "takes", "best, of steps", *(f"holds less, at {density:g}" for density in densities))
    for layer in sorted({row.layer or 0 for row in rows}):
        own = [row for row in rows if row.layer == layer]
        best = Counter(row.label for row in own)
        words = ", ".join(f"{name} in {count} of {len(own)}" for name, count in best.most_common())
        less = [_mean(row.value or 0 for row in own if row.budget == density) for density in densities]
        lines.append(f"| {layer} | {KINDS[layer % 3]} | {words} | {' | '.join(less)} |")
    return "\n".join(lines)


def kept(path: Path = KEPT) -> str:
    """Return what methods keep of the weight, those that keep most first: means over heads, layers and steps."""
    results = read(path)
    rows = [
        row
        for row in results.analysis
        if row.method and row.value is not None and row.measure in KEPT_MEASURES.values()
    ]
    found = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        means = [
            statistics.fmean(row.value or 0 for row in own if row.measure == name) for name in KEPT_MEASURES.values()
        ]
        found.append((method, statistics.fmean(row.density or 0 for row in own), means))
    lines = [about(path), "", *_head("method", "density", *KEPT_MEASURES)]
    for method, density, means in sorted(found, key=lambda each: each[2][0], reverse=True):
        lines.append(f"| `{method}` | {' | '.join(f'{value:.3f}' for value in (density, *means))} |")
    return "\n".join(lines)


def rules(path: Path = KEPT) -> str:
    """Return what cuts by different rules keep of the weight at one density, means over heads, layers and steps."""
    rows = [row for row in read(path).analysis if row.measure.startswith("cut_recall_") and row.value is not None]
    (density,) = {row.budget for row in rows}
    lines = _head("rule", f"weight that queries keep, at {density:g}")
    means = {
        name: statistics.fmean(row.value or 0 for row in rows if row.measure == f"cut_recall_{name}_3d")
        for name in RULES
    }
    lines += [f"| `{name}` | {means[name]:.3f} |" for name in sorted(means, key=means.__getitem__, reverse=True)]
    return "\n".join(lines)


def replaced(path: Path = RUN) -> str:
    """Return what replaced attention did to the clips, and how that goes with entropy; a sentence where none was."""
    rows = read(path).analysis
    if not any(row.measure.startswith("perturbed_") for row in rows):
        return "This run replaced no attention."
    header = (f"{name}: {column}" for name in MAPS for column in EFFECTS)
    lines = _head("replaced in", "entropy / ln N", *header)
    clip = [_value(rows, f"clip_{metric}", "", None) for metric in EFFECTS.values()]
    lines.append(f"| nothing | | {' | '.join(clip * len(MAPS))} |")
    places = sorted({row.layer for row in rows if row.layer is not None and row.measure.startswith("perturbed_")})
    for layer in (*places, None):
        effects = [
            _value(rows, f"perturbed_{metric}", name, layer) for name in MAPS for metric in EFFECTS.values()
        ]  # fmt: skip
        own = [r.value or 0 for r in rows if r.measure == "entropy_normalised" and layer in (None, r.layer)]
        where = "all layers" if layer is None else f"layer {layer}"
        lines.append(f"| {where} | {_mean(own)} | {' | '.join(effects)} |")
    lines += [
        "",
        "Rank correlation of that PSNR with the entropy of the maps that were replaced, and its 95 % interval:",
        "",
    ]
    lines += _head("replaced in", *MAPS)
    steps = sorted({row.step for row in rows if row.measure == CORRELATION and row.step is not None})
    cases = [(CORRELATION, None, "each layer, entropy over all steps")]
    cases += [(CORRELATION, step, f"each layer, entropy in step {step}") for step in steps]
    cases += [(f"{CORRELATION}_cells", None, "each layer in each step alone")]
    for measure, step, words in cases:
        found = [_interval(rows, measure, name, step) for name in MAPS]
        if any(found):
            lines.append(f"| {words} | {' | '.join(found)} |")
    return "\n".join(lines)


def _mean(values: Iterable[float]) -> str:
    some = list(values)
    return f"{statistics.fmean(some):.3f}" if some else "–"


def _head(first: str, *others: str) -> list[str]:
    return [f"| {' | '.join([first, *others])} |", f"|{'---|'}{'---:|' * len(others)}"]


def _value(rows: Sequence[AnalysisRow], measure: str, method: str, layer: int | None) -> str:
    found = [
        row.value for row in rows
        if (row.measure, row.method, row.layer, row.step) == (measure, method, layer, None) and row.value is not None
    ]  # fmt: skip
    if not found:
        return ""
    return f"{found[0]:.1f}" if measure.endswith("psnr") else f"{found[0]:.0%}"


def _interval(rows: Sequence[AnalysisRow], measure: str, method: str, step: int | None) -> str:
    for row in rows:
        if (row.measure, row.method, row.step) == (measure, method, step) and row.value is not None:
            ends = "" if row.lo is None or row.hi is None else f" [{row.lo:.2f}, {row.hi:.2f}]"
            return f"{row.value:.2f}{ends}".replace("-", "−")
    return ""


PARTS = {
    "run": about, "premises": verdicts, "layers": layers, "partitions": partitions, "kept": kept, "rules": rules,
    "replaced": replaced,
}  # fmt: skip
"""The generated parts by name."""
