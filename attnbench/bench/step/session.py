"""Measure a whole transformer step and journal it."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnbench.bench.profile.call import Profile, profile_call
from attnbench.bench.step.measure import StepReport, StepRow, measure_step
from attnbench.bench.trial import classified
from attnbench.inputs.seeds import SEEDS
from attnbench.inputs.shapes import resolve_shape
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.machine.device import resolve_device
from attnbench.machine.environment import collect_environment
from attnbench.machine.memory import lacks_memory
from attnbench.models.random_wan import SIZES as WAN_SIZES
from attnbench.results.journal import JOURNAL, Journal
from attnbench.results.records.cells import RunHeader
from attnbench.results.records.steps import StepRecord
from attnbench.results.run import DEFAULT_ROOT, Progress, check_writable, point_latest

COMMAND = "profile --end-to-end"
"""What the first line of the journal says of the command; such a run is not resumed."""

SIZES = {"wan2.1-1.3b": "1.3b", "tiny": "tiny"}
"""Sizes of Wan by the words of --model."""

TINY_GRID = "3x8x8"
ROUNDS = {"fwd": 7, "fwdbwd": 7}
LARGE_ROUNDS = {"fwd": 5, "fwdbwd": 3}
"""Samples of each figure by direction: a step of 1.3B takes a second or more, and each kind twice a round."""

REPEATS = 3
"""Profiled steps of each kind."""


@dataclass(frozen=True)
class StepRequest:
    """What a step is asked to be; None means the default.

    Attributes:
        methods: settings by method.
        model: "wan2.1-1.3b", the default on a GPU, or "tiny", the default on a CPU.
        res, frames, grid: as of ``attnbench run``; default 480p, and 3x8x8 where the model is tiny.
        batch: sequences.
        dtype, device, direction, engine, rounds, seed: as of ``measure_step``.
        checkpointing: default with 1.3B in training, whose activations no GPU of 80 GB holds.
    """

    methods: Mapping[str, Mapping[str, Any]]
    model: str | None = None
    res: str | None = None
    frames: int | None = None
    grid: str | None = None
    batch: int = 1
    dtype: str | None = None
    device: str | None = None
    direction: str = "fwd"
    checkpointing: bool | None = None
    engine: str = "auto"
    rounds: int | None = None
    seed: int = 0


def run_step(request: StepRequest, out: Path | None, progress: Progress) -> tuple[Path, list[StepRecord]]:
    """Measure the step and write its records to a run's folder, which is returned with them.

    Raises:
        BadInput: for a request or a folder that cannot be used.
        Unsupported: without diffusers, or if an engine cannot serve a method.
    """
    device = resolve_device(request.device)
    size, grid = size_of(request, device.type), grid_of(request, device.type)
    if not 0 <= request.seed < SEEDS:
        raise BadInput(f"seed {request.seed} must be a whole number from 0 to {SEEDS - 1}")
    training = request.direction == "fwdbwd"
    checkpointing = training and size != "tiny" if request.checkpointing is None else request.checkpointing
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    folder = out if out is not None else DEFAULT_ROOT / "runs" / run_id
    check_writable(folder)
    usual = (ROUNDS if size == "tiny" else LARGE_ROUNDS).get(request.direction, 1)
    rounds = usual if request.rounds is None else request.rounds
    progress.note(f"a step of Wan {size} at {grid}, {request.direction}, {rounds} round{'s' if rounds != 1 else ''}")
    profiles: dict[str, Profile] = {}

    def observe(name: str, call: Callable[[], object], clear: Callable[[], None], median_ms: float) -> None:
        progress.step(f"profiling the step with {name}", 0, 1, None)
        with classified() as failure:
            profiles[name] = profile_call(call, clear, device, REPEATS, latency_ms=median_ms, memory=False)
        if failure.verdict is not None:
            progress.note(f"the step with {name} could not be profiled: {failure.reason}")
        elif profiles[name].complaint:
            progress.note(f"the step with {name}: {profiles[name].complaint}")

    kind = "cuda" if device.type == "cuda" else "cpu"
    header = RunHeader(
        run_id=run_id,
        environment=collect_environment(kind, sys.argv),  # type: ignore[arg-type]  # one of the two
        request={"command": COMMAND, **{name: value for name, value in vars(request).items() if value is not None}},
    )
    with _taken(folder, header) as journal:
        with _fitting(f"a step of Wan {size} at {grid}"):
            report = measure_step(
                request.methods, size=size, grid=grid, batch=request.batch, dtype=request.dtype, device=device.type,
                direction=request.direction, checkpointing=checkpointing, engine=request.engine, rounds=rounds,
                seed=request.seed, observe=observe,
                tell=lambda label, done, total: progress.step(label, done, total, None),
            )  # fmt: skip
        records = [step_record(report, row, run_id, request, profiles.get(row.name)) for row in report.rows]
        journal.append(*records)
    if out is None:
        try:
            point_latest(DEFAULT_ROOT, folder)
        except OSError as error:
            progress.note(f"{str(DEFAULT_ROOT / 'latest')!r} does not point to this run: {error.strerror}")
    return folder, records


@contextmanager
def _taken(folder: Path, header: RunHeader) -> Iterator[Journal]:
    """Begin a journal, so that the folder is taken while the step is measured; remove it if nothing comes of that."""
    fresh = not folder.exists()
    with Journal.create(folder, header) as journal:
        try:
            yield journal
        except BaseException:
            with suppress(OSError):
                (folder / JOURNAL).unlink()
                if fresh:
                    folder.rmdir()
            raise


@contextmanager
def _fitting(what: str) -> Iterator[None]:
    """Say in one sentence that memory did not suffice.

    Raises:
        BadInput: if it did not.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        said = f": {str(error).splitlines()[0]}" if str(error) else ""
        raise BadInput(
            f"{what} runs out of memory{said}; take a smaller --res or --grid, --frames or --batch"
        ) from error


def size_of(request: StepRequest, device: str) -> str:
    """Return the size of Wan that is asked for.

    Raises:
        BadInput: for a model of which there is no step.
    """
    if request.model is None:
        return "1.3b" if device == "cuda" else "tiny"
    if request.model not in SIZES:
        raise BadInput(f"--model {request.model} has no step to measure end to end; take {' or '.join(SIZES)}")
    return SIZES[request.model]


def grid_of(request: StepRequest, device: str) -> Grid:
    """Return the token grid that is asked for.

    Raises:
        BadInput: for options that exclude each other or cannot be.
    """
    given, size = (request.grid, request.res, request.frames), size_of(request, device)
    if size == "tiny" and given == (None, None, None):
        return Grid.of(TINY_GRID)
    grid = resolve_shape(res=request.res, frames=request.frames, grid=request.grid).grid
    longest = int(WAN_SIZES[size]["rope_max_seq_len"])
    if max(grid.shape) > longest:
        raise BadInput(f"grid '{grid}': a side of Wan {size} has at most {longest:,} positions")
    return grid


def step_record(
    report: StepReport, row: StepRow, run_id: str, request: StepRequest, profile: Profile | None = None
) -> StepRecord:
    """Return the record of one row of a measured step, and of its profile where there is one."""
    phases = () if profile is None else profile.phases
    return StepRecord(
        run_id=run_id,
        size=report.size,
        grid=report.grid,
        text_tokens=report.text_tokens,
        batch=report.batch,
        layers=report.layers,
        dtype=report.dtype,
        device=report.device,
        direction=report.direction,  # type: ignore[arg-type]  # measure_step checked it
        checkpointing=report.checkpointing,
        engine_asked=request.engine,
        seed=request.seed,
        timer=report.timer,
        rounds=report.rounds,
        baseline=report.baseline,
        without_ms=report.without_ms.median,
        share=report.share.median,
        share_lo=report.share.lo,
        share_hi=report.share.hi,
        share_alone=report.share_alone.median,
        name=row.name,
        settings=row.settings,
        density=row.density,
        step_ms=row.step_ms.median,
        step_lo_ms=row.step_ms.lo,
        step_hi_ms=row.step_ms.hi,
        attention_ms=row.attention_ms.median,
        attention_lo_ms=row.attention_ms.lo,
        attention_hi_ms=row.attention_ms.hi,
        step_speedup=row.step_speedup.median,
        step_speedup_lo=row.step_speedup.lo,
        step_speedup_hi=row.step_speedup.hi,
        attention_speedup=row.attention_speedup.median,
        predicted_speedup=row.predicted_speedup,
        phases_ms={f"{phase.pass_} {phase.phase}": phase.time.median for phase in phases if phase.parent is None},
        complaint="" if profile is None else profile.complaint,
        samples_ms=list(row.samples_ms),
    )
