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
from attnbench.kernels.errors import AttnbenchError
from attnbench.quality import gaps
from attnbench.quality.bootstrap import Estimate
from attnbench.quality.paired import Gap
from attnbench.report.clips import read_quality
from attnbench.report.clips_words import ARROWS, estimate_words
from attnbench.store import load_clips


def densities(run: Path) -> dict[str, float]:
    """Return the mean density of each method's plans, over its clips and the layers where it ran."""
    found: dict[str, list[float]] = {}
    for _, clip in load_clips(run):
        if clip.role == "method":
            found.setdefault(clip.method, []).extend(each for each in clip.densities if each is not None)
    return {method: statistics.fmean(each) for method, each in found.items()}


def table(run: Path) -> list[str]:
    """Return the lines of the table.

    Raises:
        BadInput: if the folder holds no run of clips.
    """
    found, density = gaps(read_quality(load_quality(run))), densities(run)
    metrics = list(dict.fromkeys(gap.metric for gap in found))
    by_method: dict[str, dict[str, Gap]] = {}
    for gap in found:
        by_method.setdefault(gap.method, {})[gap.metric] = gap
    first = next(iter(by_method.values()))
    lines = [
        f"| method | density | {' | '.join(title(first[metric]) for metric in metrics)} |",
        f"| --- | ---: {'| --- ' * len(metrics)}|",
    ]
    for method, own in by_method.items():
        cells = [f"{words(own[metric], own[metric].gap)}{mark(own[metric])}" for metric in metrics]
        lines.append(f"| {method} | {density[method]:.3f} | {' | '.join(cells)} |")
    for name, floor in (("another kernel", "kernel_floor"), ("another seed", "seed_floor")):
        cells = [words(first[metric], getattr(first[metric], floor)) for metric in metrics]
        lines.append(f"| *{name}* | 1 | {' | '.join(cells)} |")
    return lines


def title(gap: Gap) -> str:
    """Return a metric's column title."""
    unit = f", {gap.unit}" if gap.unit else ""
    return f"{'Δ ' if gap.kind == 'score' else ''}{gap.metric}{unit} {ARROWS[gap.better]}"


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
