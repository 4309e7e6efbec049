"""The part of an analysis that makes clips with replaced attention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import fmean

from attnbench.analysis.call import Finding
from attnbench.analysis.perturb import perturb
from attnbench.analysis.request import AnalyzeRequest
from attnbench.analysis.sources import ModelSource, Source
from attnbench.analysis.swaps import Swap, swaps_of
from attnbench.clips.metrics.frames import Clip, as_clip
from attnbench.kernels.errors import BadInput
from attnbench.mini.config import FPS
from attnbench.mini.model import FULL, Attend
from attnbench.results.run import Progress

AT_ONCE = {"cpu": 1, "cuda": 16}
"""Clips that are made together. A GPU waits for Python with fewer; a CPU is busy with one, and its caches are small."""


@dataclass(slots=True)
class Entropies:
    """Mean entropy over heads, by layer and step, of the calls of one clip."""

    _heads: defaultdict[tuple[int, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def note(self, findings: Iterable[Finding]) -> None:
        """Take those of a call into account."""
        for each in findings:
            if each.measure == "entropy" and None not in (each.value, each.layer, each.step):
                self._heads[each.layer, each.step].append(each.value)  # type: ignore[index, arg-type]  # not None

    @property
    def means(self) -> dict[tuple[int, int], float]:
        """By layer and step."""
        return {place: fmean(values) for place, values in self._heads.items()}


@dataclass(frozen=True, slots=True)
class Perturbation:
    """The replacements of a run, and the source that makes clips with them."""

    source: ModelSource
    swaps: tuple[Swap, ...]

    @classmethod
    def of(cls, request: AnalyzeRequest, source: Source) -> Perturbation:
        """Return the replacements that a request asks for: in all of its layers, and in the steps it names.

        Raises:
            BadInput: for another model than mini, or a step that its clips do not have.
        """
        if not isinstance(source, ModelSource):
            raise BadInput("--perturb is for the mini model, which makes clips: drop --inputs")
        mini = source.mini(source.prompts[0])
        if lost := [step for step in request.perturb_steps if not 0 <= step < mini.steps]:
            raise BadInput(f"--perturb-steps {lost[0]} is not one of the {mini.steps} steps of the clip, from 0")
        layers = range(mini.layers) if request.layers is None else request.layers
        return cls(source, tuple(swaps_of(tuple(layers), tuple(request.perturb_steps))))

    def findings(self, prompt: str, entropies: Entropies, progress: Progress) -> Iterator[Finding]:
        """Yield what the replacements do to the clip of a prompt; see ``perturb``."""
        mini = self.source.mini(prompt)

        def make(attend: Attend, clips: int) -> Iterator[Clip]:
            for made in mini.make(attend, clips=clips):
                yield as_clip(made.permute(1, 2, 3, 0), fps=FPS, low=-1.0, high=1.0)

        def tell(words: str, made: int, of: int) -> None:
            progress.step(f"{prompt}: {words}", made, of, None)

        at_once = AT_ONCE[self.source.device.type]
        yield from perturb(make, FULL, prompt, self.swaps, at_once, entropies.means, tell)
