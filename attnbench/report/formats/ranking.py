"""The tables of a report in words: what is ranked, clips and steps, for documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnbench.report.data.page import Chosen, PageData
from attnbench.report.data.table import Record, Value
from attnbench.report.flag_words import FLAG_WORDS
from attnbench.report.formats.flat import alone
from attnbench.report.word_table import WordTable
from attnbench.report.words import NONE, listed, number, runs_words, steady_words, times, tiny, with_interval
from attnbench.results.flags import badges


def ranking(data: PageData, place: int) -> WordTable:
    """Return the methods of a selection, the fastest first: density beside speed-up, errors, verdict and flags."""
    table = data.table("means")
    records = [] if table is None else [each for each in table.records() if each["selection"] == place]
    several = len({each["engine"] for each in records}) > 1
    models = dict.fromkeys(_text(each["psnr_model"]) for each in records if each.get("psnr_model") is not None)
    psnr = any(each.get("psnr") is not None for each in records)
    header = ["method", *(["engine"] if several else []), "density", "speed-up", "ideal", "latency, ms", "error"]
    rows = []
    for each in records:
        cells = [_text(each["label"]), *([_text(each["engine"])] if several else []), number(_number(each["density"]))]
        cells += [
            _speedup(each),
            times(_number(each["ideal"])),
            _latency(each),
        ]
        cells += [tiny(_number(each["approximation_error"])), *([_interval(each, "psnr")] if psnr else [])]
        rows.append((*cells, _trust(each)))
    columns = (*header, *([f"PSNR ({listed(models)}), dB"] if psnr else []), "verdict")
    return WordTable(columns, tuple(rows), frozenset(range(2 if several else 1, len(columns) - 1)))


def badge_words(data: PageData, place: int) -> str:
    """Say what the words beside the verdicts of a selection mean, as far as they spoil a latency; empty without any."""
    table = data.table("means")
    records = [] if table is None else [each for each in table.records() if each["selection"] == place]
    raised = {flag for each in records for flag in _text(each["flags"]).split(",")}
    told = [f"{badges(each.name)}: {each.meaning}" for each in FLAG_WORDS if each.name in raised]
    return f"Beside verdicts: {'; '.join(told)}." if told else ""


def clips(data: PageData) -> WordTable | None:
    """Return what methods did to clips, beside both noise floors; None without clips."""
    records, several = _told(data, "quality", ("device", "model"))
    if not records:
        return None
    rows = tuple(
        (
            *(_text(each[name]) for name in several), _text(each["name"]),
            f"{each['metric']}{', ' + str(each['unit']) if each['unit'] else ''}",
            _interval(each, "gap", ends=("lo", "hi")), _interval(each, "kernel_floor", ends=("kernel_lo", "kernel_hi")),
            number(_number(each["seed_floor"])), _text(each["judgement"]),
        )
        for each in records
    )  # fmt: skip
    header = (*several, "method", "metric", "value", "another kernel", "another seed", "judgement")
    return WordTable(header, rows, frozenset(range(len(several) + 2, len(several) + 5)))


def steps(data: PageData) -> WordTable | None:
    """Return whole transformer steps; None without any."""
    records, several = _told(data, "steps", ("device", "dtype"))
    if not records:
        return None
    rows = tuple(
        (
            *(_text(each[name]) for name in several),
            _step_words(each), _text(each["name"]), number(_number(each["density"])),
            _interval(each, "step_ms", ends=("step_lo_ms", "step_hi_ms")),
            _interval(each, "step_speedup", "×", ends=("step_speedup_lo", "step_speedup_hi")),
        )
        for each in records
    )  # fmt: skip
    header = (*several, "step", "self-attention", "density", "step, ms", "speed-up")
    return WordTable(header, rows, frozenset(range(len(several) + 2, len(several) + 5)))


def _step_words(record: Mapping[str, object]) -> str:
    heads = f", {record['heads']} heads" if record["heads"] is not None else ""
    return f"{record['size']}{heads}, {record['grid']}, {record['direction']}"


def comparison(data: PageData) -> WordTable | None:
    """Return the cells of two runs with their verdicts; None where nothing was compared."""
    table = data.table("comparison")
    if table is None:
        return None
    rows = tuple(
        (
            _text(each["name"]),
            *(_interval(each, f"speedup_{side}", "×", (f"speedup_{side}_lo", f"speedup_{side}_hi")) for side in "ab"),
            _interval(each, "ratio", "×", ("ratio_lo", "ratio_hi")), number(_number(each["latency_a_ms"])),
            number(_number(each["latency_b_ms"])), _of_two(each),
        )
        for each in table.records()
    )  # fmt: skip
    header = ("cell", "speed-up A", "speed-up B", "time B / A", "A, ms", "B, ms", "verdict")
    return WordTable(header, rows, frozenset(range(1, 6)))


def _of_two(each: Record) -> str:
    """Write a verdict on two runs; what B was not asked for fails a comparison, but became no worse."""
    verdict = _text(each["verdict"])
    return f"{verdict}, a regression" if each["regression"] and not verdict.startswith("not asked") else verdict


def runs(data: PageData) -> WordTable | None:
    """Return the runs: where, when and with which code they were measured; None without any."""
    table = data.table("runs")
    if table is None:
        return None
    rows = tuple(
        (
            _text(each["run_id"]), _text(each["device"]), _text(each["started_at"])[:10],
            (_text(each["git_commit"])[:12] or NONE) + (" with local changes" if each["git_dirty"] else ""),
        )
        for each in table.records()
    )  # fmt: skip
    return WordTable(("run", "device", "date", "commit"), rows)


def selection_words(chosen: Chosen) -> str:
    """Write what a selection stands for, in one line."""
    parts = [chosen.shape, chosen.direction, chosen.dtype, f"{chosen.inputs} inputs", chosen.model]
    return f"{', '.join(parts)}, on {chosen.device}"


def _told(data: PageData, name: str, facts: Sequence[str]) -> tuple[list[Record], list[str]]:
    """Return the records of a table, none without it, and which of these facts are not the same in all of them."""
    table = data.table(name)
    records: list[Record] = [] if table is None else [*alone(data, table).records()]
    return records, [fact for fact in facts if len({each.get(fact) for each in records}) > 1]


def _trust(each: Record) -> str:
    found = [badges(_text(each["flags"])), _text(each["traits"]).replace(",", ", ")]
    return ", ".join([_text(each["verdict"]), *filter(None, found)])


def _speedup(each: Record) -> str:
    return ", ".join(filter(None, (_interval(each, "speedup", "×"), runs_words(each["run_speedups"]))))


def _latency(each: Record) -> str:
    steady = steady_words(_number(each["latency_ms"]), _number(each["refresh_ms"]))
    return f"{_interval(each, 'charged_ms')}{f', {steady}' if steady else ''}"


def _interval(each: Record, name: str, unit: str = "", ends: tuple[str, str] | None = None) -> str:
    stem, ms = name.removesuffix("_ms"), "_ms" if name.endswith("_ms") else ""
    low, high = ends or (f"{stem}_lo{ms}", f"{stem}_hi{ms}")
    value = _number(each[name])
    if value is None:
        return NONE
    shown, interval = with_interval(value, _number(each[low]), _number(each[high]))
    return f"{shown}{unit} {interval}".rstrip()


def _number(value: Value) -> float | None:
    return None if value is None or isinstance(value, str) else float(value)


def _text(value: Value) -> str:
    return "" if value is None else str(value)
