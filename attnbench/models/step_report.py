"""What measuring a transformer step gives, and what Amdahl's law makes of it."""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.kernels.errors import BadInput
from attnbench.results.intervals import Interval, ratio_interval
from attnbench.results.records.cells import Timer


@dataclass(frozen=True, slots=True)
class StepRow:
    """A transformer step with one kind of self-attention.

    Attributes:
        name: "own" for the model's own attention, otherwise method/engine.
        settings: the method's settings, canonical JSON.
        density: fraction of (query, key) pairs kept, mean over the layers.
        step_ms: the whole step.
        attention_ms: the self-attention of all layers by itself, on the q, k, v that the model made.
        step_speedup: the baseline's step over this one.
        attention_speedup: the baseline's self-attention over this one.
        predicted_speedup: of the step, by Amdahl's law from the share of self-attention and ``attention_speedup``.
        samples_ms: every sample of the step, in the order taken.
    """

    name: str
    settings: str
    density: float
    step_ms: Interval
    attention_ms: Interval
    step_speedup: Interval
    attention_speedup: Interval
    predicted_speedup: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One transformer step, dense and with methods, measured in the same rounds.

    Attributes:
        size: of the model, a name of ``attnbench.models.random_wan.SIZES``.
        grid: T x H x W, as 21x30x52.
        text_tokens: tokens of the cross-attention; no part of the self-attention.
        batch: sequences.
        layers: transformer blocks.
        dtype, device: of the model; the device by name.
        direction: "fwd", or "fwdbwd": forward, MSE loss and backward, without the optimizer.
        checkpointing: whether blocks ran forward once more in the backward pass.
        timer: clock that took the samples.
        rounds: samples of each figure.
        baseline: name of the row with the fastest dense step.
        without_ms: the step with self-attention left out: v is passed on. Projections and norms stay.
        share: of self-attention in the baseline's step: 1 - without_ms / step_ms.
        share_alone: the same from the other side: attention_ms / step_ms of the baseline.
        rows: dense ones first.
    """

    size: str
    grid: str
    text_tokens: int
    batch: int
    layers: int
    dtype: str
    device: str
    direction: str
    checkpointing: bool
    timer: Timer
    rounds: int
    baseline: str
    without_ms: Interval
    share: Interval
    share_alone: Interval
    rows: tuple[StepRow, ...]

    def row(self, name: str) -> StepRow:
        """Return the row of that name.

        Raises:
            BadInput: if there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise BadInput(f"no row is named {name!r}; there are {', '.join(row.name for row in self.rows)}")


def amdahl(share: float, speedup: float) -> float:
    """Return the speed-up of a whole of which ``share`` becomes ``speedup`` times as fast and the rest stays.

    Raises:
        BadInput: for a speed-up of 0 or below.
    """
    if not speedup > 0:
        raise BadInput(f"speedup is {speedup!r}; it must be above 0")
    return 1 / (1 - share + share / speedup)


def share_removed(whole: list[float], without: list[float]) -> Interval:
    """Return 1 - without / whole of the medians: the share of what was left out.

    Noise can make it negative where the share is small.
    """
    left = ratio_interval(whole, without)
    return Interval(1 - left.median, 1 - left.hi, 1 - left.lo, left.kind)
