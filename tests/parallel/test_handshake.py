"""On a GPU, ranks do not wait for what others call: they look at it in their next call. No GPU is needed here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from attnbench.kernels.errors import BadInput
from attnbench.parallel import handshake
from attnbench.parallel.collectives import Numbers

GPU = torch.device("cuda")


@dataclass
class _Event:
    passed: bool = True

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.passed = True


class _Group:
    """Of torch.distributed, which can be referred to weakly."""


@dataclass(eq=False)
class _Ranks:
    """Rank 0 of two: the other one tells what ``other`` says, or the same as this one."""

    rank: int = 0
    size: int = 2
    group: _Group = field(default_factory=_Group)
    other: Iterator[int] | None = None
    event: _Event = field(default_factory=_Event)
    told: list[str] = field(default_factory=list)

    def numbers(self, number: int, device: torch.device) -> Numbers:
        others = number if self.other is None else next(self.other)
        return Numbers(torch.tensor([number, others]), self.event)  # type: ignore[arg-type]  # no event of a GPU

    def texts(self, text: str, device: torch.device) -> list[str]:
        self.told.append(text)
        return [text, text]


@pytest.fixture(autouse=True)
def no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def call(ranks: _Ranks, **changed: object) -> tuple[int, ...]:
    return handshake.shards_of(ranks, {"layer": 0} | changed, 30, GPU)  # type: ignore[arg-type]  # ranks without processes


def test_a_call_is_told_once_and_then_only_its_number() -> None:
    ranks = _Ranks()
    assert call(ranks) == call(ranks) == call(ranks) == (30, 30)
    assert len(ranks.told) == 1
    assert json.loads(json.loads(ranks.told[0])[0])["layer"] == 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [(handshake._Kind.KNOWN, "rank 1 made another call than rank 0 before"),
     (handshake._Kind.REFUSED, "rank 1 refused an earlier call")],
)  # fmt: skip
def test_another_known_call_of_a_rank_is_an_error_of_the_next_call(kind: handshake._Kind, words: str) -> None:
    ranks = _Ranks()
    call(ranks)
    ranks.other, ranks.event = iter([handshake._number("another", kind)]), _Event(passed=False)
    assert call(ranks) == (30, 30)
    ranks.other = None
    assert call(ranks) == (30, 30)  # the GPU is not there yet, and nobody waits for it
    ranks.event.passed = True
    with pytest.raises(BadInput, match=words):
        call(ranks)
    assert call(ranks) == (30, 30)  # told once


def test_while_a_graph_is_captured_nothing_is_told_and_nothing_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = _Ranks()
    call(ranks)
    ranks.other = iter([handshake._number("another", handshake._Kind.KNOWN)])
    call(ranks)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert call(ranks) == (30, 30)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(BadInput, match="rank 1 made another call"):
        call(ranks)


def test_a_new_call_beside_a_known_one_is_refused_and_not_told() -> None:
    ranks = _Ranks(other=iter([handshake._number("another", handshake._Kind.KNOWN)]))
    with pytest.raises(BadInput, match="rank 1 repeats an earlier call, and this rank does not make it"):
        call(ranks)
    assert ranks.told == []


def test_a_refusal_is_told_only_to_ranks_that_listen() -> None:
    for kind, told in ((handshake._Kind.KNOWN, 0), (handshake._Kind.NEW, 1)):
        ranks = _Ranks(other=iter([handshake._number("another", kind)]))
        handshake.refuse(ranks, "topk is 'few'", GPU)  # type: ignore[arg-type]  # likewise
        assert len(ranks.told) == told
