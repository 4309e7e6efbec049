"""Wan's transformer in diffusers: where its self-attention is, and how to put another in its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid
from attnbench.models.clock import StepClock
from attnbench.models.projections import in_autocast_dtype, project

_MODULE = "diffusers.models.transformers.transformer_wan"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the model and in denoising an attention call stands: layer, token grid, step (from 0)."""

    layer: int
    grid: Grid
    step: int


Attend = Callable[[Tensor, Tensor, Tensor, Place], Tensor]
"""(q, k, v, place) -> output, all [B, heads, N, head_dim] in grid order; N is the number of tokens of the grid."""


def find_transformers(model: Any) -> tuple[Any, ...]:
    """Return the WanTransformer3DModel that ``model`` is, or those that a pipeline has, in the order they run.

    Raises:
        Unsupported: for any other model, one that is compiled or spread over devices, and other attention processors.
    """
    if isinstance(model, torch.nn.Module):
        found = (model,)
    else:
        parts = (getattr(model, name, None) for name in ("transformer", "transformer_2"))
        found = tuple(part for part in parts if part is not None)
    module = sys.modules.get(_MODULE)  # a model of diffusers cannot be here without it
    for part in found:
        if module is None or not isinstance(part, module.WanTransformer3DModel):
            raise _unknown(part)
        _check(part, module.WanAttnProcessor)
    if not found:
        raise _unknown(model)
    return found


def _unknown(model: object) -> Unsupported:
    return Unsupported(
        f"a {type(model).__name__} cannot be patched: supported are diffusers' WanTransformer3DModel, "
        "not compiled or wrapped, and pipelines that have one as their transformer"
    )


def _check(transformer: Any, known: type) -> None:
    modules = (transformer, *transformer.blocks)
    if any(module._compiled_call_impl is not None for module in modules):
        raise Unsupported("a compiled WanTransformer3DModel cannot be patched: patch it before it is compiled")
    for layer, block in enumerate(transformer.blocks):
        own = _own(block.attn1.processor)
        if type(own) is not known:
            raise Unsupported(
                f"the self-attention of layer {layer} has a {type(own).__name__}, which another would not replace "
                f"truly: supported is diffusers' {known.__name__}"
            )
        if getattr(own, "_parallel_config", None) is not None:
            raise Unsupported("a model whose tokens are spread over devices cannot be patched: methods need all tokens")


class Replacement:
    """Another self-attention in a Wan model, until ``restore``; also a context manager.

    Projections, RMS norm, rotary embedding and the output projection stay the model's. Cross-attention is not touched.
    Replacements nest: the newest one is in effect, and they are taken out in the reverse order.

    Attributes:
        clock: counts the denoising steps.
        grid: token grid of the last forward call; None before the first.
    """

    def __init__(self, model: Any, attend: Attend, keeps_own: Callable[[Place], bool] = lambda place: False) -> None:
        """Put ``attend`` in place of the model's self-attention.

        Args:
            model: a WanTransformer3DModel or a pipeline with one or two of them, which share the clock.
            attend: what runs instead.
            keeps_own: where the model's own attention runs all the same.

        Raises:
            Unsupported: see ``find_transformers``.
        """
        transformers = find_transformers(model)
        self.clock = StepClock()
        self.grid: Grid | None = None
        self.attend, self.keeps_own = attend, keeps_own
        self._before: list[tuple[Any, Any]] = []
        self._hooks = [part.register_forward_pre_hook(self._enter, with_kwargs=True) for part in transformers]
        for part in transformers:
            for layer, block in enumerate(part.blocks):
                self._before.append((block.attn1, block.attn1.processor))
                block.attn1.set_processor(_Processor(self, layer, _own(block.attn1.processor)))

    def restore(self) -> None:
        """Put back what was there before; a second call does nothing.

        Raises:
            BadInput: if the self-attention was replaced once more since, and that is still in effect.
        """
        for attn, _ in self._before:
            if getattr(attn.processor, "replacement", None) is not self:
                raise BadInput(
                    "the model's self-attention was replaced once more since this patch: restore the newest first"
                )
        for attn, processor in self._before:
            attn.set_processor(processor)
        for hook in self._hooks:
            hook.remove()
        self._before, self._hooks = [], []

    @property
    def restored(self) -> bool:
        """Whether the model is as it was."""
        return not self._before

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def place(self, layer: int) -> Place:
        """Return where a call of ``layer`` in the present forward call stands.

        Raises:
            Unsupported: before the first forward call.
        """
        if self.grid is None or self.clock.step is None:
            raise Unsupported("the token grid is not known: call the patched transformer itself, not its blocks")
        return Place(layer, self.grid, self.clock.step)

    def _enter(self, transformer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Read token grid and step off the arguments of a forward call; wrong ones are left to the model to refuse."""
        given = dict(zip(("hidden_states", "timestep"), args, strict=False)) | kwargs
        video, timestep = given.get("hidden_states"), given.get("timestep")
        if isinstance(video, Tensor) and video.dim() == 5 and isinstance(timestep, Tensor):
            t, h, w = (
                side // patch for side, patch in zip(video.shape[2:], transformer.config.patch_size, strict=True)
            )
            self.grid = Grid(t, h, w)
            self.clock.see(timestep)


class _Processor:
    """Takes the place of diffusers' WanAttnProcessor in one self-attention."""

    def __init__(self, replacement: Replacement, layer: int, own: Any) -> None:
        self.replacement, self.layer, self.own = replacement, layer, own

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None or attention_mask is not None:
            raise Unsupported("a patched model's self-attention takes neither other tokens nor a mask")
        place = self.replacement.place(self.layer)
        if self.replacement.keeps_own(place):
            own: Tensor = self.own(attn, hidden_states, None, None, rotary_emb)
            return own
        q, k, v = project(attn, hidden_states, rotary_emb)
        q_bhnd, k_bhnd, v_bhnd = (x.transpose(1, 2) for x in in_autocast_dtype(q, k, v))
        output = self.replacement.attend(q_bhnd, k_bhnd, v_bhnd, place)
        joined = output.transpose(1, 2).flatten(2).type_as(q)
        projection, dropout = attn.to_out
        dropped: Tensor = dropout(projection(joined))
        return dropped


def _own(processor: Any) -> Any:
    return processor.own if isinstance(processor, _Processor) else processor
