"""A method that records its settings, how dense its plans were, and which engines ran them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

from torch import Tensor

from attnbench.kernels.engines import Task, choose_engine
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, Method
from attnbench.methods.planning import make_plan
from attnbench.results.records.cells import canonical_json


class Recording:
    """Wraps a method; each plan is still made once.

    Attributes:
        method: the method that runs, which records its plans.
    """

    def __init__(self, method: Method, engine: str) -> None:
        """Wrap ``method``, whose plans ``engine`` runs."""
        self._inner, self._engine = method, engine
        self._densities: dict[int, list[float]] = defaultdict(list)
        self._engines: dict[str, None] = {}
        self._settings: Any = None
        self.method = dataclasses.replace(method, plan=self._plan, depends_on_qk=True)  # told of every plan

    @property
    def settings(self) -> str | None:
        """Canonical JSON of the settings with defaults filled in for the grid; None before the first plan."""
        return None if self._settings is None else canonical_json(dataclasses.asdict(self._settings))

    @property
    def engines(self) -> str:
        """The engines that ran the plans, joined by a plus; empty before the first plan."""
        return "+".join(self._engines)

    def densities(self, layers: int) -> list[float | None]:
        """Return the mean density of each layer's plans; None for layers in which the method never ran."""
        return [sum(seen) / len(seen) if (seen := self._densities.get(layer)) else None for layer in range(layers)]

    def _plan(self, settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        made = make_plan(self._inner, settings, q, k, call)
        self._settings = settings
        self._densities[call.layer].append(made.density)
        self._engines[choose_engine(self._engine, made, Task.of(q, k, k)).name] = None
        return made
