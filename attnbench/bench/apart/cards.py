"""The cards of methods from other packages, read without importing their code into this process."""

from __future__ import annotations

from typing import Any

from attnbench.bench.apart.process import work
from attnbench.bench.apart.task import Problem, Shown, Task, Unbelievable, record_of
from attnbench.bench.request import Request
from attnbench.kernels.errors import BadInput
from attnbench.methods.base import Source
from attnbench.methods.cards import Card
from attnbench.methods.entries import Entry

SECONDS = 60.0
"""Seconds that importing a package may take."""


def read_card(name: str) -> Card:
    """Return the card of a method.

    Raises:
        BadInput: if its package cannot be imported, or what it registers is no method.
    """
    shown: list[Shown] = []
    problems: list[Problem] = []

    def hear(kind: str, value: Any) -> None:
        if kind == "card":
            shown.append(record_of(Shown, value))
        elif kind == "problem":
            problems.append(record_of(Problem, value))
        elif kind != "note":
            raise Unbelievable(f"gave an answer of an unknown kind: {kind[:60]!r}")

    request = Request(methods=[Entry(name)], device="cpu")
    end = work(Task(do="show", request=request, threads=1), SECONDS, hear)
    if problems:
        raise BadInput(problems[0].text)
    if end.verdict is not None or not shown:
        raise BadInput(f"method {name!r} cannot be loaded: {end.reason or 'its process left no result'}")
    card = shown[0]
    return Card(name, card.summary, Source(card.title, card.url), dict(card.settings))
