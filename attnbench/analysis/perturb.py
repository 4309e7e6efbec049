"""What becomes of a clip when the attention of a layer is replaced by something that does not look at q and k.

After "Understanding Attention Mechanism in Video Diffusion Models" (arXiv 2504.12027), which relates what this costs to
the entropy of the maps that are replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from attnbench.analysis.attention import told
from attnbench.analysis.call import Estimate, Finding
from attnbench.analysis.swaps import MAPS, Swap, swapped
from attnbench.clips.fidelity import MINI_METRICS
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measured import Skipped
from attnbench.clips.metrics.metrics import Metric, metric_named
from attnbench.mini.model import Attend

METRICS: tuple[Metric, ...] = (
    metric_named("psnr"), *MINI_METRICS, metric_named("motion_compensated_difference"), metric_named("brisque"),
)  # fmt: skip
"""What is measured of every clip: its distance from the clip with full attention, and scores."""

EFFECT = "psnr"
CORRELATION = "spearman_entropy_psnr"
LEAST = 4
"""Points from which on a correlation is computed."""

Make = Callable[[Attend, int], Iterable[Clip]]
"""Makes so many clips with a self-attention, all from the same noise; each is an item of the batch that it is given."""


def perturb(
    make: Make,
    own: Attend,
    prompt: str,
    swaps: Sequence[Swap],
    at_once: int,
    entropies: Mapping[tuple[int, int], float],
    tell: Callable[[str, int, int], object],
) -> Iterator[Finding]:
    """Yield what every replacement does to a clip, and how that goes with the entropy of what it replaced.

    Args:
        make: makes clips.
        own: full attention.
        prompt: of the clip.
        swaps: the replacements.
        at_once: how many clips with replacements are made together.
        entropies: mean entropy over heads, by layer and step, of full attention in the same clip.
        tell: called before clips are made with words, the number of clips made and the number of clips in all.
    """
    tell("full attention", 0, len(swaps) + 1)
    exact, *_ = make(own, at_once)  # bfloat16 rounds otherwise in a batch of another size
    metrics = []
    for metric in METRICS:
        found = _measured(metric, exact, exact, prompt)
        if isinstance(found, str):
            yield Finding.skipped(f"clip_{metric.name}", found)
            continue
        metrics.append(metric)
        if metric.kind == "score":
            yield _figure(f"clip_{metric.name}", found)
    effects: dict[Swap, float] = {}
    for swap, clip in _clips(make, own, swaps, at_once, tell):
        for metric in metrics:
            name, found = f"perturbed_{metric.name}", _measured(metric, clip, exact, prompt)
            if isinstance(found, str):
                yield Finding.skipped(name, found, method=swap.name, layer=swap.layer, step=swap.step)
                continue
            yield _figure(name, found, swap)
            if metric.name == EFFECT:
                effects[swap] = found
    for name in MAPS:
        mine = {swap: effect for swap, effect in effects.items() if swap.name == name and swap.layer is not None}
        yield from _correlated(name, mine, entropies)


def _clips(
    make: Make, own: Attend, swaps: Sequence[Swap], at_once: int, tell: Callable[[str, int, int], object]
) -> Iterator[tuple[Swap, Clip]]:
    """Yield each replacement with its clip; see ``perturb``."""
    for first in range(0, len(swaps), at_once):
        some = swaps[first : first + at_once]
        more = f" and {len(some) - 1} more" if len(some) > 1 else ""
        tell(some[0].words + more, first + 1, len(swaps) + 1)
        yield from zip(some, make(swapped(some, own), len(some)), strict=True)


def _measured(metric: Metric, clip: Clip, exact: Clip, prompt: str) -> float | str:
    """Return the value of a metric, or why there is none."""
    try:
        return metric.take(clip, exact, prompt).value
    except Skipped as error:
        return str(error)


def _figure(measure: str, value: float, swap: Swap | None = None) -> Finding:
    if swap is None:
        return Finding(measure, value, reason="one clip has no interval")
    return Finding(
        measure, value, method=swap.name, layer=swap.layer, step=swap.step, reason="one clip has no interval"
    )


def _correlated(
    name: str, effects: Mapping[Swap, float], entropies: Mapping[tuple[int, int], float]
) -> Iterator[Finding]:
    """Yield rank correlations of PSNR with entropy: over layers, for all steps and each step, and over single cells."""
    layers = {swap.layer: effect for swap, effect in effects.items() if swap.step is None and swap.layer is not None}
    steps = sorted({step for _, step in entropies})

    def entropy(layer: int) -> float | None:
        known = [entropies[layer, step] for step in steps if (layer, step) in entropies]
        return sum(known) / len(known) if known else None

    yield _spearman(CORRELATION, name, None, [(entropy(layer), effect) for layer, effect in layers.items()])
    for step in steps:
        pairs = [(entropies.get((layer, step)), effect) for layer, effect in layers.items()]
        yield _spearman(CORRELATION, name, step, pairs)
    cells = [
        (entropies.get((swap.layer, swap.step)), effect)
        for swap, effect in effects.items()
        if swap.layer is not None and swap.step is not None
    ]
    if cells:
        yield _spearman(f"{CORRELATION}_cells", name, None, cells)


def _spearman(measure: str, name: str, step: int | None, pairs: Sequence[tuple[float | None, float]]) -> Finding:
    known = [(entropy, effect) for entropy, effect in pairs if entropy is not None]
    if len(known) < LEAST:
        reason = (
            f"a correlation needs at least {LEAST} layers or cells with their entropies, and there are {len(known)}"
        )
        return Finding.skipped(measure, reason, method=name, step=step)
    return told(measure, spearman(*zip(*known, strict=True)), None, 0, method=name, step=step)


def spearman(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Return Spearman's rank correlation of two lists of at least 4 numbers, with its 95 % interval.

    Ties share the mean of their ranks, and a list of equal numbers correlates with nothing. The interval is that of
    Fisher's transformation with the variance (1 + r²/2) / (n - 3) (Bonett and Wright, Psychometrika 65, 2000). At 1 and
    -1, where it has no width, its inner end is that of lists of which two neighbours are exchanged.
    """
    x, y = (_ranks(torch.tensor(values, dtype=torch.float64)) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = float(x.norm() * y.norm())
    r = max(-1.0, min(1.0, float(x @ y) / norm)) if norm > 0 else 0.0
    n = len(x)
    inner = 1 - 12 / (n * (n**2 - 1))
    used = max(-inner, min(inner, r))
    half = 1.959964 * math.sqrt((1 + used**2 / 2) / (n - 3))
    centre = math.atanh(used)
    return Estimate(r, min(r, math.tanh(centre - half)), max(r, math.tanh(centre + half)))


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, the mean rank for equal ones."""
    below = (values[None] < values[:, None]).sum(1).double()
    equal = (values[None] == values[:, None]).sum(1).double()
    return below + (equal - 1) / 2
