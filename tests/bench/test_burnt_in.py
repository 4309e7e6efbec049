from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from torch import Tensor

import attnbench
from attnbench.bench import burnt_in, workload
from attnbench.bench.burnt_in import slower
from attnbench.bench.calls import Call
from attnbench.bench.jobs import make_agenda
from attnbench.bench.request import Request
from attnbench.bench.trial import dense_job
from attnbench.bench.workload import Workload
from attnbench.cli import COMMANDS, app
from attnbench.kernels.errors import BadInput
from attnbench.methods.entries import Entry

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Clock:
    """A clock that goes on while something runs, and a little each time it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def look(self) -> float:
        self.now += 1e-6
        return self.now

    def call(self, seconds: float) -> Call:
        def run() -> Tensor:
            self.now += seconds
            return torch.tensor(seconds)

        return Call(run, lambda: None, ())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(burnt_in, "CLOCK", SimpleNamespace(seconds=made.look))
    return made


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("seconds", [0.002, 0.2])
def test_a_call_takes_so_much_longer(clock: Clock, share: float, seconds: float) -> None:
    call = slower(clock.call(seconds), share, CPU)
    call.prepare()
    begun = clock.now
    assert call.run() == torch.tensor(seconds)
    assert clock.now - begun == pytest.approx((1 + share) * seconds, abs=1e-5)


class Device:
    """A GPU that makes 2 million cycles in a millisecond, as far as events and delays can tell."""

    def __init__(self) -> None:
        self.ms = 0.0

    def event(self, enable_timing: bool) -> Any:
        event = SimpleNamespace(at=0.0, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.ms)
        event.elapsed_time = lambda end: end.at - event.at
        return event

    def sleep(self, cycles: int) -> None:
        self.ms += cycles / 2e6


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    made = Device()
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "_sleep", made.sleep)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return made


def test_on_a_gpu_the_delay_is_of_what_the_call_took_just_before(device: Device) -> None:
    prepared = []

    def run() -> Tensor:
        device.ms += 7.0
        return torch.ones(())

    call = slower(Call(run, lambda: prepared.append(device.ms), ()), 0.05, GPU)
    for _ in range(2):
        call.prepare()
        begun = device.ms
        call.run()
        assert device.ms - begun == pytest.approx(1.05 * 7.0)
        assert prepared[-1] == begun, "what the call left behind is cleared before it is timed"


def test_no_delay_leaves_the_call_as_it_is() -> None:
    call = Clock().call(1.0)
    assert slower(call, 0.0, CPU) is call


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(BadInput, match="must be a share"):
        slower(Clock().call(1.0), share, CPU)


def test_only_methods_are_slower_and_not_the_dense_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(workload, "slower", lambda call, share, device: asked.append(share) or call)
    request = Request(
        methods=[Entry("sta"), Entry("full")], grid="2x3x4", heads=1, head_dim=16, inputs="gaussian", burnt_in=0.1
    )
    agenda = make_agenda(request)
    work = Workload.make(agenda, 1)
    for job in (*agenda.jobs, dense_job()):
        work.call(job, "reference")
    assert asked == [0.1]


def test_no_command_and_no_function_takes_a_delay() -> None:
    group: Any = typer.main.get_command(app)
    options = {option for name in COMMANDS for parameter in group.commands[name].params for option in parameter.opts}
    assert "--seed" in options
    assert not any("burnt" in option for option in options)
    with pytest.raises(BadInput, match="burnt_in"):
        attnbench.run("sta", burnt_in=0.1)  # type: ignore[call-arg]
