"""How diffusers' context parallelism spreads a transformer's tokens over ranks."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from attnbench.kernels.errors import Unsupported
from attnbench.models.families.family import Family
from attnbench.models.families.find import own_processor


@dataclass(frozen=True, eq=False, slots=True)
class Spread:
    """Tokens that are spread over ranks.

    Attributes:
        group: of the ranks, in the order of their tokens.
        parallel: how the ranks share attention, as of ``attnbench.attention``.
    """

    group: Any
    parallel: str


def spread_of(transformers: tuple[Any, ...], family: Family) -> Spread | None:
    """Return how the tokens of transformers are spread over ranks; None if each process has all of them.

    Raises:
        Unsupported: for a family, or a kind of parallelism, that was not tested.
    """
    configs = [getattr(part, "_parallel_config", None) for part in transformers]
    name = type(transformers[0]).__name__
    if any(getattr(config, "tensor_parallel_config", None) is not None for config in configs):
        raise Unsupported(f"a {name} under tensor parallelism cannot be patched: each rank has some heads only")
    processors = [own_processor(attn) for part in transformers for attn in family.attentions(part)]
    told = [getattr(each, "_parallel_config", None) for each in processors]
    first = configs[0]
    if any(config is not first for config in (*configs, *told)):
        raise Unsupported(
            "some of the model's attention is spread over ranks, and some is not: call enable_parallelism once, before "
            "the model is patched"
        )
    if first is None:
        return None
    context = first.context_parallel_config
    if len(transformers) > 1:
        raise Unsupported("two transformers whose tokens are spread over ranks cannot be patched: it was not tested")
    if context.ring_degree > 1 and context.ulysses_degree > 1:
        raise Unsupported(
            f"ring_degree={context.ring_degree} with ulysses_degree={context.ulysses_degree} cannot be patched: it was "
            "not tested; use one of them"
        )
    word, way = ("ulysses", "ulysses") if context.ulysses_degree > 1 else ("ring", "allgather")
    if way not in family.spreads:
        raise Unsupported(f"a {name} whose tokens are spread by {word}_degree cannot be patched: it was not tested")
    return Spread(context._flattened_mesh.get_group(), way)


def spread(model: Any, ranks: int) -> None:
    """Spread the tokens of a diffusers transformer over all ranks, by Ulysses.

    Raises:
        Unsupported: without diffusers.
    """
    try:
        diffusers = importlib.import_module("diffusers")
    except ImportError as error:
        raise Unsupported("context parallelism needs diffusers: pip install 'attnbench[models]'") from error
    with _a_device():
        model.enable_parallelism(config=diffusers.ContextParallelConfig(ulysses_degree=ranks))


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what diffusers says of each model that is spread: that this is experimental, and what it does."""
    try:
        logging = importlib.import_module("diffusers").utils.logging
    except ImportError:
        yield
        return
    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
            yield
    finally:
        logging.set_verbosity(told)


@contextmanager
def _a_device() -> Iterator[None]:
    """Let there be an accelerator: diffusers takes a rank modulo their number, also where there is none."""
    count = torch.accelerator.device_count
    if count() == 0:
        torch.accelerator.device_count = lambda: 1
    try:
        yield
    finally:
        torch.accelerator.device_count = count
