"""The metrics by name: what each compares, which way it improves, and the function that takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnbench.clips.metrics import brisque, effnet, full_reference, lpips, steadiness, vmaf
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measured import Measured
from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.results.records.clips import Better, Kind


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of clips. Exactly one of ``distance``, ``score`` and ``fidelity`` is given.

    Attributes:
        name: its name in the table.
        better: "higher" or "lower".
        unit: the unit of the value; empty for plain numbers.
        distance: takes a clip and its reference.
        score: takes a clip alone.
        fidelity: takes a clip and its prompt, and scores how well the clip shows what was asked for.
        pooled: whether it is taken over all frames at once instead of averaged over them.

    Raises:
        BadInput: if several functions are given, or none.
    """

    name: str
    better: Better
    unit: str = ""
    distance: Callable[[Clip, Clip], Measured] | None = None
    score: Callable[[Clip], Measured] | None = None
    fidelity: Callable[[Clip, str], Measured] | None = None
    pooled: bool = False

    def __post_init__(self) -> None:
        if [self.distance, self.score, self.fidelity].count(None) != 2:
            raise BadInput(f"metric {self.name!r} must have exactly one of distance, score and fidelity")

    @property
    def kind(self) -> Kind:
        """Whether it compares with a reference or scores a clip alone."""
        return "score" if self.distance is None else "distance"

    def take(self, clip: Clip, reference: Clip, prompt: str = "") -> Measured:
        """Return the value of ``clip``. A score ignores the reference, and only a fidelity looks at the prompt.

        Raises:
            BadInput: if the metric compares and the clips differ in size or length.
            Skipped: if the metric cannot be taken here or of this clip.
        """
        if self.distance is not None:
            return self.distance(clip, reference)
        if self.fidelity is not None:
            return self.fidelity(clip, prompt)
        assert self.score is not None
        return self.score(clip)


METRICS: tuple[Metric, ...] = (
    Metric("psnr", "higher", "dB", distance=full_reference.psnr),
    Metric("psnr_pooled", "higher", "dB", distance=full_reference.psnr_pooled, pooled=True),
    Metric("ssim", "higher", distance=full_reference.ssim),
    Metric("ms_ssim", "higher", distance=full_reference.ms_ssim),
    Metric("lpips", "lower", distance=lpips.lpips),
    Metric("vmaf", "higher", distance=vmaf.vmaf),
    Metric("effnet_lite0_perceptual", "lower", distance=effnet.effnet_lite0_perceptual),
    Metric("effnet_lite0_frame_consistency", "higher", score=effnet.effnet_lite0_frame_consistency),
    Metric("brisque", "lower", score=brisque.brisque),
    Metric("motion_compensated_difference", "lower", score=steadiness.motion_compensated_difference),
)
"""All metrics that need no model of their own, in the order of the table."""


def metric_named(name: str) -> Metric:
    """Return the metric called ``name``.

    Raises:
        BadInput: if there is none, with the closest name.
    """
    for metric in METRICS:
        if metric.name == name:
            return metric
    raise unknown_name("metric", name, [metric.name for metric in METRICS])
