"""The tables of docs/claims.md, and the table of GPU latencies in README.md, computed from committed results.

scripts/write_docs.py writes them.
"""

from __future__ import annotations

import json
import runpy
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from attnbench.mini.stored import read_card
from attnbench.report.cases import cases_of
from attnbench.report.judge import judge
from attnbench.report.terminal.flops import paper_rows
from attnbench.report.training_tables import by_method, difference, limits, losses, rights
from attnbench.report.word_table import WordTable
from attnbench.report.words import latency, layer_words, number, times, tiny
from attnbench.report.words import with_interval as within
from attnbench.results.gaps import Gap, gaps
from attnbench.results.intervals import HitShare, Interval, median_interval
from attnbench.results.layers import Mean, means_of
from attnbench.results.load import Results, load_steps, read
from attnbench.results.means import Estimate, mean_estimate, paired_difference
from attnbench.results.premises import judge as judge_premises
from attnbench.results.records.clips import ClipRow
from attnbench.results.records.steps import StepRecord
from attnbench.results.speedups import Ratio
from attnbench.results.training import load_training

RESULTS = Path(__file__).resolve().parents[1] / "results"
H100 = RESULTS / "h100"
H200 = RESULTS / "h200"
PUBLISHED = H100 / "published"

NONE = "–"
REPRODUCED, NOT, UNTESTED = "reproduced", "**not reproduced**", "cannot be tested here"
TOKENS = {"480p": 32760, "576p": 55296, "720p": 75600}
FRAMES = {"480p": "81 frames of 480p", "576p": "93 frames of 576p", "720p": "81 frames of 720p"}
INPUTS = ("video", "gaussian")
DIRECTIONS = {"fwd": "forward", "fwdbwd": "forward and backward"}
RECOMMENDED = {"scope": "query", "select": "topk"}
SCOPES = (("fifth", "vmoba-query"), ("vmoba-topk", "vmoba-query-topk"))
"""Runs of clips with VMoBA, by how it decides: the queries of a head together, and each query by itself."""
JUDGED = ("class", "motion")

TABLES, PROFILES = "h100/tables.toml", "h100/profiles/profiles.toml"
NEWER_TABLES = "h200/tables.toml"
NEWER_METHODS = "h200/methods/methods.toml"
CLIPS, NATIVE = "h100/clips/clips.toml", "h100/native/native.toml"
RAW = "h100/published/"
PAIR, PAIR_SUITE = "intel-xeon-2-cores/clips", "intel-xeon-2-cores/clips.toml"
DEMO, DEMO_SUITE = "intel-xeon-2-cores/720p.jsonl", "intel-xeon-2-cores/720p.toml"
COMMAND = "`attnbench flops --paper vmoba`"
ANALYSIS = "../docs/analysis-run.jsonl.gz"


@dataclass(frozen=True)
class Claim:
    """A claim or a figure, what committed results say about it, and where they are.

    Attributes:
        claim: what is claimed, and where.
        ours: our figure with its interval, in words.
        verdict: one of the three verdicts.
        suite: the suite, or command, that measures the figure again.
        journal: the committed file that the figure is computed from, below results/.
    """

    claim: str
    ours: str
    verdict: str
    suite: str
    journal: str


def verdict(holds: bool) -> str:
    """Return the verdict on a claim that was tested."""
    return REPRODUCED if holds else NOT


# Latencies


@cache
def results(name: str, device: Path = H100) -> Results:
    """Return the committed results of a name below the folder of a device."""
    return read(device / name)


@dataclass(frozen=True)
class Latency:
    """The mean over the layers of a method, formed round by round.

    Attributes:
        dense: median of the dense baseline in the same rounds with its interval, ms.
        ms: median of the rounds' means with its interval, ms.
        speedup: the ratio of the two medians, with its interval.
        density: mean over the layers.
        settings: as in the rows.
    """

    dense: Interval
    ms: Interval
    speedup: Ratio
    density: float
    settings: dict[str, Any]


def means(table: str, method: str = "vmoba", device: Path = H100) -> list[Latency]:
    """Return the mean over layers of each setting of a method in a table."""
    found = results(f"{table}.jsonl.gz", device)
    return [_latency(mean) for mean in means_of(found.rows, found.samples) if mean.first.method == method]


def _latency(mean: Mean) -> Latency:
    own, dense = zip(*((own, dense) for own, dense in mean.rounds.values() if dense is not None), strict=True)
    speedup, settings = mean.speedup, json.loads(mean.first.settings)
    assert speedup is not None
    return Latency(median_interval(dense), median_interval(own), speedup, mean.mean_of("density") or 0, settings)


def only(table: str, method: str = "vmoba") -> Latency:
    """Return the mean over layers of a method that a table has with one setting."""
    (mean,) = means(table, method)
    return mean


@cache
def published(tokens: int) -> dict[str, tuple[float, float, float]]:
    """Return by direction: the published code's mean over layers, flash-attn-4 and FlashAttention-2 beside it, ms."""
    code = json.loads((PUBLISHED / "vmoba.json").read_text("utf-8"))
    layers = [row for row in code if row["n"] == tokens and row["peer"] == "vmoba head_global"]
    rows = json.loads((PUBLISHED / "dense.json").read_text("utf-8"))["rows"]
    dense = {(row["peer"], row["dir"]): row["ms"] for row in rows if row["n"] == tokens and "dir" in row}
    found = {}
    for direction in DIRECTIONS:
        mine = statistics.fmean(row[direction] for row in layers)
        passes = ("fwd",) if direction == "fwd" else ("fwd", "bwd")
        fa4, fa2 = (sum(dense[peer, each] for each in passes) for peer in ("FA4 dense", "sdpa flash"))
        found[direction] = mine, fa4, fa2
    return found


def published_speedup(tokens: int, direction: str) -> float:
    """Return how many times as fast the published code is as flash-attn-4 in the same session."""
    mine, fa4, _ = published(tokens)[direction]
    return fa4 / mine


def ratio(interval: Ratio) -> str:
    """Write a ratio with its interval."""
    return f"{interval.value:.2f}× [{interval.lo:.2f}, {interval.hi:.2f}]"


def short(densities: Sequence[float]) -> str:
    """Write the mean of densities with two decimals, as .18."""
    return f"{statistics.fmean(densities):.2f}".removeprefix("0")


def milliseconds(ms: float) -> str:
    """Write a latency with three digits."""
    return f"{number(ms)} ms"


def milliseconds_within(interval: Interval) -> str:
    """Write a latency with its interval."""
    value, ends_of_it = within(interval.median, interval.lo, interval.hi)
    return f"{value} ms {ends_of_it}"


def cells(*, inputs: str, device: Path = H100) -> list[tuple[str, str]]:
    """Return resolutions and directions of a device's tables with these inputs."""
    return [
        (res, direction)
        for res in TOKENS
        for direction in DIRECTIONS
        if (device / name(res, inputs, direction)).exists()
    ]


def name(res: str, inputs: str, direction: str) -> str:
    """Return the file name of a committed table."""
    return f"{res}-{inputs}-{direction}.jsonl.gz"


@dataclass(frozen=True)
class TableRow:
    """A row of the README's table of latencies, and where its figures come from.

    Attributes:
        inputs, case: what was measured.
        ours: VMoBA on our kernels.
        structure: VMoBA in the published structure, on flash-attn-4; None where it was not measured.
        code: the published code, ms, and its speed-up over flash-attn-4 in its session; None where it was not measured.
        suites, journals: of these figures, below results/.
    """

    inputs: str
    case: str
    ours: Latency
    structure: Latency | None
    code: tuple[float, float] | None
    suites: tuple[str, ...]
    journals: tuple[str, ...]


def table_rows() -> Iterator[TableRow]:
    """Yield VMoBA, the published structure and the published code on the same inputs, and last VMoBA on an H200."""
    for inputs in INPUTS:
        for res, direction in cells(inputs=inputs):
            table = f"{res}-{inputs}-{direction}"
            suites, journals = [TABLES], [f"h100/{table}"]
            structure = code = None
            if (inputs, direction) == ("video", "fwd"):
                structure = only(f"profiles/{res}-fwd-two-call")
                suites.append(PROFILES)
                journals.append(f"h100/profiles/{res}-fwd-two-call")
            if inputs == "gaussian":
                code = published(TOKENS[res])[direction][0], published_speedup(TOKENS[res], direction)
                journals.append(RAW)
            case = f"{FRAMES[res]}, {DIRECTIONS[direction]}"
            for mean in means(table):
                yield TableRow(inputs, case, mean, structure, code, tuple(suites), tuple(journals))
    yield from _newer()


def recommended(table: str) -> Latency:
    """Return VMoBA with the settings for weights that were not trained with it, in a table of the H200."""
    (found,) = (mean for mean in means(table, device=H200) if is_recommended(mean))
    return found


def is_recommended(mean: Latency) -> bool:
    """Whether VMoBA has the settings for weights that were not trained with it."""
    return all(mean.settings[setting] == value for setting, value in RECOMMENDED.items())


def _newer() -> Iterator[TableRow]:
    """Yield VMoBA in the tables of the H200, with each of its settings."""
    for inputs, res, direction, table, suite in _newer_tables():
        for mean in means(table, device=H200):
            how = "`scope=query, select=topk`, " if is_recommended(mean) else ""
            case = f"{FRAMES[res]}, {DIRECTIONS[direction]}, {how}on an H200"
            yield TableRow(inputs, case, mean, None, None, (suite,), (f"h200/{table}",))


def _newer_tables() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield inputs, resolution, direction, name and suite of each table of the H200 that has VMoBA at its defaults."""
    for inputs in INPUTS:
        for res, direction in cells(inputs=inputs, device=H200):
            yield inputs, res, direction, f"{res}-{inputs}-{direction}", NEWER_TABLES
        if inputs == "video":
            for res in FRAMES:
                if (H200 / "methods" / f"{res}-video-fwdbwd.jsonl.gz").exists():
                    yield inputs, res, "fwdbwd", f"methods/{res}-video-fwdbwd", NEWER_METHODS


def latency_table() -> str:
    """Return the README's table of latencies."""
    header = ("inputs", "case", "full attention", "VMoBA, our kernels", "`two-call`", "published code")
    rows = []
    for row in table_rows():
        structure, code = row.structure, row.code
        rows.append((
            row.inputs,
            row.case,
            milliseconds(row.ours.dense.median),
            f"{milliseconds(row.ours.ms.median)}, {ratio(row.ours.speedup)}",
            NONE if structure is None else f"{milliseconds(structure.ms.median)}, {ratio(structure.speedup)}",
            NONE if code is None else f"{milliseconds(code[0])}, {code[1]:.2f}×",
        ))  # fmt: skip
    return "\n".join(WordTable(header, tuple(rows)).markdown())


def table_claims() -> list[Claim]:
    """Return a claim for each row of the README's table of latencies, with the intervals of all its figures."""
    found = []
    for row in table_rows():
        parts = [
            f"full attention {milliseconds_within(row.ours.dense)}",
            f"our kernels {milliseconds_within(row.ours.ms)}, {ratio(row.ours.speedup)}, "
            f"density {row.ours.density:.3f}",
        ]
        if row.structure is not None:
            parts.append(f"`two-call` {milliseconds_within(row.structure.ms)}, {ratio(row.structure.speedup)}")
        if row.code is not None:
            parts.append(f"published code {milliseconds(row.code[0])}, {row.code[1]:.2f}×, without intervals")
        claim = f"{row.inputs}, {row.case}"
        found.append(Claim(claim, "; ".join(parts), REPRODUCED, ", ".join(row.suites), ", ".join(row.journals)))
    return found


def clock_ratio(inputs: str, res: str, direction: str) -> float:
    """Return the SM clock of VMoBA over that of full attention in a table, means over their cells."""
    rows = results(name(res, inputs, direction)).rows
    mine, dense = (
        statistics.fmean(row.sm_clock_mhz or 0 for row in rows if row.method == method) for method in ("vmoba", "full")
    )
    return mine / dense


def clock_table() -> str:
    """Return a table of the SM clocks of full attention and VMoBA, and of which of them met the power cap."""
    header = ("inputs", "case", "full attention, MHz", "VMoBA, MHz", "met the power cap")
    rows = []
    tables = [
        (inputs, f"{FRAMES[res]}, {DIRECTIONS[direction]}", results(name(res, inputs, direction)))
        for inputs in INPUTS
        for res, direction in cells(inputs=inputs)
    ]
    tables += [
        (inputs, f"{FRAMES[res]}, {DIRECTIONS[direction]}, on an H200", results(f"{table}.jsonl.gz", H200))
        for inputs, res, direction, table, _ in _newer_tables()
    ]
    for inputs, case, found in tables:
        words, capped = [], []
        for method in ("full", "vmoba"):
            own = [row for row in found.rows if row.method == method]
            clocks = [f"{clock:,.0f}" for clock in sorted({row.sm_clock_mhz or 0 for row in own})]
            words.append(clocks[0] if len(clocks) == 1 else f"{clocks[0]} to {clocks[-1]}")
            capped += [method] * any(row.power_capped for row in own)
        rows.append((inputs, case, *words, " and ".join(capped) or NONE))
    return "\n".join(WordTable(header, tuple(rows)).markdown())


# Clips and training


def gap(run: str, method: str, metric: str) -> Gap:
    """Return the gap of a method and metric in a committed run of clips."""
    (found,) = [
        each
        for each in gaps(results(f"clips/{run}").quality)
        if (each.method, each.metric) == (method, metric)
    ]  # fmt: skip
    return found


def psnr_of(run: str) -> dict[tuple[str, int], float]:
    """Return the PSNR of VMoBA's clips in a committed run against full attention's, by prompt and seed."""
    return {
        (row.prompt, row.seed): row.value
        for row in results(f"clips/{run}").quality
        if (row.method, row.role, row.metric) == ("vmoba", "method", "psnr") and row.value is not None
    }


def clips_of(run: str) -> dict[str, list[ClipRow]]:
    """Return the clips of a committed run that methods made, by method."""
    found: dict[str, list[ClipRow]] = {}
    for _, clip in results(f"clips/{run}").clips:
        if clip.role == "method" and clip.status == "ok":
            found.setdefault(clip.method, []).append(clip)
    return found


def density_of(clips: Sequence[ClipRow]) -> float:
    """Return the mean density of clips over their layers."""
    return statistics.fmean(each for clip in clips for each in clip.densities if each is not None)


def ends(estimate: Estimate) -> tuple[float, float]:
    """Return the ends of an interval.

    Raises:
        ValueError: if there is none.
    """
    if estimate.lo is None or estimate.hi is None:
        raise ValueError(f"no interval: {estimate.reason}")
    return estimate.lo, estimate.hi


def holds_zero(estimate: Estimate) -> bool:
    """Return whether 0 lies in the interval."""
    lo, hi = ends(estimate)
    return lo <= 0 <= hi


def with_interval(estimate: Estimate, digits: int, *, signed: bool = True) -> str:
    """Write an estimate with its interval."""
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    mean, lo, hi = (form.format(value).replace("-", "−") for value in (estimate.mean, *ends(estimate)))
    return f"{mean} [{lo}, {hi}]"


def floor_words(floor: Estimate) -> str:
    """Write a noise floor, with its interval if it has one."""
    return f"{floor.mean:.2f}" if floor.lo is None else with_interval(floor, 2, signed=False)


@cache
def loss_gap(
    method: str, methods: tuple[str, ...], *, baseline: str = "full", seed: int | None = None,
    after: str = "steps", seconds: float | None = None,
) -> Estimate:  # fmt: skip
    """Return how much higher the held-out loss of a method is, after the equal steps or seconds of some methods."""
    grouped = by_method(load_training(H100 / "native", methods, None if seed is None else [seed]), baseline)
    steps, most = limits(grouped, seconds)
    mine, theirs = (
        losses(
            grouped[name],
            lambda run: run.after_steps(steps) if after == "steps" else run.after_seconds(most)[1],
        )
        for name in (method, baseline)
    )
    found = difference(mine, theirs)
    assert found is not None
    return found


@cache
def right_gap(method: str, what: str) -> Estimate:
    """Return the share of clips that show the class, or the motion, that was asked for, minus full attention's."""
    grouped = by_method(load_training(H100 / "native", ("full", method)))
    found = difference(rights(grouped[method], what), rights(grouped["full"], what))
    assert found is not None
    return found


FIVE = ("full", "moba", "vmoba", "sliding-window", "sta")
FOUR = ("full", "moba", "vmoba", "sta")
VARIANTS = ("vmoba", "vmoba-1d", "vmoba-2d", "vmoba-3d", "vmoba-local", "vmoba-topk")


def variant(name: str) -> Estimate:
    """Return how much higher the loss of a variant of VMoBA is after equal steps, with one seed."""
    return loss_gap(name, VARIANTS, baseline="vmoba", seed=0)


# Steps


def step(direction: str, method: str = "vmoba") -> StepRecord:
    """Return the record of a whole step of Wan 2.1 1.3B at 480p."""
    records = load_steps(H100 / "profiles" / f"480p-step-{direction}.jsonl.gz")
    return next(record for record in records if record.name.startswith(method))


def step_words(record: StepRecord) -> str:
    """Write the speed-up of a step with its interval."""
    return f"{record.step_speedup:.2f}× [{record.step_speedup_lo:.2f}, {record.step_speedup_hi:.2f}]"


def attention_words(res: str, direction: str) -> str:
    """Write the speed-up of attention alone: our kernels, the published structure, and the published code."""
    tokens = TOKENS[res]
    words = f"our kernels {ratio(only(f'{res}-gaussian-{direction}').speedup)}"
    if direction == "fwd":
        words += f"; `two-call` {ratio(only(f'profiles/{res}-fwd-two-call').speedup)} (video)"
    return f"{words}; published code {published_speedup(tokens, direction):.2f}×"


def flops_claims() -> list[Claim]:
    """Return the claims on FLOPs, which the paper's own closed form decides."""
    rows = paper_rows("vmoba")
    full = {row.printed.size: row.tflop for row in rows if row.printed.method == "FullAttn"}
    found = []
    for row in rows:
        if row.printed.method == "VMoBA" and row.printed.factor is not None:
            others = "".join(f"; {each.words}: {full[row.printed.size] / each.tflop:.2f}×" for each in row.others)
            found.append(
                Claim(
                    f"{row.printed.factor:.2f}× fewer FLOPs, {row.printed.size}, table {row.printed.table}",
                    f"{row.factor:.2f}× at the printed density {row.printed.density:.2f}{others}",
                    verdict(row.factor_verdict == "agrees"),
                    COMMAND,
                    NONE,
                )
            )
    agree = [row for row in rows if row.verdict == "agrees"]
    found.append(
        Claim(
            f"the {len(rows)} printed FLOPs of tables 1, 2 and 5",
            f"{len(agree)} agree with the paper's closed form within 0.05 %; [FLOPs](flops.md) lists all",
            verdict(len(agree) == len(rows)),
            COMMAND,
            NONE,
        )
    )
    factors = {
        row.printed.size: row.printed.factor for row in rows if row.printed.method == "VMoBA" and row.printed.table == 2
    }
    found.append(
        Claim(
            "“2.92× FLOPs and 1.48× latency” as one result, abstract",
            f"table 2 prints 1.48× for 93×576×1024, whose FLOPs shrink by {factors['93×576×1024']:.2f}×, and "
            f"{factors['141×480×832']:.2f}× for 141×480×832, whose time shrinks by 1.44×",
            NOT,
            COMMAND,
            NONE,
        )
    )
    return found


def latency_claims() -> list[Claim]:
    """Return the claims on latency and on the 33K tokens."""
    train = step("fwdbwd")
    short, long = TOKENS["480p"], TOKENS["720p"]
    ours = {direction: only(f"480p-gaussian-{direction}").speedup for direction in DIRECTIONS}
    code = {(n, direction): published_speedup(n, direction) for n in (short, long) for direction in DIRECTIONS}
    _, fa4, fa2 = published(TOKENS["576p"])["fwdbwd"]
    untrained = [row.printed for row in paper_rows("vmoba") if (row.printed.table, row.printed.method) == (1, "VMoBA")]
    of_table_4 = [printed.others[0].density for printed in untrained]
    return [
        Claim(
            "generation 1.01× as fast, 81×480×832 without training, table 1",
            "local top-k, number of steps not stated; the printed 103 s over 104 s is 0.99×; with the global "
            "threshold, attention alone, Gaussian inputs: " + attention_words("480p", "fwd"),
            UNTESTED,
            f"{TABLES}, {PROFILES}",
            f"h100/480p-gaussian-fwd, h100/profiles/480p-fwd-two-call, {RAW}",
        ),
        Claim(
            "generation 1.35× as fast, 81×720×1280 without training, table 1",
            "as above: " + attention_words("720p", "fwd"),
            UNTESTED,
            f"{TABLES}, {PROFILES}",
            f"h100/720p-gaussian-fwd, h100/profiles/720p-fwd-two-call, {RAW}",
        ),
        Claim(
            "MoBA's generation 0.83× as fast, 81×480×832, and 1.13×, 81×720×1280, without training, table 1",
            "as above, video inputs, forward: "
            + "; ".join(
                f"{res} our kernels {ratio(only(f'profiles/{res}-fwd', 'moba').speedup)}, `two-call` "
                f"{ratio(only(f'profiles/{res}-fwd-two-call', 'moba').speedup)}"
                for res in ("480p", "720p")
            ),
            UNTESTED,
            PROFILES,
            ", ".join(f"h100/profiles/{res}-fwd{engine}" for res in ("480p", "720p") for engine in ("", "-two-call")),
        ),
        Claim(
            "training 1.48× as fast, 93×576×1024, table 2",
            "no committed step at this size; attention alone, forward and backward, Gaussian inputs: "
            f"{attention_words('576p', 'fwdbwd')} of flash-attn-4, which takes {fa4:.0f} ms where FlashAttention-2, "
            f"as in the paper, takes {fa2:.0f} ms",
            UNTESTED,
            TABLES,
            f"h100/576p-gaussian-fwdbwd, {RAW}",
        ),
        Claim("training 1.44× as fast, 141×480×832, table 2", "no committed table at this size", UNTESTED, NONE, NONE),
        Claim(
            "training 1.00× as fast, 81×480×832, table 5",
            f"a training step of Wan 2.1 1.3B with random weights and our kernels: {step_words(train)}",
            verdict(train.step_speedup_lo <= 1 <= train.step_speedup_hi),
            PROFILES,
            "h100/profiles/480p-step-fwdbwd",
        ),
        Claim("training 0.86× as fast, 81×320×512, table 5", "no committed table at this size", UNTESTED, NONE, NONE),
        Claim(
            "faster only beyond about 33K tokens, appendix D: the published code",
            "forward, and forward and backward, Gaussian inputs: "
            + "; ".join(f"{n:,} tokens {code[n, 'fwd']:.2f}× and {code[n, 'fwdbwd']:.2f}×" for n in (short, long)),
            verdict(all(code[short, each] < 1 < code[long, each] for each in DIRECTIONS)),
            "none: measured without attnbench",
            RAW,
        ),
        Claim(
            "faster only beyond about 33K tokens, appendix D: the method",
            f"{short:,} tokens with our kernels, Gaussian inputs: forward {ratio(ours['fwd'])}, forward and backward "
            f"{ratio(ours['fwdbwd'])}",
            verdict(not any(each.lo > 1 for each in ours.values())),
            TABLES,
            "h100/480p-gaussian-fwd, h100/480p-gaussian-fwdbwd",
        ),
        Claim(
            "local top-k keeps .31 of the pairs, 81×480×832 and 81×720×1280, table 1",
            "the numbers of blocks in table 4 keep "
            + " and ".join(f"{kept:.3f}" for kept in of_table_4)
            + "; measured, video inputs: "
            + ", ".join(f"{recommended(f'{res}-video-fwd').density:.3f}" for res in ("480p", "720p")),
            verdict(all(round(kept, 2) == 0.31 for kept in of_table_4)),
            NEWER_TABLES,
            "h200/480p-video-fwd, h200/720p-video-fwd",
        ),
        Claim(
            "a threshold of .25 keeps .19 of the pairs, 93×576×1024, table 2",
            "depends on q and k of the trained model; ours: video inputs "
            f"{only('576p-video-fwd').density:.3f}, Gaussian inputs {only('576p-gaussian-fwd').density:.3f}",
            UNTESTED,
            TABLES,
            "h100/576p-video-fwd, h100/576p-gaussian-fwd",
        ),
    ]


OBSERVED = {
    "locality": "attention is local in space and time, section 3",
    "unequal-queries": "queries differ in importance, so that one budget serves all queries of a head, section 3",
    "unequal-heads": "heads differ in how concentrated their attention is, section 3",
    "global-before-fixed": "a global selection holds more weight than as many blocks for each query, section 3",
}
"""What the paper observes in pre-trained models, by the premise that tests it."""

_JUDGEMENTS = {"holds": REPRODUCED, "does not hold": NOT, "undecided": UNTESTED}


def _observation(name: str, said: str) -> Claim:
    found = results(ANALYSIS, RESULTS)
    (row,) = (each for each in judge_premises(found.analysis, found.analysis[0].run_id) if each.premise == name)
    command = runpy.run_path(str(Path(__file__).with_name("analysis_page.py")))["command"](found)
    assert None not in (row.value, row.lo, row.hi)
    ours = f"in the mini model, {row.statistic}: {row.value:.3g} [{row.lo:.3g}, {row.hi:.3g}]"
    bounds = f"holds from {row.holds}, does not from {row.fails}"
    return Claim(said, f"{ours}; {bounds}".replace("-", "−"), _JUDGEMENTS[row.verdict], f"`{command}`", ANALYSIS)


def model_claims() -> list[Claim]:
    """Return the claims on quality, training, ablations and vibration."""
    steps = loss_gap("vmoba", FIVE)
    local, topk = variant("vmoba-local"), variant("vmoba-topk")
    head, query = (gap(run, "vmoba", "effnet_lite0_frame_consistency").gap for run in ("fifth", "vmoba-query"))
    return [
        *(_observation(premise, said) for premise, said in OBSERVED.items()),
        Claim(
            "trained, quality comparable to full attention's or better: five dimensions of VBench, tables 2 and 5",
            "needs Wan's weights, its training data and VBench's weights; the mini model, trained for equal time, "
            f"minus full attention: class right {with_interval(right_gap('vmoba', 'class'), 3)}, motion right "
            f"{with_interval(right_gap('vmoba', 'motion'), 3)}",
            UNTESTED,
            NATIVE,
            "h100/native",
        ),
        Claim(
            "trained, MoBA loses the motion (dynamic degree 5.80, VMoBA 56.91), table 2",
            "as above; the mini model: motion right, minus full attention, with MoBA "
            f"{with_interval(right_gap('moba', 'motion'), 3)}, "
            f"with VMoBA {with_interval(right_gap('vmoba', 'motion'), 3)}",
            UNTESTED,
            NATIVE,
            "h100/native",
        ),
        Claim(
            "without training, PSNR 16.00 dB (480p) and 18.80 dB (720p), table 1",
            "needs Wan's weights; the mini model, `scope=query, select=topk`: "
            f"{with_interval(gap('vmoba-query-topk', 'vmoba', 'psnr').gap, 1, signed=False)} dB",
            UNTESTED,
            CLIPS,
            "h100/clips/vmoba-query-topk",
        ),
        Claim(
            "without training, VBench scores near full attention's (overall consistency 27.62 and 27.85 at 480p), "
            "table 1",
            "needs Wan's and VBench's weights; the mini model, `scope=query, select=topk`, minus full attention: "
            + ", ".join(
                f"{what} right {with_interval(gap('vmoba-query-topk', 'vmoba', f'mini_{what}_accuracy').gap, 3)}"
                for what in JUDGED
            ),
            UNTESTED,
            CLIPS,
            "h100/clips/vmoba-query-topk",
        ),
        Claim(
            "trained from scratch, a loss above full attention's at 11K tokens, appendix C",
            f"the mini model at 8,192 tokens after equal steps, minus full attention: {with_interval(steps, 4)}",
            verdict(ends(steps)[0] > 0),
            NATIVE,
            "h100/native",
        ),
        Claim(
            "trained from scratch, no difference at 46K tokens, appendix C",
            "the mini model has no clips of this length",
            UNTESTED,
            NONE,
            NONE,
        ),
        Claim(
            "three kinds of partitions beat two, table 3a",
            "pairs of kinds were not trained; the mini model with one kind, one seed, loss minus that of all three: "
            + ", ".join(f"{kind.upper()} {with_interval(variant(f'vmoba-{kind}'), 4)}" for kind in ("1d", "2d", "3d")),
            UNTESTED,
            NATIVE,
            "h100/native",
        ),
        Claim(
            "global threshold beats local and top-k selection, table 3b",
            "in the mini model, one seed, loss minus that of the global threshold: local threshold "
            f"{with_interval(local, 4)}, global top-k {with_interval(topk, 4)}",
            verdict(all(ends(each)[0] > 0 for each in (local, topk))),
            NATIVE,
            "h100/native",
        ),
        Claim(
            "density and time at thresholds of .15 to .50, table 3c",
            "committed latencies have a threshold of .25 only",
            UNTESTED,
            NONE,
            NONE,
        ),
        Claim("quality and time by the number of blocks, table 3d", "not measured", UNTESTED, NONE, NONE),
        Claim(
            "without training, the global threshold “will cause vibration effects”, appendix A",
            "the mini model, consistency of frames minus full attention's: global threshold "
            f"{with_interval(head, 3)}, local threshold {with_interval(query, 3)}",
            verdict(ends(head)[1] < ends(query)[0]),
            CLIPS,
            "h100/clips/fifth, h100/clips/vmoba-query",
        ),
    ]


# The README


def demo_claims() -> list[Claim]:
    """Return a claim for each row of the table that the README prints from ``make demo``, and for its verdict."""
    (case,) = cases_of(read(RESULTS / DEMO).rows)
    found = []
    for row in case.rows_and_means:
        density, translation = (number(share) for share in (row.density, row.translation))
        found.append(
            Claim(
                f"{row.method} {layer_words(row)} {row.engine} {row.verdict} {density} {' '.join(latency(row))} "
                f"{times(row.speedup)} {translation} {tiny(row.numerical_error)} {tiny(row.approximation_error)}",
                f"{' '.join(latency(row))} ms",
                REPRODUCED,
                DEMO_SUITE,
                DEMO,
            )
        )
    said = judge(case)
    assert said.leader is not None
    assert said.speedup is not None
    limits = [tiny(end(row.numerical_tolerance or 0 for row in case.rows)) for end in (min, max)]
    return [
        *found,
        Claim(
            said.sentence,
            f"{said.speedup.value:.2f}× [{said.speedup.lo:.2f}, {said.speedup.hi:.2f}]",
            REPRODUCED,
            DEMO_SUITE,
            DEMO,
        ),
        Claim(
            f"rounding explains up to {' to '.join(limits)}",
            f"largest numerical error {tiny(max(row.numerical_error or 0 for row in case.rows))}",
            REPRODUCED,
            DEMO_SUITE,
            DEMO,
        ),
    ]


def readme_claims() -> list[Claim]:
    """Return the README's other figures, each as the README says it, with what the committed results say."""
    return [*_mini_claims(), *_training_claims(), *_gpu_claims()]


def _mini_claims() -> list[Claim]:
    """Return the figures on clips of the mini model, and on the two commands."""
    score = read_card()["score"]
    shares = {what: HitShare(score["clips"] - len(score[f"wrong_{what}"]), score["clips"]) for what in JUDGED}
    psnr = {run: psnr_of(run) for scopes in SCOPES for run in scopes}
    closer = sorted((paired_difference(psnr[query], psnr[head]) for head, query in SCOPES), key=lambda each: each.mean)
    lost = gap("fifth", "sliding-window", "mini_motion_accuracy").gap
    classes = gap("vmoba-query-topk", "vmoba", "mini_class_accuracy").gap
    made = clips_of("fifth")
    alike = [density_of(made[method]) for method in ("vmoba", "sliding-window")]
    demo = [row.density or 0 for row in read(RESULTS / DEMO).rows if row.method == "vmoba"]
    two = read(RESULTS / PAIR)
    (pair,) = [each for each in gaps(two.quality) if each.metric == "psnr"]
    kernel, seed = pair.kernel_floor, pair.seed_floor
    if kernel is None or seed is None:
        raise ValueError(f"{PAIR} lacks a noise floor")
    seen = {what: [row.value for row in two.quality if row.metric == f"mini_{what}_accuracy"] for what in JUDGED}
    took = sum(clip.seconds or 0 for _, clip in two.clips)
    return [
        Claim(
            f"Of {score['clips']} clips made with full attention, {shares['class'].value:.0%}".replace("%", " %"),
            str(shares["class"]).replace("%", " %"),
            REPRODUCED,
            "`scripts/train_mini.py ship`",
            "the card `attnbench/mini/weights/mini.json`",
        ),
        Claim(
            "all of them move in the direction that was asked for",
            str(shares["motion"]).replace("%", " %"),
            verdict(shares["motion"].hits == score["clips"]),
            "`scripts/train_mini.py ship`",
            "the card `attnbench/mini/weights/mini.json`",
        ),
        Claim(
            "`make demo` takes about five minutes on two CPU cores",
            "depends on the machine; once 4 min 47 s, on an AMD EPYC whose dense call took 17 s, at commit 24af7fc",
            UNTESTED,
            "`make demo`",
            NONE,
        ),
        Claim(
            "about three minutes on two CPU cores",
            f"depends on the machine; beside other work, the clips of the committed run took {took / 60:.0f} minutes",
            UNTESTED,
            PAIR_SUITE,
            PAIR,
        ),
        Claim(
            "VMoBA keeps less than a fifth",
            f"density {min(demo):.3f} to {max(demo):.3f}",
            verdict(max(demo) < 0.2),
            DEMO_SUITE,
            DEMO,
        ),
        Claim(
            f"VMoBA reaches a PSNR of {pair.gap.mean:.1f} dB",
            f"{with_interval(pair.gap, 2, signed=False)} dB, extremes of two clips",
            REPRODUCED,
            PAIR_SUITE,
            PAIR,
        ),
        Claim(
            f"another exact kernel reaches {kernel.mean:.1f} dB, and another seed {seed.mean:.1f} dB",
            f"{floor_words(kernel)} dB, {floor_words(seed)} dB",
            REPRODUCED,
            PAIR_SUITE,
            PAIR,
        ),
        Claim(
            "a classifier sees a 3 in VMoBA's clip too, and it moves north-east",
            f"class right in {sum(map(bool, seen['class']))} of {len(seen['class'])} clips, motion in "
            f"{sum(map(bool, seen['motion']))} of {len(seen['motion'])}, full attention's included",
            verdict(all(seen["class"]) and all(seen["motion"])),
            PAIR_SUITE,
            PAIR,
        ),
        Claim(
            "compares sixty clips of each method",
            ", ".join(f"{method} {len(each)}" for method, each in made.items()),
            verdict({len(each) for each in made.values()} == {60}),
            CLIPS,
            "h100/clips/fifth",
        ),
        Claim(
            f"VMoBA is {closer[0].mean:.0f} to {closer[-1].mean:.0f} dB closer to full attention",
            ", ".join(f"{with_interval(each, 1)} dB" for each in closer)
            + "; PSNR "
            + ", ".join(f"{run} {with_interval(mean_estimate(each), 1, signed=False)}" for run, each in psnr.items()),
            verdict(all(ends(each)[0] > 0 for each in closer)),
            CLIPS,
            ", ".join(f"h100/clips/{run}" for run in psnr),
        ),
        Claim(
            "no loss in the classifier's accuracy can be detected",
            f"class right, minus full attention: {with_interval(classes, 3)}",
            verdict(holds_zero(classes)),
            CLIPS,
            "h100/clips/vmoba-query-topk",
        ),
        Claim(
            f"gets the motion wrong in {-lost.mean * 100:.0f} % of the clips",
            f"motion right, minus full attention: {with_interval(lost, 3)}",
            REPRODUCED,
            CLIPS,
            "h100/clips/fifth",
        ),
        Claim(
            "A sliding window that keeps as many pairs",
            f"density {alike[1]:.3f}, VMoBA {alike[0]:.3f}",
            verdict(alike[1] >= alike[0]),
            CLIPS,
            "h100/clips/fifth",
        ),
    ]


def _training_claims() -> list[Claim]:
    """Return the figures on training the mini model."""
    early = loss_gap("vmoba", FOUR, after="seconds", seconds=12)
    late = {name: loss_gap(name, FIVE, after="seconds") for name in FIVE[1:]}
    settled = holds_zero(late["vmoba"]) and all(ends(late[each])[0] > 0 for each in ("sta", "sliding-window"))
    right = right_gap("vmoba", "class")
    made = by_method(load_training(H100 / "native", ("full", "vmoba")))
    shown = {method: statistics.fmean(rights(runs, "class").values()) for method, runs in made.items()}
    seeds = {run.seed for run in load_training(H100 / "native", FIVE)}
    return [
        Claim(
            "with three seeds",
            f"seeds {', '.join(map(str, sorted(seeds)))}",
            verdict(len(seeds) == 3),
            NATIVE,
            "h100/native",
        ),
        Claim(
            "At first, VMoBA's held-out loss is lower than that of full attention",
            f"after 12 s, minus full attention: {with_interval(early, 4)}",
            verdict(ends(early)[1] < 0),
            NATIVE,
            "h100/native",
        ),
        Claim(
            "at the end the two cannot be told apart, while STA and sliding windows end with a higher loss",
            "; ".join(f"{name} {with_interval(late[name], 4)}" for name in ("vmoba", "sta", "sliding-window")),
            verdict(settled),
            NATIVE,
            "h100/native",
        ),
        Claim(
            f"VMoBA's show what was asked for in {shown['vmoba']:.0%} of the cases, full attention's in "
            f"{shown['full']:.0%}".replace("%", " %"),
            f"class right, minus full attention: {with_interval(right, 3)}",
            verdict(ends(right)[1] < 0),
            NATIVE,
            "h100/native",
        ),
    ]


def _gpu_claims() -> list[Claim]:
    """Return the figures around the table of latencies."""
    sta, fwd, train = only("576p-video-fwd", "sta"), step("fwd"), step("fwdbwd")
    full = step("fwd", "full")
    kept = {inputs: [only(f"{res}-{inputs}-fwd").density for res in TOKENS] for inputs in INPUTS}
    slower = [fa2 / fa4 for n in TOKENS.values() for _, fa4, fa2 in published(n).values()]
    translation = [end * sta.density for end in (sta.speedup.value, sta.speedup.lo, sta.speedup.hi)]
    slowed = {(inputs, *case): clock_ratio(inputs, *case) for inputs in INPUTS for case in cells(inputs=inputs)}
    worst = [max((case for case in slowed if case[0] == inputs), key=slowed.__getitem__) for inputs in INPUTS]
    return [
        Claim(
            f"VMoBA keeps {short(kept['video'])} of the pairs of the former "
            f"and {short(kept['gaussian'])} of the latter",
            "; ".join(f"{inputs} {', '.join(f'{each:.3f}' for each in found)}" for inputs, found in kept.items()),
            REPRODUCED,
            TABLES,
            ", ".join(f"h100/{res}-{inputs}-fwd" for inputs in INPUTS for res in TOKENS),
        ),
        Claim(
            "which takes twice as long as flash-attn-4",
            f"{min(slower):.2f} to {max(slower):.2f} times as long",
            verdict(all(round(each) == 2 for each in slower)),
            "none: measured without attnbench",
            RAW,
        ),
        Claim(
            "the power cap slows full attention down more than VMoBA, most of all at 720p, forward and backward",
            "VMoBA's clock over full attention's: "
            + ", ".join(f"{slowed[case]:.2f} ({case[0]})" for case in worst)
            + "; less in every other case",
            verdict(all(case[1:] == ("720p", "fwdbwd") and slowed[case] > 1 for case in worst)),
            TABLES,
            ", ".join(f"h100/720p-{inputs}-fwdbwd" for inputs in INPUTS),
        ),
        Claim(
            f"STA takes {sta.ms.median:.1f} ms: its translation is {translation[0]:.2f}".replace("0.", "."),
            f"{milliseconds_within(sta.ms)}, {ratio(sta.speedup)}, density {sta.density:.4f}, translation "
            f"{translation[0]:.3f} [{translation[1]:.3f}, {translation[2]:.3f}]",
            REPRODUCED,
            TABLES,
            "h100/576p-video-fwd",
        ),
        Claim(
            "Self-attention is half of a denoising step",
            f"{full.share:.3f} [{full.share_lo:.3f}, {full.share_hi:.3f}]",
            verdict(round(full.share, 1) == 0.5),
            PROFILES,
            "h100/profiles/480p-step-fwd",
        ),
        Claim(
            f"whole step is {fwd.step_speedup:.2f} times as fast",
            step_words(fwd),
            REPRODUCED,
            PROFILES,
            "h100/profiles/480p-step-fwd",
        ),
        Claim(
            f"a training step {train.step_speedup:.2f} times",
            step_words(train),
            REPRODUCED,
            PROFILES,
            "h100/profiles/480p-step-fwdbwd",
        ),
    ]


def table(claims: Sequence[Claim], head: str = "claim") -> str:
    """Return claims as a Markdown table."""
    rows = []
    for each in claims:
        suite, journal = (
            words
            if words == NONE or " " in words.replace(", ", "")
            else ", ".join(f"`{word}`" for word in words.split(", "))
            for words in (each.suite, each.journal)
        )
        rows.append((each.claim, each.ours, each.verdict, suite, journal))
    return "\n".join(WordTable((head, "our figure", "verdict", "suite", "journal"), tuple(rows)).markdown())


PARTS = {
    "claims.md": {
        "claims on FLOPs": lambda: table(flops_claims()),
        "claims on latency": lambda: table(latency_claims()),
        "claims on models": lambda: table(model_claims()),
        "clocks": clock_table,
        "figures of the README": lambda: table([*demo_claims(), *readme_claims()], "the README says"),
        "table of latencies": lambda: table(table_claims(), "row of the table"),
    },
    "../README.md": {"latencies": latency_table},
}
"""The generated parts of each page, by its name below docs/."""
