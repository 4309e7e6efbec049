"""Score a folder of clips. Each dimension runs in a process of its own, so a failure costs only that dimension."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.clips.vbench.dimensions import Dimension
from attnbench.clips.vbench.environment import Environment, child_environ
from attnbench.clips.vbench.records import DimensionRun, Evaluation, Score
from attnbench.clips.vbench.results import link_name, read_scores, skipped
from attnbench.clips.vbench.videos import Clip
from attnbench.clips.vbench.weights_layout import Found, lay_out, look_all
from attnbench.kernels.errors import BadInput
from attnbench.machine.clock import CLOCK
from attnbench.machine.processes import end_group
from attnbench.results.files import alone, replacing

RECORD = "vbench.json"
"""The file that an evaluation writes last."""

LOGS = "logs"
"""The folder of VBench's output. An interrupted evaluation leaves nothing but this."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What all dimensions of an evaluation share."""

    folder: Path
    clips: tuple[Clip, ...]
    prompts: Mapping[str, str] | None
    environment: Environment
    weights: Path
    out: Path
    device: str | None
    timeout: float
    allow_pickle: bool


def evaluate(
    folder: Path,
    clips: Sequence[Clip],
    dimensions: Sequence[Dimension],
    environment: Environment,
    *,
    weights: Path,
    out: Path,
    prompts: Mapping[str, str] | None = None,
    device: str | None = None,
    timeout: float = 3600.0,
    allow_pickle: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Let VBench score clips, and write the scores to ``vbench.json`` in ``out``, with logs beside it.

    A dimension whose weights are missing is skipped without being started. One that fails or takes too long is skipped
    with the cause. Nothing is downloaded, and nothing is written to the folders of the clips and the weights.

    Args:
        folder: the folder of the clips.
        clips: what ``read_folder`` returns.
        dimensions: what ``choose`` returns.
        environment: what ``find`` returns.
        weights: the folder of VBench's weights.
        out: a folder that does not exist, is empty, or was left by an interrupted evaluation.
        prompts: the prompt of every clip, by file name; None skips the dimensions that need prompts.
        device: "cpu" or "cuda"; None for the GPU if the environment's torch finds one, else the CPU.
        timeout: the most seconds that a dimension may take.
        allow_pickle: let torch load weights that hold more than tensors. They can run code.
        say: called with a line at the start of each dimension.

    Raises:
        BadInput: if ``out`` is not empty, cannot be written, or is in use by another process, or if the disk is full.
    """
    try:
        if out.exists() and not out.is_dir():
            raise BadInput(f"{str(out)!r} exists and is not empty; choose another folder with --out")
        out.mkdir(parents=True, exist_ok=True)
        with alone(out, "writing scores to"):
            if any(path.name != LOGS for path in out.iterdir()):
                raise BadInput(f"{str(out)!r} exists and is not empty; choose another folder with --out")
            (out / LOGS).mkdir(exist_ok=True)
            job = _Job(
                folder.resolve(), tuple(clips), prompts, environment, weights, out.resolve(), device, timeout,
                allow_pickle,
            )  # fmt: skip
            made = _evaluate(job, dimensions, say)
            with replacing(out / RECORD) as partial:
                partial.write_text(json.dumps(made.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else str(error)
        raise BadInput(f"the scores cannot be written to {str(out)!r}: {why}") from error
    return made


def _evaluate(job: _Job, dimensions: Sequence[Dimension], say: Callable[[str], None]) -> Evaluation:
    done = []
    for number, dimension in enumerate(dimensions, 1):
        say(f"{dimension.name} ({number} of {len(dimensions)})")
        done.append(_score(job, dimension))
    return Evaluation(
        scores=tuple(score for scores, _ in done for score in scores),
        runs=tuple(run for _, run in done),
        clips=job.clips,
        prompts=job.prompts,
        lock=job.environment.lock,
        python=job.environment.python_version,
    )


def _score(job: _Job, dimension: Dimension) -> tuple[tuple[Score, ...], DimensionRun]:
    found = look_all(dimension, job.weights)
    stand_in = any(one.state == "stand-in" for one in found)
    reason = _why_not(job, dimension, found)
    if reason:
        return skipped(dimension, job.clips, reason), DimensionRun(dimension.name, "skipped", reason=reason)
    start = CLOCK.seconds()
    with tempfile.TemporaryDirectory(prefix="attnbench-vbench-") as scratch:
        answer, reason = _call(job, dimension, Path(scratch))
        seconds = CLOCK.seconds() - start
        if reason:
            scores = skipped(dimension, job.clips, reason, stand_in)
        else:
            written = Path(scratch) / "output" / "clips_eval_results.json"
            scores = read_scores(written, dimension, job.clips, stand_in)
    values = [score.value for score in scores if score.value is not None]
    run = DimensionRun(
        dimension.name,
        status="ok" if values else "skipped",
        mean=sum(values) / len(values) if values else None,
        seconds=round(seconds, 3),
        reason="" if values else scores[0].reason,
        stand_in=stand_in,
        log=f"{LOGS}/{dimension.name}.log",
        versions=answer.get("versions"),
    )
    return scores, run


def _why_not(job: _Job, dimension: Dimension, found: Sequence[Found]) -> str:
    """Return why a dimension cannot be started; empty if it can."""
    wrong = [one.sentence for one in found if not one.usable]
    if wrong:
        return "; ".join(wrong)
    if dimension.prompts and job.prompts is None:
        return f"{dimension.name} compares clips with prompts; give them with --prompts"
    short = next((clip for clip in job.clips if clip.frames < dimension.least_frames), None)
    if short:
        return f"{dimension.name} needs {dimension.least_frames} frames, and clip {short.name!r} has {short.frames}"
    problem = job.environment.imports.get(dimension.name)
    if problem:
        return f"{dimension.name} cannot be imported in the VBench environment: {problem}"
    return ""


def _call(job: _Job, dimension: Dimension, scratch: Path) -> tuple[dict[str, Any], str]:
    """Run the worker on a private view of clips and weights; return its answer, or why there is none."""
    view, answer = scratch / "clips", scratch / "answer.json"
    view.mkdir()
    for number, clip in enumerate(job.clips):  # VBench takes every image in a folder for a clip, and expects ".mp4"
        (view / link_name(number)).symlink_to(job.folder / clip.name)
    (scratch / "cache").mkdir()
    lay_out(dimension, job.weights, scratch / "cache", scratch / "torch")
    prompts = None
    if job.prompts is not None:
        prompts = {link_name(number): job.prompts[clip.name] for number, clip in enumerate(job.clips)}
    asked = {
        "do": "evaluate",
        "dimension": dimension.name,
        "clips": str(view),
        "prompts": prompts,
        "output": str(scratch / "output"),
        "device": job.device,
        "answer": str(answer),
    }
    request = scratch / "request.json"
    request.write_text(json.dumps(asked), encoding="utf-8")
    environ = {"VBENCH_CACHE_DIR": str(scratch / "cache"), "TORCH_HOME": str(scratch / "torch")}
    if job.allow_pickle:
        environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    log = job.out / LOGS / f"{dimension.name}.log"
    try:
        code = _run_worker(job.environment.python, request, log, child_environ(environ), job.timeout)
    except OSError as error:
        if error.filename != str(job.environment.python):
            raise
        return {}, f"the Python of the VBench environment does not start: {error}"
    if code is None:
        return {}, f"{dimension.name} took longer than {job.timeout:g} s and was stopped; allow more with --timeout"
    try:
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        hint = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
        return {}, f"{dimension.name} ended with {how}{hint}; see {log.name}"
    if found["error"] and "weights_only" in found["error"].lower().replace(" ", "_"):
        return found, f"the weights of {dimension.name} hold more than tensors; --allow-pickle loads them anyway"
    return found, f"{dimension.name} failed: {found['error']}" if found["error"] else ""


def _run_worker(python: Path, request: Path, log: Path, environ: dict[str, str], timeout: float) -> int | None:
    """Run the worker with its output in ``log``; return its exit code, or None if it took too long.

    The worker leads a process group of its own, and everything that it starts ends with it, also after Ctrl-C. The next
    one begins when all of that is gone.
    """
    command = [str(python), "-P", str(Path(__file__).with_name("worker.py")), str(request)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environ, cwd=request.parent, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_group(process)
