"""``attnbench gate``: fail if a change is slower, or a run is slower than a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli.options import (
    AllowMissingOption,
    CellOptions,
    JsonOption,
    JunitOption,
    MarginOption,
    MarkdownOption,
    NoiseOption,
    QuietOption,
    ThresholdOption,
    refuse_others,
    takes_options,
    typed_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnbench.results.compare import Comparison
    from attnbench.results.run import Progress


@dataclass(frozen=True)
class JudgeOptions:
    """How a comparison is judged, and how it is shown."""

    threshold: ThresholdOption = 0.03
    margin: MarginOption = None
    noise: NoiseOption = None
    allow_missing: AllowMissingOption = None
    allow_engine: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="A method that another engine may run; repeat for several."),
    ] = None
    fail_ambiguous: Annotated[
        bool, typer.Option("--fail-ambiguous", help="End with 3 where a cell is ambiguous, instead of 0.")
    ] = False
    markdown: MarkdownOption = False
    junit: JunitOption = None
    as_json: JsonOption = False

    def judge(self) -> dict[str, Any]:
        """Return the arguments of ``compare_tables``."""
        from attnbench.results.noise import read_noise

        return {
            "threshold": self.threshold,
            "margin": self.margin,
            "noise": None if self.noise is None else read_noise(self.noise),
            "allow_missing": self.allow_missing or [],
            "hold_engine": True,
            "allow_engine": self.allow_engine or [],
        }


_JUDGING = (
    "--threshold", "--margin", "--noise", "--allow-missing", "--allow-engine", "--fail-ambiguous", "--markdown",
    "--junit", "--json",
)  # fmt: skip
_MEASURING = ("--against", "--repeats", "--minutes", "--out", "--quiet")
_MOVING = ("--update", "--accept")


@takes_options
def gate(
    ctx: typer.Context,
    *,
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run to judge, with --baseline.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="Results that RUN is compared with: a file or a folder.")
    ] = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="With --baseline: if the gate passes, write RUN as TABLE, a .parquet file with a .csv beside it.",
        ),
    ] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD", help="With --update: admit regressions of a method, and record them; repeat for several."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Measure the project in this folder at REV and as it stands, and compare."),
    ] = None,
    suite: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --against: the cells, in place of the options of run.")
    ] = None,
    repeats: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="With --against: runs of each version. auto takes 2 or more, up to 8, until no cell is ambiguous.",
        ),
    ] = "auto",
    minutes: Annotated[
        float, typer.Option(min=0, help="With --against --repeats auto: begin no further runs after so long.")
    ] = 8.0,
    pool: Annotated[
        bool, typer.Option("--pool", help="With --baseline: take all runs of RUN and of TABLE, not only the newest.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --against: folder of the runs. Default: results/runs/<time>-gate.")
    ] = None,
    judging: JudgeOptions,
    asked: CellOptions,
    quiet: QuietOption = False,
) -> None:
    """Fail if a method became slower, worse, or vanished: for continuous integration.

    gate RUN --baseline TABLE judges a run that was measured before; with --update, a run that passes becomes the
    baseline, and a TABLE that does not exist is begun. gate --against REV takes the project in the current
    folder (this one, or a package of methods or engines) at REV and as it stands, with uncommitted changes. It installs
    each into a folder of its own with pip, without what the project depends on, and measures both in turns: on a CPU
    call by call, on a GPU run by run. What is measured is a --suite, or a cell by the options of run. Verdicts are
    those of attnbench compare, and a method that another engine ran is a regression at whatever speed, unless
    --allow-engine admits it.

    Exit codes: 0 fine, 1 a regression, or the project as it stands cannot run, 2 bad input, 3 a cell is ambiguous (only
    with --fail-ambiguous), 4 nothing comparable, or REV cannot run.
    """
    from attnbench.cli.compare import clear_junit, tell
    from attnbench.kernels.errors import BadInput

    clear_junit(judging.junit)
    if (baseline is None) == (against is None):
        raise BadInput("gate needs either RUN --baseline TABLE, or --against REV")
    if baseline is not None:
        if run is None:
            raise BadInput(f"--baseline {str(baseline)!r} needs a run to judge: attnbench gate RUN --baseline TABLE")
        refuse_others(ctx, f"{str(run)!r} was measured already", "run", "--baseline", "--pool", *_MOVING, *_JUDGING)
        if accept and not update:
            raise BadInput("--accept needs --update: it records what a baseline is moved to in spite of")
        if update and pool:
            raise BadInput("--update takes the newest run; leave out --pool")
        if update:
            _move(baseline, run, accept or [], judging)
        named, result = {"a": str(baseline), "b": str(run)}, _judged(baseline, run, judging, pool=pool)
        code = result.exit_code
    else:
        assert against is not None
        if run is not None:
            raise BadInput(f"--against measures both versions itself; leave out {str(run)!r}")
        if update or accept:
            raise BadInput("--update and --accept move a --baseline; --against has none")
        if pool:
            raise BadInput("--pool is for --baseline; --against takes all runs")
        if suite is not None:
            refuse_others(ctx, "--suite says what is measured", "--suite", *_MEASURING, *_JUDGING)
        plan = _Repeats.read(repeats, minutes)
        by_call = _on_cpu(asked, suite)
        named, result, code = _measured(against, _words(ctx, asked, suite), plan, by_call, out, judging, quiet)
    code = 0 if code == 3 and not judging.fail_ambiguous else code
    tell(named, result, code, judging.as_json, judging.markdown, judging.junit)
    raise typer.Exit(code)


@dataclass(frozen=True)
class _Repeats:
    """How many runs of each version are measured: from ``least`` to ``most``, until all is clear or time is up."""

    least: int
    most: int
    minutes: float

    @classmethod
    def read(cls, text: str, minutes: float) -> _Repeats:
        from attnbench.bench.gate.repeats import LEAST, MOST
        from attnbench.kernels.errors import BadInput

        if text == "auto":
            return cls(LEAST, MOST, minutes)
        if not text.isdecimal() or not 0 < int(text) <= _MOST_REPEATS:
            raise BadInput(f"--repeats {text!r} must be a whole number from 1 to {_MOST_REPEATS}, or auto")
        return cls(int(text), int(text), minutes)

    @property
    def looks(self) -> int:
        """How often the runs may be compared before they are enough."""
        return self.most - self.least + 1


_MOST_REPEATS = 1000


def _on_cpu(asked: CellOptions, suite: Path | None) -> bool:
    """Whether all cells certainly run on the CPU, where runs may take turns call by call."""
    import torch

    return not torch.cuda.is_available() or (suite is None and asked.device == "cpu")


def _judged(a: Path, b: Path, judging: JudgeOptions, *, pool: bool = False, looks: int = 1) -> Comparison:
    from attnbench.results.compare import compare_tables
    from attnbench.results.load import read

    return compare_tables(read(a), read(b), pool=pool, looks=looks, **judging.judge())


def _move(path: Path, run: Path, accepted: list[str], judging: JudgeOptions) -> None:
    """Judge a run, let it become the baseline if it passes, and end the command."""
    from attnbench.cli.compare import tell
    from attnbench.cli.terminal import say
    from attnbench.results.baseline import may_move, move, open_baseline
    from attnbench.results.compare import accept, compare_tables
    from attnbench.results.load import read

    baseline, found = open_baseline(path), read(run)
    result = accept(compare_tables(baseline.before, found, **judging.judge()), accepted)
    if baseline.begun:
        result = replace(result, environment_changes=())  # all versions would be new
    moves = may_move(baseline, found, result) and not (judging.fail_ambiguous and result.exit_code == 3)
    written = move(baseline, found, result) if moves else []
    named = {"a": str(baseline.path), "b": str(run), "updated": [str(each) for each in written]}
    regressed = any(cell.is_regression for cell in result.cells)
    code = 0 if moves else 1 if regressed else result.exit_code or 1
    lacking = sorted({f"{row.method} ({row.verdict})" for row in found.rows if row.verdict != "ok"})
    if moves and lacking:
        say(f"no latency yet, so the gate does not ask for one: {', '.join(lacking)}", error=True)
    if moves and (unclear := result.counts.get("unclear")):
        say(f"{unclear} AMBIGUOUS: the new baseline may be off by as much as their intervals", error=True)
    compared = not (baseline.begun and moves)
    tell(named, result, code, judging.as_json, judging.markdown, judging.junit, words=compared)
    if not judging.as_json:
        begun = "begun" if baseline.begun else "moved"
        say(f"{begun}: {', '.join(named['updated'])}" if moves else f"not {begun}: {str(baseline.path)!r}")
    raise typer.Exit(code)


def _measured(
    revision: str,
    words: list[str],
    repeats: _Repeats,
    by_call: bool,
    out: Path | None,
    judging: JudgeOptions,
    quiet: bool,
) -> tuple[dict[str, str], Comparison, int]:
    """Measure both versions and compare them; also return the exit code, before --fail-ambiguous is asked for.

    A version that cannot run is a comparison too, which says why there is nothing to compare.
    """
    from attnbench.bench.gate.project import CannotRun, find_commit, project_root
    from attnbench.cli.progress import TerminalProgress
    from attnbench.machine.clock import CLOCK
    from attnbench.results.compare import Comparison
    from attnbench.results.run import announce, choose_place, require_empty

    judging.judge()  # what cannot be used is said before anything is measured
    root = project_root(Path.cwd())
    commit = find_commit(root, revision)
    place = choose_place(out, "-gate")
    require_empty(place.folder)
    base, head = place.folder / "base", place.folder / "head"
    named = {"a": str(base), "b": str(head), "against": commit}
    last = CLOCK.seconds() + 60 * repeats.minutes
    results: list[Comparison] = []

    def enough(pairs: int) -> bool:
        if pairs < repeats.least:
            return False
        results.append(_judged(base, head, judging, pool=True, looks=repeats.looks))
        return "unclear" not in results[-1].counts or CLOCK.seconds() >= last

    with TerminalProgress(quiet=quiet) as progress:
        try:
            _take_turns(root, commit, words, repeats.most, place.folder, progress, by_call, enough)
        except CannotRun as problem:
            refused = Comparison(judging.threshold, (), refusal=str(problem))
            return named, refused, 4 if problem.version == "base" else 1
        announce(place, progress)
    # Both were asked for the same cells, so one that only the base has is lost, also where it is the only one.
    lost = any(cell.change == "only in A" and cell.is_regression for cell in results[-1].cells)
    return named, results[-1], 1 if lost else results[-1].exit_code


def _take_turns(
    root: Path,
    commit: str,
    words: list[str],
    most: int,
    folder: Path,
    progress: Progress,
    by_call: bool,
    enough: Callable[[int], bool],
) -> None:
    """Install both versions, and measure them in turns into ``folder``."""
    import tempfile

    from attnbench.bench.gate.project import prepare_base, prepare_head
    from attnbench.bench.gate.turns import take_turns

    with tempfile.TemporaryDirectory(prefix="attnbench-gate-") as scratch:
        progress.step("installing both versions", 0, 1, None)
        base = prepare_base(root, commit, Path(scratch))
        head = prepare_head(root, Path(scratch))
        folder.mkdir(parents=True, exist_ok=True)
        take_turns(base, head, words, folder, most, progress, by_call=by_call, enough=enough)


def _words(ctx: typer.Context, asked: CellOptions, suite: Path | None) -> list[str]:
    """Return the options of ``run`` that were typed, as words for another process."""
    from attnbench.bench.jobs import make_agenda
    from attnbench.bench.suite import read_suite
    from attnbench.cli.suite import suite_options
    from attnbench.methods.entries import parse_entry

    # What cannot be used is said before anything is measured; methods may exist in the installed versions only.
    if suite is not None:
        read_suite(suite, suite_options(ctx.find_root().command), "run", Path())
        return ["run", "--suite", str(suite)]
    for method in asked.method or []:
        parse_entry(method)
    known = "full" if asked.density is None else "sliding-window"  # which has a setting of its density
    make_agenda(replace(asked, method=[known], settings=None).request())
    words = ["run"]
    typed = set(typed_options(ctx)).difference(_MEASURING, _JUDGING)
    for parameter in ctx.command.params:
        for word in typed.intersection([*parameter.opts, *parameter.secondary_opts]):
            value = ctx.params[parameter.name or ""]
            for each in value if isinstance(value, (list, tuple)) else [value]:
                words += [word] if isinstance(each, bool) else [word, str(each)]
    return words
