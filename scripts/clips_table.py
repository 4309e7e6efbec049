"""Write one table of runs of clips: python scripts/clips_table.py RUN…

For each method its density on the mean of layers and steps that were not dense, and of each metric the gap to full
attention beside the noise floors. Brackets hold 95 % bootstrap intervals over prompts, each with all its seeds. Several
runs share a table, as those of one method with several settings, if full attention's clips are the same to the bit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnbench import load_quality
from attnbench.clips.metrics import gaps
from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.report.gap_words import estimate_words, floor_of, metric_words, names_of
from attnbench.results.gaps import Gap
from attnbench.results.load import load_clips, read_quality
from attnbench.results.means import Estimate
from attnbench.results.records.clips import ClipRow

Name = tuple[str, str, str]
"""Method, settings and engine."""


def densities(clips: Iterable[ClipRow]) -> dict[Name, float]:
    """Return the mean density of each method's plans, over its clips and the layers where it ran."""
    found: dict[Name, list[float]] = {}
    for clip in clips:
        kept = [each for each in clip.densities if each is not None]
        if clip.role == "method" and kept:
            found.setdefault((clip.method, clip.settings, clip.engine), []).extend(kept)
    return {name: statistics.fmean(each) for name, each in found.items()}


def compared_with(clips: Iterable[ClipRow]) -> dict[tuple[str, str, int], str]:
    """Return the digest of each clip of full attention, by role, prompt and seed."""
    return {(clip.role, clip.prompt, clip.seed): clip.clip_hash for clip in clips if clip.role != "method"}


def gathered(runs: Sequence[Path]) -> tuple[dict[Name, dict[str, Gap]], dict[Name, float]]:
    """Return the gap of each method and metric of the runs, and each method's density.

    Raises:
        BadInput: as ``table``.
    """
    found: dict[Name, dict[str, Gap]] = {}
    density: dict[Name, float] = {}
    first = compared_with(clip for _, clip in load_clips(runs[0]))
    for run in runs:
        of_run, clips = gaps(read_quality(load_quality(run))), [clip for _, clip in load_clips(run)]
        if len({gap.run_id for gap in of_run}) != 1:
            raise BadInput(f"{str(run)!r} must hold the values of one run of clips")
        if compared_with(clips) != first:
            raise BadInput(f"{str(run)!r} must compare with the same clips of full attention as {str(runs[0])!r}")
        by_name: dict[Name, dict[str, Gap]] = {}
        for gap in of_run:
            by_name.setdefault((gap.method, gap.settings, gap.engine), {})[gap.metric] = gap
        if twice := [" ".join(name) for name in by_name if name in found]:
            raise BadInput(f"{str(run)!r} must hold another method or settings than the runs before, not {twice[0]!r}")
        found |= by_name
        density |= densities(clips)
    return found, density


def table(*runs: Path) -> list[str]:
    """Return the lines of the table.

    Raises:
        BadInput: if a folder holds no run of clips, several, or one without a value; if runs compare with other clips
            than the first does, or measured the same method with the same settings.
    """
    found, density = gathered(runs)
    every = [gap for own in found.values() for gap in own.values()]
    names, metrics = names_of(every), list(dict.fromkeys(gap.metric for gap in every))
    of = {gap.metric: gap for gap in reversed(every)}
    lines = [
        f"| method | density | {' | '.join(metric_words(of[metric]) for metric in metrics)} |",
        f"| --- | ---: {'| --- ' * len(metrics)}|",
    ]
    for name, own in found.items():
        cells = [f"{words(own[m], own[m].gap)}{mark(own[m])}" if m in own else "–" for m in metrics]
        kept = f"{density[name]:.3f}" if name in density else "–"
        lines.append(f"| {names[name]} | {kept} | {' | '.join(cells)} |")
    for title, floor in (("another kernel", "kernel_floor"), ("another seed", "seed_floor")):
        cells = [words(of[m], floor_of(getattr(of[m], floor), of[m].kind)) for m in metrics]
        lines.append(f"| *{title}* | 1 | {' | '.join(cells)} |")
    return lines


def words(gap: Gap, estimate: Estimate | None) -> str:
    """Return an estimate of a metric in words."""
    return estimate_words(estimate, signed=gap.kind == "score")


def mark(gap: Gap) -> str:
    """Return what is said of a gap that is not certain."""
    return "" if gap.judgement == "distinguishable" else f" ({gap.judgement})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    try:
        print("\n".join(table(*parser.parse_args().runs)))
    except AttnbenchError as error:
        print(f"clips_table.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
