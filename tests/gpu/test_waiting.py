"""On a GPU, a call of any method waits for nothing after its first calls, and selects by kernels."""

from __future__ import annotations

import pytest
import torch

from attnbench import api
from attnbench.kernels.engines import ENGINES
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.witness import watching
from attnbench.methods import get_method, make_settings
from attnbench.methods.registry import BUILT_IN

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs a GPU")

GRID, TEXT = (5, 16, 24), (3, 8)


NAMES = sorted(set(BUILT_IN) - {"liteattention"})


@pytest.mark.parametrize(("name", "engine"), [*((name, "auto") for name in NAMES), ("vsa", "cudnn-bsa")])
def test_a_call_waits_for_nothing_and_falls_back_to_nothing(name: str, engine: str) -> None:
    if engine != "auto" and (problem := ENGINES[engine].available()):
        pytest.skip(problem)
    method, layout = get_method(name), Layout(Grid(*GRID), TEXT)
    settings = method.resolve(make_settings(method, {}), layout)
    cycle = method.cycle(settings, 0) if method.cycle is not None else None
    steps = [None] if cycle is None else [*cycle.warm, cycle.steady, cycle.refresh]
    random = torch.Generator("cuda").manual_seed(0)
    shape = (1, 4, layout.tokens, 128)
    q, k, v = (torch.randn(shape, generator=random, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    state = None
    for step in steps:
        where = {"method": name, "grid": GRID, "text": TEXT, "step": step, "state": state, "engine": engine}
        where |= {"return_plan": True}
        api.attention(q, k, v, **where)
        api.attention(q, k, v, **where)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with watching() as seen:
                _, plan = api.attention(q, k, v, **where)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert seen.engine != "reference"
        assert seen.engine != "flex"
        state = plan.state
