"""What a method does to the pictures: metrics of clips, their records, and statistics over prompts and seeds."""

from attnbench.clips.metrics.frames import Clip, as_clip
from attnbench.clips.metrics.measure import Labelled, Pair, measure_pair, measure_pairs
from attnbench.clips.metrics.metrics import METRICS, Metric, metric_named
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
