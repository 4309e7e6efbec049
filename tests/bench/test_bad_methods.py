"""Methods that plan what is no plan, or change the process that they share: an error of their own alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.bench import session
from attnbench.bench.request import Request
from attnbench.machine.stopwatch import Stopwatch
from attnbench.methods.entries import Entry
from attnbench.results.run import NoProgress

SOURCE = """
import dataclasses, os, sys, threading, time, traceback
import torch
from attnbench.kernels.errors import BadInput
from attnbench.methods import get_method

BASE = get_method("sliding-window")

def named(name, plan):
    return dataclasses.replace(BASE, name=name, plan=plan, depends_on_qk=True)

def plan(settings, q, k, call):
    return BASE.plan(settings, q, k, call)

def refuse():
    raise BadInput("this grid is not for me")

def work_on_when_planned_alone():
    if any(frame.name == "time_selection" for frame in traceback.extract_stack()):
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()

def skew():
    real = time.perf_counter
    time.perf_counter = lambda: real() / 10
"""

METHODS = {
    "refuses": ("refuse()", "this grid is not for me"),
    "plans-none": ("return None", "method 'plans-none' planned a NoneType; it must return an attnbench Plan"),
    "plans-text": ("return 'a plan'", "method 'plans-text' planned a str; it must return an attnbench Plan"),
    "swaps": (
        "made = plan(settings, q, k, call)\n    return dataclasses.replace(made, pattern=made)",
        "",
    ),
    "chatters": ("raise RuntimeError('no ' * 5000)", "RuntimeError: no no no"),
    "exits": ("sys.exit(0)", "it called sys.exit(0)"),
    "debts": (
        "return dataclasses.replace(plan(settings, q, k, call), selection_flops=-1000000000)",
        "",
    ),
    "threads": ("torch.set_num_threads(2)", "it changed torch's number of threads from 1 to 2"),
    "wanders": ("os.chdir('/')", "it changed the working folder from "),
    "skews": ("skew()", "it changed time.perf_counter"),
    "works-on": ("work_on_when_planned_alone()", "work goes on in another thread after the plan is made"),
    "seeds": ("torch.manual_seed(3)", "it changed torch's random seed from "),
}


def test_each_is_an_error_of_its_own(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = SOURCE
    points = {}
    for name, (body, _) in METHODS.items():
        short = name.replace("-", "_")
        source += f"\ndef {short}(settings, q, k, call):\n    {body}\n    return plan(settings, q, k, call)\n"
        source += f"\n{short.upper()} = named({name!r}, {short})\n"
        points[name] = short.upper()
    install("strange_methods", source, **points)
    fields: dict[str, Any] = {
        "grid": "3x5x7", "heads": 1, "head_dim": 16, "inputs": "gaussian", "device": "cpu", "rounds": 3,
    }  # fmt: skip
    asked = Request(methods=[Entry(name) for name in ("sta", *METHODS, "full")], isolate=False, **fields)
    rows = {row.method: row for row in session.start(asked, tmp_path / "run", NoProgress()).rows}
    assert len(rows["chatters"].reason) < 600
    assert rows["chatters"].reason.endswith("… (cut)")
    assert sorted(rows) == sorted(["sta", *METHODS, "full"])
    for name, (_, reason) in METHODS.items():
        verdict = "incorrect" if name in ("debts", "works-on") else "error"  # wrong in what it says and does
        assert (rows[name].verdict, rows[name].latency_ms) == (verdict, None), (name, rows[name].reason)
        assert rows[name].reason.startswith(reason), name
        assert rows[name].reason
    alone = session.start(asked.model_copy(update={"methods": [Entry("sta")]}), tmp_path / "alone", NoProgress()).rows
    assert (rows["sta"].verdict, rows["full"].verdict, alone[0].verdict) == ("ok", "ok", "ok")
    assert rows["sta"].inputs_hash == alone[0].inputs_hash
    assert torch.get_num_threads() == 1
    assert Path.cwd() == tmp_path


def test_threads_that_the_clock_starts_are_not_blamed_on_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, over = Stopwatch.time, threading.Event()

    def with_a_thread(self: Stopwatch, *given: Any, **options: Any) -> Any:
        threading.Thread(target=over.wait, daemon=True).start()
        return real(self, *given, **options)

    monkeypatch.setattr(Stopwatch, "time", with_a_thread)
    asked = Request(
        methods=[Entry("sta"), Entry("vmoba")], isolate=False, grid="3x5x7", heads=1, head_dim=16, inputs="gaussian",
        device="cpu", rounds=3,
    )  # fmt: skip
    try:
        rows = session.start(asked, tmp_path / "run", NoProgress()).rows
    finally:
        over.set()
    assert {row.verdict for row in rows} == {"ok"}
