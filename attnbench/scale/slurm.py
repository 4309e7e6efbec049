"""The engine ``slurm``: a job for each cell, through submitit. Jobs outlive the process that submitted them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.machine.printed import last_words
from attnbench.scale.extras import need
from attnbench.scale.local import chosen_gpus, gpus_here
from attnbench.scale.task import WORKERS, Ended, WorkerTask, read_ended
from attnbench.scale.where import Slurm
from attnbench.scale.worker import serve


class SlurmEngine:
    """Submits a job for each cell."""

    def __init__(self, submitit: Any, settings: Slurm, folder: Path, gpus: list[str]) -> None:
        self.submitit, self.settings = submitit, settings
        self.here = settings.cluster != "slurm"
        self.pause = 0.2 if self.here else 2.0
        self.free: list[str] = list(gpus)
        # submitit's own executor starts all at once, however many GPUs there are.
        self.slots: int | None = max(len(gpus), 1) if self.here else settings.jobs
        self.width: int | None = self.slots
        self.folder = folder.absolute() / WORKERS / "submitit"

    @classmethod
    def made(cls, settings: Slurm, folder: Path) -> SlurmEngine:
        """Return the engine that submits to the cluster here.

        Raises:
            BadInput: if submitit is not installed, there is no Slurm, or the partition does not exist.
        """
        submitit = need("submitit", "slurm")
        if settings.cluster == "slurm":
            if shutil.which("sbatch") is None or shutil.which("srun") is None:
                raise BadInput("--on slurm needs sbatch and srun: call this where jobs are submitted, as a login node")
            if settings.partition is not None:
                require_partition(settings.partition)
        gpus = chosen_gpus(gpus_here(), None) if settings.cluster == "local" and settings.gpus_per_node else []
        return cls(submitit, settings, folder, gpus)

    def start(self, task: WorkerTask) -> SlurmJob:
        """Submit the job of a cell.

        Raises:
            BadInput: with Slurm's own words, if it refuses.
        """
        gpu = self.free.pop(0) if self.free else None
        settings = self.settings
        executor = self.submitit.AutoExecutor(folder=self.folder, cluster=settings.cluster)
        given = {
            f"slurm_{name}": getattr(settings, name)
            for name in ("partition", "account", "qos", "constraint")
            if getattr(settings, name) is not None
        }
        if settings.mem_gb is not None:
            given["mem_gb"] = settings.mem_gb
        if gpu is not None:
            given["local_visible_gpus"] = (gpu,)
        alone = settings.cluster == "local" and gpu is None
        executor.update_parameters(
            name="attnbench", nodes=1, tasks_per_node=1, timeout_min=settings.timeout_min,
            cpus_per_task=settings.cpus_per_task, gpus_per_node=0 if alone else settings.gpus_per_node, **given,
        )  # fmt: skip
        try:
            job = executor.submit(serve, task.model_dump_json())
        except (self.submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
            raise BadInput(f"Slurm refuses the job of {task.name!r}: {_words_of(error)}") from error
        return SlurmJob(job, task, self, gpu)

    def close(self) -> None:
        """Hold nothing: jobs that were submitted go on."""


class SlurmJob:
    """The job of a cell."""

    def __init__(self, job: Any, task: WorkerTask, engine: SlurmEngine, gpu: str | None) -> None:
        self.job, self.task, self.engine, self.gpu = job, task, engine, gpu

    def poll(self) -> Ended | None:
        """Return how it ended, None while it waits or runs."""
        if not self.job.done():
            return None
        try:
            text = str(self.job.result())
        except Exception as error:  # whatever happened to the job: submitit has a class for each
            text, why = "", last_words(self._printed()) or last_words(str(error))
        else:
            why = "it left no result"
        if self.gpu is not None:
            self.engine.free.append(self.gpu)
            self.gpu = None
        if (ended := read_ended(text)) is not None:
            return ended
        state = str(self.job.state).lower()
        hint = "" if self.engine.here or self.task.log.exists() else self._hint()
        return Ended(
            exit_code=1, verdict="timeout" if "timeout" in state else "crashed",
            reason=f"its Slurm job {self.job.job_id} ended as {state}: {why}{hint}",
        )  # fmt: skip

    def stop(self) -> None:
        """Cancel it."""
        self.job.cancel(check=False)

    def _printed(self) -> str:
        try:
            return str(self.job.stderr() or "")
        except OSError:
            return ""

    def _hint(self) -> str:
        return f"; it left nothing in {self.task.folder!r}: is that on a disk that the nodes share?"


def require_partition(name: str) -> None:
    """Raise BadInput if Slurm has no partition of this name. Where sinfo cannot tell, sbatch will."""
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format", "%R"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return
    partitions = set(done.stdout.split())
    for each in name.split(","):
        if partitions and each not in partitions:
            raise unknown_name("Slurm partition", each, partitions)


def _words_of(error: Exception) -> str:
    printed = getattr(error, "stderr", None) or getattr(error.__cause__, "stderr", None) or str(error)
    return last_words(printed.decode(errors="replace") if isinstance(printed, bytes) else str(printed))
