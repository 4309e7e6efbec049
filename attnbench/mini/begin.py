"""Begin or resume a training run: its folder, its lock, and its conditions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from pydantic import ValidationError

from attnbench.inputs.files import read_file
from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.machine.command import typed_command
from attnbench.machine.environment import collect_environment
from attnbench.mini.checkpoint import CHECKPOINT, State, save_state
from attnbench.mini.config import TrainConfig
from attnbench.mini.workers import Workers
from attnbench.results.conditions import require_same
from attnbench.results.files import alone, write_whole
from attnbench.results.journal import TRAINING_LOG
from attnbench.results.records.cells import RunHeader
from attnbench.results.run import Progress
from attnbench.results.training import CONFIG

WEIGHTS = "mini.safetensors"
HEADER = "run.json"
"""File with the conditions under which a run began, in the form of the first line of a journal."""


@contextlib.contextmanager
def led(workers: Workers, prepare: Callable[[contextlib.ExitStack], object]) -> Iterator[None]:
    """Let the first process prepare while the others wait. If it fails, all of them stop.

    Args:
        prepare: is given the exit stack that holds its locks until everything is done.
    """
    if not workers.leads:
        if not workers.agree(False):
            raise BadInput(f"process {workers.rank + 1} ends with the first one, which says why")
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            prepare(held)
        except AttnbenchError:
            workers.agree(False)
            raise
        workers.agree(True)
        yield


def begin(
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    first: Callable[[TrainConfig], State] | None,
    held: contextlib.ExitStack,
) -> None:
    """Write the first files of a run into a folder, which is locked for this process until ``held`` is closed."""
    begun = None if first is None else first(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {str(folder)!r}: {error.strerror}") from error
    held.enter_context(alone(folder, "training in"))
    if (folder / CONFIG).exists():
        raise BadInput(f"{str(folder)!r} holds a training run already: choose another --out, or use --resume")
    try:
        write_whole(b"", folder / TRAINING_LOG, "")
        _write_header(config, folder, device)
        if begun is not None:
            save_state(begun, config, folder)
        _write_config(config, folder)
    except AttnbenchError:
        leave_nothing(folder)
        raise


def bring_back(config: TrainConfig, folder: Path, device: torch.device) -> None:
    """Write what a run is, without which it cannot be resumed, into its folder, which was deleted.

    Raises:
        BadInput: if it cannot be written.
    """
    _write_header(config, folder, device)
    _write_config(config, folder)


def _write_header(config: TrainConfig, folder: Path, device: torch.device) -> None:
    write_whole((header_of(config, device).model_dump_json(indent=1) + "\n").encode(), folder / HEADER, "")


def _write_config(config: TrainConfig, folder: Path) -> None:
    write_whole((json.dumps(config.as_json(), indent=1) + "\n").encode(), folder / CONFIG, "")


def leave_nothing(folder: Path) -> None:
    """Remove the files of a run that has taken no step."""
    if (folder / CHECKPOINT).exists() and (folder / TRAINING_LOG).stat().st_size:
        return
    for name in (CONFIG, HEADER, TRAINING_LOG, CHECKPOINT):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def header_of(config: TrainConfig, device: torch.device) -> RunHeader:
    """Describe the conditions under which a run begins."""
    environment = collect_environment("cuda" if device.type == "cuda" else "cpu", typed_command())
    if device.type == "cuda":  # on a GPU they have no influence on training, and torchrun changes them
        environment = environment.model_copy(update={"threads": None})
    request = {"command": "train", **config.as_json()}
    return RunHeader(run_id=environment.started_at, environment=environment, request=request)


def go_on(
    config: TrainConfig, folder: Path, device: torch.device, progress: Progress, held: contextlib.ExitStack
) -> None:
    """Lock a folder for this process, if the conditions are those under which its run began."""
    held.enter_context(alone(folder, "training in"))
    path = folder / HEADER
    try:
        began = RunHeader.model_validate_json(read_file(path))
    except FileNotFoundError:
        progress.note("an older attnbench began this run, so it is unknown whether its conditions have changed since")
        return
    except (OSError, ValidationError) as error:
        raise BadInput(f"{str(path)!r} does not describe how a run began: {str(error).splitlines()[0]}") from error
    require_same(folder, began, header_of(config, device).environment, {}, progress.note)


def read_config(folder: Path) -> TrainConfig:
    """Return the configuration of the run in a folder.

    Raises:
        BadInput: if there is none, or it is damaged.
    """
    path = folder / CONFIG
    try:
        return TrainConfig.from_json(json.loads(read_file(path)))
    except OSError as error:
        raise BadInput(f"{str(folder)!r} holds no training run to resume: {path.name} cannot be read") from error
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{str(path)!r} is not the configuration of a training run") from error
