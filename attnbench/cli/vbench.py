"""``attnbench vbench``: set up VBench's environment, look at it, and score clips in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.options import JsonOption, QuietOption
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from attnbench.clips.vbench.records import Evaluation
    from attnbench.machine.doctor import Finding

vbench = typer.Typer(
    name="vbench",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command line that completes
    help="Score clips with VBench, in an environment of its own.",
)

EnvOption = Annotated[
    Path | None,
    typer.Option(
        "--env", help="Folder of the environment. Default: $ATTNBENCH_VBENCH_ENV, or one in the user's cache."
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", help="Folder of VBench's weights. Default: $VBENCH_CACHE_DIR, or ~/.cache/vbench."),
]


@vbench.command()
def setup(
    env: EnvOption = None,
    python: Annotated[str | None, typer.Option(help="Python 3.11 to build it with. Default: this one.")] = None,
) -> None:
    """Build and pin the environment: about 2 GiB with a CPU build of torch. Interrupted, it goes on when called again.

    Weights are not downloaded: `attnbench vbench doctor` says which files are wanted where.
    """
    from attnbench.clips.vbench.builder import build
    from attnbench.clips.vbench.environment import default_folder

    made = build(env or default_folder(), python, lambda line: say(f"attnbench: {line}", error=True))
    say(f"VBench's environment is in {made.folder}")
    for name, problem in made.imports.items():
        if problem:
            say(f"attnbench: {name} cannot be imported there: {problem}", error=True)


@vbench.command()
def doctor(env: EnvOption = None, weights: WeightsOption = None, as_json: JsonOption = False) -> None:
    """Say what is there: the environment, and of each dimension the import and the weights. Downloads nothing."""
    from attnbench.clips.vbench.checks import examine
    from attnbench.clips.vbench.environment import default_folder
    from attnbench.clips.vbench.weights_layout import weights_folder

    findings = examine(env or default_folder(), weights or weights_folder())
    if as_json:
        print(json.dumps({"findings": [finding.to_dict() for finding in findings]}, indent=2))
    else:
        _show_findings(findings)


@vbench.command()
def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of mp4 clips.")],
    dimension: Annotated[
        list[str] | None,
        typer.Option(
            help="Dimension; repeat for several. Default: the VMoBA paper's five. temporal_flickering always."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="JSON object from file name to prompt.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the scores. Default: results/vbench/<time>.")] = None,
    env: EnvOption = None,
    weights: WeightsOption = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU where there is one.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second that the clips must have. Wan: 16.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for a dimension.", min=1)] = 3600.0,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load weights that hold more than tensors; they can run code.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score the clips of a folder. A dimension whose weights are missing is skipped with what to get.

    Exit codes: 0 a dimension has values, 1 none has, 2 bad input, 130 interrupted.
    """
    from datetime import UTC, datetime

    from attnbench.clips.vbench.dimensions import choose
    from attnbench.clips.vbench.environment import default_folder, find
    from attnbench.clips.vbench.evaluation import evaluate
    from attnbench.clips.vbench.prompt_file import read_prompts
    from attnbench.clips.vbench.videos import read_folder
    from attnbench.clips.vbench.weights_layout import weights_folder
    from attnbench.kernels.errors import BadInput

    if device not in (None, "cpu", "cuda"):
        raise BadInput(f"--device {device!r}: known are cpu and cuda")
    chosen = choose(dimension)
    clips = read_folder(folder, fps)
    asked = None if prompts is None else read_prompts(prompts, [clip.name for clip in clips])
    target = out or Path("results") / "vbench" / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    made = evaluate(
        folder, clips, chosen, find(env or default_folder()),
        weights=weights or weights_folder(), out=target, prompts=asked, device=device, timeout=timeout,
        allow_pickle=allow_pickle, say=lambda line: None if quiet else say(f"attnbench: {line}", error=True),
    )  # fmt: skip
    if as_json:
        print(json.dumps({"folder": str(target), **made.to_dict()}, allow_nan=False))
    else:
        _show_evaluation(made, target)
    if all(one.status == "skipped" for one in made.runs):
        raise typer.Exit(1)


def _show_findings(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.console import console

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "name", "usable"):
        table.add_column(name, overflow="fold")
    for name in ("what was found", "how to get it"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        mark = Text("yes", style="green") if finding.usable else Text("no", style="yellow")
        table.add_row(finding.group, finding.name, mark, Text(finding.detail), Text(finding.remedy))
    console(200).print(table)


def _show_evaluation(made: Evaluation, folder: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.console import console

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("dimension", no_wrap=True)
    for name in ("mean", "clips", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("remark", overflow="fold")
    for one in made.runs:
        count = sum(score.value is not None for score in made.scores if score.dimension == one.dimension)
        mean = "skipped" if one.mean is None else f"{one.mean:.4f}"
        remark = "random weights stood in: the value means nothing" if one.stand_in and one.mean is not None else ""
        table.add_row(
            one.dimension, mean, f"{count}/{len(made.clips)}", f"{one.seconds:.1f}", Text(one.reason or remark)
        )
    out = console(160)
    out.print(table)
    clip = made.clips[0]
    encoded = f"{clip.fps} frames a second, {clip.codec}, {clip.pixel_format}"
    out.print(f"{len(made.clips)} clips, {encoded}. Scores of each, versions, logs: {folder}")
