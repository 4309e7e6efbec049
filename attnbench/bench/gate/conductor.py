"""Let several runs measure in turns: at any moment one of them works, and the others wait for their turn."""

from __future__ import annotations

import contextlib
import itertools
import json
import selectors
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from attnbench.bench.in_turns import MOST
from attnbench.bench.turns import Turns
from attnbench.machine.processes import end_of

_POLL = 0.5
"""Seconds after which processes are looked at where the system does not tell of their end."""


@dataclass
class _Side:
    """One of the runs.

    Attributes:
        process: of the run; it has children, which ask for it.
        waiting: the question that is not answered yet, and who asked.
        agreed: the answer to it, once all runs have said what they choose.
    """

    name: str
    process: Popen[bytes]
    waiting: tuple[socket.socket, dict[str, Any]] | None = None
    agreed: int | None = None
    ended: bool = False

    @property
    def question(self) -> dict[str, Any]:
        return {} if self.waiting is None else self.waiting[1]


@dataclass
class Conductor:
    """Says whose turn it is.

    Attributes:
        folder: short and empty; each run gets a socket in it.
        names: of the runs.
        token: what the runs share, for their journals.
    """

    folder: Path
    names: tuple[str, ...]
    token: str
    _listeners: dict[str, socket.socket] = field(default_factory=dict)
    _turns: dict[str, Turns] = field(default_factory=dict)
    _served: dict[tuple[Any, ...], set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            listener = self._listeners[name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(self.address(name)))
            listener.listen()

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *ignored: object) -> None:
        for listener in self._listeners.values():
            listener.close()

    def address(self, name: str) -> Path:
        """Return the socket of a run."""
        return self.folder / name

    def conduct(self, processes: Mapping[str, Popen[bytes]]) -> None:
        """Give turns until every process has ended."""
        sides = [_Side(name, processes[name]) for name in self.names]
        working: _Side | None = None
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            for side in sides:
                selector.register(self._listeners[side.name], selectors.EVENT_READ, (side, None))
                for handle in stack.enter_context(end_of(side.process)):
                    selector.register(handle, selectors.EVENT_READ, (side, handle))
            while not all(side.ended for side in sides):
                for key, _ in selector.select(_POLL):
                    side, heard = key.data
                    if heard is None:  # a process of this run wants to speak
                        channel, _ = key.fileobj.accept()  # type: ignore[union-attr]  # it is a listener
                        stack.callback(channel.close)
                        selector.register(channel, selectors.EVENT_READ, (side, _Lines(channel)))
                    elif isinstance(heard, _Lines):
                        more = heard.read()
                        for question in heard.whole():
                            side.waiting, side.agreed = (heard.channel, question), None
                            working = None if working is side else working
                        if not more:
                            selector.unregister(key.fileobj)
                            if side.waiting is not None and side.waiting[0] is heard.channel:
                                side.waiting = None  # its run goes on, perhaps with another process
                for side in sides:
                    if not side.ended and side.process.poll() is not None:
                        side.ended, side.waiting = True, None
                        for key in list(selector.get_map().values()):
                            if key.data[0] is side:
                                selector.unregister(key.fileobj)
                        working = None if working is side else working
                live = [side for side in sides if not side.ended]
                if working is None and live and all(side.waiting is not None for side in live):
                    working = self._let_one_go_on(live)

    def _let_one_go_on(self, live: list[_Side]) -> _Side:
        """Answer one of the runs, all of which wait; return it."""
        # What only one run has comes before the rest, so that the others wait for it at the next cell that all have.
        alone = [side for side in live if side.question.get("alone") is True]
        beginning = [side for side in live if "begin" in side.question]
        choosing = [side for side in live if "least" in side.question]
        if len(choosing) == len(live) == len([side for side in live if side.agreed is None]):
            least = min(int(side.question["value"]) for side in live)
            for side in live:
                side.agreed = least
        asking = [side for side in live if "turn" in side.question]
        agreed = [side for side in choosing if side.agreed is not None]
        side = (agreed or self._begun(asking) or alone or beginning or choosing or [self._next(live)])[0]
        self._answer(side)
        return side

    def _begun(self, asking: list[_Side]) -> list[_Side]:
        """Return those whose cell another has just timed, in the order of the round."""
        served = [(side, self._served.get(_place(side), set())) for side in asking]
        return self._in_order([side for side, by in served if by and side.name not in by])

    def _next(self, asking: list[_Side]) -> _Side:
        """Return who takes the next turn: one of those that are behind."""
        behind = min(int(side.question["turn"]) for side in asking)
        return self._in_order([side for side in asking if side.question["turn"] == behind])[0]

    def _in_order(self, sides: list[_Side]) -> list[_Side]:
        return sorted(sides, key=lambda side: order_of_round(self.names, side.question["turn"]).index(side.name))

    def _answer(self, side: _Side) -> None:
        assert side.waiting is not None
        channel, question = side.waiting
        if "begin" in question:
            answer: object = self.token
        elif "least" in question:
            answer = question["value"] if side.agreed is None else side.agreed
        else:
            self._served.setdefault(_place(side), set()).add(side.name)
            answer = self._turns.setdefault(str(question["group"]), Turns()).of(int(question["turn"]))
        side.waiting = None
        with contextlib.suppress(OSError):  # it is gone, which its end will tell
            channel.sendall(json.dumps(answer).encode() + b"\n")


def order_of_round(names: Sequence[str], number: int) -> tuple[str, ...]:
    """Return the order in which runs time each cell in a round: another one in each round, so that a drift cancels.

    Within a round it stays, so that each run has waited as long as the others when its turn comes. On two cores, a call
    right after another one of its own process was faster by 20 % than after a call of another process.
    """
    orders = list(itertools.permutations(names))
    return orders[number % len(orders)]


class _Lines:
    """What one process says."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self._rest = b""

    def read(self) -> bool:
        """Take what has come; return whether more may come."""
        try:
            piece = self.channel.recv(MOST)
        except OSError:
            piece = b""
        self._rest += piece
        return bool(piece) and len(self._rest) <= MOST

    def whole(self) -> list[dict[str, Any]]:
        """Return the questions that are complete, and forget them. What is no question is left out."""
        *lines, self._rest = self._rest.split(b"\n")
        found = []
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                question = json.loads(line)
                if isinstance(question, dict) and _is_question(question):
                    found.append(question)
        return found


def _is_question(said: Mapping[str, Any]) -> bool:
    if "turn" in said:
        texts = all(isinstance(said.get(name), str) for name in ("group", "cell"))
        return texts and type(said["turn"]) is int and said["turn"] >= 0
    return "begin" in said or (isinstance(said.get("least"), str) and type(said.get("value")) is int)


def _place(side: _Side) -> tuple[Any, ...]:
    return side.question["group"], side.question["turn"], side.question["cell"]
