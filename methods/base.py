"""The definition of a method: settings, a token order, a selection, and a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attnbench.kernels.grid import Grid, Layout
from attnbench.methods.checks import as_choice as as_choice  # other packages import both from here
from attnbench.methods.checks import as_ints as as_ints
from attnbench.methods.density import DensitySetting
from attnbench.methods.recipe import dense_layers_of, dense_steps_of, runs_dense

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.kernels.plan import Plan
    from attnbench.kernels.shard import Shard


@dataclass(frozen=True, slots=True)
class Source:
    """Where a method is published."""

    title: str
    url: str
    section: str = ""


@dataclass(frozen=True)
class Call:
    """What a method knows about the attention call that it plans, besides q and k.

    Attributes:
        layout: token grid and text tokens.
        layer: index of the transformer layer.
        step: index of the denoising step, or None.
        state: what the method itself keeps between steps or layers.
        params: learned tensors of methods that have them.
        v: the values [B, KV heads, N, D], for methods that declare ``needs_v``; otherwise None.
        shard: which queries q holds, if another process has the rest; None if q holds all. Only methods that declare
            ``plans_shards`` see one.
    """

    layout: Layout
    layer: int = 0
    step: int | None = None
    state: Any = None
    params: Any = None
    v: Tensor | None = None
    shard: Shard | None = None


@dataclass(frozen=True, eq=False)
class BranchCall(Call):
    """The call as ``finish`` sees it, once attention over the plan has run.

    Attributes:
        plan: what ran; ``plan.kept`` is what the method kept for ``finish``.
        scale: factor of the scores.
        lse: the log-sum-exp of each query's kept scores [B, H, N], for methods that declare ``needs_lse``; it may also
            be there for others.
        attend: attends once more over the same q, k and v: plan -> (output [B, H, N, D], log-sum-exp [B, H, N]). The
            engine is that of the call if it can serve this plan and gives a log-sum-exp, otherwise what "auto" takes.
    """

    plan: Plan = None  # type: ignore[assignment]  # fields after those of Call need defaults; this one is always given
    scale: float = 1.0
    lse: Tensor | None = None
    attend: Callable[[Plan], tuple[Tensor, Tensor]] = None  # type: ignore[assignment]  # likewise


@dataclass(frozen=True, eq=False, slots=True)
class Finished:
    """What ``finish`` returns if the next state depends on the output.

    Attributes:
        output: [B, H, N, D].
        state: the next state, which replaces that of the plan.
    """

    output: Tensor
    state: Any


@dataclass(frozen=True, slots=True)
class Cycle:
    """How a method with a state goes through the denoising steps of a clip.

    Attributes:
        warm: the steps whose calls make a state, in their order, the first of them without one.
        steady: the step that is measured, with that state.
        refresh: the step at which much of the state is made anew.
        every: after how many steps it is, in the mean.
        anew: whether the refresh begins without a state, as the first call of a clip does.
        other: a step of a third kind, which is measured too, with the state of the steady one; None if all steps but
            the refreshes are like the steady one.
        other_every: after how many steps there is one of the third kind, in the mean.
    """

    warm: tuple[int, ...]
    steady: int
    refresh: int
    every: float
    anew: bool = False
    other: int | None = None
    other_every: float = float("inf")

    def later(self, steps: int) -> Cycle:
        """Return the same cycle so many steps later, as where a recipe's first steps are dense."""
        return replace(
            self,
            warm=tuple(step + steps for step in self.warm),
            steady=self.steady + steps,
            refresh=self.refresh + steps,
            other=None if self.other is None else self.other + steps,
        )

    def amortised(self, steady: float, refresh: float, other: float = 0.0) -> float:
        """Return the mean of a step where one of ``every`` is a refresh, and one of ``other_every`` of a third kind.

        Args:
            steady, refresh, other: what a step of each kind takes.
        """
        return steady + (refresh - steady) / self.every + (other - steady) / self.other_every


Settings = Any  # an instance of the method's own frozen dataclass


def _always(settings: Settings) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Training:
    """That a method is meant for models which were trained with it.

    Attributes:
        stand_in: what takes the place of learned tensors where a call has none, as a clause: "its gate is 1, the value
            without training". Empty if the method learns no tensors of its own.
        needed: (settings) -> whether models need the training with these settings; by default with all.
    """

    stand_in: str = ""
    needed: Callable[[Settings], bool] = _always


def _one_layer(settings: Settings, layers: int) -> tuple[int, ...]:
    return (0,)


def _as_given(settings: Settings, layout: Layout) -> Settings:
    return settings


@dataclass(frozen=True)
class Method:
    """A sparse attention method.

    Attributes:
        name: what users type.
        summary: one line.
        source: the publication.
        settings: a frozen dataclass; its fields are the settings users give, its ``__post_init__`` checks them.
        plan: (settings, q [B, H, N, D], k [B, KV heads, N, D], call) -> Plan: arrange the tokens, select the pattern.
            Runs without recording gradients, because the choice of pairs has none.
        resolve: fills in defaults that depend on the grid and checks what depends on it.
        distinct_layers: (settings, number of layers) -> one layer of each kind. The kinds take turns, unless ``alike``
            says otherwise: of two kinds, the second is that of each odd layer.
        alike: (settings, number of layers) -> for each layer, which of ``distinct_layers`` stands for it. For methods
            whose kinds of layers do not take turns.
        twin: (resolved settings, layout, layer) -> a small case that is just as ragged, for verification. If it is
            None, the settings are tried on a small grid.
        finish: (settings, call, q, k, v, output) -> output, or a ``Finished``; adds a branch beside attention. ``call``
            is a ``BranchCall``. Verification runs it again on tensors of float64.
        density_setting: the setting that makes the method keep more or less, for sweeps over density. It is a name if
            the value is the density itself, a number in (0, 1], otherwise a ``DensitySetting``. None if there is no
            such setting.
        depends_on_qk: whether the plan depends on the values of q and k. A plan that does not is made once for each
            combination of settings, layout, device, batch, heads, KV heads, head_dim, and what ``plan`` reads of the
            call. ``plan`` must then look at nothing else.
        needs_v: whether ``plan`` looks at ``call.v``.
        needs_lse: whether ``finish`` looks at ``call.lse``.
        per_head: names of the settings that may be one value, or a tuple of one value for each query head.
        cycle: (resolved settings, layer) -> the steps of a method that needs a state to be what it is. Measurements
            time the steady step with the state that the steps before it made, and the refresh beside it. Models keep a
            state for each layer and each branch of guidance.
        draws_by_layer: whether it draws numbers by the layer, so that plans differ where the layers are of one kind.
        training: that models are meant to be trained with it, and what it does without; None if it serves models as
            they are. Reports mark what was measured without training.
        has_gradient: whether it may be trained; otherwise q, k and v that need a gradient are refused.
        text_competes: whether text takes part in the choice of the video's pairs, as a few methods are published. With
            others, the video keeps the same pairs with text as without.
        plans_shards: whether it can plan for a process that has all keys and only some queries: ``plan`` passes
            ``call.shard`` to ``route``, or looks at no values of q and k. The plan has the whole sequence; what it says
            of other queries is ignored.
        heads_are_independent: whether each head keeps what it would keep without the others, so that heads can be
            planned by different processes.
        params_by_head: names of the tensors of ``params`` [B or 1, heads, ...] that belong to single query heads.
    """

    name: str
    summary: str
    source: Source
    settings: type
    plan: Callable[[Settings, Tensor, Tensor, Call], Plan]
    resolve: Callable[[Settings, Layout], Settings] = _as_given
    distinct_layers: Callable[[Settings, int], tuple[int, ...]] = _one_layer
    alike: Callable[[Settings, int], tuple[int, ...]] | None = None
    twin: Callable[[Settings, Layout, int], tuple[Settings, Layout]] | None = None
    finish: Callable[[Settings, BranchCall, Tensor, Tensor, Tensor, Tensor], Tensor | Finished] | None = None
    density_setting: str | DensitySetting | None = None
    depends_on_qk: bool = True
    needs_v: bool = False
    needs_lse: bool = False
    per_head: tuple[str, ...] = ()
    cycle: Callable[[Settings, int], Cycle] | None = None
    draws_by_layer: bool = False
    training: Training | None = None
    has_gradient: bool = True
    text_competes: bool = False
    plans_shards: bool = False
    heads_are_independent: bool = True
    params_by_head: tuple[str, ...] = ()

    def finishes(self, settings: Settings, call: Call) -> bool:
        """Return whether ``finish`` runs in a call: not in the dense steps and layers of a recipe."""
        return self.finish is not None and not runs_dense(settings, call)

    def stand_ins(self, settings: Settings, layers: int) -> tuple[int, ...]:
        """Return for each of so many layers the one that stands for it.

        The dense layers of a recipe are a kind of their own.
        """
        kinds = self._kinds(settings, layers)
        dense = min(dense_layers_of(settings), layers)
        sparse = {kind: layer for layer, kind in reversed(list(enumerate(kinds))) if layer >= dense}
        return (0,) * dense + tuple(kind if kind >= dense else sparse[kind] for kind in kinds[dense:])

    def _kinds(self, settings: Settings, layers: int) -> tuple[int, ...]:
        if self.alike is not None:
            return self.alike(settings, layers)
        turns = self.distinct_layers(settings, layers)
        return tuple(turns[layer % len(turns)] for layer in range(layers))

    def cycle_of(self, settings: Settings, layer: int) -> Cycle | None:
        """Return the cycle of a layer behind the dense steps of a recipe; None for a method without a state."""
        if self.cycle is None:
            return None
        cycle, dense = self.cycle(settings, layer), dense_steps_of(settings)
        first = (*cycle.warm, cycle.steady)[0]
        return cycle if first >= dense else cycle.later(dense - first)


def shrink_axis(length: int, block: int, *, most_blocks: int = 3, most_block: int = 4) -> tuple[int, int]:
    """Return a small (length, block) that is ragged in the same way, for a method's ``twin``.

    A whole last block stays whole, a short one stays short, and a single block stays a single block.
    """
    block = min(block, length)
    blocks = -(-length // block)
    tail = length - (blocks - 1) * block
    small = min(block, most_block)
    small_tail = small if tail == block else max(1, min(small - 1, round(tail * small / block)))
    return (min(blocks, most_blocks) - 1) * small + small_tail, small


def shrink_grid(
    layout: Layout, block: tuple[int, int, int], *, most_blocks: int = 3, most_block: int = 3
) -> tuple[Layout, tuple[int, int, int]]:
    """Return a small layout and block that are ragged in the same way on each axis; see ``shrink_axis``."""
    axes = [
        shrink_axis(side, size, most_blocks=most_blocks, most_block=most_block)
        for side, size in zip(layout.grid.shape, block, strict=True)
    ]
    (t, a), (h, b), (w, c) = axes
    return Layout(Grid(t, h, w), layout.few_text), (a, b, c)
