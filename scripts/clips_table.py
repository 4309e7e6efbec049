"""Write the table of a run of clips: python scripts/clips_table.py results/h100/clips

For each method its density on the mean of layers and steps that were not dense, and of each metric the gap to full
attention beside the noise floors. Brackets hold 95 % bootstrap intervals over prompts, each with all its seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from attnbench import load_quality
from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.quality import gaps
from attnbench.quality.bootstrap import Estimate
from attnbench.quality.paired import Gap
from attnbench.report.clips import read_quality
from attnbench.report.clips_words import estimate_words, floor_of, metric_words, names_of
from attnbench.store import load_clips

Name = tuple[str, str, str]
"""Method, settings and engine."""


def densities(run: Path) -> dict[Name, float]:
    """Return the mean density of each method's plans, over its clips and the layers where it ran."""
    found: dict[Name, list[float]] = {}
    for _, clip in load_clips(run):
        kept = [each for each in clip.densities if each is not None]
        if clip.role == "method" and kept:
            found.setdefault((clip.method, clip.settings, clip.engine), []).extend(kept)
    return {name: statistics.fmean(each) for name, each in found.items()}


def table(run: Path) -> list[str]:
    """Return the lines of the table.

    Raises:
        BadInput: if the folder holds no run of clips, several, or one without a value.
    """
    found, density = gaps(read_quality(load_quality(run))), densities(run)
    if len({gap.run_id for gap in found}) != 1:
        raise BadInput(f"{str(run)!r} must hold the values of one run of clips")
    names, metrics = names_of(found), list(dict.fromkeys(gap.metric for gap in found))
    by_name: dict[Name, dict[str, Gap]] = {}
    for gap in found:
        by_name.setdefault((gap.method, gap.settings, gap.engine), {})[gap.metric] = gap
    of = {gap.metric: gap for gap in reversed(found)}
    lines = [
        f"| method | density | {' | '.join(metric_words(of[metric]) for metric in metrics)} |",
        f"| --- | ---: {'| --- ' * len(metrics)}|",
    ]
    for name, own in by_name.items():
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
    parser.add_argument("run", type=Path)
    try:
        print("\n".join(table(parser.parse_args().run)))
    except AttnbenchError as error:
        print(f"clips_table.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
