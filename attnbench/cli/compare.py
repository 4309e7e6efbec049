"""`attnbench compare`: two latency tables of the same cells, runs of clips, or training runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.lists import read_numbers
from attnbench.cli.options import (
    AllowMissingOption,
    JunitOption,
    MarginOption,
    MarkdownOption,
    NoiseOption,
    QuietOption,
    ThresholdOption,
)
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from attnbench.report.word_table import WordTable
    from attnbench.results.compare import Comparison
    from attnbench.results.load import Results
    from attnbench.results.noise import NoiseModel


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="A [B…]",
            help="Two latency tables, files or folders: A to compare with, B to judge. Or one or several runs of "
            "`attnbench clips`. Or one folder of training runs.",
        ),
    ],
    threshold: ThresholdOption = 0.03,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Of training runs: a method to show; repeat for several. Default: all."),
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST", help="Of training runs: the seeds to show, as 0,2-4; may be repeated. Default: all."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Of training runs: the method that the others are compared with. Default: full."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Of training runs: compare after so many seconds. Default: as many as all runs have."),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Of training runs: also draw the held-out losses.")
    ] = None,
    margin: MarginOption = None,
    allow_missing: AllowMissingOption = None,
    noise: NoiseOption = None,
    markdown: MarkdownOption = False,
    junit: JunitOption = None,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Compare two latency tables cell by cell: faster, slower, the same, or unclear.

    Runs of clips are compared with full attention and with the two noise floors, training runs with those of a
    baseline, after equal steps and after equal seconds. Both print tables in Markdown.

    A method is judged by the mean over its layers, relative to the dense baseline of the same rounds. Slower or faster:
    significant, and beyond the threshold. Same: the interval lies within the margin. Ambiguous: the rest. A cell that
    vanished, cannot be compared, lost its verdict, or got worse in density, error, memory or stability is a regression.
    Another engine is shown, and its speed judged; attnbench gate takes it for a regression.

    Exit codes: 0 fine, 1 a regression, 2 bad input, 3 a cell is ambiguous, 4 nothing comparable.
    """
    from attnbench.results.training import runs_in

    clear_junit(junit)
    of_training = {
        "--method": method,
        "--seeds": seeds,
        "--baseline": baseline,
        "--seconds": seconds,
        "--curves": curves,
    }
    if runs_in(paths[0]):
        tables = _training(paths, method, read_numbers("--seeds", seeds), baseline, seconds, curves)
    elif typed := [name for name, value in of_training.items() if value is not None]:
        from attnbench.kernels.errors import BadInput

        raise BadInput(f"{typed[0]} is for training runs, and {str(paths[0])!r} holds none")
    else:
        from attnbench.cli.progress import TerminalProgress
        from attnbench.results.load import read
        from attnbench.results.noise import read_noise

        with TerminalProgress(quiet=quiet, patient=True) as progress:
            results: list[Results] = []
            for path in paths:
                progress.step(f"reading {path}", len(results), len(paths), None)
                results.append(read(path))
        if any(found.rows for found in results) or not all(found.quality for found in results):
            model = None if noise is None else read_noise(noise)
            made = _latencies(paths, results, threshold, margin, model, allow_missing or [])
            tell({"a": str(paths[0]), "b": str(paths[1])}, made, made.exit_code, as_json, markdown, junit)
            raise typer.Exit(made.exit_code)
        tables = _clips(paths, results)
    if as_json:
        import json

        document = {"paths": [str(path) for path in paths], "tables": [table.plain() for table in tables]}
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        say("\n\n".join("\n".join(table.markdown()) for table in tables))


def _latencies(
    paths: list[Path],
    results: list[Results],
    threshold: float,
    margin: float | None,
    noise: NoiseModel | None,
    allow_missing: list[str],
) -> Comparison:
    """Compare two latency tables."""
    from attnbench.kernels.errors import BadInput
    from attnbench.results.compare import compare_tables

    if len(paths) != 2:
        raise BadInput(f"latency tables are compared in pairs, A and B: {len(paths)} given")
    return compare_tables(
        results[0], results[1], threshold, margin=margin, noise=noise, allow_missing=allow_missing, join_alike=True
    )


def clear_junit(path: Path | None) -> None:
    """Delete the report of an earlier comparison, so that it is not taken for that of this one, however it ends.

    Raises:
        BadInput: for a file that is no such report.
    """
    from attnbench.kernels.errors import BadInput
    from attnbench.report.terminal.comparison import SUITE_NAME

    if path is None or not path.is_file():
        return
    try:
        with path.open("rb") as stream:
            is_ours = not (start := stream.read(4096)) or SUITE_NAME.encode() in start
        if is_ours:
            path.unlink()
    except OSError as error:
        raise BadInput(f"--junit {str(path)!r} cannot be written: {error.strerror}; name another file") from error
    if not is_ours:
        raise BadInput(f"--junit {str(path)!r} holds something else than the report of a comparison; name another file")


def tell(
    named: Mapping[str, object], result: Comparison, code: int, as_json: bool, markdown: bool, junit: Path | None,
    *, words: bool = True,
) -> None:  # fmt: skip
    """Print a comparison of latency tables; in JSON together with what was compared and the command's exit code.

    Without ``words``, nothing is printed for people: where a table is begun, there is nothing to compare with.
    """
    from attnbench.report.terminal.comparison import comparison_junit, comparison_lines, comparison_markdown
    from attnbench.results.files import write_whole

    if junit is not None:
        write_whole(comparison_junit(result, code), junit, "name another file with --junit")
    if as_json:
        import json

        document = {**named, **result.to_dict(), "exit_code": code}
        print(json.dumps(document, indent=2, allow_nan=False))
    elif words:
        say("\n".join(comparison_markdown(result) if markdown else comparison_lines(result)))


def _clips(paths: list[Path], results: list[Results]) -> list[WordTable]:
    from attnbench.report.terminal.gaps import clip_run, comparison_table

    return [comparison_table([clip_run(path, found) for path, found in zip(paths, results, strict=True)])]


def _training(
    paths: list[Path],
    methods: list[str] | None,
    seeds: list[int] | None,
    baseline: str | None,
    seconds: float | None,
    curves: Path | None,
) -> list[WordTable]:
    from attnbench.kernels.errors import BadInput
    from attnbench.report.training_tables import BASELINE, by_method, clips_table, loss_table
    from attnbench.results.training import load_training

    if len(paths) > 1:
        raise BadInput(f"training runs are compared within one folder: leave out {str(paths[1])!r}")
    if curves is not None and curves.suffix.lower() != ".svg":
        raise BadInput(f"--curves {str(curves)!r} must end in .svg")
    asked, baseline = baseline, baseline or BASELINE
    grouped = by_method(load_training(paths[0], methods, seeds), baseline)
    if asked is not None and asked not in grouped:
        raise BadInput(f"--baseline {asked!r} is not one of the methods that are compared: {', '.join(grouped)}")
    tables = [loss_table(grouped, baseline, seconds), clips_table(grouped, baseline)]
    if curves is not None:
        from attnbench.methods.draw import svg_bytes
        from attnbench.report.charts.training import training_figure
        from attnbench.results.files import write_whole

        write_whole(svg_bytes(training_figure(grouped)), curves)
    return [table for table in tables if table is not None]
