"""`attnbench profile`: where the time of methods goes, phase by phase."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from attnbench.bench.bench import Bench
    from attnbench.results.journal import Journal
    from attnbench.results.records.cells import PhaseRow, Row


def profile(
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
        int | None, typer.Option(help="Rounds of timing. Default: 3 to 20, as the budget allows; of a step 3 to 7.")
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
    end_to_end: Annotated[
        bool,
        typer.Option("--end-to-end", help="Measure a whole step instead, as the command step does."),
    ] = False,
    checkpointing: Annotated[
        bool | None,
        typer.Option(help="End to end: run blocks forward again in the backward pass. Default: 1.3B in training."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: results/runs/<time>.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Finish the run in this folder, and profile those of its cells that are not.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure methods as run does, then profile each cell: the time of every phase, checked against the latency.

    With --end-to-end this is the command step.

    Exit codes: 0 fine, 1 an incorrect cell, an error in one, or no latency at all, 2 bad input, 130 interrupted.
    """
    from attnbench.bench.profile.cells import known_phases, profile_rows
    from attnbench.bench.request import read_request
    from attnbench.bench.session import resume as resume_run
    from attnbench.bench.session import start
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput

    if end_to_end:
        from attnbench.cli.step import step

        _refuse_others(sys.argv[1:])
        step(
            method=method, res=res, frames=frames, model=model, grid=grid, batch=batch, dtype=dtype,
            direction=direction, engine=engine, device=device, seed=seed, settings=settings,
            checkpointing=checkpointing, rounds=rounds, out=out, as_json=as_json,
        )  # fmt: skip
        return
    if checkpointing is not None:
        raise BadInput("--checkpointing is for --end-to-end")
    if resume is not None and (others := _others(sys.argv[1:])):
        raise BadInput(f"--resume repeats the run as it was asked for; leave out {', '.join(others)}")
    phases: list[PhaseRow] = []
    with TerminalProgress() as progress:

        def after(bench: Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
            known = known_phases(journal.folder) if resume is not None else ()
            phases.extend(profile_rows(bench, journal, rows, progress, repeats=repeats, traces=trace, known=known))

        try:
            if resume is not None:
                outcome = resume_run(resume, progress, after)
            else:
                request = read_request(
                    methods=parse_settings(settings, unique_methods(method)), res=res, frames=frames, model=model,
                    grid=grid, heads=heads, kv_heads=kv_heads, head_dim=head_dim, batch=batch, dtype=dtype,
                    direction=direction, inputs=inputs, seed=seed, engine=engine, device=device, layers=layer,
                    rounds=rounds, budget=budget,
                )  # fmt: skip
                outcome = start(request, out, progress, after)
        except KeyboardInterrupt:
            progress.interrupted("profile")
            raise typer.Exit(130) from None
    _show(outcome.folder, outcome.rows, phases, as_json)
    verdicts = {row.verdict for row in outcome.rows}
    raise typer.Exit(1 if verdicts & {"incorrect", "error"} or "ok" not in verdicts else 0)


_STEP_OPTIONS = (
    "--end-to-end", "--checkpointing", "--no-checkpointing", "--method", "--res", "--frames", "--model", "--grid",
    "--batch", "--dtype", "--direction", "--engine", "--device", "--rounds", "--seed", "--set", "--out", "--json",
)  # fmt: skip


def _refuse_others(words: list[str]) -> None:
    """Refuse the options of a profile that a whole step does not have.

    Raises:
        BadInput: naming them.
    """
    from attnbench.kernels.errors import BadInput

    words = [word.split("=")[0] for word in words if word.startswith("-") and not word[1:2].isdigit()]
    words = [word for word in words if word.startswith("--") or not word.startswith("-m")]  # -msta is -m sta
    if others := [word for word in words if word not in _STEP_OPTIONS]:
        raise BadInput(f"--end-to-end measures a whole step; leave out {', '.join(others)}")


def _others(words: list[str]) -> list[str]:
    """Return the options among words that cannot go with --resume."""
    kept = ("--resume", "--json", "--repeats", "--trace", "--no-trace")
    return [word for word in words if word.startswith("-") and word.split("=")[0] not in kept]


def _show(folder: Path, rows: tuple[Row, ...], phases: list[PhaseRow], as_json: bool) -> None:
    from attnbench.report.terminal.summary import summary_records, summary_table
    from attnbench.results.journal import JOURNAL
    from attnbench.results.load import read

    stored = read(folder / JOURNAL).rows
    if as_json:
        own = [phase.model_dump(mode="json", by_alias=True) for phase in phases]
        document = {"folder": str(folder), "rows": summary_records(stored), "phases": own}
        print(json.dumps(document, allow_nan=False))
        return
    from rich.console import Console

    from attnbench.report.terminal.phases import phase_tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(summary_table(stored))
    console.print(phase_tables(rows, phases))
    console.print(f"Rows, phases, traces: {folder}\nA page of them: attnbench report {folder}", markup=False)
