"""Measure a whole transformer step and journal it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from attnbench.bench.profile.call import Profile, profile_call
from attnbench.bench.step.case import StepCase
from attnbench.bench.step.measure import Observer, check_methods, measure_step
from attnbench.bench.trial import classified
from attnbench.inputs.seeds import SEEDS
from attnbench.inputs.shapes import resolve_shape
from attnbench.kernels.engines import strictly
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.machine.command import typed_command
from attnbench.machine.device import resolve_device
from attnbench.machine.environment import collect_environment
from attnbench.machine.memory import lack_told
from attnbench.methods.entries import Entry
from attnbench.models.random_wan import SIZES as WAN_SIZES
from attnbench.results.journal import JOURNAL, Journal
from attnbench.results.records.steps import StepRecord
from attnbench.results.run import Progress, announce, begin, choose_place

COMMAND = "step"
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
        methods: with the settings that were given.
        model: "wan2.1-1.3b", the default on a GPU, or "tiny", the default on a CPU.
        res, frames, height, width, grid: as of ``attnbench run``; default 480p, and 3x8x8 where the model is tiny.
        text_tokens: of the cross-attention, as a number; by default 512.
        batch: sequences.
        dtype, device, direction, engine, rounds, seed: as of ``StepCase``.
        strict: refuse plain torch on a GPU where "auto" would fall to it.
        gpus: ranks that the tokens are spread over; None for one process.
        parallel: how: "ulysses".
        heads: default those of the model.
        graphs: also run each method as CUDA graphs.
        checkpointing: by default on for training steps of 1.3B, whose activations do not fit a GPU of 80 GB.
    """

    methods: Sequence[Entry]
    model: str | None = None
    res: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    text_tokens: str | None = None
    grid: str | None = None
    batch: int = 1
    dtype: str | None = None
    device: str | None = None
    direction: str = "fwd"
    checkpointing: bool | None = None
    engine: str = "auto"
    strict: bool = False
    rounds: int | None = None
    seed: int = 0
    gpus: int | None = None
    parallel: str | None = None
    heads: int | None = None
    graphs: bool = False


def run_step(request: StepRequest, out: Path | None, progress: Progress) -> tuple[Path, list[StepRecord]]:
    """Measure the step and write its records to a run's folder, which is returned with them.

    Raises:
        BadInput: for a request or a folder that cannot be used.
        Unsupported: without diffusers, or if an engine cannot serve a method.
    """
    case = case_of(request, resolve_device(request.device))
    observe = _observer(case.torch_device, progress)

    def measure(run_id: str) -> list[StepRecord]:
        return measure_step(request.methods, case, run_id=run_id, observe=observe, progress=progress)

    return journal_step(request, case, out, progress, measure)


def journal_step(
    request: StepRequest, case: StepCase, out: Path | None, progress: Progress,
    measure: Callable[[str], list[StepRecord]],
) -> tuple[Path, list[StepRecord]]:  # fmt: skip
    """Write what ``measure`` returns for a run's id to the run's folder, which is returned with it."""
    device, place = case.torch_device, choose_place(out)
    what = f"a step of Wan {case.size} at {case.token_grid}"
    progress.note(f"{what}, {case.direction}, {case.rounds} round{'s' if case.rounds != 1 else ''}")
    environment = collect_environment("cuda" if device.type == "cuda" else "cpu", typed_command())
    asked = {"command": COMMAND, **{name: x for name, x in dataclasses.asdict(request).items() if x is not None}}
    fresh = not place.folder.exists()
    with _whole(begin(place, environment, asked), fresh) as journal:
        with lack_told(partial(_too_large, what)), strictly(request.strict):
            records = measure(place.run_id)
        journal.append(*records)
    announce(place, progress)
    return place.folder, records


def check_request(request: StepRequest) -> None:
    """Find out before anything is measured what a step cannot be measured with.

    Raises:
        BadInput: for a request that cannot be used.
    """
    check_methods(request.methods, graphs=request.graphs)
    case_of(request, resolve_device(request.device))


def _observer(device: torch.device, progress: Progress) -> Observer:
    """Return what profiles each step, and notes why one could not be."""

    def observe(name: str, call: Callable[[], object], clear: Callable[[], None], median_ms: float) -> Profile | None:
        progress.step(f"profiling the step with {name}", 0, 1, None)
        profile: Profile | None = None
        with classified() as failure:
            profile = profile_call(call, clear, device, REPEATS, latency_ms=median_ms, memory=False)
        if failure.verdict is not None:
            progress.note(f"the step with {name} could not be profiled: {failure.reason}")
        elif profile is not None and profile.complaint:
            progress.note(f"the step with {name}: {profile.complaint}")
        return profile

    return observe


@contextmanager
def _whole(journal: Journal, fresh: bool) -> Iterator[Journal]:
    """Hold a journal while the step is measured, and remove it, with a fresh folder, if that fails."""
    with journal:
        try:
            yield journal
        except BaseException:
            with suppress(OSError):
                (journal.folder / JOURNAL).unlink()
                if fresh:
                    journal.folder.rmdir()
            raise


def _too_large(what: str, said: str) -> str:
    why = f": {said}" if said else ""
    return f"{what} runs out of memory{why}; take a smaller --res or --grid, --frames, --heads or --batch"


def case_of(request: StepRequest, device: torch.device) -> StepCase:
    """Fill in what the request leaves open.

    Raises:
        BadInput: for a request that cannot be used.
    """
    size, grid = size_of(request, device.type), grid_of(request, device.type)
    if not 0 <= request.seed < SEEDS:
        raise BadInput(f"seed {request.seed} must be a whole number from 0 to {SEEDS - 1}")
    training = request.direction == "fwdbwd"
    usual = (ROUNDS if size == "tiny" else LARGE_ROUNDS).get(request.direction, 1)
    return StepCase(
        size=size,
        grid=grid,
        text_tokens=_text_of(request.text_tokens),
        batch=request.batch,
        dtype=request.dtype,
        device=device.type,
        direction=request.direction,
        checkpointing=training and size != "tiny" if request.checkpointing is None else request.checkpointing,
        engine=request.engine,
        rounds=usual if request.rounds is None else request.rounds,
        seed=request.seed,
        heads=request.heads,
        graphs=request.graphs,
    )


def size_of(request: StepRequest, device: str) -> str:
    """Return the size of Wan that is asked for.

    Raises:
        BadInput: for a model of which there is no step.
    """
    if request.model is None:
        return "1.3b" if device == "cuda" else "tiny"
    if request.model not in SIZES:
        raise BadInput(f"--model {request.model} has no step to measure; take {' or '.join(SIZES)}")
    return SIZES[request.model]


def grid_of(request: StepRequest, device: str) -> Grid:
    """Return the token grid that is asked for.

    Raises:
        BadInput: for options that exclude each other or cannot be.
    """
    size = size_of(request, device)
    given = {name: getattr(request, name) for name in ("grid", "res", "frames", "height", "width")}
    if size == "tiny" and not any(value is not None for value in given.values()):
        return Grid.of(TINY_GRID)
    grid = resolve_shape(**given).grid
    longest = int(WAN_SIZES[size]["rope_max_seq_len"])
    if max(grid.shape) > longest:
        raise BadInput(f"grid '{grid}': a side of Wan {size} has at most {longest:,} positions")
    return grid


def _text_of(given: str | None) -> int:
    """Return the text tokens of the cross-attention, which are on no side of the video."""
    if given is None:
        return StepCase.text_tokens
    if not (given.isascii() and given.isdigit() and len(given) <= 6):
        raise BadInput(f"--text-tokens {given!r} must be a number: Wan reads its text in cross-attention alone")
    return int(given)
