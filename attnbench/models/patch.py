"""``attnbench.patch``: run a method inside a model until the model is restored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from torch import Tensor

from attnbench.api import attention
from attnbench.graphs import graphed, refuse_state
from attnbench.kernels.engines import get_engine
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import whole_number
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, Method, make_settings
from attnbench.methods.planning import make_plan
from attnbench.methods.registry import find_method
from attnbench.methods.states import States
from attnbench.models.families.family import Place
from attnbench.models.families.find import find_transformers
from attnbench.models.replacement import Replacement
from attnbench.models.spread import Spread, spread_of
from attnbench.models.stats import Stats, Tally
from attnbench.models.warm_up import WarmUp


class Patch:
    """A patched model. ``restore`` or the end of a ``with`` block restores it.

    Attributes:
        stats: what the model has done so far.
    """

    def __init__(self, replacement: Replacement, stats: Stats) -> None:
        self._replacement, self.stats = replacement, stats

    def restore(self) -> None:
        """Give the model back its own self-attention, or that of an outer patch. A second call does nothing.

        Raises:
            BadInput: if a newer patch of the same model is still in effect.
        """
        self._replacement.restore()

    def __enter__(self) -> Stats:
        if self._replacement.restored:
            raise BadInput("this patch was restored already: call attnbench.patch again")
        return self.stats

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def patch(
    model: Any,
    method: str | Method,
    *,
    dense_steps: float | None = None,
    dense_layers: Iterable[int] = (),
    engine: str = "auto",
    densities: bool = False,
    graphs: bool = False,
    **settings: Any,
) -> Patch:
    """Replace the self-attention of a model by a method until the model is restored.

    ``with attnbench.patch(model, "vmoba") as stats:`` restores the model at the end of the block, also after an
    exception. A method with a state keeps one for each layer and each branch of guidance, until the clip ends.
    ``handle = attnbench.patch(model, "vmoba")`` restores it with ``handle.restore()``. Cross-attention is
    never changed.

    Where diffusers' context parallelism spreads the tokens over ranks, the method runs over all of them: by "ulysses"
    or, with a ring, by "allgather". Enable it before the patch.

    Args:
        model: a diffusers transformer of Wan, HunyuanVideo, CogVideoX, LTX-Video, Mochi or MiniMax-H3, or a pipeline
            that contains one.
        method: name of a registered method, or a Method. It is given the layer, token grid, text tokens and denoising
            step.
        dense_steps: how many of the first denoising steps of each clip run the model's own attention: a whole number,
            or a share of the steps such as 0.25, rounded down. None stands for a quarter of a pipeline's steps, and for
            0 with a transformer alone, which does not know how many steps there will be. For a clip that is made from
            another one, the steps that run count.
        dense_layers: layers that always run the model's own attention.
        engine: the engine that runs the plans, as in ``attnbench.attention``.
        densities: also record the density of every plan. Counting waits for the device.
        graphs: run the method by ``attnbench.graphed``, as one CUDA graph a call. The model must run under
            ``torch.no_grad()``.
        **settings: the method's settings.

    Returns:
        The handle. As a context manager, it yields its ``stats``.

    Warns:
        NeverCalled: in the forward call that begins a clip of a pipeline, if all steps of the clip are dense.

    Raises:
        BadInput: for a method, setting, engine, step or layer that does not exist, or ``densities`` with ``graphs``.
        Unsupported: for another model, or an engine that is not available here. If the engine cannot run the plan, the
            model's forward call raises it.
    """
    chosen = find_method(method)
    make_settings(chosen, settings)
    if engine != "auto":
        get_engine(engine)
    family, transformers = find_transformers(model)
    spread = spread_of(transformers, family)
    warm_up = WarmUp(dense_steps, model)
    layers = max(len(family.attentions(part)) for part in transformers)
    dense, keeps_states = _layers(dense_layers, layers), chosen.cycle is not None
    tallies = tuple(Tally() for _ in range(layers))
    if densities and graphs:
        raise BadInput("densities cannot be counted in CUDA graphs: leave out densities or graphs")
    if graphs:
        refuse_state(chosen)
    if spread is not None:
        _check_spread(chosen, spread, densities=densities, graphs=graphs)
    if densities:
        chosen = _counting(chosen, tallies)

    states = States()

    def attend(q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        where: dict[str, Any] = {
            "method": chosen, "grid": place.grid, "text": place.text, "layer": place.layer, "step": place.step,
            "engine": engine, **settings,
        }  # fmt: skip
        if spread is not None:
            where |= {"group": spread.group, "parallel": spread.parallel}
        output: Tensor
        if not keeps_states:
            call: Any = graphed if graphs else attention
            output = call(q, k, v, **where)
            return output
        state = states.of(place.layer, place.step, (q.shape, place.grid), replacement.clock.steps)
        output, plan = attention(q, k, v, **where, state=state, return_plan=True)
        states.keep(plan.state)
        return output

    def keeps_own(place: Place) -> bool:
        own = warm_up.covers(place.step, replacement.clock.clip_steps) or place.layer in dense
        stats.count(place, own=own)
        return own

    replacement = Replacement(model, attend, keeps_own, spreads=True)
    stats = Stats(replacement, tallies)
    return Patch(replacement, stats)


def _layers(given: object, layers: int) -> frozenset[int]:
    if not isinstance(given, Iterable):
        raise BadInput(f"dense_layers is {given!r}; it must be a list of layers, such as (0, 1)")
    found = set()
    for layer in given:
        number = whole_number(layer)
        if number is None or not 0 <= number < layers:
            raise BadInput(f"dense_layers names {layer!r}; the model's layers are 0 to {layers - 1}")
        found.add(number)
    return frozenset(found)


def _check_spread(method: Method, spread: Spread, *, densities: bool, graphs: bool) -> None:
    if densities or graphs:
        word = "densities" if densities else "graphs"
        raise Unsupported(f"{word} are not possible with a model whose tokens are spread over ranks: leave out {word}")
    if spread.parallel == "allgather" and not method.plans_shards:
        raise Unsupported(
            f"method {method.name!r} does not say how its selection is gathered, which a ring needs: use ulysses_degree"
        )


def _counting(method: Method, tallies: tuple[Tally, ...]) -> Method:
    """Return the method with a plan that also records its density. Each plan is still made once."""

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        made = make_plan(method, settings, q, k, call)
        tallies[call.layer].densities.append(made.density)
        return made

    return dataclasses.replace(method, plan=plan, depends_on_qk=True)  # called for every plan
