"""A whole transformer step over several ranks: measured, and journalled by rank 0."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from attnbench.bench.step.case import StepCase
from attnbench.bench.step.measure import measure_model
from attnbench.bench.step.session import StepRequest, case_of, journal_step
from attnbench.kernels.engines import strictly
from attnbench.kernels.errors import BadInput
from attnbench.machine.device import resolve_device
from attnbench.methods.entries import as_entries
from attnbench.models.random_wan import SIZES
from attnbench.models.spread import quietly
from attnbench.results.records.steps import StepRecord
from attnbench.results.run import NoProgress, Progress
from attnbench.scale.ranks import Crew, joined, require_alike
from attnbench.scale.step_model import SpreadModel, Together
from attnbench.scale.watch import watched


def check_group_step(request: StepRequest) -> None:
    """Find what is wrong with a step over ranks, without measuring.

    Raises:
        BadInput: quoting what cannot be used.
    """
    case = case_of(request, resolve_device(request.device))
    if request.parallel not in (None, "ulysses"):
        raise BadInput(f"--parallel {request.parallel} is not possible with a step; ulysses is")
    assert request.gpus is not None
    if case.graphs:
        raise BadInput("--graphs is for one process: over ranks, attention cannot be captured")
    heads = int(SIZES[case.size]["num_attention_heads"]) if case.heads is None else case.heads
    given = {"tokens": case.token_grid.tokens, "heads": heads}
    for name, count in given.items():
        if count % request.gpus:
            common = math.gcd(*given.values())
            instead = f"take a number that divides {common:,}" if common > 1 else "take other --heads or another --grid"
            raise BadInput(
                f"--gpus is {request.gpus}, and the step has {count:,} {name}: diffusers' context parallelism shares "
                f"them out evenly, so {instead}"
            )


def run_group_step(request: StepRequest, out: Path | None, progress: Progress) -> tuple[Path, list[StepRecord]] | None:
    """Measure a step with the other ranks; return None on all but rank 0.

    Raises:
        BadInput: for a request or a folder that cannot be used, and for ranks that differ.
        RankLost: if another rank ended.
        Unsupported: without diffusers, or if an engine cannot serve a method, or a step differs from that of one
            process.
    """
    device = resolve_device(request.device)
    case = case_of(request, device)
    request = dataclasses.replace(request, parallel="ulysses")
    with quietly(), joined(device, spreads=True) as crew:
        require_alike(crew, {**dataclasses.asdict(request), "methods": repr(list(request.methods))})

        def measure(run_id: str) -> list[StepRecord]:
            return _measured(request, case, crew, run_id, progress if crew.leads else NoProgress())

        with watched(crew):
            if crew.leads:
                return journal_step(request, case, out, progress, measure)
            with strictly(request.strict):
                measure("")
    return None


def _measured(request: StepRequest, case: StepCase, crew: Crew, run_id: str, progress: Progress) -> list[StepRecord]:
    progress.step(f"Wan {case.size} with random weights", 0, 1, None)
    of, entries = SpreadModel.over(case, crew), as_entries(request.methods)
    return measure_model(entries, of, Together(crew), run_id=run_id, observe=None, progress=progress)
