"""The ranks of a run on several GPUs of one host: start them, join them, and let them tell each other things."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from attnbench.kernels.errors import BadInput, RankLost, Unsupported
from attnbench.machine.clock import CLOCK
from attnbench.machine.device import DeviceKind, device_name, own_gpu
from attnbench.parallel.collectives import Ranks, lost
from attnbench.parallel.handshake import require_same, versions

GRACE = 45.0
"""Seconds that the other ranks have to end by themselves once one has failed."""

HUNG = 75
"""Exit code of a rank that ends because another one hangs."""

_POLL = 0.1
_ALONE = 2.0  # seconds in which ranks that the interrupt reached too end by themselves
_AT_ONCE = 3.0  # seconds that the others have where one hangs
_FAREWELL = 10.0  # seconds that the others have once they are told to end
_MEETING = timedelta(seconds=60)  # in which all ranks must come
_EXCHANGE = timedelta(seconds=60)  # that one may take on GPUs
_PATIENCE = timedelta(hours=2)  # what a rank may have to wait for another that verifies
_PROGRAM = (
    "import json, sys; parent = int(sys.argv.pop()); sys.path[:] = json.loads(sys.argv.pop()); "
    "from attnbench.machine.signals import end_with_parent; end_with_parent(parent); "
    "from attnbench.cli import main; main()"
)


@dataclass(eq=False)
class Crew:
    """The ranks of a run, as one of them sees them.

    Attributes:
        data: exchanges the tensors of calls.
        control: exchanges what ranks tell each other, on the CPU.
        device: of this rank.
        told: when this rank was last told something, by the clock of ``CLOCK.seconds``.
        waits: whether it waits to be told something now.
    """

    data: Ranks
    control: Ranks
    device: torch.device
    told: float = field(default_factory=CLOCK.seconds)
    waits: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which verifies and writes."""
        return self.control.rank == 0

    def tell(self, value: object) -> list[Any]:
        """Return what every rank tells: values for JSON."""
        self.waits = True
        try:
            texts = self.control.texts(json.dumps(value), torch.device("cpu"))
        finally:
            self.told, self.waits = CLOCK.seconds(), False
        return [json.loads(text) for text in texts]

    def meeting(self) -> Callable[[], None]:
        """Return what lets all ranks go on together: a CPU waits, a GPU is told to wait."""
        token = torch.zeros(1, device=self.device)

        def meet() -> None:
            with lost(self.data):
                dist.all_reduce(token, group=self.data.group)

        return meet

    def hear(self, value: object) -> Any:
        """Return what rank 0 tells; of the others, ``value`` is not looked at."""
        return self.tell(value if self.leads else None)[0]


def is_rank() -> bool:
    """Whether torchrun, or ``start``, made this process a rank."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def check_count(gpus: int, device: torch.device) -> None:
    """Check that so many ranks can run here, or do already.

    Raises:
        BadInput: saying how many there are.
    """
    if is_rank():
        if (told := os.environ["WORLD_SIZE"]) != str(gpus):
            raise BadInput(f"--gpus is {gpus}, and torchrun started {told} ranks: give both the same")
        if device.type == "cuda":
            own_gpu()
    elif device.type == "cuda" and torch.cuda.device_count() < gpus:
        raise BadInput(f"--gpus is {gpus}, and this machine has {torch.cuda.device_count()}")


@contextmanager
def joined(device: torch.device, *, spreads: bool = False) -> Iterator[Crew]:
    """Join the ranks that this process was started with, and leave them at the end.

    Args:
        device: of the calls.
        spreads: whether other libraries make groups of these ranks, which exchange tensors of the device.

    Raises:
        BadInput: for environment variables of torchrun that cannot be.
        RankLost: if not all ranks come.
        Unsupported: if this torch has no way to exchange tensors of the device.
    """
    if not dist.is_available():
        raise Unsupported("this torch has no torch.distributed, which ranks exchange tensors by")
    here = device
    if device.type == "cuda":
        here = own_gpu()
        torch.cuda.set_device(here)
    _meet("cpu:gloo,cuda:nccl" if spreads and device.type == "cuda" else "gloo")
    try:
        control = Ranks.of(dist.group.WORLD, torch.device("cpu"))
        group = dist.group.WORLD
        if device.type == "cuda":
            group = dist.new_group(backend="nccl", timeout=_EXCHANGE)
        yield Crew(Ranks.of(group, here), control, here)
    finally:
        dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Wait until all ranks are here. From then on each may wait long for another."""
    from torch.distributed.rendezvous import rendezvous

    told = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    wrong = next((name for name in ("RANK", "WORLD_SIZE", "MASTER_PORT") if not told[name].isdecimal()), None)
    if wrong is not None:
        raise BadInput(f"{wrong} is {told[wrong]!r} in the environment; torchrun sets it to a whole number")
    place = f"{told['MASTER_ADDR']}:{told['MASTER_PORT']}"
    try:
        store, rank, size = next(rendezvous("env://", timeout=_MEETING))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        said = str(error).partition("\n")[0][:200]
        raise RankLost(f"rank {told['RANK']} of {told['WORLD_SIZE']} met not all others at {place} ({said})") from error


def require_alike(crew: Crew, request: Mapping[str, object]) -> None:
    """Require that all ranks measure the same with the same versions, on one host and on one kind of device.

    Raises:
        BadInput: naming what differs, on all ranks.
    """
    kind: DeviceKind = "cuda" if crew.device.type == "cuda" else "cpu"
    here = {"device": device_name(kind), "host": socket.gethostname()}
    must = "all ranks of a run must be started alike, on one host and on devices of one kind"
    require_same(crew.tell({**versions(), **request, **here}), must)


def start(gpus: int, words: Sequence[str]) -> tuple[int, str]:
    """Start the command line on this host once for each rank, and wait for them.

    Args:
        gpus: how many ranks.
        words: of the command line, from the command on.

    Returns:
        the exit code of rank 0, and what it printed on standard output.

    Raises:
        RankLost: if another rank failed, and so rank 0 has no result.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(gpus), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threads = str(max(1, (os.cpu_count() or 1) // gpus))
    command = [sys.executable, "-P", "-c", _PROGRAM, *words, json.dumps(sys.path), str(os.getpid())]
    with tempfile.TemporaryFile() as said:
        started = [
            subprocess.Popen(
                command,
                env={"OMP_NUM_THREADS": threads, **os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if rank else said,
            )
            for rank in range(gpus)
        ]
        try:
            first, codes = _waited_for(started)
        except KeyboardInterrupt:
            _dismiss(started)
            raise
        finally:
            for process in started:
                process.kill()
                process.wait()
        said.seek(0)
        printed = said.read().decode()
    if first is not None and (first or codes[0] < 0 or codes[0] == HUNG):
        code = codes[first]
        if code == HUNG:
            raise RankLost(f"rank {first} of {gpus} ended because a rank hangs, as it says above")
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise RankLost(f"rank {first} of {gpus} {how}, so there is no result of all ranks")
    return codes[0], printed


def _dismiss(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let interrupted ranks say what they leave. Those that the interrupt did not reach are told."""
    for seconds in (_ALONE, _FAREWELL):
        limit = time.monotonic() + seconds
        while any(process.poll() is None for process in started) and time.monotonic() < limit:
            time.sleep(_POLL)
        for process in started:
            if process.poll() is None:
                process.terminate()


def _waited_for(started: Sequence[subprocess.Popen[bytes]]) -> tuple[int | None, list[int]]:
    """Return the rank that failed first, and the exit codes; ranks that outlive it by ``GRACE`` are ended."""
    first: int | None = None
    since = 0.0
    while any(process.poll() is None for process in started):
        if first is None:
            first = next((rank for rank, process in enumerate(started) if process.poll()), None)
            since = time.monotonic()
        elif time.monotonic() - since > (_AT_ONCE if started[first].poll() == HUNG else GRACE):
            for process in started:
                process.kill()
        time.sleep(_POLL)
    codes = [process.wait() for process in started]
    return first if first is not None else next((rank for rank, code in enumerate(codes) if code), None), codes
