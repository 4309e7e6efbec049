"""What becomes of a clip when the attention of a layer is replaced by something that does not look at q and k.

After "Understanding Attention Mechanism in Video Diffusion Models" (arXiv 2504.12027): the map becomes the identity, of
entropy 0, so that the output is v; or uniform, of entropy ln N, so that every output is the mean of v. The paper
relates what this costs to the entropy of the maps that are replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from attnbench.analysis.attention import told
from attnbench.analysis.call import Estimate, Finding
from attnbench.clips.fidelity import MINI_METRICS
from attnbench.clips.metrics.frames import Clip
from attnbench.clips.metrics.measured import Skipped
from attnbench.clips.metrics.metrics import Metric, metric_named
from attnbench.kernels.grid import Grid
from attnbench.mini.model import Attend

METRICS: tuple[Metric, ...] = (
    metric_named("psnr"), *MINI_METRICS, metric_named("motion_compensated_difference"), metric_named("brisque"),
)  # fmt: skip
"""What is measured of every clip: its distance from the clip with full attention, and scores."""

EFFECT = "psnr"
CORRELATION = "spearman_entropy_psnr"
LEAST = 4
"""Points from which on a correlation is computed."""


def identity(v: Tensor) -> Tensor:
    """Return v: each token attends to itself alone."""
    return v


def uniform(v: Tensor) -> Tensor:
    """Return the mean of v [B, heads, N, head_dim] over its tokens: each token attends to all alike."""
    return v.mean(dim=2, keepdim=True).expand_as(v)


MAPS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"identity": identity, "uniform": uniform})
"""What replaces attention, by name."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A replacement of attention.

    Attributes:
        name: of MAPS.
        layer: in which; None for all.
        step: of denoising, in which; None for all.
    """

    name: str
    layer: int | None = None
    step: int | None = None

    def into(self, own: Attend) -> Attend:
        """Return the self-attention with the replacement in place, and ``own`` elsewhere."""
        replaced = MAPS[self.name]

        def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
            if self.layer in (None, layer) and self.step in (None, step):
                return replaced(v)
            return own(q, k, v, grid=grid, layer=layer, step=step)

        return attend

    @property
    def words(self) -> str:
        """As "uniform in layer 3, step 0"."""
        layer = "all layers" if self.layer is None else f"layer {self.layer}"
        return f"{self.name} in {layer}" + ("" if self.step is None else f", step {self.step}")


def swaps_of(layers: Sequence[int], steps: Sequence[int]) -> list[Swap]:
    """Return each replacement in all layers, in each layer, and in each layer of each of the steps alone."""
    return [
        swap
        for name in MAPS
        for swap in (
            Swap(name),
            *(Swap(name, layer) for layer in layers),
            *(Swap(name, layer, step) for layer in layers for step in steps),
        )
    ]


def perturb(
    make: Callable[[Attend], Clip],
    own: Attend,
    prompt: str,
    swaps: Sequence[Swap],
    entropies: Mapping[tuple[int, int], float],
    tell: Callable[[str, int, int], object],
) -> Iterator[Finding]:
    """Yield what every replacement does to a clip, and how that goes with the entropy of what it replaced.

    Args:
        make: makes the clip with a self-attention, always from the same noise.
        own: full attention.
        prompt: of the clip.
        swaps: the replacements.
        entropies: mean entropy over heads, by layer and step, of full attention in the same clip.
        tell: called before each clip with words, the number of clips made and the number of clips in all.
    """
    tell("full attention", 0, len(swaps) + 1)
    exact = make(own)
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
    for number, swap in enumerate(swaps):
        tell(swap.words, number + 1, len(swaps) + 1)
        clip = make(swap.into(own))
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
