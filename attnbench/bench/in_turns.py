"""What a run asks of a gate that lets several runs measure in turns, call by call: whether it is its turn.

A run that was started so never works while another one does, from its first tensor to its last row. Whatever the
machine does to one run within some seconds it then does to the other in the same round as well.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from attnbench.kernels.errors import BadInput

ADDRESS = "ATTNBENCH_TURNS"
"""The variable that holds the path of a socket, on which a gate listens to this run."""

MOST = 2**12
"""Bytes of a question or an answer, at most."""

_Told = Callable[[bool], object]


class InTurns:
    """The other end of a gate, or none: then every answer is what a run alone does.

    Args:
        address: path of the socket; empty for a run alone.

    Raises:
        BadInput: if nobody listens there.
    """

    def __init__(self, address: str = "") -> None:
        self._channel: socket.socket | None = None
        self._told: _Told = lambda waits: None
        if address:
            self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._channel.connect(address)
            except OSError as error:
                raise BadInput(f"{ADDRESS}: the gate at {address!r} does not answer: {error.strerror}") from error

    @property
    def shared(self) -> bool:
        """Whether there are other runs."""
        return self._channel is not None

    @contextlib.contextmanager
    def telling(self, told: _Told) -> Iterator[None]:
        """Tell when this run begins to wait, and when it goes on."""
        before, self._told = self._told, told
        try:
            yield
        finally:
            self._told = before

    def begin(self) -> str:
        """Wait until this run may work; return what all runs that take turns share, "" for one alone."""
        return str(self._ask({"begin": True}, ""))

    def least(self, name: str, value: int) -> int:
        """Return the least of what all runs choose, so that they measure alike."""
        return int(self._ask({"least": name, "value": value}, value))

    def turn(self, group: str, number: int, cell: str, *, alone: bool = False) -> int | None:
        """Wait until a cell may be timed in a round; return which input set the round uses, None for a run alone.

        With ``alone`` no other run has such a cell.
        """
        found = self._ask({"turn": number, "group": group, "cell": cell, "alone": alone}, None)
        return None if found is None else int(found)

    def _ask(self, question: dict[str, Any], alone: Any) -> Any:
        if self._channel is None:
            return alone
        self._told(True)
        try:
            self._channel.sendall(json.dumps(question).encode() + b"\n")
            heard = b""
            while not heard.endswith(b"\n"):
                piece = self._channel.recv(MOST)
                if not piece:
                    raise OSError
                heard += piece
        except OSError:
            raise BadInput("the gate that this run took turns with others for is gone") from None
        self._told(False)
        return json.loads(heard)


def in_turns() -> InTurns:
    """Return what this process shares with a gate, if one started it; always the same."""
    return _connected(os.environ.get(ADDRESS, ""))


@functools.cache
def _connected(address: str) -> InTurns:
    return InTurns(address)
