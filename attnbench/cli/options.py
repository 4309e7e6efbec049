"""Options that several commands share, which of them were typed, and how ``--set`` is read."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from attnbench.cli.lists import read_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attnbench.bench.request import Request
    from attnbench.methods.entries import Entry

Result = TypeVar("Result")

MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="NAME or NAME:setting=value,…; may be repeated; all: every built-in method. Default: full, moba, vmoba, "
        "sliding-window and sta.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting, as topk=8; with several methods as moba.topk=8. Repeat for several."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output, for machines.")]
FramesOption = Annotated[
    int | None, typer.Option(help="Video frames, 4k+1 for most models. Default: the usual number.")
]
HeightOption = Annotated[int | None, typer.Option(help="Height in pixels, with --width instead of --res.")]
WidthOption = Annotated[int | None, typer.Option(help="Width in pixels.")]
TextTokensOption = Annotated[
    str | None, typer.Option(help="Text tokens instead of the model's: 226, or before and after the video as 226+0.")
]
ModelOption = Annotated[str | None, typer.Option(help="Model whose heads, layers and text tokens to take.")]
GridOption = Annotated[str | None, typer.Option(help="Token grid T x H x W instead of a resolution, as 21x45x80.")]
KvHeadsOption = Annotated[int | None, typer.Option(help="Key and value heads, a divisor of the heads.")]
HeadDimOption = Annotated[int | None, typer.Option(help="Dimension of a head.")]
BatchOption = Annotated[int, typer.Option(help="Batch size.")]
DtypeOption = Annotated[str | None, typer.Option(help="Default: bfloat16 on a GPU, float32 on a CPU.")]
DirectionOption = Annotated[str, typer.Option(help="fwd, or fwdbwd for forward and backward.")]
InputsOption = Annotated[str, typer.Option(help="video[:PATH], gaussian or capture:FILE.safetensors.")]
EngineOption = Annotated[str, typer.Option(help="Attention engine; auto takes the first that serves.")]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Refuse what auto would run as plain torch on a GPU, where no kernel serves."),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU where there is one.")]
SeedOption = Annotated[int, typer.Option(help="Seed of inputs and of sampled rows.")]
ResOption = Annotated[str | None, typer.Option(help="Resolution: 480p, 576p or 720p. Default: 480p.")]
HeadsOption = Annotated[int | None, typer.Option(help="Query heads.")]
DensityOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="Move each method's density setting until its plans keep this share of the pairs."
    ),
]
LayersOption = Annotated[
    list[str] | None,
    typer.Option(metavar="LIST", help="Layers to measure, as 0,1,5-8; may be repeated. Default: one of each kind."),
]
RoundsOption = Annotated[int | None, typer.Option(help="Rounds of timing. Default: 3 to 20, as the budget allows.")]
BudgetOption = Annotated[
    float,
    typer.Option(help="Seconds for timing: on a CPU it decides how many heads are timed, never fewer than one."),
]
TimerOption = Annotated[
    str | None,
    typer.Option(help="events, cupti, graph or wall. Default: events on a GPU; a CPU has wall only."),
]
IsolateOption = Annotated[
    bool | None,
    typer.Option(
        "--isolate/--in-process",
        help="Measure each cell in a process of its own, or all in this one. Default: each on its own on a GPU, and "
        "methods and engines of other packages everywhere.",
    ),
]
CellTimeoutOption = Annotated[
    float | None,
    typer.Option(help="Seconds for a cell with a process of its own. Default: 30 + 2 x the budget, at most 600."),
]
PrecisionOption = Annotated[
    float | None,
    typer.Option(
        help="Take rounds until half of each speed-up's interval is this share of it, as 0.01, or the budget is spent."
    ),
]
StabilityOption = Annotated[
    int | None,
    typer.Option(
        "--stability-calls",
        metavar="N",
        help="Calls of a cell on the same inputs; on a CPU, 1 leaves them out. Default: what fits into 5 s, 3 to 30.",
    ),
]
MarginOption = Annotated[
    float | None,
    typer.Option(
        help="Ratio within which the whole interval of a cell must lie to be the same. Default: 0.05 on a GPU, 0.10 "
        "on a CPU."
    ),
]
AllowMissingOption = Annotated[
    list[str] | None, typer.Option(metavar="METHOD", help="A method that may be missing; repeat for several.")
]
NoiseOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Noise between runs. Default: what calibrate stored for the device."),
]
ThresholdOption = Annotated[
    float, typer.Option(help="Ratio from which a change matters: 0.03 is 3 % slower, or faster by as much.")
]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]
JunitOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the verdicts as JUnit's XML.")]
GpusOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Spread the tokens over N ranks of this host, one a GPU, and time attention over them. Default: one "
        "process.",
    ),
]
ParallelOption = Annotated[
    str | None,
    typer.Option(
        metavar="WAY",
        help="With --gpus: ulysses (heads), allgather (queries), ulysses+allgather, or balanced: ulysses with heads "
        "dealt by what they keep. Default: ulysses.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress: only results and problems.")]
OutOption = Annotated[Path | None, typer.Option(help="Folder of the run. Default: results/runs/<time>.")]
ResumeOption = Annotated[Path | None, typer.Option(help="Finish the interrupted run in this folder.")]


@dataclass(frozen=True)
class CaseOptions:
    """What ``run``, ``profile``, ``sweep`` and ``step`` all take: which methods, and on what."""

    method: MethodOption = None
    settings: SetOption = None
    res: ResOption = None
    frames: FramesOption = None
    height: HeightOption = None
    width: WidthOption = None
    text_tokens: TextTokensOption = None
    model: ModelOption = None
    grid: GridOption = None
    batch: BatchOption = 1
    dtype: DtypeOption = None
    direction: DirectionOption = "fwd"
    engine: EngineOption = "auto"
    strict: StrictOption = False
    device: DeviceOption = None
    seed: SeedOption = 0


@dataclass(frozen=True)
class CellOptions(CaseOptions):
    """What ``run``, ``profile`` and ``sweep`` take: a case, its heads, its inputs, and how long to time it."""

    heads: HeadsOption = None
    kv_heads: KvHeadsOption = None
    head_dim: HeadDimOption = None
    inputs: InputsOption = "video"
    layers: LayersOption = None
    density: DensityOption = None
    rounds: RoundsOption = None
    budget: BudgetOption = 240.0
    timer: TimerOption = None
    isolate: IsolateOption = None
    cell_timeout: CellTimeoutOption = None
    precision: PrecisionOption = None
    stability_calls: StabilityOption = None

    def request(self, default: list[str] | None = None) -> Request:
        """Return the request that these options make.

        Args:
            default: methods if none is named; None takes the usual ones, ``DEFAULT``.

        Raises:
            BadInput: quoting the first value that cannot be one.
        """
        from attnbench.bench.request import read_request

        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(CellOptions)}
        method, settings = fields.pop("method"), fields.pop("settings")
        fields["layers"] = read_numbers("--layers", self.layers)
        return read_request(methods=asked_methods(method, settings, default), **fields)


@dataclass(frozen=True)
class RanksOptions:
    """What ``run`` takes besides: over how many ranks attention goes, and how they share it."""

    gpus: GpusOption = None
    parallel: ParallelOption = None


def takes_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Let a command take the fields of its dataclass parameters as options of their own.

    typer reads one option from each parameter. Where ``command(asked: CellOptions, out: …)`` is decorated, the options
    are the fields of CellOptions and then ``--out``, and the command gets a CellOptions of what was typed.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        annotation = hints[name]
        if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            groups[name] = annotation
            fields = get_type_hints(annotation, include_extras=True)
            parameters += [
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=fields[field.name]
                )
                for field in dataclasses.fields(annotation)
            ]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))

    def called(**values: Any) -> Result:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        return command(**values)

    functools.update_wrapper(called, command)
    del called.__dict__["__wrapped__"]  # by it typer would find the parameters of the command itself
    called.__dict__["__signature__"] = inspect.Signature(parameters)
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def typed_options(ctx: typer.Context) -> list[str]:
    """Return the options that were given on the command line, by their long names, in the order of ``--help``."""
    found = []
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            negated = parameter.secondary_opts and ctx.params[parameter.name or ""] is False
            found.append(max(parameter.secondary_opts if negated else parameter.opts, key=len))
    return found


def refuse_others(ctx: typer.Context, why: str, *kept: str) -> None:
    """Refuse the options that were given beside ``kept``; ``--quiet`` goes with all.

    Raises:
        BadInput: ``why``, and which to leave out.
    """
    from attnbench.kernels.errors import BadInput

    if others := [option for option in typed_options(ctx) if option not in (*kept, "--quiet")]:
        raise BadInput(f"{why}; leave out {', '.join(others)}")


def asked_methods(
    names: list[str] | None, pairs: list[str] | None, default: Iterable[str] | None = None
) -> list[Entry]:
    """Return the methods of ``--method`` with the settings of ``--set``, equal ones once.

    Args:
        names: as typed, ``NAME`` or ``NAME:setting=value,…``.
        pairs: as typed, ``name=value`` or ``method.name=value``. Values are read as JSON, then as Python literals, and
            otherwise stay text: 8, 0.25, true, 3,6,8, (3, (6, 8), (8, 12, 8)).
        default: names if none is typed; None takes ``DEFAULT``.

    Raises:
        BadInput: for an unknown method, with the closest known name; for a text that cannot be read, a method that is
            not run, or a bare name with several methods.
    """
    from attnbench.methods.entries import distinct, named, with_settings
    from attnbench.methods.registry import DEFAULT

    return distinct(with_settings(named(names or (DEFAULT if default is None else default)), pairs or ()))
