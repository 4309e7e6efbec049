"""The engine ``ray``: a task for each cell, on a cluster that runs or on one that is begun here."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.told import in_one_line
from attnbench.machine.printed import last_words
from attnbench.machine.signals import SIGNALS
from attnbench.scale.extras import need
from attnbench.scale.task import Ended, WorkerTask, read_ended
from attnbench.scale.where import Ray
from attnbench.scale.worker import serve

_KIND = "accelerator_type:"
_STORE = 100 * 2**20  # bytes for what tasks hand on: texts of a few lines


class RayEngine:
    """Gives each cell a GPU of the cluster; where it has none, all cores of a node, so that no cell disturbs another.

    Attributes:
        wanted: options of a task.
        width: how many tasks the cluster has room for.
    """

    pause = 0.5
    slots: int | None = None

    def __init__(self, ray: Any, wanted: dict[str, Any], here: bool, width: int | None = None) -> None:
        self.ray, self.wanted, self.here, self.width = ray, wanted, here, width
        self.serve = ray.remote(serve)

    @classmethod
    def made(cls, settings: Ray) -> RayEngine:
        """Return the engine of a cluster.

        Raises:
            BadInput: if Ray is not installed, there is no cluster, or its GPUs are of several kinds.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster begun here; 15 by default, behind all others
        ray = need("ray", "ray")
        local = settings.address == "local"
        more: dict[str, Any] = {"num_gpus": settings.gpus} if settings.gpus is not None else {}
        if local:
            more |= {"include_dashboard": False, "object_store_memory": _STORE}
        if settings.address is not None and not local:
            require_answer(settings.address)
        try:
            with keeping_handlers():
                ray.init(address=settings.address or "auto", log_to_driver=False, logging_level="ERROR", **more)
        except Exception as error:  # Ray has a class for each thing that may be wrong with a cluster
            advice = (
                "is this machine too busy, or its memory full?"
                if local
                else "start one with ray start --head, or take this machine with --on ray:address=local"
            )
            raise BadInput(
                f"--on ray has no cluster at {settings.address or 'auto'!r}: "
                f"{last_words(str(error)).rstrip('.')}; {advice}"
            ) from error
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            wanted = wanted_of(nodes, settings.accelerator)
        except BaseException:
            ray.shutdown()
            raise
        return cls(ray, wanted | {"max_retries": 0}, here=local, width=room_for(nodes, wanted))

    def start(self, task: WorkerTask) -> RayJob:
        """Submit the task of a cell, which waits until a GPU is free."""
        return RayJob(self.ray, self.serve.options(**self.wanted).remote(task.model_dump_json()))

    def close(self) -> None:
        """Leave the cluster, or end the one that was begun here."""
        self.ray.shutdown()


class RayJob:
    """The task of a cell."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def poll(self) -> Ended | None:
        """Return how it ended, None while it waits or runs."""
        done, _ = self.ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            ended, why = read_ended(self.ray.get(self.reference)), "it left no result"
        except self.ray.exceptions.RayError as error:
            ended, why = None, in_one_line(error)[:200]
        return ended or Ended(exit_code=1, verdict="crashed", reason=f"its worker of Ray died: {why}")

    def stop(self) -> None:
        """Cancel it."""
        self.ray.cancel(self.reference, force=True)


def require_answer(address: str, seconds: float = 10.0) -> None:
    """Raise BadInput if nobody listens at HOST:PORT, where Ray would try for minutes; judge no other address."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except (OSError, OverflowError) as error:
        raise BadInput(
            f"--on ray has no cluster at {address!r}: {getattr(error, 'strerror', None) or error}; ray status on its "
            "head says whether it runs"
        ) from error


@contextlib.contextmanager
def keeping_handlers() -> Iterator[None]:
    """Give signals their handlers back after this block: Ray takes SIGTERM, and a run would end without its words."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def room_for(nodes: list[dict[str, float]], wanted: dict[str, Any]) -> int:
    """Return how many tasks that want this a cluster has room for.

    Args:
        nodes: the resources of each node that is alive, by Ray's names.
        wanted: of ``wanted_of``.
    """
    if "num_cpus" in wanted:
        return sum(int(node.get("CPU", 0)) >= wanted["num_cpus"] for node in nodes)
    kind = wanted.get("accelerator_type")
    return sum(int(node.get("GPU", 0)) for node in nodes if kind is None or f"{_KIND}{kind}" in node)


def wanted_of(nodes: list[dict[str, float]], accelerator: str | None) -> dict[str, Any]:
    """Return what a task asks of the cluster.

    Args:
        nodes: the resources of each node that is alive, by Ray's names.
        accelerator: the GPUs to use, as "H100"; None where the cluster has one kind.

    Raises:
        BadInput: if there are several kinds of GPU and none is chosen, or the one chosen is not there.
    """
    kinds = sorted({name.removeprefix(_KIND) for node in nodes for name in node if name.startswith(_KIND)})
    if accelerator is not None and accelerator not in kinds:
        raise unknown_name("accelerator of the Ray cluster", accelerator, kinds)
    if accelerator is None and len(kinds) > 1:
        raise BadInput(
            f"mixed devices: the Ray cluster has {', '.join(kinds)}; choose, as --on ray:accelerator={kinds[0]}"
        )
    if any(node.get("GPU") for node in nodes):
        return {"num_gpus": 1} | ({} if accelerator is None else {"accelerator_type": accelerator})
    return {"num_cpus": max(int(node.get("CPU", 1)) for node in nodes)}
