"""What a method does to the pictures: metrics of clips, their records, and the statistics over prompts and seeds."""

from attnbench.quality.compare import Labelled, Pair, measure_pair, measure_pairs
from attnbench.quality.frames import Clip, as_clip
from attnbench.quality.metrics import METRICS, Metric, metric_named
from attnbench.results.gaps import Estimate, Gap, gaps, paired_difference
from attnbench.results.records.clips import QualityRow

__all__ = [
    "METRICS",
    "Clip",
    "Estimate",
    "Gap",
    "Labelled",
    "Metric",
    "Pair",
    "QualityRow",
    "as_clip",
    "gaps",
    "measure_pair",
    "measure_pairs",
    "metric_named",
    "paired_difference",
]
