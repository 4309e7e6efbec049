"""Count a Wan forward pass with two counters on diffusers' real modules, and compare with the closed form.

The modules are on the meta device: they have shapes but no values, so a pass of any size takes seconds and no memory.
Only the patch embedding has values, because fvcore traces with TorchScript, which cannot trace a convolution on the
meta device.
"""

from __future__ import annotations

import importlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench.cost.flops.wan import TEXT_TOKENS, ForwardFlops, WanConfig
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Grid

TOLERANCE = 1e-4
"""Relative difference up to which a counter agrees with the closed form. With diffusers 0.42 the difference is 0."""

PARTS = {
    "patch_embedding": (("patch_embedding",), "product"),
    "time_embedding": (("condition_embedder.time_embedder", "condition_embedder.time_proj"), "product"),
    "text_embedding": (("condition_embedder.text_embedder",), "product"),
    "self_projections": (("blocks.*.attn1",), "product"),
    "self_pairs": (("blocks.*.attn1",), "pairs"),
    "cross_projections": (("blocks.*.attn2",), "product"),
    "cross_pairs": (("blocks.*.attn2",), "pairs"),
    "ffn": (("blocks.*.ffn",), "product"),
    "head": (("proj_out",), "product"),
}
"""The parts of ``ForwardFlops``: the modules that contain each part, and the operators that belong to it."""

_KINDS = {
    # the names of operators in FlopCounterMode and in fvcore
    "addmm": "product", "mm": "product", "convolution": "product", "linear": "product", "conv": "product",
    "bmm": "pairs", "baddbmm": "pairs", "matmul": "pairs", "scaled_dot_product_attention": "pairs",
}  # fmt: skip
_ATTENTION = "scaled_dot_product_attention"


@dataclass(frozen=True, slots=True)
class ModuleCount:
    """The result of a counter for one forward pass; a multiply-add counts as 2.

    Attributes:
        counter: its name.
        parts: operations of each part of ``ForwardFlops``; None for a part that the counter does not see.
        others: what it counts besides matrix products, by operator, in its own unit.
        outside: operations of matrix products that belong to no part.
        unseen: numbers of calls of operators that it skips, if it lists them.
    """

    counter: str
    parts: Mapping[str, int | None]
    others: Mapping[str, int]
    outside: int
    unseen: Mapping[str, int]

    @property
    def total(self) -> int:
        """Operations of all matrix products that it sees."""
        return self.outside + sum(count for count in self.parts.values() if count is not None)

    def difference(self, ours: ForwardFlops, part: str) -> float | None:
        """Return how far a part is from the closed form, as a fraction of it; None if the counter does not see it."""
        count, exact = self.parts[part], ours.parts[part]
        return None if count is None else count / exact - 1

    def total_difference(self, ours: ForwardFlops) -> float:
        """Return how far the total is from the closed form of the parts that the counter sees, as a fraction."""
        return self.total / sum(ours.parts[part] for part, count in self.parts.items() if count is not None) - 1

    def agrees(self, ours: ForwardFlops) -> bool:
        """Return whether the total and every part that the counter sees are within ``TOLERANCE`` of the closed form."""
        found = [self.total_difference(ours), *(self.difference(ours, part) for part in self.parts)]
        return all(difference is None or abs(difference) <= TOLERANCE for difference in found)


def count_modules(
    config: WanConfig, grid: Grid, *, text_tokens: int = TEXT_TOKENS, batch: int = 1
) -> tuple[ModuleCount, ModuleCount]:
    """Count one forward pass of diffusers' Wan transformer with torch's FlopCounterMode and fvcore.

    Args:
        config: the model.
        grid: video tokens after patching, T × H × W.
        text_tokens: text tokens that cross-attention sees.
        batch: videos.

    Raises:
        Unsupported: without diffusers or fvcore.
    """
    model = _Pass(_make(config))
    sides = [side * patch for side, patch in zip(grid.shape, config.patch, strict=True)]
    inputs = (
        torch.zeros(batch, config.channels, *sides),
        torch.zeros(batch, dtype=torch.long, device="meta"),
        torch.empty(batch, text_tokens, config.text_dim, device="meta"),
    )
    with torch.no_grad():
        return _count_by_torch(model, inputs), _count_by_fvcore(model, inputs)


class _Pass(torch.nn.Module):
    """A transformer whose call takes positional arguments, as fvcore needs, and returns a tensor."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, latents: Tensor, step: Tensor, text: Tensor) -> Tensor:
        output: Tensor = self.transformer(
            hidden_states=latents, timestep=step, encoder_hidden_states=text, return_dict=False
        )[0]
        return output


def _import(package: str, name: str, command: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what these packages import themselves
            return getattr(importlib.import_module(package), name)
    except ImportError as error:
        raise Unsupported(f"counting real modules needs {package.partition('.')[0]}: {command}") from error


def _make(config: WanConfig) -> Any:
    model_class = _import("diffusers", "WanTransformer3DModel", "pip install 'attnbench[models]'")
    with torch.device("meta"):
        model = model_class(**config.arguments).eval()
    model.patch_embedding.to_empty(device="cpu")
    model.patch_embedding.register_forward_hook(lambda module, inputs, output: output.to("meta"))
    return model


def _count_by_torch(model: _Pass, inputs: tuple[Tensor, ...]) -> ModuleCount:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    # Names of modules begin with the class of the module that was called: _Pass.transformer.blocks.0
    counts = {
        name.partition(".")[2]: Counter({str(operator).rpartition(".")[2]: flops for operator, flops in found.items()})
        for name, found in counter.get_flop_counts().items()
    }
    return ModuleCount("FlopCounterMode", *_sort(counts, 1, Counter()))


def _count_by_fvcore(model: _Pass, inputs: tuple[Tensor, ...]) -> ModuleCount:
    analysis_class = _import("fvcore.nn", "FlopCountAnalysis", "pip install fvcore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that fvcore traces with TorchScript
        analysis = analysis_class(model, inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = analysis.by_module_and_operator()
        unseen = Counter({name.rpartition("::")[2]: calls for name, calls in analysis.unsupported_ops().items()})
    return ModuleCount("fvcore", *_sort(counts, 2, unseen))


def _sort(
    counts: Mapping[str, Counter[str]], unit: int, unseen: Counter[str]
) -> tuple[dict[str, int | None], dict[str, int], int, dict[str, int]]:
    """Return parts, others, outside and unseen of a ``ModuleCount``; a multiply-add counts 2 / ``unit``."""
    parts: dict[str, int | None] = {}
    for part, (patterns, kind) in PARTS.items():
        found = [counts[name] for name in _matching(counts, patterns)]
        parts[part] = int(
            unit * sum(n for each in found for operator, n in each.items() if _KINDS.get(operator) == kind)
        )
        if kind == "pairs" and unseen[_ATTENTION] and not parts[part]:
            parts[part] = None
    others = {operator: int(n) for operator, n in counts[""].items() if operator not in _KINDS and n}
    products = unit * sum(n for operator, n in counts[""].items() if operator in _KINDS)
    outside = int(products - sum(count or 0 for count in parts.values()))
    return parts, others, outside, dict(unseen.most_common())


def _matching(counts: Mapping[str, Counter[str]], patterns: tuple[str, ...]) -> Iterator[str]:
    """Yield the names of modules that are one of ``patterns`` below the transformer; * is a number."""
    for name in counts:
        words = name.split(".")
        if words[0] == "transformer":
            below = ".".join("*" if word.isdigit() else word for word in words[1:])
            if below in patterns:
                yield name
