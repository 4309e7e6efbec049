"""Replace the self-attention of a model, and restore it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid
from attnbench.models.clock import StepClock
from attnbench.models.families.family import Attend, Output, Place, Qkv
from attnbench.models.families.find import find_transformers, own_processor
from attnbench.models.spread import spread_of
from attnbench.models.text_lengths import TextLengths


class Replacement:
    """Another self-attention in a model until ``restore`` is called; also a context manager.

    Projections, norms, rotary embedding and the output projection remain the model's. Cross-attention is not changed.
    Replacements nest: the newest one is in effect, and they are restored in reverse order.

    Attributes:
        family: the family of the model.
        layers: number of its self-attentions.
        clock: the counter of denoising steps.
        grid: token grid of the last forward call; None before the first.
        rows: tokens of the last forward call, of all ranks, where all are packed into one sequence; 0 elsewhere.
        spread: how the tokens are spread over ranks; None if this process has all.
    """

    def __init__(
        self, model: Any, attend: Attend, keeps_own: Callable[[Place], bool] = lambda place: False, *,
        spreads: bool = False,
    ) -> None:  # fmt: skip
        """Put ``attend`` in place of the model's self-attention.

        Args:
            model: a transformer of a known family, or a pipeline with one or two of them, which share the clock.
            attend: the function that runs instead. Padding of joint text is cut off before the call. If batch items
                have different amounts of padding, it is called once for each item.
            keeps_own: returns whether the model's own attention runs at a place. It is called once for each layer and
                forward call.
            spreads: whether ``attend`` can be given the tokens of one rank, where they are spread over several.

        Raises:
            Unsupported: see ``find_transformers`` and ``spread_of``; and for a model whose tokens are spread over
                ranks, unless ``spreads``.
        """
        self.family, transformers = find_transformers(model)
        self.spread = spread_of(transformers, self.family)
        if self.spread is not None and not spreads:
            raise Unsupported("this is not possible with a model whose tokens are spread over ranks")
        self._config = getattr(transformers[0], "_parallel_config", None)
        pipeline = None if isinstance(model, torch.nn.Module) else model
        self.clock = StepClock(self.family.time_rises, pipeline)
        self.grid: Grid | None = None
        self.attend, self.keeps_own = attend, keeps_own
        self.lengths: tuple[int, ...] | None = None
        self.rows = 0
        self._texts = TextLengths(self.family.mask_counts)
        self._names = tuple(inspect.signature(type(transformers[0]).forward).parameters)[1:]
        self._before: list[tuple[Any, Any]] = []
        self._hooks = [part.register_forward_pre_hook(self._enter, with_kwargs=True) for part in transformers]
        self.layers = 0
        for part in transformers:
            attentions = self.family.attentions(part)
            self.layers = max(self.layers, len(attentions))
            for layer, attn in enumerate(attentions):
                self._before.append((attn, attn.processor))
                kind = _PackedProcessor if self.family.packed_rows else _Processor
                attn.processor = kind(self, layer, own_processor(attn))

    def restore(self) -> None:
        """Restore what was there before. A second call does nothing.

        Raises:
            BadInput: if the self-attention was replaced again since then, and that replacement is still in effect.
        """
        for attn, _ in self._before:
            if getattr(attn.processor, "replacement", None) is not self:
                raise BadInput(
                    "the model's self-attention was replaced again after this patch: restore the newest first"
                )
        for attn, processor in self._before:
            attn.processor = processor
        for hook in self._hooks:
            hook.remove()
        self._before, self._hooks = [], []

    @property
    def restored(self) -> bool:
        """Whether the model has been restored."""
        return not self._before

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def place(self, layer: int, text: int) -> Place:
        """Return the place of a call of ``layer`` in the current forward call, with ``text`` joint text tokens.

        Raises:
            Unsupported: before the first forward call.
        """
        if self.grid is None or self.clock.step is None:
            raise Unsupported("the token grid is not known: call the patched transformer itself, not its blocks")
        return Place(layer, self.grid, self.clock.step, (text, 0) if self.family.text_first else (0, text))

    def _enter(self, transformer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Read the token grid, step and text from the arguments of a forward call.

        The model itself refuses wrong ones.
        """
        if getattr(transformer, "_parallel_config", None) is not self._config:
            raise Unsupported(
                "enable_parallelism was called after the model was patched, so each rank would attend to its own "
                "tokens only: call it before the patch"
            )
        given = dict(zip(self._names, args, strict=False)) | kwargs
        timestep, mask = given.get("timestep"), given.get(self.family.text_mask or "")
        grid = self.family.grid(transformer, given)
        if grid is None or not isinstance(timestep, (Tensor, int, float)):
            return
        self.grid = grid
        self.rows = 0 if self.family.packed_rows is None else self.family.packed_rows(given)
        self.lengths = self._texts.of(mask) if isinstance(mask, Tensor) and mask.dim() == 2 else None
        self.clock.see(timestep if isinstance(timestep, Tensor) else torch.tensor(timestep))


class _Processor:
    """Replaces a family's attention processor in one self-attention."""

    def __init__(self, replacement: Replacement, layer: int, own: Any) -> None:
        self.replacement, self.layer, self.own = replacement, layer, own

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
        *,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Output:
        replacement, turns = self.replacement, image_rotary_emb if rotary_emb is None else rotary_emb
        family, words = replacement.family, encoder_hidden_states
        if (words is not None and family.text_first is None) or (attention_mask is not None and not family.text_mask):
            raise Unsupported("a patched model's self-attention takes neither other tokens nor a mask")
        text = 0 if words is None else words.shape[1]
        place = replacement.place(self.layer, text)
        if replacement.keeps_own(place):
            own: Output = self.own(attn, hidden_states, words, attention_mask, turns)
            return own
        return self._run(attn, hidden_states, words, turns, place, text)

    def _run(
        self, attn: Any, tokens: Tensor, words: Tensor | None, turns: tuple[Tensor, Tensor] | None, place: Place,
        text: int,
    ) -> Output:  # fmt: skip
        family = self.replacement.family
        qkv = family.project(attn, tokens, words, turns)
        return family.finish(attn, self._attend(qkv, place, text), text)

    def _attend(self, qkv: Qkv, place: Place, text: int) -> Tensor:
        """Attend without the padding of text. Its outputs are 0; nothing reads them."""
        replacement, batch = self.replacement, qkv[0].shape[0]
        lengths = replacement.lengths or (text,) * batch
        if len(set(lengths)) == 1:
            return self._attend_to(qkv, lengths[0], text)
        q, k, v = (x.split(1) for x in qkv)
        parts = zip(zip(q, k, v, strict=True), lengths, strict=True)
        return torch.cat([self._attend_to(part, length, text) for part, length in parts])

    def _attend_to(self, qkv: Qkv, kept: int, text: int) -> Tensor:
        padding = text - kept
        q, k, v = (x[:, :, : x.shape[2] - padding] for x in qkv)
        output = self.replacement.attend(q, k, v, self.replacement.place(self.layer, kept))
        return pad(output, (0, 0, 0, padding)) if padding else output


class _PackedProcessor(_Processor):
    """Replaces a processor that gets all tokens in one tensor, and no other tokens."""

    def __call__(  # type: ignore[override]  # the order is that of the processors in its place
        self,
        attn: Any,
        hidden_states: Tensor,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
    ) -> Output:
        replacement = self.replacement
        if attention_mask is not None:
            raise Unsupported("a patched model's self-attention takes neither other tokens nor a mask")
        text = 0 if replacement.grid is None else replacement.rows - replacement.grid.tokens
        place = replacement.place(self.layer, text)
        if replacement.keeps_own(place):
            own: Output = self.own(attn, hidden_states, rotary_emb, attention_mask)
            return own
        return self._run(attn, hidden_states, None, rotary_emb, place, text)
