"""Plans of methods on the calls that are analysed: at a density, and with the state of the step before."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from attnbench.analysis.call import AttentionCall, How
from attnbench.api import select
from attnbench.bench.jobs import Job
from attnbench.bench.matched import match_density
from attnbench.bench.sweep.knobs import density_setting
from attnbench.kernels.errors import AttnbenchError
from attnbench.kernels.plan import Plan
from attnbench.methods import Method, make_settings
from attnbench.methods.entries import Entry
from attnbench.methods.registry import find_method
from attnbench.results.records.cells import canonical_json


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What a method keeps of a call.

    Attributes:
        method: its name.
        settings: canonical JSON of those that were given.
        plan: None where it cannot plan this call.
        reason: why it cannot.
    """

    method: str
    settings: str
    plan: Plan | None
    reason: str = ""


@dataclass(slots=True)
class Planner:
    """Plans the methods of an analysis, each once a call. It is made anew for each clip, whose states it keeps.

    Attributes:
        how: with the methods, and the density that they are brought to. Those that have no setting for it keep theirs.
    """

    how: How
    _before: dict[tuple[int, int], Plan] = field(default_factory=dict)
    _matched: dict[tuple[int, int], Job] = field(default_factory=dict)
    _last: tuple[AttentionCall, list[Planned]] | None = None

    def plans(self, call: AttentionCall) -> list[Planned]:
        """Return what each method keeps of a call."""
        if self._last is None or self._last[0] is not call:
            self._last = (call, [self._planned(call, number) for number in range(len(self.how.methods))])
        return self._last[1]

    def _planned(self, call: AttentionCall, number: int) -> Planned:
        entry = self.how.methods[number]
        settings = canonical_json(entry.settings)
        before = self._before.get((number, call.layer))
        try:
            job = self._job(call, number, entry, before)
            plan = _plan(call, job, before)
        except AttnbenchError as error:
            return Planned(entry.method, settings, None, str(error))
        self._before[number, call.layer] = plan
        return Planned(entry.method, settings, plan)

    def _job(self, call: AttentionCall, number: int, entry: Entry, before: Plan | None) -> Job:
        method = find_method(entry.method)
        matched = self._matched.get((number, call.layer))
        if matched is not None:
            return matched
        job = _given(method, entry, call)
        if self.how.density is None or density_setting(method) is None:
            return job
        job = match_density(job, call.layout, self.how.density, lambda moved: _plan(call, moved, before).density)
        if not method.depends_on_qk:
            self._matched[number, call.layer] = job
        return job


def _given(method: Method, entry: Entry, call: AttentionCall) -> Job:
    settings = method.resolve(make_settings(method, entry.settings), call.layout)
    return Job(method, settings, call.layer, given=json.dumps(entry.settings))


def _plan(call: AttentionCall, job: Job, before: Plan | None) -> Plan:
    values = {field.name: getattr(job.settings, field.name) for field in dataclasses.fields(job.settings)}
    plan: Plan = select(
        call.q, call.k, method=job.method, grid=call.layout.grid, text=call.layout.text, layer=call.layer,
        step=call.step, v=None if "v" in call.lacking else call.v, state=None if before is None else before.state,
        **values,
    )  # fmt: skip
    return plan
