"""What a report is made of: results and training runs of files and folders, and the name that they give it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.kernels.errors import BadInput
from attnbench.report.data.calibrations import CalibrationRead, read_calibrations
from attnbench.results.find import has_journals
from attnbench.results.load import Results, read
from attnbench.results.training import TrainingGroup, training_groups

LATEST = Path("results/latest")


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes:
        paths: files and folders, as they were named.
        results: of all of them.
        training: the training runs of each folder.
        calibrations: finished ones below the folders.
    """

    paths: tuple[Path, ...]
    results: Results
    training: tuple[TrainingGroup, ...]
    calibrations: tuple[CalibrationRead, ...] = ()

    @property
    def name(self) -> str:
        """The name of a report: its newest run, or the folder of its training runs."""
        return newest_run(self.results) if self.results.runs else f"training-{self.training[0].folder.resolve().name}"


def read_source(paths: Sequence[Path] = ()) -> Source:
    """Read what a report is made of.

    Args:
        paths: files and folders of results; none: the newest run, results/latest.

    Raises:
        BadInput: if there are no results, or they cannot be read.
    """
    if not paths and not LATEST.exists():
        if LATEST.is_symlink():
            gone = f"{str(LATEST)!r} is a link to {os.readlink(LATEST)!r}, which does not exist"
        else:
            gone = f"there is no {str(LATEST)!r} here"
        raise BadInput(f"{gone}: run `attnbench run` first, or name a file or a folder of results")
    paths = paths or [LATEST]
    found = {path: training_groups(path) for path in paths}
    training = {group.folder.resolve(): group for groups in found.values() for group in groups}
    with_rows = [path for path, groups in found.items() if not groups or has_journals(path)]
    results = read(*with_rows) if with_rows else Results()
    if not results.runs and not any(group.runs for group in training.values()):
        reasons = [reason for group in training.values() for reason in group.left_out] or ["nothing can be shown"]
        raise BadInput(f"{str(paths[0])!r} holds no finished rows yet: {reasons[0]}")
    calibrations = tuple(each for path in paths for each in read_calibrations(path))
    return Source(tuple(paths), results, tuple(training.values()), calibrations)


def newest_run(results: Results) -> str:
    """Return the run_id that names a report: the latest run of rows, else of metrics of clips.

    A run without a start time counts as older than others. Of runs that started at the same time, the later one in
    order counts. If there are only steps, it is the run of the last one.
    """
    records = results.rows or results.quality
    if not records:
        return results.steps[-1].run_id if results.steps else results.analysis[-1].run_id
    environments = results.environments
    runs = list(dict.fromkeys(record.run_id for record in records))
    return max(runs, key=lambda run: (environments[run].started_at if run in environments else "", runs.index(run)))
