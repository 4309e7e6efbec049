"""``attnbench.graphed``: attention as the replay of a CUDA graph, for callers that the CPU would keep waiting."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnbench.api import attention
from attnbench.kernels.errors import AttnbenchError, BadInput, Unsupported
from attnbench.kernels.grid import Grid
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, Method
from attnbench.methods.planning import WatchedCall
from attnbench.methods.registry import find_method

MOST_SHAPES = 8
MOST_GRAPHS = 256
"""How many shapes are kept, and how many graphs of each. The ones that were used least recently are dropped."""

TOLERANCE = 1e-2
"""Relative difference between the first replay and the call that it was captured from, above which it is refused."""

WARM_UP = 2  # calls before a capture: they compile kernels, and compute what depends on the grid alone


def refuse_state(method: Method) -> None:
    """Refuse a method that keeps a state.

    Raises:
        BadInput: naming it.
    """
    if method.cycle is not None:
        raise BadInput(
            f"method {method.name!r} keeps a state from step to step, which CUDA graphs cannot: leave out graphs"
        )


def graphed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str | Method,
    grid: Grid | str | tuple[int, int, int],
    text: tuple[int, int] = (0, 0),
    scale: float | None = None,
    layer: int = 0,
    step: int | None = None,
    state: Any = None,
    params: Any = None,
    engine: str = "auto",
    return_lse: bool = False,
    **settings: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what ``attention`` returns, by replaying a CUDA graph: the CPU enqueues one graph instead of every kernel.

    The first call with a shape, method and settings calls ``attention`` and captures it. Later calls copy q, k and v
    into static buffers, replay, and return a copy of the result. Graphs of one shape share the buffers and the memory
    of what is between. A method whose plan reads the layer or the step gets a graph for each value.

    Args:
        q, k, v, method, grid, text, scale, layer, step, engine, return_lse, settings: as of ``attention``.
        state: must be None.
        params: learned tensors of methods that have them. A replay reads their values of that moment.

    Raises:
        BadInput: as ``attention``.
        Unsupported: for what cannot be captured: a CPU, gradients, a state, a call within torch.compile or within
            another capture, or an engine or method that waits for the device.
    """
    if not all(isinstance(x, Tensor) and x.dim() == 4 for x in (q, k, v)):
        attention(q, k, v, method=method, grid=grid, text=text)  # says what is wrong
    if problem := _refusal(q, k, v, state):
        raise Unsupported(problem)
    chosen = find_method(method)
    given = {"grid": Grid.of(grid), "text": text, "scale": scale, "params": params, "engine": engine}
    given |= {"return_lse": return_lse, **settings}
    with _lock, torch.no_grad():
        shape = _shape_of(q, k, v)
        graph = shape.find(chosen, given, layer, step)
        if graph is None:
            graph = _capture(shape, (q, k, v), chosen, given, layer, step)
            shape.add(graph)
        if graph.problem:
            raise Unsupported(graph.problem)
        shape.take(q, k, v)
        graph.replay()
        return shape.result(return_lse)


def forget_graphs() -> None:
    """Drop every captured graph and its buffers, which frees their memory."""
    with _lock:
        _shapes.clear()


@dataclasses.dataclass(eq=False)
class _Graph:
    """A captured call.

    Attributes:
        made_of: the method and what it was called with. Parameters must be the same objects.
        read: the layer and step that it was captured for, if its plan reads them.
        replay: runs it on the buffers of its shape.
        problem: why it could not be captured; empty if it was.
    """

    made_of: tuple[Method, dict[str, Any]]
    read: dict[str, int | None]
    replay: Callable[[], object]
    problem: str = ""

    def serves(self, method: Method, given: dict[str, Any], layer: int, step: int | None) -> bool:
        here = {"layer": layer, "step": step}
        known, told = self.made_of
        same = known == method and told.keys() == given.keys() and told["params"] is given["params"]
        return (
            same
            and all(_is_same(told[name], given[name]) for name in given if name != "params")
            and all(here[name] == value for name, value in self.read.items())
        )


@dataclasses.dataclass(eq=False)
class _Shape:
    """Buffers that the graphs of one shape share, and the graphs, the one that was used last at the end."""

    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    lse: Tensor
    pool: Any = None
    graphs: list[_Graph] = dataclasses.field(default_factory=list)

    def find(self, method: Method, given: dict[str, Any], layer: int, step: int | None) -> _Graph | None:
        for graph in reversed(self.graphs):
            if graph.serves(method, given, layer, step):
                self.graphs.remove(graph)
                self.graphs.append(graph)
                return graph
        return None

    def add(self, graph: _Graph) -> None:
        self.graphs.append(graph)
        del self.graphs[:-MOST_GRAPHS]

    def take(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        for buffer, x in zip((self.q, self.k, self.v), (q, k, v), strict=True):
            buffer.copy_(x)

    def result(self, return_lse: bool) -> Tensor | tuple[Tensor, Tensor]:
        output = self.output.clone()
        return (output, self.lse.clone()) if return_lse else output


_lock = threading.Lock()
_shapes: OrderedDict[object, _Shape] = OrderedDict()


def _shape_of(q: Tensor, k: Tensor, v: Tensor) -> _Shape:
    """Return the buffers for tensors like these on the current stream, new ones if there are none."""
    key = (_stream(q.device), *((x.shape, x.stride(), x.dtype, x.device) for x in (q, k, v)))
    found = _shapes.pop(key, None)
    if found is None:
        with torch.inference_mode(False):
            lse_type = torch.float64 if q.dtype == torch.float64 else torch.float32
            lse = torch.empty(q.shape[:3], dtype=lse_type, device=q.device)
            found = _Shape(torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.empty_like(q), lse)
    _shapes[key] = found
    while len(_shapes) > MOST_SHAPES:
        _shapes.popitem(last=False)
    return found


def _capture(
    shape: _Shape, tensors: tuple[Tensor, Tensor, Tensor], method: Method, given: dict[str, Any], layer: int,
    step: int | None,
) -> _Graph:  # fmt: skip
    """Call attention, capture the same call on the buffers, and compare.

    Raises:
        BadInput, Unsupported: as ``attention``.
    """
    read = {"layer": layer, "step": step} if method.finish is not None else {}

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        watched = call if isinstance(call, WatchedCall) else WatchedCall.of(call)
        made = method.plan(settings, q, k, watched)
        read.update({name: getattr(call, name) for name in watched.names_read & {"layer", "step"}})
        return made

    watching = dataclasses.replace(method, plan=plan)

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        found: Any = attention(q, k, v, method=watching, layer=layer, step=step, **given)
        return found if given["return_lse"] else (found, None)

    def run_on_buffers() -> None:
        output, lse = run(shape.q, shape.k, shape.v)
        shape.output.copy_(output)
        if lse is not None:
            shape.lse.copy_(lse)

    made_of, why = (method, given), ""
    with torch.inference_mode(False):
        shape.take(*tensors)
        expected, _ = run(shape.q, shape.k, shape.v)
        try:
            replay = _record(run_on_buffers, shape)
            replay()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AttnbenchError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
        else:
            if _is_close(shape.output, expected):
                return _Graph(made_of, read, replay)
            why = "the first replay gave another output than the call"
    return _Graph(made_of, read, _nothing, f"method {method.name!r} cannot be captured in a CUDA graph: {why}")


def _record(run: Callable[[], None], shape: _Shape) -> Callable[[], object]:
    """Capture a call; return what replays it. Graphs of one shape share memory, since one runs at a time."""
    device = shape.q.device
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        if shape.pool is None:
            shape.pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=shape.pool):
            run()
    replay: Callable[[], object] = graph.replay
    return replay


def _refusal(q: Tensor, k: Tensor, v: Tensor, state: object) -> str | None:
    """Return why a call cannot be captured, whatever its method, or None."""
    if torch.compiler.is_compiling():
        return "graphed cannot be compiled: call attention, and capture with torch.compile(mode='reduce-overhead')"
    if problem := _wrong_place(q):
        return problem
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured already: call attention in it"
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return "graphed has no backward pass, and q, k or v requires a gradient: call it under torch.no_grad()"
    if state is not None:
        return "graphed keeps no state between calls: call attention for methods that have one"
    return None


def _wrong_place(q: Tensor) -> str | None:
    return None if q.is_cuda else f"graphed captures CUDA graphs, and q is on {q.device}"


def _stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


def _nothing() -> None:
    """Stand for a graph that could not be captured."""


def _is_same(value: object, other: object) -> bool:
    return type(value) is type(other) and bool(value == other)


def _is_close(output: Tensor, expected: Tensor) -> bool:
    """Return whether a replay gave what a call gave, NaN and infinity in the same places."""
    finite = expected.isfinite()
    if not torch.equal(output.isfinite(), finite):
        return False
    wide = expected[finite].double()
    return bool((output[finite].double() - wide).norm() <= TOLERANCE * wide.norm().clamp(min=1e-30))
