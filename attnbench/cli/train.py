"""``attnbench train``: train the mini video model from scratch, with any differentiable method."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.options import QuietOption, SetOption, asked_methods, refuse_others, takes_options
from attnbench.cli.suite import SuiteOptions, check_only, run_suite

if TYPE_CHECKING:
    import torch
from attnbench.cli.terminal import say

_ON_RESUME = ("--resume", "--seconds", "--device")


@takes_options
def train(
    ctx: typer.Context,
    suite: SuiteOptions,
    method: Annotated[str, typer.Option("--method", "-m", help="Method of the self-attention.")] = "full",
    train_steps: Annotated[int, typer.Option(help="Optimiser steps; the learning rate falls towards the last.")] = 8000,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after about so many seconds, with a checkpoint; continue with --resume.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Clips per step.")] = 16,
    coarse: Annotated[
        list[str] | None,
        typer.Option(
            help="STEPSxCLIPS: first steps, on clips with half of the frames and side. Twice: a quarter, then half."
        ),
    ] = None,
    dense_coarse: Annotated[
        bool, typer.Option("--dense-coarse", help="Use full attention on those smaller clips, whatever the method.")
    ] = False,
    coarse_from: Annotated[
        Path | None, typer.Option(help="With --dense-coarse: take those steps from the run in this folder.")
    ] = None,
    full_seconds: Annotated[
        float | None,
        typer.Option(
            help="The run is done after so many seconds on full clips; compiling comes before and is not counted."
        ),
    ] = None,
    judge: Annotated[
        int, typer.Option(metavar="CLIPS", help="When done, make so many clips and count how many show what was asked.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of weights, clips and noise.")] = 0,
    settings: SetOption = None,
    engine: Annotated[str, typer.Option(help="Attention engine; auto takes the first that can.")] = "auto",
    as_layer: Annotated[
        int | None,
        typer.Option(help="Let every layer attend as the one of this number would, where a method's differ."),
    ] = None,
    model: Annotated[str, typer.Option(help="mini, or tiny: 128 tokens a clip, to try things out.")] = "mini",
    muon_lr: Annotated[float, typer.Option(help="Peak learning rate of the matrices in the blocks.")] = 0.02,
    lr: Annotated[float, typer.Option(help="Peak learning rate of all other parameters.")] = 3e-3,
    ema: Annotated[float, typer.Option(help="Decay a step of the averaged weights, which the run leaves.")] = 0.999,
    warmup: Annotated[int, typer.Option(help="Steps until the peak.")] = 100,
    dtype: Annotated[
        str | None,
        typer.Option(help="Of products and attention: bfloat16 or float32. Default: bfloat16 on a GPU."),
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Clips for the held-out loss. Default: 120 on a GPU, 8 on a CPU.")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Let torch.compile fuse the code between the attention calls; on a GPU, replay CUDA graphs.",
        ),
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU where there is one.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: results/runs/<time>-train-<method>.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the training run in this folder.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Train the mini model. Losses, step times and memory are logged, and a stopped run can be resumed.

    Under torchrun (torchrun --nproc-per-node 4 --no-python attnbench train …), the processes share every batch.

    Exit codes: 0 all steps done or seconds used up, 2 bad input, 130 interrupted (with a checkpoint).
    """
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput
    from attnbench.machine.device import resolve_device
    from attnbench.mini.coarse import taken_over
    from attnbench.mini.config import TrainConfig
    from attnbench.mini.train import check_config, start
    from attnbench.mini.train import resume as resume_training
    from attnbench.mini.workers import joined
    from attnbench.results.run import NoProgress

    run_suite(ctx, suite, out, resume, quiet=quiet)
    place = resolve_device(device)
    if resume is not None:
        refuse_others(ctx, "--resume continues the run as it was asked for", *_ON_RESUME)
    on_gpu = place.type == "cuda"

    def config() -> TrainConfig:
        (asked,) = asked_methods([method], settings)
        if dense_coarse and not coarse:
            raise BadInput("--dense-coarse needs --coarse, which says the steps that it is about")
        return TrainConfig(
            model=model, method=asked.method, settings=asked.settings, engine=engine, as_layer=as_layer,
            steps=train_steps, batch=batch, coarse=_stages(coarse), dense_coarse=dense_coarse, seed=seed,
            muon_lr=muon_lr, lr=lr, ema=ema, warmup=warmup, full_seconds=full_seconds, judge=judge,
            checkpoint_every=checkpoint_every,
            held_out=held_out if held_out is not None else (120 if on_gpu else 8),
            dtype=dtype if dtype is not None else ("bfloat16" if on_gpu else "float32"), compile=compile,
        )  # fmt: skip

    check_only(ctx, lambda: check_config(config(), place, seconds))
    with joined(place) as (workers, own), TerminalProgress(quiet=quiet) if workers.leads else NoProgress() as progress:
        if resume is not None:
            done = resume_training(resume, own, progress, seconds, workers)
        else:
            asked = config()
            folder = _fresh(asked.method, workers.agree(time.time())) if out is None else out
            first = None if coarse_from is None else partial(taken_over, coarse_from)
            done = start(asked, folder, own, progress, seconds, workers, first)
    if done.finished:
        said = f"{done.step} steps done: {done.folder / 'mini.safetensors'}"
    else:
        why = "interrupted" if done.interrupted else "time is up"
        said = f"{why} after step {done.step} of {done.steps}; continue with: attnbench train --resume {done.folder}"
    if workers.leads:
        say(said)
        if done.finished and not done.interrupted:
            _judge(done.folder, own, quiet)
    raise typer.Exit(128 + done.signal if done.interrupted else 0)


def _judge(folder: Path, device: torch.device, quiet: bool) -> None:
    """Judge the clips that a finished run asks for, and print what was counted."""
    from attnbench.cli.progress import TerminalProgress
    from attnbench.clips.judging import judge_run
    from attnbench.machine.signals import exit_code as code_of

    with TerminalProgress(quiet=quiet) as progress:
        try:
            found = judge_run(folder, device, progress)
        except KeyboardInterrupt as interrupt:
            progress.note(f"interrupted; the weights are kept. Judge them with: attnbench train --resume {folder}")
            raise typer.Exit(code_of(interrupt)) from None
    if found is not None:
        say(f"class right: {found.class_share}\nmotion right: {found.motion_share}")


def _stages(given: list[str] | None) -> tuple[tuple[int, int], ...]:
    from attnbench.kernels.errors import BadInput

    stages = []
    for text in given or ():
        match = re.fullmatch(r"(\d{1,9})[x×](\d{1,9})", text.strip())
        if match is None:
            raise BadInput(f"--coarse {text!r} must be steps and clips per step, such as 2000x64")
        stages.append((int(match[1]), int(match[2])))
    return tuple(stages)


def _fresh(method: str, now: float) -> Path:
    from datetime import UTC, datetime

    return Path("results") / "runs" / f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-train-{method}"
