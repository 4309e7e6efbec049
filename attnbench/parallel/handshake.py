"""What ranks tell each other before the first exchange of a call: what they were called with, and how many tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import torch

from attnbench.kernels.errors import BadInput, RankLost
from attnbench.parallel.collectives import Ranks

MOST_CALLS = 4096
"""Different calls of a group whose shards are remembered; the oldest are told again."""

_MUST = "all ranks of a group must make the same call with the same versions"
_told: WeakKeyDictionary[Any, dict[str, tuple[int, ...]]] = WeakKeyDictionary()


def shards_of(ranks: Ranks, call: Mapping[str, object], tokens: int, device: torch.device) -> tuple[int, ...]:
    """Return how many tokens each rank has, after comparing what the ranks were called with.

    The ranks tell each other once for each call that differs in anything but the values of tensors.

    Args:
        ranks: of the group.
        call: what must be the same on all ranks, as values for JSON.
        tokens: of this rank.
        device: of its tensors.

    Raises:
        BadInput: if a rank was called with anything else, refused its call, or brings another number of tokens than
            before.
        RankLost: if a rank ended.
    """
    told = _told.setdefault(ranks.group, {})
    described = json.dumps(versions() | dict(call), sort_keys=True)
    found = told.get(described)
    if found is not None:
        if found[ranks.rank] != tokens:  # other ranks may have as many as before, and would not notice
            raise BadInput(
                f"rank {ranks.rank} has {tokens} tokens, and had {found[ranks.rank]} in the same call before: shards "
                "of a group keep their lengths"
            )
        return found
    answers = [json.loads(text) for text in ranks.texts(json.dumps([described, tokens, ""]), device)]
    for rank, (_, _, problem) in enumerate(answers):
        if problem:
            raise BadInput(f"rank {rank} refused its call: {problem}")
    require_same([json.loads(text) for text, _, _ in answers], _MUST)
    lengths = tuple(int(count) for _, count, _ in answers)
    told[described] = lengths
    if len(told) > MOST_CALLS:
        del told[next(iter(told))]
    return lengths


def refuse(ranks: Ranks, problem: str, device: torch.device) -> None:
    """Tell the other ranks that this one refuses its call, so that they do not wait for it.

    Where they were told of their calls before, they notice when this rank ends.
    """
    with suppress(RankLost):
        ranks.texts(json.dumps(["", 0, problem]), device)


def versions() -> dict[str, object]:
    """Return the versions that must be the same on all ranks."""
    return {"attnbench": version("attnbench"), "torch": torch.__version__}


def require_same(told: Sequence[Mapping[str, object]], must: str) -> None:
    """Require that all ranks tell the same.

    Args:
        told: what each rank tells, by name.
        must: what is asked of ranks, in words.

    Raises:
        BadInput: naming the first difference.
    """
    first = told[0]
    for rank, each in enumerate(told):
        for name in sorted({*first, *each}):
            if first.get(name) != each.get(name):
                raise BadInput(f"{name} is {first.get(name)!r} on rank 0 and {each.get(name)!r} on rank {rank}; {must}")
