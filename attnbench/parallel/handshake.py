"""What ranks tell each other before the first exchange of a call: what they were called with, and how many tokens.

Every call begins with a number of each rank, which stands for its call. Where all ranks have made the call before, that
is all. Otherwise they tell each other the whole call. On a GPU, ranks that have made their call before do not wait for
these numbers, but look at them in their next call.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import torch

from attnbench.kernels.errors import BadInput, RankLost
from attnbench.parallel.collectives import Numbers, Ranks

MOST_CALLS = 4096
"""Different calls of a group whose shards are remembered; the oldest are told again."""

_MUST = "all ranks of a group must make the same call with the same versions"


class _Kind(IntEnum):
    """How well a rank knows the call that it makes: what is left of its number, divided by how many kinds there are."""

    KNOWN, NEW, REFUSED = range(3)


@dataclass(eq=False)
class _Group:
    """What a rank remembers of a group.

    Attributes:
        lengths: tokens of each rank, by call.
        unread: its own number and those of all ranks, of earlier calls.
    """

    lengths: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unread: deque[tuple[int, Numbers]] = field(default_factory=deque)


_groups: WeakKeyDictionary[Any, _Group] = WeakKeyDictionary()


def shards_of(ranks: Ranks, call: Mapping[str, object], tokens: int, device: torch.device) -> tuple[int, ...]:
    """Return how many tokens each rank has, after comparing what the ranks were called with.

    Args:
        ranks: of the group.
        call: what must be the same on all ranks, as values for JSON.
        tokens: of this rank.
        device: of its tensors.

    Raises:
        BadInput: if a rank was called with anything else, refused its call, or brings another number of tokens than
            before. On a GPU, where ranks made different calls that each had made before, only a later call says so.
        RankLost: if a rank ended.
    """
    group = _groups.setdefault(ranks.group, _Group())
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if not capturing:  # else looking would end the capture
        _read(ranks, group)
    described = json.dumps(versions() | dict(call), sort_keys=True)
    found = group.lengths.get(described)
    if found is not None and found[ranks.rank] != tokens:
        problem = (
            f"rank {ranks.rank} has {tokens} tokens, and had {found[ranks.rank]} in the same call before: shards of a "
            "group keep their lengths"
        )
        refuse(ranks, problem, device)
        raise BadInput(problem)
    if found is not None and capturing:
        return found
    own = _number(described, _Kind.NEW if found is None else _Kind.KNOWN)
    numbers = ranks.numbers(own, device)
    if found is not None and device.type == "cuda":
        group.unread.append((own, numbers))
        return found
    told = numbers.values()
    if found is not None and all(each == own for each in told):
        return found
    _require_listeners(told, device)
    group.lengths[described] = lengths = _tell(ranks, described, tokens, device)
    if len(group.lengths) > MOST_CALLS:
        del group.lengths[next(iter(group.lengths))]
    return lengths


def refuse(ranks: Ranks, problem: str, device: torch.device) -> None:
    """Tell the other ranks that this one refuses its call, so that they do not wait for it.

    On a GPU, ranks that have made their call before see it in their next call.
    """
    with suppress(RankLost, BadInput):
        told = ranks.numbers(_number("", _Kind.REFUSED), device).values()
        _require_listeners(told, device)
        ranks.texts(json.dumps(["", 0, problem]), device)


def _number(described: str, kind: _Kind) -> int:
    digest = hashlib.sha256(described.encode()).digest()
    return int.from_bytes(digest[:7]) * len(_Kind) + kind


def _require_listeners(told: Sequence[int], device: torch.device) -> None:
    """Require that all ranks wait for what the others are called with.

    Raises:
        BadInput: if one does not, since it has made its call before, on a GPU.
    """
    deaf = [rank for rank, number in enumerate(told) if number % len(_Kind) == _Kind.KNOWN]
    if deaf and device.type == "cuda":
        raise BadInput(f"rank {deaf[0]} repeats an earlier call, and this rank does not make it; {_MUST}")


def _read(ranks: Ranks, group: _Group) -> None:
    """Compare the numbers of earlier calls that are here.

    Raises:
        BadInput: if ranks made different calls.
    """
    while group.unread and group.unread[0][1].are_here:
        own, numbers = group.unread.popleft()
        for rank, number in enumerate(numbers.values()):
            if number != own:
                group.unread.clear()
                refused = number % len(_Kind) == _Kind.REFUSED
                did = "refused an earlier call" if refused else f"made another call than rank {ranks.rank} before"
                raise BadInput(f"rank {rank} {did}, and what came of it is wrong; {_MUST}")


def _tell(ranks: Ranks, described: str, tokens: int, device: torch.device) -> tuple[int, ...]:
    """Return the tokens of each rank, after all have told what they are called with.

    Raises:
        BadInput: if a rank refused its call, or was called with anything else.
    """
    answers = [json.loads(text) for text in ranks.texts(json.dumps([described, tokens, ""]), device)]
    for rank, (_, _, problem) in enumerate(answers):
        if problem:
            raise BadInput(f"rank {rank} refused its call: {problem}")
    require_same([json.loads(text) for text, _, _ in answers], _MUST)
    return tuple(int(count) for _, count, _ in answers)


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
