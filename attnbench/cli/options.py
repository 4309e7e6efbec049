"""Options that several commands share, and how ``--set`` is read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

MethodOption = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="A method's name; repeat for several. Default: the built-in ones."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting, as topk=8; with several methods as moba.topk=8. Repeat for several."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output, for machines.")]
FramesOption = Annotated[int | None, typer.Option(help="Video frames, 4k+1. Default: the resolution's own.")]
ModelOption = Annotated[str | None, typer.Option(help="Model whose heads, layers and text tokens to take.")]
GridOption = Annotated[str | None, typer.Option(help="Token grid T x H x W instead of a resolution, as 21x45x80.")]
KvHeadsOption = Annotated[int | None, typer.Option(help="Key and value heads, a divisor of the heads.")]
HeadDimOption = Annotated[int | None, typer.Option(help="Dimension of a head.")]
BatchOption = Annotated[int, typer.Option(help="Batch size.")]
DtypeOption = Annotated[str | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on a CPU.")]
DirectionOption = Annotated[str, typer.Option(help="fwd, or fwdbwd for forward and backward.")]
InputsOption = Annotated[str, typer.Option(help="video[:PATH], gaussian or capture:FILE.safetensors.")]
EngineOption = Annotated[str, typer.Option(help="Attention engine; auto takes the first that serves.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU where there is one.")]
SeedOption = Annotated[int, typer.Option(help="Seed of inputs and of sampled rows.")]
ResOption = Annotated[str | None, typer.Option(help="Resolution: 480p, 576p or 720p. Default: 480p.")]
HeadsOption = Annotated[int | None, typer.Option(help="Query heads.")]
LayerOption = Annotated[
    list[int] | None, typer.Option(help="Layer to measure; repeat for several. Default: one of each kind.")
]


def parse_settings(pairs: list[str] | None, methods: list[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of each of ``methods`` from ``name=value`` or ``method.name=value`` texts.

    Values are read as JSON, then as Python literals, and otherwise stay text: 8, 0.25, true, 3,6,8, (3, (6, 8), (8,
    12, 8)).

    Raises:
        BadInput: for a text without "=", a method that is not run, or a bare name with several methods.
    """
    from attnbench.kernels.errors import BadInput
    from attnbench.methods.values import parse_value

    settings: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        owner, dot, setting = name.strip().rpartition(".")
        if not equals or not setting:
            raise BadInput(f"--set {pair!r} must be name=value or method.name=value")
        if not dot:
            if len(methods) != 1:
                raise BadInput(f"--set {pair!r} names no method and {len(methods)} are run: write METHOD.{pair}")
            owner = methods[0]
        if owner not in settings:
            raise BadInput(f"--set {pair!r} is for method {owner!r}, which is not run; run: {', '.join(methods)}")
        settings[owner][setting] = parse_value(text)
    return settings


def unique_methods(names: list[str] | None) -> list[str]:
    """Return the methods asked for, each once, or the built-in ones.

    Raises:
        BadInput: for an unknown method, with the closest known name.
    """
    from attnbench.methods import get_method
    from attnbench.methods.registry import BUILT_IN

    chosen = list(dict.fromkeys(names or BUILT_IN))
    for name in chosen:
        get_method(name)
    return chosen
