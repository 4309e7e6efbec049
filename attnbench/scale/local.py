"""The engine ``local``: a worker for each GPU of this machine, or one for its CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

from attnbench.bench.apart.process import how_it_ended
from attnbench.kernels.errors import BadInput
from attnbench.machine.printed import last_words
from attnbench.scale.task import Ended, WorkerTask, read_ended
from attnbench.scale.where import Local

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_PROBE = (
    "import json, torch; count = torch.cuda.device_count(); "
    "print(json.dumps([torch.cuda.get_device_name(number) for number in range(count)]))"
)


def gpus_here() -> dict[str, str]:
    """Return the GPUs that this process may use: what CUDA_VISIBLE_DEVICES calls each, and its name.

    Another process asks for the names: CUDA would hold memory on a GPU in the one that asks.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    names = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout.strip() else []
    given = [each.strip() for each in os.environ.get(_VISIBLE, "").split(",") if each.strip()]
    shown = given if len(given) >= len(names) else [str(number) for number in range(len(names))]
    return dict(zip(shown, names, strict=False))


def chosen_gpus(gpus: dict[str, str], count: int | None) -> list[str]:
    """Return the GPUs to use, as CUDA_VISIBLE_DEVICES calls them.

    Args:
        gpus: that there are, with their names.
        count: how many are wanted; None for all.

    Raises:
        BadInput: if there are fewer, or those wanted are of several kinds.
    """
    if count is not None and count > len(gpus):
        raise BadInput(f"--on local:gpus={count}: this machine has {len(gpus)} GPU{'s' if len(gpus) != 1 else ''}")
    chosen = list(gpus)[:count]
    if len({gpus[each] for each in chosen}) > 1:
        kinds = ", ".join(f"{each} is {gpus[each]}" for each in chosen)
        raise BadInput(f"mixed devices: GPU {kinds}; choose GPUs of one kind with {_VISIBLE}")
    return chosen


class LocalEngine:
    """Starts each worker as a process of this machine, on a GPU that no other worker has.

    Attributes:
        free: GPUs without a worker, as CUDA_VISIBLE_DEVICES calls them; None for the only place of a CPU.
    """

    pause = 0.2
    here = True

    def __init__(self, gpus: list[str]) -> None:
        self.free: list[str | None] = [*gpus] if gpus else [None]
        self.slots: int | None = len(self.free)
        self.width: int | None = self.slots

    @classmethod
    def made(cls, settings: Local) -> LocalEngine:
        """Return the engine of this machine.

        Raises:
            BadInput: for GPUs that there are not, or of several kinds.
        """
        return cls(chosen_gpus(gpus_here(), settings.gpus))

    def start(self, task: WorkerTask) -> LocalJob:
        """Start a worker on the next free GPU."""
        gpu = self.free.pop(0)
        environment = dict(os.environ) if gpu is None else os.environ | {_VISIBLE: gpu}
        command = [sys.executable, "-m", "attnbench.scale.worker", task.model_dump_json(), str(os.getpid())]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, env=environment,
        )  # fmt: skip
        return LocalJob(process, lambda: self.free.append(gpu))

    def close(self) -> None:
        """Hold nothing."""


class LocalJob:
    """A worker of this machine."""

    def __init__(self, process: subprocess.Popen[str], give_back: Callable[[], None]) -> None:
        self.process, self.give_back = process, give_back

    def poll(self) -> Ended | None:
        """Return how it ended, None while it runs."""
        if self.process.poll() is None:
            return None
        printed, problems = self.process.communicate()
        self.give_back()
        if (ended := read_ended(printed)) is not None:
            return ended
        said = last_words(problems)
        how = how_it_ended(self.process.returncode)
        return Ended(exit_code=1, verdict="crashed", reason=f"its worker {how}{f': {said}' if said else ''}")

    def stop(self) -> None:
        """Kill it: its cell's process ends with it, and every sample so far is on disk."""
        self.process.kill()
        self.process.communicate()
        self.give_back()
