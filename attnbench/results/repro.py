"""How to make a row again: the row that a name stands for, and the command that measures its cell."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from attnbench.inputs.presets import MODELS, RESOLUTIONS
from attnbench.inputs.shapes import DEFAULT_MODEL, resolve_shape
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.methods.values import parse_value
from attnbench.results.layers import MeanRow, means_of
from attnbench.results.load import Results
from attnbench.results.records.cells import Row, RunHeader, canonical_json, settings_of

_TIMING = ("rounds", "budget", "timer", "precision", "stability_calls", "cell_timeout")
_MOST_TOLD = 3


def find_row(results: Results, name: str) -> Row:
    """Return the row whose ``row_id`` begins with ``name``; of a method whose layers differ also the mean over them.

    Raises:
        BadInput: if no row begins so, or several do.
    """
    wanted = name.strip().lower()
    if not wanted:
        raise BadInput(f"{name!r} is no row_id: attnbench report --format csv lists them")
    means = [mean.row for mean in means_of(results.rows, results.samples, results.missing) if len(mean.members) > 1]
    found = {row.row_id: row for row in (*means, *results.rows) if row.row_id.startswith(wanted)}
    if not found:
        raise BadInput(
            f"no row_id begins with {name!r} among {len(results.rows):,} rows; attnbench report --format csv lists them"
        )
    if len(found) > 1 and wanted not in found:
        told = ", ".join(f"{row.row_id} ({row.method})" for row in list(found.values())[:_MOST_TOLD])
        more = f" and {len(found) - _MOST_TOLD:,} more" if len(found) > _MOST_TOLD else ""
        raise BadInput(f"row_id {name!r} is not unique: it begins {told}{more}")
    return found.get(wanted) or next(iter(found.values()))


def profiled_rows(results: Results) -> Callable[[Row], bool]:
    """Return what tells whether a row has phases; of a mean, whether its run made any."""
    profiled = {(phase.run_id, phase.row_id) for phase in results.phases}
    runs = {run for run, _ in profiled}
    return lambda row: row.run_id in runs if isinstance(row, MeanRow) else (row.run_id, row.row_id) in profiled


def command_of(row: Row, header: RunHeader | None = None, *, profiled: bool = False) -> list[str]:
    """Return the words of the command that measures the cell of a row again; of a mean, the cells of its layers.

    Args:
        row: what was measured.
        header: of its run, for how it was timed and on what kind of device.
        profiled: whether it has phases: then it is ``profile`` that makes them.
    """
    request: Mapping[str, Any] = {} if header is None else header.request
    words = ["attnbench", "profile" if profiled else "run", "--method", _method_word(row), *_shape_words(row)]
    words += ["--layers", _layers(row)]
    words += ["--density", f"{row.density_asked:g}"] if row.density_asked is not None else []
    words += ["--gpus", str(row.gpus), "--parallel", str(row.parallel)] if row.gpus is not None else []
    words += ["--dtype", row.dtype]
    words += ["--direction", row.direction] if row.direction != "fwd" else []
    words += ["--inputs", row.inputs]
    words += ["--seed", str(row.seed)] if row.seed else []
    engine = row.engine_asked if row.settings_given is not None else row.engine
    words += ["--engine", engine] if engine is not None else []
    words += ["--device", header.environment.device_kind] if header is not None else []
    for name in _TIMING:
        if request.get(name) is not None and (name, request[name]) != ("budget", 240.0):
            words += [f"--{name.replace('_', '-')}", f"{request[name]:g}" if name != "timer" else str(request[name])]
    if (isolate := request.get("isolate")) is not None:
        words.append("--isolate" if isolate else "--in-process")
    return words


def _layers(row: Row) -> str:
    """Return the layers that a row was measured on: of a mean, one of each kind, as its "0×10, 1×10" says."""
    if not isinstance(row, MeanRow):
        return str(row.layer)
    return ",".join(kind.partition("×")[0] for kind in row.layers.split(", "))


def command_line(words: Iterable[str]) -> str:
    """Return the words of a command as they would be typed."""
    return shlex.join(words)


def _method_word(row: Row) -> str:
    """Return the method with the settings that were given; where these are not known, with the resolved ones."""
    given = settings_of(row.settings_given or "")
    if given is None:
        given = {name: value for name, value in (settings_of(row.settings) or {}).items() if value is not None}
    settings = ",".join(f"{name}={_value(value)}" for name, value in given.items())
    return f"{row.method}:{settings}" if settings else row.method


def _value(value: Any) -> str:
    """Return a setting so that it is read as what it is: text as it stands, unless that would be read as a number."""
    plain = isinstance(value, str) and parse_value(value) == value and not set(value) & set(" ,=:()[]{}\"'")
    return str(value) if plain and value else canonical_json(value)


def _shape_words(row: Row) -> list[str]:
    preset = MODELS.get(row.model or DEFAULT_MODEL)
    words = [] if row.model is None else ["--model", row.model]
    words += _grid_words(row.model, row.grid)
    usual = (0, 0) if row.model is None or preset is None else preset.text_of(Grid.of(row.grid))
    words += [] if row.text_tokens == usual else ["--text-tokens", "{}+{}".format(*row.text_tokens)]
    words += ["--batch", str(row.batch)] if row.batch != 1 else []
    alike = preset is not None and (row.heads, row.kv_heads) == (preset.heads, preset.kv_heads)
    words += [] if alike else ["--heads", str(row.heads)]
    words += [] if alike or row.kv_heads == row.heads else ["--kv-heads", str(row.kv_heads)]
    words += [] if preset is not None and row.head_dim == preset.head_dim else ["--head-dim", str(row.head_dim)]
    return words


@lru_cache
def _grid_words(model: str | None, grid: str) -> tuple[str, ...]:
    """Return the words that make a grid: a format, or none, where the model has it, otherwise the grid."""
    for res in (*RESOLUTIONS, None) if model is not None else ():
        with contextlib.suppress(BadInput):
            if str(resolve_shape(model=model, res=res).grid) == grid:
                return () if res is None else ("--res", res)
    return ("--grid", grid)
