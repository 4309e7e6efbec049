"""``attnbench capture``: save q, k and v of a model that is making a clip, for ``--inputs capture:``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.lists import read_numbers
from attnbench.cli.options import JsonOption, QuietOption
from attnbench.cli.terminal import say


def capture(
    model: Annotated[str, typer.Option(help="mini, wan, hunyuan, cogvideox, ltx or mochi.")] = "mini",
    prompt: Annotated[
        str, typer.Option(help="What the clip shows; for the mini model a class and a direction.")
    ] = "3 moving north-east",
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="LIST", help="Layers to save, counted from 0, as 0,10-12; may be repeated. Default: 0."),
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(metavar="LIST", help="Denoising steps to save, as 0,25; may be repeated. Default: 0."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")] = Path("capture.safetensors"),
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder of a diffusers pipeline with safetensors; for the mini model a file, or none."),
    ] = None,
    sampler_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of the whole clip. Default: the model's own.")
    ] = None,
    res: Annotated[str | None, typer.Option(help="Resolution: 480p, 576p or 720p. Default: the model's own.")] = None,
    frames: Annotated[int | None, typer.Option(help="Video frames. Default: the model's, or the resolution's.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, instead of a resolution.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, instead of a resolution.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of the guidance. Default: the model's own.")] = None,
    video_only: Annotated[bool, typer.Option("--video-only", help="Leave joint text tokens out.")] = False,
    dtype: Annotated[str | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on a CPU.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU where there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a clip with full attention and save q, k and v of chosen layers and steps; the clip itself is not kept.

    Exit codes: 0 fine, 2 bad input, 130 interrupted. Nothing half-written is left.
    """
    from attnbench.cli.progress import TerminalProgress
    from attnbench.inputs.presets import RESOLUTIONS
    from attnbench.kernels.errors import BadInput, unknown_name
    from attnbench.models.capture.make import capture as run_capture
    from attnbench.models.capture.request import MINI, CaptureRequest

    if res is not None:
        if res not in RESOLUTIONS:
            raise unknown_name("resolution", res, RESOLUTIONS)
        if model == MINI:
            raise BadInput(f"--res {res} does not apply to the mini model: all of its clips have one size")
        if height is not None or width is not None:
            raise BadInput(f"--res {res} already says height and width: drop them, or drop --res")
        chosen = RESOLUTIONS[res]
        height, width, frames = chosen.height, chosen.width, chosen.frames if frames is None else frames
    request = CaptureRequest(
        model=model, prompt=prompt, layers=tuple(read_numbers("--layers", layers) or [0]),
        steps=tuple(read_numbers("--steps", steps) or [0]),
        weights=weights, sampler_steps=sampler_steps, frames=frames, height=height, width=width, guidance=guidance,
        seed=seed, dtype=dtype, device=device, video_only=video_only,
    )  # fmt: skip
    with TerminalProgress(quiet=quiet) as progress:
        done = run_capture(request, out, lambda step, count: progress.step("making a clip", step + 1, count, None))
    points = [{"point": str(point), "inputs": done.inputs(point)} for point in done.points]
    if as_json:
        shape = {"heads": done.heads, "kv_heads": done.kv_heads, "head_dim": done.head_dim, "dtype": done.dtype}
        layout = {"grid": str(done.layout.grid), "text_tokens": list(done.layout.text)}
        print(json.dumps({"path": str(done.path), **layout, **shape, "points": points}))
        return
    say(f"{', '.join(map(str, done.points))} of a clip on the token grid {done.layout.grid}: {done.path}")
    options = done.run_options(done.points[0])
    if options is None:
        say(f"It holds {sum(done.layout.text)} tokens of joint text, as no model of attnbench run: use --video-only")
        return
    say(f"Measure with it: attnbench run {options}")
