"""Phases: seen by a profiler, silent without one, and out of the way of torch.compile."""

from __future__ import annotations

import threading
import timeit

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from attnbench.kernels.errors import BadInput
from attnbench.kernels.phases import PARENTS, PHASES, PREFIX, during, phase


def ranges(session: profile) -> list[tuple[str, int, int, int]]:
    """The ranges of ours that a session recorded: name, thread, start and end."""
    assert session.profiler is not None
    assert session.profiler.kineto_results is not None
    found = [e for e in session.profiler.kineto_results.events() if e.name().startswith(PREFIX)]
    return [(e.name(), e.start_thread_id(), e.start_ns(), e.end_ns()) for e in found]


def recording() -> profile:
    return profile(activities=[ProfilerActivity.CPU], acc_events=True)


def test_every_phase_is_a_range_within_the_one_around_it() -> None:
    with recording() as session:
        for name in PHASES:
            with during("forward"), phase(name):
                torch.ones(1)
    seen = ranges(session)
    expected = [name for phase_name in PHASES for name in (PREFIX + phase_name, "attnbench::forward")]
    assert sorted(name for name, *_ in seen) == sorted(expected)
    outer = [(start, end) for name, _, start, end in seen if name == "attnbench::forward"]
    for name, _, start, end in seen:
        if name != "attnbench::forward":
            assert sum(begin <= start and end <= finish for begin, finish in outer) == 1


def test_parents_are_phases_without_a_parent() -> None:
    assert set(PARENTS) <= set(PHASES)
    assert set(PARENTS.values()) <= set(PHASES) - set(PARENTS)


def test_an_unknown_phase_is_refused_with_a_hint_also_without_a_profiler() -> None:
    with pytest.raises(BadInput, match=r"unknown phase 'pools': did you mean 'pool'\?"):
        phase("pools")


def test_a_range_ends_where_an_error_leaves_it() -> None:
    with recording() as session:
        with pytest.raises(ZeroDivisionError), phase("pool"):
            _ = 1 / 0
        with phase("score"):
            torch.ones(1)
    (_, _, _, pool_end), (_, _, score_start, _) = sorted(ranges(session), key=lambda r: r[0])
    assert pool_end <= score_start


def test_without_a_profiler_nothing_is_recorded_and_it_costs_little() -> None:
    def empty() -> None:
        with phase("pool"):
            pass

    best = min(timeit.repeat(empty, number=2000, repeat=20)) / 2000
    assert best < 5e-6  # measured 0.35 µs on an idle core; a range that is recorded takes 10 µs and more
    with recording() as session:
        torch.ones(1)
    assert ranges(session) == []


def test_ranges_lie_on_the_thread_that_opens_them() -> None:
    def work() -> None:
        with phase("merge"):
            torch.ones(1)

    with torch.profiler.profile(
        activities=[ProfilerActivity.CPU],
        acc_events=True,
        experimental_config=torch._C._profiler._ExperimentalConfig(profile_all_threads=True),
    ) as session:
        with phase("pool"):
            torch.ones(1)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    threads = {name: thread_id for name, thread_id, _, _ in ranges(session)}
    assert len(set(threads.values())) == 2


@pytest.mark.parametrize("profiled", [False, True])
def test_torch_compile_takes_phases_into_one_graph_and_leaves_nothing_of_them(profiled: bool) -> None:
    def work(x: Tensor) -> Tensor:
        with phase("pool"):
            y = x * 2
        with phase("attend"), phase("qk"):
            return y + 1

    torch.compiler.reset()
    compiled = torch.compile(work, fullgraph=True, backend="eager")
    x = torch.arange(3.0)
    if profiled:
        with recording() as session:
            got = compiled(x)
        assert ranges(session) == []
    else:
        got = compiled(x)
    assert torch.equal(got, work(x))
