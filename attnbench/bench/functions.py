"""``attnbench.run`` and ``attnbench.profile``: the commands of that name as functions, with rows as data frames."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, TypedDict, Unpack

from attnbench.bench.request import Request, read_request
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, whole_number
from attnbench.methods.entries import Entry, distinct, named, with_values
from attnbench.methods.registry import DEFAULT
from attnbench.results.journal import JOURNAL
from attnbench.results.run import NoProgress, Progress

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.bench.session import After

Methods = str | Entry | Sequence[str | Entry] | None


class RunOptions(TypedDict, total=False):
    """The options of ``attnbench run``, by their long names; each has the command's default."""

    res: str | None
    frames: int | None
    height: int | None
    width: int | None
    model: str | None
    grid: str | tuple[int, int, int] | None
    text_tokens: str | int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    batch: int
    dtype: str | None
    direction: str
    inputs: str
    engine: str
    strict: bool
    device: str | None
    seed: int
    layer: int | Sequence[int] | None
    density: float | None
    rounds: int | None
    budget: float
    timer: str | None
    isolate: bool | None
    cell_timeout: float | None
    precision: float | None
    stability_calls: int | None


def run(
    method: Methods = None,
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> pd.DataFrame:
    """Verify and time methods, as ``attnbench run`` does, and journal the rows.

    Args:
        method: a method's name, ``"vmoba:scope=query,select=topk"``, or several of them; "all" for the built-in ones;
            default full, moba, vmoba, sliding-window and sta.
        settings: as ``--set``: ``{"topk": 8}``, or ``{"moba.topk": 8}`` with several methods.
        out: folder of the run; default results/runs/<time>.
        resume: finish the interrupted run in this folder instead.
        progress: told what is done; by default nothing is printed.
        options: as of the command, by their long names: ``res="720p"``, ``heads=12``, ``layer=[0, 1]``.

    Returns:
        the rows, as ``attnbench.load_results`` reads them; ``attrs["folder"]`` is the run's folder.

    Raises:
        BadInput: for anything that cannot be used.
        Unsupported: for an engine that is not available.
    """
    from attnbench.results.load import load_results

    folder = _measured(method, settings, out, resume, progress or NoProgress(), options)
    frame = load_results(folder / JOURNAL)
    frame.attrs["folder"] = str(folder)
    return frame


def profile(
    method: Methods = None,
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    repeats: int | None = None,
    trace: bool = True,
    **options: Unpack[RunOptions],
) -> pd.DataFrame:
    """Measure methods and where their time goes, as ``attnbench profile`` does.

    Args:
        method, settings, out, resume, progress, options: as of ``run``.
        repeats: profiled calls a cell; default 7, on a CPU 1 to 5 by their length.
        trace: write a Chrome trace of each cell into the run's folder.

    Returns:
        the phases, as ``attnbench.load_phases`` reads them; ``attrs["folder"]`` is the run's folder, of which
        ``attnbench.load_results`` has the rows.

    Raises:
        BadInput: for anything that cannot be used.
        Unsupported: for an engine that is not available.
    """
    from attnbench.bench.profile.cells import ProfileAfter
    from attnbench.results.load import load_phases

    if repeats is not None and (isinstance(repeats, bool) or (whole_number(repeats) or 0) < 1):
        raise BadInput(f"repeats {repeats!r} must be a whole number of at least 1")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler prints two lines each time it is used
    told = progress or NoProgress()

    folder = _measured(method, settings, out, resume, told, options, ProfileAfter(told, repeats, trace))
    frame = load_phases(folder / JOURNAL)
    frame.attrs["folder"] = str(folder)
    return frame


def list_methods() -> list[str]:
    """Return the names of all registered methods, built-in ones first."""
    from attnbench.methods import method_names

    return list(method_names())


def _measured(
    method: Methods,
    settings: Mapping[str, Any] | None,
    out: str | os.PathLike[str] | None,
    resume: str | os.PathLike[str] | None,
    progress: Progress,
    options: Mapping[str, Any],
    after: After | None = None,
) -> Path:
    """Begin a run, or finish the one to resume; return its folder."""
    from attnbench.bench import session

    if resume is not None:
        _alone(method, settings, out, options)
        return session.resume(Path(resume), progress, after).folder
    return session.start(_request(method, settings, options), _place(out), progress, after).folder


def _request(method: Methods, settings: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Request:
    if method is None:
        names: Sequence[object] = list(DEFAULT)
    else:
        names = method if isinstance(method, Sequence) and not isinstance(method, str) else [method]
    entries = named(names)
    if unknown := sorted(options.keys() - RunOptions.__annotations__.keys()):
        raise BadInput(f"{unknown[0]!r} is not an option of a run; known: {', '.join(RunOptions.__annotations__)}")
    if settings is not None and not (isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings)):
        raise BadInput(f"settings {settings!r} must map names to values, as {{'topk': 8}}")
    fields: dict[str, Any] = {name: value for name, value in options.items() if name != "layer"}
    layer = options.get("layer")
    fields["layers"] = [layer] if isinstance(layer, SupportsIndex) else layer
    if isinstance(fields.get("grid"), (tuple, list, Grid)):
        fields["grid"] = str(Grid.of(fields["grid"]))
    return read_request(methods=distinct(with_values(entries, (settings or {}).items())), **fields)


def _place(out: str | os.PathLike[str] | None) -> Path | None:
    if out is None:
        return None
    if not os.fspath(out) or "\0" in os.fspath(out):
        raise BadInput(f"out {out!r} names no folder")
    return Path(out)


def _alone(method: Methods, settings: object, out: object, options: Mapping[str, Any]) -> None:
    given = {"method": method, "settings": settings, "out": out, **options}
    if others := [name for name, value in given.items() if value is not None]:
        raise BadInput(f"resume repeats the run as it was asked for; leave out {', '.join(others)}")
