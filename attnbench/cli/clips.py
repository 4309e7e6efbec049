"""``attnbench clips``: what a method does to the pictures, beside two noise floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.lists import read_numbers
from attnbench.cli.options import (
    JsonOption,
    QuietOption,
    SetOption,
    StrictOption,
    asked_methods,
    refuse_others,
    takes_options,
)
from attnbench.cli.suite import SuiteOptions, check_only, run_suite
from attnbench.cli.terminal import say
from attnbench.cli.threads import spin_briefly

if TYPE_CHECKING:
    from attnbench.clips.request import ClipsRequest
    from attnbench.clips.session import Outcome

_ON_RESUME = ("--resume", "--vbench", "--json")
_METHODS = ("vmoba",)


@takes_options
def clips(
    ctx: typer.Context,
    suite: SuiteOptions,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN…]", help="With --gallery: runs of clips, or judged training runs. Default: clips made now."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="NAME or NAME:setting=value,…; may be repeated. Default: vmoba."),
    ] = None,
    model: Annotated[str, typer.Option(help="mini, or wan, hunyuan, cogvideox, ltx or mochi of diffusers.")] = "mini",
    weights: Annotated[
        str | None, typer.Option(help="Local weights: a folder in diffusers' layout, or for mini a .safetensors file.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What the clips show, for mini such as '3 moving north-east'. Repeat for several."),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt per line.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Prompts for mini by class: 3,circle or 3:north,circle:west, or all.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds for each prompt.")] = 2,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    sampler_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of a clip. Default: the model's own number.")
    ] = None,
    dense_steps: Annotated[
        str | None, typer.Option(help="First steps that stay dense: a number, or a share such as 0.25. Default: 0.25.")
    ] = None,
    dense_layers: Annotated[
        list[str] | None, typer.Option(metavar="LIST", help="Layers that stay dense, as 0,1,5-8; may be repeated.")
    ] = None,
    settings: SetOption = None,
    engine: Annotated[str, typer.Option(help="Engine that runs the methods; auto takes the first that can.")] = "auto",
    strict: StrictOption = False,
    floor_engine: Annotated[
        str | None,
        typer.Option(help="Exact engine for the kernel floor, or none. Default: the first available one."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric to measure; repeat for several. Default: all.")
    ] = None,
    players: Annotated[
        int | None, typer.Option(min=0, help="Write H.264 for the first N prompts and seeds only. Default: for all.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames, for models that let you choose.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels, for models that let you choose.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels, for models that let you choose.")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second. Default: what the version of the model is made for.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Default: bfloat16 on a GPU, and for mini on a CPU that is fast at it.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU where there is one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: results/runs/<time>-clips.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Finish the interrupted run in this folder.")] = None,
    vbench: Annotated[
        Path | None, typer.Option(help="With --resume: add the scores of `attnbench vbench run` in this folder.")
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(metavar="PICTURE", help="Make no run: show the clips of RUN… below one another, as .jpg or .png."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make clips with full attention and with each method, and measure how far they differ.

    Each difference is shown with two noise floors: another exact kernel, and another seed.

    Exit codes: 0 fine, 1 a method's clip could not be made, 2 bad input, 130 interrupted.
    """
    run_suite(ctx, suite, out, resume, as_json, quiet)
    if gallery is not None:
        _draw(ctx, gallery, runs or [], as_json)
        return
    if runs:
        from attnbench.kernels.errors import BadInput

        raise BadInput(f"{str(runs[0])!r} stands alone: runs are named for --gallery PICTURE only")
    spin_briefly()
    from attnbench.cli.progress import TerminalProgress
    from attnbench.clips import session
    from attnbench.clips.prompts import asked_prompts
    from attnbench.clips.request import read_request
    from attnbench.kernels.errors import BadInput
    from attnbench.machine.signals import exit_code as code_of

    if resume is not None:
        refuse_others(ctx, "--resume continues the run as it was asked for", *_ON_RESUME)
    elif vbench is not None:
        raise BadInput(f"--vbench {str(vbench)!r} needs the run whose videos were scored: add --resume FOLDER")

    def request() -> ClipsRequest:
        asked = asked_methods(method, settings, _METHODS)
        chosen = [entry for entry in asked if entry.method != "full"]  # it is always there
        if not chosen:
            raise BadInput("--method full alone compares nothing: name a method besides")
        return read_request(
            methods=chosen, model=model, weights=weights,
            prompts=asked_prompts(model, prompt, prompts, classes), seeds=seeds, seed=seed, steps=sampler_steps,
            dense_steps=None if dense_steps is None else _number(dense_steps),
            dense_layers=read_numbers("--dense-layers", dense_layers) or [],
            engine=engine, strict=strict, floor_engine=floor_engine, metrics=metric, players=players, frames=frames,
            height=height, width=width, fps=fps, dtype=dtype, device=device,
        )  # fmt: skip

    check_only(ctx, request)
    with TerminalProgress(quiet=quiet) as progress:
        try:
            if resume is not None and vbench is not None:
                from attnbench.clips.vbench_rows import add_vbench

                outcome = add_vbench(resume, vbench)
            elif resume is not None:
                outcome = session.resume(resume, progress)
            else:
                outcome = session.start(request(), out, progress)
        except KeyboardInterrupt as interrupt:
            progress.interrupted("clips")
            raise typer.Exit(code_of(interrupt)) from None
    _show(outcome, as_json)
    raise typer.Exit(1 if outcome.failed else 0)


def _draw(ctx: typer.Context, picture: Path, runs: list[Path], as_json: bool) -> None:
    from attnbench.clips.gallery import write_gallery

    refuse_others(ctx, "--gallery makes no run", "--gallery", "runs", "--json")
    written = write_gallery(picture, runs)
    say(json.dumps({"picture": str(written)}) if as_json else written)


def _number(text: str) -> int | float:
    from attnbench.kernels.errors import BadInput
    from attnbench.methods.values import parse_value

    value = parse_value(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f"--dense-steps {text!r} must be a whole number, or a share below 1 such as 0.25")
    return value


def _show(outcome: Outcome, as_json: bool) -> None:
    from attnbench.report.gap_words import skipped_words
    from attnbench.report.terminal.gaps import gap_records, gap_table

    if as_json:
        document = {
            "folder": str(outcome.folder), "gaps": gap_records(outcome.rows), "skipped": skipped_words(outcome.rows),
            "failed": list(outcome.failed), "rows": [row.model_dump(mode="json") for row in outcome.rows],
        }  # fmt: skip
        print(json.dumps(document, allow_nan=False))
        return
    from attnbench.report.terminal.console import console

    out = console(140)
    out.print(gap_table(outcome.rows))
    for line in skipped_words(outcome.rows):
        out.print(line, soft_wrap=True)
    words = f"Clips, rows, environment: {outcome.folder}\nMake a page: attnbench report {outcome.folder}"
    out.print(words, soft_wrap=True)
