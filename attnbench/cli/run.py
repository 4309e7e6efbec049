"""``attnbench run``: verify, time and journal methods on a shape."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.options import (
    BatchOption,
    DeviceOption,
    DirectionOption,
    DtypeOption,
    EngineOption,
    FramesOption,
    GridOption,
    HeadDimOption,
    HeadsOption,
    InputsOption,
    JsonOption,
    KvHeadsOption,
    LayerOption,
    MethodOption,
    ModelOption,
    ResOption,
    SeedOption,
    SetOption,
    parse_settings,
    unique_methods,
)


def run(
    method: MethodOption = None,
    res: ResOption = None,
    frames: FramesOption = None,
    model: ModelOption = None,
    grid: GridOption = None,
    heads: HeadsOption = None,
    kv_heads: KvHeadsOption = None,
    head_dim: HeadDimOption = None,
    batch: BatchOption = 1,
    dtype: DtypeOption = None,
    direction: DirectionOption = "fwd",
    inputs: InputsOption = "video",
    engine: EngineOption = "auto",
    device: DeviceOption = None,
    seed: SeedOption = 0,
    settings: SetOption = None,
    layer: LayerOption = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of timing. Default: 3 to 20, as the budget allows.")
    ] = None,
    budget: Annotated[
        float,
        typer.Option(help="Seconds for the run: on a CPU it decides how many heads are timed, never fewer than one."),
    ] = 240.0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: results/runs/<time>.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Finish the interrupted run in this folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure methods: verify each against the oracle, time it beside the dense baseline, journal the rows.

    Exit codes: 0 fine, 1 an incorrect cell, an error in one, or no latency at all, 2 bad input, 130 interrupted.
    """
    from attnbench.bench.session import Outcome, start
    from attnbench.bench.session import resume as resume_run
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput

    if resume is not None:
        others = [
            flag for flag in sys.argv[1:] if flag.startswith("-") and flag.split("=")[0] not in ("--resume", "--json")
        ]
        if others:
            raise BadInput(f"--resume repeats the run as it was asked for; leave out {', '.join(others)}")
    with TerminalProgress() as progress:
        try:
            outcome: Outcome
            if resume is not None:
                outcome = resume_run(resume, progress)
            else:
                from attnbench.bench.request import read_request

                chosen = unique_methods(method)
                request = read_request(
                    methods=parse_settings(settings, chosen), res=res, frames=frames, model=model, grid=grid,
                    heads=heads, kv_heads=kv_heads, head_dim=head_dim, batch=batch, dtype=dtype, direction=direction,
                    inputs=inputs, seed=seed, engine=engine, device=device, layers=layer, rounds=rounds, budget=budget,
                )  # fmt: skip
                outcome = start(request, out, progress)
        except KeyboardInterrupt:
            progress.interrupted()
            raise typer.Exit(130) from None
    _show(outcome.folder, as_json)
    verdicts = {row.verdict for row in outcome.rows}
    raise typer.Exit(1 if verdicts & {"incorrect", "error"} or "ok" not in verdicts else 0)


def _show(folder: Path, as_json: bool) -> None:
    from attnbench.report.terminal.summary import summary_records, summary_table
    from attnbench.results.journal import JOURNAL
    from attnbench.results.load import read

    rows = read(folder / JOURNAL).rows
    if as_json:
        print(json.dumps({"folder": str(folder), "rows": summary_records(rows)}, allow_nan=False))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(summary_table(rows))
    console.print(f"Rows, samples, environment: {folder}\nA page of them: attnbench report {folder}", markup=False)
