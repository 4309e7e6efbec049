"""Train a mini model with any differentiable method.

A run can be interrupted and continues exactly where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch

from attnbench.inputs.files import read_file
from attnbench.kernels.engines import get_engine
from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.machine.clock import CLOCK
from attnbench.machine.command import typed_command
from attnbench.machine.environment import collect_environment
from attnbench.machine.memory import lacks_memory
from attnbench.machine.signals import SIGNALS, handled, interrupt_of
from attnbench.methods import make_settings
from attnbench.methods.registry import find_method
from attnbench.mini.batch import made_aside, make_batch
from attnbench.mini.begin import WEIGHTS, begin, bring_back, go_on, leave_nothing, led, read_config
from attnbench.mini.card import training_engines, write_card
from attnbench.mini.checkpoint import CHECKPOINT, State, load_state, save_state
from attnbench.mini.config import TrainConfig
from attnbench.mini.held_out import held_out_losses, held_out_set
from attnbench.mini.log import Log, cut_log
from attnbench.mini.model import Attend
from attnbench.mini.steps import fresh_state, prepare, rate_share, seconds_a_step, take_step
from attnbench.mini.stored import save_mini
from attnbench.mini.workers import ALONE, Workers
from attnbench.results.intervals import mean_interval
from attnbench.results.run import Progress
from attnbench.results.training import CARD


@dataclass(frozen=True, slots=True)
class Trained:
    """Where training stopped, and why.

    Attributes:
        folder: folder of the run.
        step, steps: number of steps taken, and of all steps.
        interrupted: whether Ctrl-C, SIGTERM or SIGHUP stopped it.
        finished: whether the run has taken all its steps, or has used up its seconds of full clips.
        signal: the number of the signal that stopped it; 0 if none did.
    """

    folder: Path
    step: int
    steps: int
    interrupted: bool
    finished: bool
    signal: int = 0


def start(
    config: TrainConfig, folder: Path, device: torch.device, progress: Progress, seconds: float | None = None,
    workers: Workers = ALONE, first: Callable[[TrainConfig], State] | None = None,
) -> Trained:  # fmt: skip
    """Train from the beginning.

    Args:
        folder: where config.json, train.jsonl, checkpoint.safetensors and, at the end, mini.safetensors and its card
            are written.
        seconds: stop cleanly after about this time; None trains until the last step.
        workers: the processes that share each batch. All of them call this function. Their number changes the weights
            by rounding only.
        first: returns the state to begin with, as ``coarse.taken_over`` does; None begins with untrained weights.

    Raises:
        BadInput: for a folder that holds a run or cannot be written, for an unknown method, setting or engine, and if
            memory does not suffice; also whatever ``first`` raises.
        Unsupported: if the engine cannot train the method here.
    """
    check_config(config, device, seconds)
    with led(workers, partial(begin, config, folder, device, first)):
        try:
            return _go(config, folder, device, progress, seconds, workers)
        except AttnbenchError:
            if workers.leads:
                leave_nothing(folder)
            raise


def resume(
    folder: Path, device: torch.device, progress: Progress, seconds: float | None = None, workers: Workers = ALONE
) -> Trained:
    """Continue a run from its last checkpoint. On a CPU, the result is bit for bit that of an uninterrupted run.

    The arguments are those of ``start``.

    Raises:
        BadInput: if the folder holds no run or a damaged one, if another process is training it, or if it began under
            other conditions.
    """
    config = read_config(folder)
    check_config(config, device, seconds)
    if (folder / WEIGHTS).exists() and not (folder / CHECKPOINT).exists():
        raise BadInput(
            f"{str(folder)!r} holds no checkpoint any more, only the weights of the finished run: it cannot be resumed"
        )
    with led(workers, partial(go_on, config, folder, device, progress)):
        return _go(config, folder, device, progress, seconds, workers)


def check_config(config: TrainConfig, device: torch.device, seconds: float | None = None) -> None:
    """Find out, before any step, coarse or not, whether full clips can be trained like this.

    Raises:
        BadInput: for an unknown method, setting or engine, a method without a gradient, or seconds that are none.
        Unsupported: if the engine cannot train the method here.
    """
    if seconds is not None and not seconds > 0:
        raise BadInput(f"seconds is {seconds!r}; it must be above 0")
    method = find_method(config.method)
    make_settings(method, config.settings)
    if not method.has_gradient:
        raise BadInput(f"method {config.method!r} has no gradient, so no model can be trained with it")
    if config.engine != "auto":
        get_engine(config.engine)
    training_engines(config, device)


def _go(
    config: TrainConfig, folder: Path, device: torch.device, progress: Progress, seconds: float | None, workers: Workers
) -> Trained:
    try:
        return _train(config, folder, device, progress, seconds, workers)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            if not config.compile or not isinstance(error, _compiler_errors()):
                raise
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise BadInput(f"--compile does not work here ({why.rstrip('.')}): leave it out") from error
        raise BadInput(
            f"there is not enough memory for {config.batch} clips a step and {config.held_out} held-out ones: a "
            "smaller --batch, smaller --coarse stages or a smaller --held-out may help; an earlier checkpoint is kept"
        ) from error


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    return TorchDynamoException, InductorError


def _train(
    config: TrainConfig, folder: Path, device: torch.device, progress: Progress, seconds: float | None, workers: Workers
) -> Trained:
    environment = collect_environment("cuda" if device.type == "cuda" else "cpu", typed_command())
    state = fresh_state(config, device)
    if (folder / CHECKPOINT).exists():
        load_state(state, config, folder)
    done = partial(_is_done, config, state)
    if workers.agree(done() and _is_written(folder, state.step)):
        return Trained(folder, state.step, config.steps, interrupted=False, finished=True)
    if workers.leads:
        cut_log(folder, state.step)
    if not workers.agree(done()):
        if config.full_seconds is not None and (config.compile or device.type == "cuda"):
            seconds_a_step(config, max(state.step, config.coarse_steps), device, progress.note, workers)
        held_out_set(state.ema.config, config.held_out)  # kept: too many are noticed before a step is taken
    attend, gradients = prepare(state, config, device, progress.note, workers)
    aside = torch.cuda.Stream(device) if device.type == "cuda" else None
    log, begun, first = Log(folder) if workers.leads else None, CLOCK.seconds(), state.step
    last, expected, batch, kept = 0.0, 0.0, None, state.step

    def out_of_time() -> bool:
        return seconds is not None and state.step > first and CLOCK.seconds() - begun + expected > seconds

    with contextlib.closing(log) if log else contextlib.nullcontext(), _interrupts() as interrupted:
        while not workers.agree(done() or interrupted() or out_of_time()):
            before = CLOCK.seconds()
            values = take_step(
                state, config, batch or make_batch(config, state.step, device, workers), gradients, workers
            )
            # While the GPU is busy: reading the loss waits for the step.
            following = state.step + 1
            batch = made_aside(config, following, device, aside, workers) if following < config.steps else None
            loss, norm = torch.stack(values).tolist()
            took = CLOCK.seconds() - before
            last, expected = took, min(last, took)  # the first step of a stage compiles, the next one does not
            if not math.isfinite(loss + norm):
                raise BadInput(
                    f"the loss of step {state.step + 1} is {loss}: a lower --lr may help; the last checkpoint is kept"
                )
            state.step += 1
            state.seconds += last
            if state.step > config.coarse_steps:
                state.full_seconds += last
            if log is None:
                continue
            log.add(
                step=state.step, loss=loss, grad_norm=norm, rate=rate_share(config, state.step - 1), seconds=last,
                total_seconds=state.seconds, peak_mib=_peak_mib(device),
            )  # fmt: skip
            left = (CLOCK.seconds() - begun) / (state.step - first) * (config.steps - state.step)
            left = left if seconds is None else min(left, max(0.0, seconds - (CLOCK.seconds() - begun)))
            if config.full_seconds is not None and state.full_seconds:
                left = min(left, max(0.0, config.full_seconds - state.full_seconds))
            if state.step % 10 == 0 or done() or last > 5:
                progress.step(f"step {state.step}, loss {loss:.4f}", state.step, config.steps, left)
            if state.step % config.checkpoint_every == 0 and not done():
                before = CLOCK.seconds()
                _keep(state, config, folder, log, attend, progress)
                kept = state.step
                if state.step > config.coarse_steps:
                    state.full_seconds += CLOCK.seconds() - before
        if state.step > kept and log is not None:
            _keep(state, config, folder, log, attend, progress)
        stopped, number = interrupted(), interrupted.number
    if state.step and workers.leads:
        save_mini(state.model, state.ema.state_dict(), folder / WEIGHTS)
        write_card(folder, config, state, device, workers.count, environment)
    finished = bool(workers.agree(done()))  # and everything is written
    return Trained(folder, state.step, config.steps, stopped, finished, number)


def _is_done(config: TrainConfig, state: State) -> bool:
    """Whether a run has taken all of its steps, or used up its seconds of full clips."""
    used_up = config.full_seconds is not None and state.full_seconds >= config.full_seconds
    return state.step >= config.steps or used_up


def _is_written(folder: Path, step: int) -> bool:
    """Whether weights and card are there, and the card counts so many steps."""
    try:
        return (folder / WEIGHTS).is_file() and json.loads(read_file(folder / CARD))["steps"] == step
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _keep(state: State, config: TrainConfig, folder: Path, log: Log, attend: Attend, progress: Progress) -> None:
    """Log the held-out loss of the averaged weights, then write the checkpoint; all of it anew if it was deleted."""
    values = held_out_losses(state.ema, attend, config.held_out, config.batch, config.dtype)
    mean, low, high = mean_interval(values)
    log.add(step=state.step, held_out=mean, held_out_lo=low, held_out_hi=high, held_out_losses=values)
    if log.bring_back():
        bring_back(config, folder, next(state.model.parameters()).device)
        progress.note(f"{str(folder)!r} was deleted while it was written; all but older checkpoints is written anew")
    save_state(state, config, folder)
    progress.note(f"step {state.step}: held-out loss {mean:.4f} [{low:.4f}, {high:.4f}], checkpoint written")


def _peak_mib(device: torch.device) -> float:
    """Return the peak of memory so far: allocated on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@dataclass
class _Interrupt:
    """Tells whether a signal came that asks this process to end, and which."""

    number: int = 0

    def __call__(self) -> bool:
        return bool(self.number)


@contextlib.contextmanager
def _interrupts() -> Iterator[_Interrupt]:
    """Yield what tells whether Ctrl-C was pressed, or SIGTERM or SIGHUP came.

    The first of them lets the step finish, the second does not.
    """
    came = _Interrupt()

    def note(number: int, frame: FrameType | None) -> None:
        if came.number:
            raise interrupt_of(number)
        came.number = number

    with handled(note, *SIGNALS):
        yield came
