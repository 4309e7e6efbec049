"""No plan waits for the device: after its first call, a method looks at no value of a tensor and copies none over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench import api
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import Method, get_method, make_settings
from attnbench.methods.base import Call
from attnbench.methods.planning import make_plan
from attnbench.methods.registry import method_names

WAITING = frozenset(
    ["_local_scalar_dense", "item", "nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount", "equal",
     "is_nonzero", "_unique", "_unique2", "unique_dim", "unique_consecutive", "allclose"]
)  # fmt: skip
"""Operations whose result, or its size, is read by the host."""

IN_TORCH = frozenset(
    ["mm", "bmm", "addmm", "baddbmm", "_softmax", "sort", "topk", "kthvalue", "cdist", "scatter_reduce"]
)
"""Operations that a selection has kernels for."""

LAYOUT = Layout(Grid(5, 6, 7), (3, 2))
CPU_ONLY = {"liteattention"}
"""No engine on a GPU runs its rule, as docs/methods.md says, so nothing of it is timed there."""

ONCE = {"mod-dit": {"sort"}}
"""In the one step of ``interval`` that maps anew, and attends to everything, it sorts some hundred lines in float64."""


class Watched(TorchDispatchMode):
    """Refuse what would wait on a GPU, and note the operations that ran outside of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits for the device"
        assert name != "lift_fresh" or args[0].dim() == 0, "a constant is copied to the device at each call"
        if name.startswith("index") and name.rstrip("_") in ("index", "index_put", "_index_put_impl"):
            places = [x for x in args[1] if x is not None]
            assert not any(x.dtype in (torch.bool, torch.uint8) for x in places), "an index of bools is counted first"
        if name == "repeat_interleave":
            sized = len(args) > 1 and isinstance(args[1], int)
            assert sized or (kwargs or {}).get("output_size") is not None, "repeat_interleave counts what it makes"
        self.names.add(name)
        return func(*args, **(kwargs or {}))


def tensors(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, heads, LAYOUT.tokens, 16, generator=random) for heads in (4, 2, 2))
    return q, k, v


def watched_plans(method: Method) -> set[str]:
    """Plan at every kind of step, each step twice, and return what the second plans ran outside of our operators."""
    settings = method.resolve(make_settings(method, {}), LAYOUT)
    cycle = method.cycle(settings, 0) if method.cycle is not None else None
    steps = [None] if cycle is None else [*cycle.warm, cycle.steady, cycle.refresh]
    state, names = None, set[str]()
    for step in steps:
        q, k, v = tensors(0)
        call = Call(LAYOUT, 0, step, state, None, v if method.needs_v else None)
        make_plan(method, settings, q, k, call)
        q, k, v = tensors(1)
        call = Call(LAYOUT, 0, step, state, None, v if method.needs_v else None)
        with Watched() as watched:
            plan = make_plan(method, settings, q, k, call)
        names |= watched.names
        state = plan.state
        if method.finish is not None and state is None and cycle is not None:  # the state follows from the output
            _, plan = api.attention(q, k, v, method=method, grid=LAYOUT.grid.shape, text=LAYOUT.text, step=step,
                                    return_plan=True)  # fmt: skip
            state = plan.state
    return names


@pytest.mark.parametrize("name", [name for name in method_names() if name not in CPU_ONLY])
def test_a_plan_does_not_wait_for_the_device(name: str) -> None:
    watched_plans(get_method(name))


@pytest.mark.parametrize("name", [name for name in method_names() if name not in CPU_ONLY])
def test_products_softmaxes_and_sorts_of_a_selection_are_operators_of_ours(name: str) -> None:
    assert not (watched_plans(get_method(name)) & IN_TORCH) - ONCE.get(name, set())
