"""Measure the runs of a calibration: some without a change, some with calls that are slower on purpose."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from attnbench.bench import session
from attnbench.bench.gate import repeats
from attnbench.bench.gate.together import measure_together
from attnbench.bench.jobs import make_agenda
from attnbench.bench.request import Request
from attnbench.kernels.errors import BadInput
from attnbench.machine.device import resolve_device
from attnbench.results import plans
from attnbench.results.calibration import LEAST_RUNS, Calibration, calibrate
from attnbench.results.calibration_in_turns import Session, calibrate_in_turns
from attnbench.results.conditions import require_same
from attnbench.results.files import alone, write_whole
from attnbench.results.find import CALIBRATION
from attnbench.results.journal import JOURNAL
from attnbench.results.load import Results, read
from attnbench.results.noise import NoiseModel
from attnbench.results.run import PartProgress, Progress, announce, choose_place, require_empty

PLAN = CALIBRATION
SCHEMA_VERSION = 1
DELAYS = (0.01, 0.02, 0.03, 0.05, 0.1)
_DELAYED = ".delayed"
"""Folder of the runs that are slower on purpose. No command reads what is in a folder whose name begins with a dot."""
_SEED = 20244
_ROUNDS = 12
"""Rounds of each run, where runs follow each other and no number is asked for."""


class Plan(plans.Planned):
    """What a calibration measures."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of this file")
    request: Request = Field(description="what each run measures")
    runs: int = Field(ge=LEAST_RUNS, description="runs without a change")
    delays: list[float] = Field(description="shares that calls are made slower by")
    delayed_runs: int = Field(ge=1, description="runs of each delay")
    in_turns: bool = Field(
        default=False,
        description="whether each run without a change has a second one, and one with a delay, that take turns with it "
        "call by call",
    )

    def sessions(self) -> list[tuple[str, dict[str, float]]]:
        """Return the folder of each session of runs that take turns, and in it the place and the delay of each run.

        Each delay has as many sessions as the others, or one more, in random order.
        """
        made, generator = [], random.Random(_SEED)
        delays = [self.delays[number % len(self.delays)] for number in range(self.runs)] if self.delays else []
        generator.shuffle(delays)
        for number in range(self.runs):
            slower = {f"{_DELAYED}/{delays[number]:g}": delays[number]} if delays else {}
            places = {"same-1": 0.0, "same-2": 0.0, **slower}
            made.append((f"session-{number + 1:02}", places))
        return made

    def parts(self) -> list[tuple[str, float]]:
        """Return the place and the delay of each run, in the order in which they are measured.

        The order is random, so that a drift of the machine affects all kinds of runs alike.
        """
        made = [(f"same-{number:02}", 0.0) for number in range(1, self.runs + 1)]
        for delay in self.delays:
            made += [(_delayed_name(delay, number), delay) for number in range(1, self.delayed_runs + 1)]
        random.Random(_SEED).shuffle(made)
        return made


def usual_case(request: Request) -> Request:
    """Return the request with a case that suits many short runs, where none is named.

    Raises:
        BadInput: for a device that is not there.
    """
    if resolve_device(request.device).type != "cpu":
        return request
    heads = {} if request.heads is not None or request.model is not None else {"heads": 1}
    named = (request.res, request.frames, request.model, request.grid)
    grid = {} if any(each is not None for each in named) else {"grid": "6x12x16"}
    return request.model_copy(update={**heads, **grid})


def by_default(request: Request, asked: bool | None) -> bool:
    """Return whether runs take turns call by call: as asked, and otherwise on a CPU.

    Raises:
        BadInput: for a device that is not there.
    """
    return resolve_device(request.device).type == "cpu" if asked is None else asked


def make_plan(request: Request, runs: int, delays: Sequence[float], *, in_turns: bool = False) -> Plan:
    """Check what is to be measured; a quarter as many runs are made of each delay as without one.

    With ``in_turns`` so many sessions are made instead, each of two runs without a change and one with a delay.

    Raises:
        BadInput: quoting what cannot be used.
        Unsupported: for an engine that is not available.
    """
    if runs < LEAST_RUNS:
        raise BadInput(f"--runs {runs} must be at least {LEAST_RUNS}: two to compare, two to know how much runs differ")
    for delay in delays:
        if not 0 < delay <= 1:
            raise BadInput(f"a delay of {delay:.4g} must be a share of a call's time above 0 and up to 1, as 0.05")
    jobs = make_agenda(request).jobs
    if all(job.method.name == "full" for job in jobs):
        raise BadInput("full attention alone is not compared with itself; name a method, as --method vmoba")
    if in_turns and resolve_device(request.device).type != "cpu":
        raise BadInput("runs take turns call by call on a CPU only: a GPU is for one run at a time; use --run-by-run")
    if request.rounds is None and not in_turns:
        request = request.model_copy(update={"rounds": _ROUNDS})
    return Plan(
        request=request,
        runs=runs,
        delays=sorted(set(delays)),
        delayed_runs=max(1, runs // 4),
        in_turns=in_turns,
    )


def start(plan: Plan, out: Path | None, progress: Progress) -> Path:
    """Measure a calibration from the beginning; return its folder.

    Args:
        out: the folder; by default results/runs/<time>-calibration.

    Raises:
        BadInput: for a folder that cannot be used; nothing is written then.
    """
    place = choose_place(out, "-calibration")
    folder = place.folder
    require_empty(folder, ", or finish a calibration with --resume")
    write_whole(plan.model_dump_json(indent=1).encode(), folder / PLAN)
    announce(place, progress)
    _measure(plan, folder, progress)
    return folder


def resume(folder: Path, progress: Progress) -> Plan:
    """Finish an interrupted calibration: whole runs stay, the others are measured.

    Raises:
        BadInput: if there is none, or its runs were measured under other conditions.
    """
    plan = read_plan(folder)
    progress.started(str(folder))
    _measure(plan, folder, progress)
    return plan


def read_plan(folder: Path) -> Plan:
    """Return what the calibration in ``folder`` measures.

    Raises:
        BadInput: if there is none, or one of a newer attnbench.
    """
    return plans.read_plan(folder, PLAN, Plan, "a plan of attnbench calibrate")


def judge_runs(plan: Plan, folder: Path, noise: NoiseModel | None = None) -> Calibration:
    """Compare all runs of a finished calibration, by this noise or each pair by the noise of the other runs.

    Raises:
        BadInput: if a run cannot be read, or the runs say nothing of the noise.
    """
    if plan.in_turns:
        return _judge_sessions(plan, folder, noise)
    found = {name: read(folder / name / JOURNAL) for name, _ in plan.parts()}
    same = [found[name] for name, delay in sorted(plan.parts()) if not delay]
    delayed = {d: [found[name] for name, delay in sorted(plan.parts()) if delay == d] for d in plan.delays}
    return calibrate(same, delayed, noise=noise, measured_at=_last(found.values()))


def _judge_sessions(plan: Plan, folder: Path, noise: NoiseModel | None) -> Calibration:
    sessions, found = [], []
    for name, places in plan.sessions():
        runs = [(delay, read(folder / name / place / JOURNAL)) for place, delay in places.items()]
        found += [run for _, run in runs]
        (_, first), (_, second), *slower = runs
        delay, delayed = slower[0] if slower else (0.0, None)
        sessions.append(Session((first, second), delay, delayed))
    return calibrate_in_turns(sessions, repeats.LEAST, repeats.MOST, noise=noise, measured_at=_last(found))


def _last(runs: Iterable[Results]) -> str:
    started = (header.environment.started_at for run in runs for header in run.headers)
    return max(started, default="") or datetime.now(UTC).isoformat(timespec="seconds")


def _measure_sessions(plan: Plan, folder: Path, progress: Progress) -> None:
    sessions = plan.sessions()
    with alone(folder, "calibrating in"):
        for number, (name, places) in enumerate(sessions):
            place = folder / name
            if os.path.exists(place):
                for run in places:
                    _require_same(plan, read(place / run / JOURNAL), folder, progress)
                continue
            progress.step(f"session {number + 1} of {len(sessions)}", number, len(sessions), None)
            partial = place.parent / f".{place.name}.part"  # no session is finished halfway
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            requests = {run: plan.request.model_copy(update={"burnt_in": delay}) for run, delay in places.items()}
            measure_together(requests, partial)
            os.rename(partial, place)


def _measure(plan: Plan, folder: Path, progress: Progress) -> None:
    if plan.in_turns:
        _measure_sessions(plan, folder, progress)
        return
    parts = plan.parts()
    with alone(folder, "calibrating in"):
        for number, (name, delay) in enumerate(parts, 1):
            place = folder / name
            if os.path.exists(place / JOURNAL):
                _require_same(plan, read(place / JOURNAL), folder, progress)
                continue
            partial = place.parent / f".{place.name}.part"  # no run is finished halfway: it would be of two moments
            shutil.rmtree(partial, ignore_errors=True)
            told = PartProgress(progress, name, f"run {number} of {len(parts)}")
            session.start(plan.request.model_copy(update={"burnt_in": delay}), partial, told)
            os.rename(partial, place)


def _require_same(plan: Plan, run: Results, folder: Path, progress: Progress) -> None:
    agenda = make_agenda(plan.request)
    here = session.environment_of(agenda, plan.request)
    for header in run.headers:
        require_same(folder, header, here, agenda.contents, progress.note)


def _delayed_name(delay: float, number: int) -> str:
    return f"{_DELAYED}/{delay:g}-{number:02}"
