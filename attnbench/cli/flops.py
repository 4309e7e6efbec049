"""``attnbench flops``: count floating-point operations, without running any attention."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli.lists import read_names, read_numbers
from attnbench.cli.options import (
    BatchOption,
    DirectionOption,
    FramesOption,
    GridOption,
    HeadDimOption,
    HeightOption,
    InputsOption,
    JsonOption,
    LayersOption,
    ModelOption,
    QuietOption,
    ResOption,
    SetOption,
    TextTokensOption,
    WidthOption,
    asked_methods,
    refuse_others,
)

if TYPE_CHECKING:
    from attnbench.bench.jobs import Agenda
    from attnbench.cost.flops.counts import CellFlops
    from attnbench.report.terminal.fitted import Fitted


def flops(
    ctx: typer.Context,
    paper: Annotated[str | None, typer.Option(help="Compute a paper's FLOPs tables again instead: vmoba.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="NAME or NAME:setting=value,…; may be repeated. Default: full."),
    ] = None,
    res: ResOption = None,
    frames: FramesOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    text_tokens: TextTokensOption = None,
    model: ModelOption = None,
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="LIST", help="Several models, as wan2.1-1.3b,wan2.1-14b; may be repeated."),
    ] = None,
    grid: GridOption = None,
    heads: Annotated[int | None, typer.Option(help="Heads.")] = None,
    head_dim: HeadDimOption = None,
    batch: BatchOption = 1,
    direction: DirectionOption = "fwd",
    inputs: InputsOption = "video",
    engine: Annotated[str, typer.Option(help="Engine whose tiles are counted; auto takes the first that serves.")] = (
        "auto"
    ),
    device: Annotated[str, typer.Option(help="Where plans are made: cpu, or cuda for the engines of a GPU.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    settings: SetOption = None,
    layers: LayersOption = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare the closed form with fvcore and torch's counter on the model's modules."),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Count the FLOPs of cells, dense, algorithmic and executed, and of a model's forward pass.

    Data-dependent plans are made for the first head; the others are assumed to keep as much. Exit codes: 0 fine, 1
    if --check finds that a counter differs, 2 bad input.
    """
    if paper is not None:
        refuse_others(ctx, f"--paper {paper} prints what the paper has", "--paper", "--json")
        _show_paper(paper, as_json)
        return
    if check:
        why = "--check counts one forward pass with full attention"
        kept = ("--check", "--model", "--res", "--frames", "--height", "--width", "--grid", "--batch", "--json")
        refuse_others(ctx, why, *kept)
        _show_check(
            {"res": res, "frames": frames, "height": height, "width": width, "grid": grid}, model, batch, as_json
        )
        return
    from attnbench.bench.flops import count_cells
    from attnbench.bench.jobs import make_agenda
    from attnbench.bench.request import read_request
    from attnbench.cli.progress import TerminalProgress

    if model is not None and models is not None:
        from attnbench.kernels.errors import BadInput

        raise BadInput(f"--model {model} and --models say the same: leave out one")
    agendas = [
        make_agenda(
            read_request(
                methods=asked_methods(method, settings, ["full"]), res=res, frames=frames, height=height, width=width,
                text_tokens=text_tokens, model=name, grid=grid, heads=heads, head_dim=head_dim, batch=batch,
                direction=direction, inputs=inputs, seed=seed, engine=engine, device=device,
                layers=read_numbers("--layers", layers),
            )
        )
        for name in read_names("--models", models) or (model,)
    ]  # fmt: skip
    with TerminalProgress(quiet=quiet, patient=True) as progress:
        counted = [(agenda, count_cells(agenda, progress)) for agenda in agendas]
    if not as_json:
        for agenda, cells in counted:
            _show_cells(agenda, cells)
        return
    documents = [_document(agenda, cells) for agenda, cells in counted]
    print(json.dumps({"models": documents} if models is not None else documents[0], allow_nan=False))


def _show_check(asked: Mapping[str, Any], model: str | None, batch: int, as_json: bool) -> None:
    from attnbench.cost.flops.modules import count_modules
    from attnbench.cost.flops.wan import TEXT_TOKENS, WAN_MODELS, forward_flops
    from attnbench.inputs.shapes import DEFAULT_MODEL, resolve_shape
    from attnbench.kernels.errors import BadInput
    from attnbench.report.terminal.flop_check import check_lines, check_records, check_table

    name = model or DEFAULT_MODEL
    shape = resolve_shape(model=name, batch=batch, **asked)
    if name not in WAN_MODELS:
        raise BadInput(f"--model {name} has no closed form to check: known are {' and '.join(WAN_MODELS)}")
    ours = forward_flops(WAN_MODELS[name], shape.grid, batch=batch)
    counts = count_modules(WAN_MODELS[name], shape.grid, batch=batch)
    if as_json:
        document = {"model": name, "grid": str(shape.grid), "batch": batch, "text_tokens": TEXT_TOKENS}
        print(json.dumps(document | check_records(ours, counts), allow_nan=False))
    else:
        about = f"{name}, grid {shape.grid}, {shape.grid.tokens:,} tokens, batch {batch}, {TEXT_TOKENS} text tokens"
        _print(check_table(ours, counts), "\n".join([about, *check_lines(ours, counts)]))
    if not all(count.agrees(ours) for count in counts):
        raise typer.Exit(1)


def _show_paper(paper: str, as_json: bool) -> None:
    from attnbench.cost.flops.paper import FFN, LAYERS, TEXT, TOLERANCE, WIDTH
    from attnbench.report.terminal.flops import paper_records, paper_remarks, paper_rows, paper_table

    rows = paper_rows(paper)
    if as_json:
        print(json.dumps({"paper": paper, "tolerance": TOLERANCE, "rows": paper_records(rows)}, allow_nan=False))
        return
    differing = sum(row.verdict == "differs" for row in rows)
    _print(
        paper_table(rows),
        f"TFLOP of one forward pass by the paper's closed form: {LAYERS} layers of width {WIDTH}, feed-forward {FFN}, "
        f"{TEXT} text tokens; difference: printed less ours.\n"
        f"agrees: within {TOLERANCE:.2%}; {len(rows) - differing} of {len(rows)} rows agree, {differing} differ. "
        "factor: full attention over the row.\n\n" + "\n".join(paper_remarks(rows)),
    )


def _document(agenda: Agenda, cells: list[CellFlops]) -> dict[str, Any]:
    from attnbench.bench.flops import dense_pass, method_passes
    from attnbench.report.terminal.flops import cell_records, pass_records

    shape, request = agenda.shape, agenda.request
    dense, passes = dense_pass(shape), method_passes(shape, cells)
    return {
        "grid": str(shape.grid), "text_tokens": list(shape.layout.text), "batch": shape.batch,
        "heads": shape.heads, "heads_planned": 1, "head_dim": shape.head_dim, "direction": agenda.direction,
        "inputs": request.inputs, "seed": request.seed, "device": agenda.device.type, "model": shape.model,
        "cells": cell_records(cells), "forward": None if dense is None else pass_records(dense, passes),
    }  # fmt: skip


def _show_cells(agenda: Agenda, cells: list[CellFlops]) -> None:
    from attnbench.bench.flops import dense_pass, method_passes
    from attnbench.report.terminal.flops import cell_table, pass_lines

    shape, request = agenda.shape, agenda.request
    dense, passes = dense_pass(shape), method_passes(shape, cells)
    video, text = shape.grid.tokens, sum(shape.layout.text)
    lines = [
        f"TFLOP of one attention call: {video:,} tokens{f' + {text:,} text tokens' if text else ''}, batch "
        f"{shape.batch}, {shape.heads} heads of {shape.head_dim}, {agenda.direction}. Executed counts "
        "whole tiles of the engine, and the selection.",
        f"Plans are made for the first of {shape.heads} heads, from {request.inputs} inputs on the "
        f"{agenda.device.type}; the others are assumed to keep as much.",
    ]
    if dense is not None and shape.model is not None:
        lines += pass_lines(shape.model, dense, passes)
    _print(cell_table(cells), "\n".join(lines))


def _print(table: Fitted, text: str) -> None:
    from attnbench.report.terminal.console import console

    out = console(200)
    out.print(table)
    out.print(text, soft_wrap=True)
