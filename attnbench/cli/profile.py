"""`attnbench profile`: where the time of methods goes, phase by phase."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.options import JsonOption, MethodOption, SetOption, parse_settings, unique_methods

if TYPE_CHECKING:
    from attnbench.runner import Bench
    from attnbench.schema import PhaseRow, Row
    from attnbench.store import Journal


def profile(
    method: MethodOption = None,
    res: Annotated[str | None, typer.Option(help="Resolution: 480p, 576p or 720p. Default: 480p.")] = None,
    frames: Annotated[int | None, typer.Option(help="Video frames, 4k+1. Default: the resolution's own.")] = None,
    model: Annotated[str | None, typer.Option(help="Model whose heads, layers and text tokens to take.")] = None,
    grid: Annotated[str | None, typer.Option(help="Token grid T x H x W instead of a resolution, as 21x45x80.")] = None,
    heads: Annotated[int | None, typer.Option(help="Query heads.")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Key and value heads, a divisor of the heads.")] = None,
    head_dim: Annotated[int | None, typer.Option(help="Dimension of a head.")] = None,
    batch: Annotated[int, typer.Option(help="Batch size.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on a CPU.")] = None,
    direction: Annotated[str, typer.Option(help="fwd, or fwdbwd for forward and backward.")] = "fwd",
    inputs: Annotated[str, typer.Option(help="video[:PATH], gaussian or capture:FILE.safetensors.")] = "video",
    engine: Annotated[str, typer.Option(help="Attention engine; auto takes the first that serves.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU where there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of inputs and of sampled rows.")] = 0,
    settings: SetOption = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Layer to measure; repeat for several. Default: one of each kind.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of timing. Default: 3 to 20, as the budget allows.")
    ] = None,
    budget: Annotated[
        float,
        typer.Option(help="Seconds for timing: on a CPU it decides how many heads are timed, never fewer than one."),
    ] = 240.0,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Profiled calls a cell. Default: 7, on a CPU 1 to 5 by their length.")
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace/--no-trace", help="Write traces/<cell_id>.json.gz, which Perfetto opens.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: results/runs/<time>.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure methods as run does, then profile each cell: the time of every phase, checked against the latency.

    Exit codes: 0 fine, 1 an incorrect cell, an error in one, or no latency at all, 2 bad input, 130 interrupted.
    """
    from attnbench.agenda import read_request
    from attnbench.cli.progress import TerminalProgress
    from attnbench.profiling.run import profile_rows
    from attnbench.session import start

    phases: list[PhaseRow] = []
    with TerminalProgress() as progress:
        try:
            request = read_request(
                methods=parse_settings(settings, unique_methods(method)), res=res, frames=frames, model=model,
                grid=grid, heads=heads, kv_heads=kv_heads, head_dim=head_dim, batch=batch, dtype=dtype,
                direction=direction, inputs=inputs, seed=seed, engine=engine, device=device, layers=layer,
                rounds=rounds, budget=budget,
            )  # fmt: skip

            def after(bench: Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
                phases.extend(profile_rows(bench, journal, rows, progress, repeats=repeats, traces=trace))

            outcome = start(request, out, progress, after)
        except KeyboardInterrupt:
            progress.interrupted()
            raise typer.Exit(130) from None
    _show(outcome.folder, outcome.rows, phases, as_json)
    verdicts = {row.verdict for row in outcome.rows}
    raise typer.Exit(1 if verdicts & {"incorrect", "error"} or "ok" not in verdicts else 0)


def _show(folder: Path, rows: tuple[Row, ...], phases: list[PhaseRow], as_json: bool) -> None:
    from attnbench.store import JOURNAL, load_results
    from attnbench.summary import summary_records, summary_table

    frame = load_results(folder / JOURNAL)
    if as_json:
        own = [phase.model_dump(mode="json", by_alias=True) for phase in phases]
        document = {"folder": str(folder), "rows": summary_records(frame), "phases": own}
        print(json.dumps(document, allow_nan=False))
        return
    from rich.console import Console

    from attnbench.profiling.table import phase_tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(summary_table(frame))
    console.print(phase_tables(rows, phases))
    console.print(f"Rows, phases, traces: {folder}\nA page of them: attnbench report {folder}", markup=False)
