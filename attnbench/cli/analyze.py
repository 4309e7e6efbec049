"""``attnbench analyze``: what attention looks like in a capture, in a model, or on modelled inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.lists import read_numbers
from attnbench.cli.options import (
    DtypeOption,
    FramesOption,
    GridOption,
    HeadDimOption,
    HeadsOption,
    HeightOption,
    JsonOption,
    QuietOption,
    ResOption,
    SetOption,
    TextTokensOption,
    WidthOption,
    asked_methods,
)
from attnbench.cli.threads import spin_briefly

if TYPE_CHECKING:
    from attnbench.analysis.session import Outcome

_METHODS = ("vmoba",)


def analyze(
    capture: Annotated[
        str | None, typer.Argument(metavar="[capture:FILE]", help="A capture, instead of --inputs and of a model.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model that makes a clip now: mini, the default, or one of clips; else of --inputs."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What the clips show; repeat for several. Default for mini: one.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt per line.")] = None,
    classes: Annotated[str | None, typer.Option(help="Prompts for mini by class: 3,circle:west, or all.")] = None,
    inputs: Annotated[
        str | None, typer.Option(help="video[:PATH], gaussian or capture:FILE.safetensors, instead of a model.")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(metavar="LIST", help="Layers, as 0,1,5-8; may be repeated. Default: all.")
    ] = None,
    steps: Annotated[
        list[str] | None, typer.Option(metavar="LIST", help="Denoising steps, as 0,4-7; may be repeated. Default: all.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="A method whose masks are looked at. Default: vmoba.")
    ] = None,
    settings: SetOption = None,
    density: Annotated[
        float | None, typer.Option(help="Density to compare at. Default: methods keep their own, budgets 0.25 and 0.5.")
    ] = None,
    perturb: Annotated[
        bool, typer.Option("--perturb", help="Also make clips with replaced attention: identity, uniform. For mini.")
    ] = False,
    perturb_steps: Annotated[
        list[str] | None, typer.Option(metavar="LIST", help="With --perturb: also replace in these single steps.")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="Queries of each head. Default: all where that is quick, otherwise 512.")
    ] = None,
    block: Annotated[
        str | None, typer.Option(help="Blocks of the partitions: 7,15,20, or (3,(9,10),(7,15,20)). Default: VMoBA's.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Local weights of the model, as for clips.")] = None,
    sampler_steps: Annotated[int | None, typer.Option(help="Denoising steps of a clip. Default: the model's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of the guidance. Default: the model's own.")] = None,
    res: ResOption = None,
    frames: FramesOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    grid: GridOption = None,
    text_tokens: TextTokensOption = None,
    heads: HeadsOption = None,
    head_dim: HeadDimOption = None,
    dtype: DtypeOption = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU where there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise, of inputs and of sampled queries.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: results/runs/<time>-analyze.")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure attention maps: entropy, locality, concentration, change between steps, and what methods assume of them.

    Exit codes: 0 fine, 2 bad input, 130 interrupted.
    """
    spin_briefly()
    from attnbench.analysis.request import read_request
    from attnbench.analysis.session import start
    from attnbench.cli.progress import TerminalProgress
    from attnbench.clips.prompts import asked_prompts
    from attnbench.kernels.errors import BadInput
    from attnbench.machine.signals import exit_code as code_of
    from attnbench.methods.values import parse_value

    if capture is not None and inputs is not None:
        raise BadInput(f"{capture!r} and --inputs {inputs} name two kinds of inputs: drop one")
    if capture is not None and not capture.startswith("capture:"):
        raise BadInput(f"{capture!r} must be capture:FILE, a file of attnbench capture")
    shape = None if block is None else parse_value(block)
    if block is not None and not isinstance(shape, (tuple, list)):
        raise BadInput(f"--block {block!r} must be 7,15,20, or (3,(9,10),(7,15,20))")
    request = read_request(
        inputs=capture or inputs, model=model, weights=None if weights is None else str(weights),
        prompts=asked_prompts(model or "mini", prompt, prompts, classes),
        layers=read_numbers("--layers", layers), steps=read_numbers("--steps", steps), sampler_steps=sampler_steps,
        guidance=guidance, res=res, frames=frames, height=height, width=width, grid=grid, text_tokens=text_tokens,
        heads=heads, head_dim=head_dim, queries=queries, block=shape and list(shape),
        methods=asked_methods(method, settings, _METHODS), density=density, perturb=perturb,
        perturb_steps=read_numbers("--perturb-steps", perturb_steps) or [], seed=seed, dtype=dtype, device=device,
    )  # fmt: skip
    with TerminalProgress(quiet=quiet) as progress:
        try:
            outcome = start(request, out, progress)
        except KeyboardInterrupt as interrupt:
            kept = "nothing was measured" if progress.folder is None else f"what was measured is in {progress.folder}"
            progress.note(f"interrupted; {kept}")
            raise typer.Exit(code_of(interrupt)) from None
    _show(outcome, as_json)


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        document = {
            "folder": str(outcome.folder), "premises": [row.model_dump(mode="json") for row in outcome.premises],
            "rows": [row.model_dump(mode="json") for row in outcome.rows],
        }  # fmt: skip
        print(json.dumps(document, allow_nan=False))
        return
    from attnbench.report.terminal.console import console
    from attnbench.report.terminal.premises import premise_table

    out = console(140)
    out.print(premise_table(outcome.premises))
    out.print(f"{len(outcome.rows):,} rows, environment: {outcome.folder}", soft_wrap=True)
    out.print(f"Make a page: attnbench report {outcome.folder}", soft_wrap=True)
