"""Find the family of a model that can be patched."""

from __future__ import annotations

from typing import Any

import torch

from attnbench.kernels.errors import Unsupported
from attnbench.models.families import cogvideox, hunyuan, ltx, minimax_h3, mochi, wan
from attnbench.models.families.family import Family, class_name

FAMILIES: tuple[Family, ...] = (
    wan.FAMILY, hunyuan.FAMILY, cogvideox.FAMILY, ltx.FAMILY, mochi.FAMILY, minimax_h3.FAMILY,
)  # fmt: skip
"""All families, one for each class of transformers in diffusers."""


def find_family(transformer: Any) -> Family | None:
    """Return the family of a transformer, or None. It is recognised by its class, so nothing has to be imported."""
    known = {family.transformer: family for family in FAMILIES}
    return next((known[name] for name in map(class_name, type(transformer).__mro__) if name in known), None)


def find_transformers(model: Any) -> tuple[Family, tuple[Any, ...]]:
    """Return the family of ``model``, and its transformers: the model itself, or those of a pipeline in the order they
    run.

    Raises:
        Unsupported: for any other model, for a model that is compiled, and for other attention processors.
    """
    if isinstance(model, torch.nn.Module):
        found = (model,)
    else:
        parts = (getattr(model, name, None) for name in ("transformer", "transformer_2", "transformer_ref"))
        found = tuple(part for part in parts if part is not None)
    families = [find_family(part) for part in found]
    for part, family in zip(found, families, strict=True):
        if family is None or family is not families[0]:
            raise _unknown(part)
        _check(part, family)
    if not families or families[0] is None:
        raise _unknown(model)
    return families[0], found


def _unknown(model: object) -> Unsupported:
    known = ", ".join(_last(family.transformer) for family in FAMILIES)
    return Unsupported(
        f"a {type(model).__name__} cannot be patched: supported are diffusers' {known}, not compiled or wrapped, and "
        "pipelines that have one as their transformer"
    )


def _check(transformer: Any, family: Family) -> None:
    modules = transformer.modules()
    if any(module._compiled_call_impl is not None for module in modules):
        raise Unsupported(f"a compiled {type(transformer).__name__} cannot be patched: patch it before it is compiled")
    for layer, attn in enumerate(family.attentions(transformer)):
        own = own_processor(attn)
        if class_name(type(own)) != family.processor:
            raise Unsupported(
                f"the self-attention of layer {layer} has a {type(own).__name__}, which cannot be "
                f"replaced faithfully: only diffusers' {_last(family.processor)} is supported"
            )


def own_processor(attn: Any) -> Any:
    """Return the original processor of an attention module, even if it is replaced at the moment."""
    processor = attn.processor
    return getattr(processor, "own", processor)


def _last(path: str) -> str:
    return path.rpartition(".")[2]
