from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attnbench
from attnbench.kernels.engines import ENGINES
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, Method, get_method

GRID = (3, 4, 5)
N = 60


def make_qkv(
    batch: int = 2, heads: int = 4, kv_heads: int = 2, n: int = N, head_dim: int = 8, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(batch, h, n, head_dim, generator=random).to(dtype) for h in (heads, kv_heads, kv_heads)]


def oracle(qkv: list[Tensor], mask: Tensor, scale: float | None = None) -> Tensor:
    q, k, v = (x.double() for x in qkv)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)


def attention(*qkv: Tensor, **arguments: Any) -> Any:
    """The call under test; whether it returns one tensor or two depends on its arguments."""
    return attnbench.attention(*qkv, **arguments)


# What the two calls give


@pytest.mark.parametrize("method", ["full", "moba", "vmoba", "sliding-window", "sta"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_attention_runs_what_select_returns(method: str, dtype: torch.dtype) -> None:
    where: dict[str, Any] = {"method": method, "grid": GRID, "text": (2, 3)}
    if method == "sta":
        where |= {"tile": (1, 2, 2), "window": (1, 1, 3)}
    qkv = make_qkv(n=N + 5, dtype=dtype)
    out, plan = attention(*qkv, **where), attnbench.select(*qkv[:2], **where)
    assert (out.shape, out.dtype) == (qkv[0].shape, dtype)
    mask = plan.token_mask()
    assert mask.shape == (2, 4, N + 5, N + 5)
    assert mask.dtype == torch.bool
    assert plan.density == pytest.approx(float(mask.double().mean()))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(out.double(), oracle(qkv, mask), atol=tolerance, rtol=0)


def test_every_way_to_write_the_call_gives_the_same() -> None:
    qkv = make_qkv(n=N + 3)
    expected = attention(
        *qkv, method="vmoba", grid=GRID, text=(1, 2), layer=2, partition=(1, (2, 2), (2, 2, 2)), threshold=0.4
    )
    for grid in ("3x4x5", [3, 4, 5], Grid(3, 4, 5)):
        out = attention(
            *qkv, method=get_method("vmoba"), grid=grid, text=[1, 2], layer=2, partition=[1, [2, 2], [2, 2, 2]],
            threshold=0.4,
        )  # fmt: skip
        assert torch.equal(out, expected)


def test_scale_and_log_sum_exp() -> None:
    qkv = make_qkv()
    q, k, _ = (x.double() for x in qkv)
    for scale in (None, 0.5, 2, 0):
        out, lse = attention(*qkv, method="sliding-window", grid=GRID, scale=scale, return_lse=True)
        mask = attnbench.select(*qkv[:2], method="sliding-window", grid=GRID).token_mask()
        factor = 8**-0.5 if scale is None else scale
        scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * factor
        expected = scores.masked_fill(~mask, -torch.inf).logsumexp(-1)
        assert lse.dtype == torch.float32
        torch.testing.assert_close(lse.double(), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(out.double(), oracle(qkv, mask, factor), atol=1e-5, rtol=0)


def test_engines_agree_on_full_attention() -> None:
    qkv = make_qkv()
    by_default = attention(*qkv, method="full", grid=GRID)
    by_reference = attention(*qkv, method="full", grid=GRID, engine="reference")
    by_sdpa = attention(*qkv, method="full", grid=GRID, engine="sdpa")
    torch.testing.assert_close(by_reference, by_sdpa, atol=1e-5, rtol=0)
    assert torch.equal(by_default, by_sdpa)


@pytest.mark.parametrize("method", ["full", "moba", "vmoba", "sliding-window", "sta"])
def test_tensors_stored_token_by_token_give_the_same(method: str) -> None:
    qkv = make_qkv()
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in qkv]
    results = []
    for inputs in (qkv, strided):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = attention(*leaves, method=method, grid=GRID)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


@pytest.mark.parametrize("method", ["full", "moba", "vmoba", "sliding-window", "sta"])
def test_gradients_are_those_of_the_mask(method: str) -> None:
    qkv = [x.requires_grad_() for x in make_qkv(dtype=torch.float64)]
    out = attention(*qkv, method=method, grid=GRID)
    mask = attnbench.select(*qkv[:2], method=method, grid=GRID).token_mask()
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((out * cotangent).sum(), qkv)
    expected = torch.autograd.grad((oracle(qkv, mask) * cotangent).sum(), qkv)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_a_call_in_inference_mode_spoils_nothing_for_training() -> None:
    """Token orders are kept between calls; one made in inference mode must serve a call that is differentiated."""
    qkv = make_qkv(n=105)
    for method in ("full", "moba", "vmoba", "sliding-window", "sta"):
        with torch.inference_mode():
            expected = attention(*qkv, method=method, grid=(3, 5, 7))
        leaves = [x.detach().requires_grad_() for x in qkv]
        out = attention(*leaves, method=method, grid=(3, 5, 7))
        out.sum().backward()
        torch.testing.assert_close(out.detach(), expected.clone(), atol=1e-6, rtol=0)


# Methods of one's own


@dataclass(frozen=True)
class Odd:
    """Settings of a method that only looks on."""

    some: int = 1


def watching(seen: list[object], **changes: Any) -> Method:
    full = get_method("full")

    def plan(settings: Odd, q: Tensor, k: Tensor, call: Call) -> Plan:
        seen.append((settings, call, (q * k.repeat_interleave(2, 1)).requires_grad))
        return full.plan(None, q, k, call)

    return replace(full, name="watching", settings=Odd, plan=plan, twin=None, **changes)


def test_a_method_is_told_everything() -> None:
    seen: list[Any] = []
    state, params = {"kept": 1}, [torch.ones(2)]
    qkv = [x.requires_grad_() for x in make_qkv(n=N + 3)]
    attention(*qkv, method=watching(seen), grid=GRID, text=(1, 2), layer=7, step=3, state=state, params=params, some=5)
    settings, call, tracked = seen[0]
    assert settings == Odd(5)
    assert call == Call(Layout(Grid(*GRID), (1, 2)), 7, 3, state, params)
    assert call.state is state
    assert call.params is params
    assert not tracked, "selection is not differentiated, so nothing must be recorded for it"
    attnbench.select(*qkv[:2], method=watching(seen), grid=GRID, text=(1, 2), state=state)
    settings, call, tracked = seen[1]
    assert settings == Odd()
    assert call == Call(Layout(Grid(*GRID), (1, 2)), 0, None, state, None)
    assert not tracked


def test_a_method_may_resolve_its_settings_and_finish_the_output() -> None:
    seen: list[Any] = []

    def finish(settings: Odd, call: Call, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
        seen.append((settings, call, q, k, v))
        finished: Tensor = output * settings.some + call.params
        return finished

    def resolve(settings: Odd, layout: Layout) -> Odd:
        return Odd(settings.some + layout.tokens)

    qkv = make_qkv()
    params = torch.full((), 0.5, requires_grad=True)
    method = watching([], finish=finish, resolve=resolve)
    out, lse = attention(*qkv, method=method, grid=GRID, params=params, some=2, return_lse=True)
    plain, plain_lse = attention(*qkv, method="full", grid=GRID, return_lse=True)
    torch.testing.assert_close(out, plain * (2 + N) + 0.5)
    assert torch.equal(lse, plain_lse)
    settings, call, *given_qkv = seen[0]
    assert settings == Odd(2 + N)
    assert call.params is params
    assert all(x is y for x, y in zip(given_qkv, qkv, strict=True))
    assert torch.autograd.grad(out.sum(), params)[0] == out.numel()


def test_a_method_that_is_passed_is_checked_like_one_that_is_registered() -> None:
    @dataclass(frozen=True)
    class Takes:
        layer: int = 0

    with pytest.raises(attnbench.BadInput, match="method 'watching' has a setting 'layer', which is an argument of"):
        attention(*make_qkv(), method=replace(watching([]), settings=Takes), grid=GRID)


def test_a_plan_that_does_not_fit_is_found_by_select() -> None:
    full = get_method("full")

    def plan(settings: object, q: Tensor, k: Tensor, call: Call) -> Plan:
        good = full.plan(settings, q, k, call)
        return replace(good, k_order=torch.zeros(N, dtype=torch.int64))

    with pytest.raises(attnbench.BadInput, match="the key order must be a permutation of 0 to 59"):
        attnbench.select(*make_qkv()[:2], method=replace(full, plan=plan), grid=GRID)


# What they refuse


def refused(message: str, *qkv: Any, error: type[Exception] = attnbench.BadInput, **changes: Any) -> None:
    """Both calls answer with the message; ``select`` unless the fault lies in what it does not take."""
    arguments = {"method": "full", "grid": GRID} | changes
    inputs = [*qkv, *make_qkv()[len(qkv) :]]
    with pytest.raises(error, match=message):
        attention(*inputs, **arguments)
    if len(qkv) < 3 and not {"engine", "scale", "return_lse"} & set(changes):
        with pytest.raises(error, match=message):
            attnbench.select(*inputs[:2], **arguments)


def test_unknown_names() -> None:
    refused("unknown method 'vmobaa': did you mean 'vmoba'", method="vmobaa")
    refused(r"method is 3; it must be a method's name or an attnbench\.methods\.Method", method=3)
    refused("unknown engine 'refrence': did you mean 'reference'", engine="refrence")
    refused("unknown engine 'None'", engine=None)
    refused(r"unknown engine '\[\]'", engine=[])
    refused("unknown setting of 'sta' 'tiles': did you mean 'tile'", method="sta", tiles=(1, 1, 1))
    refused("unknown setting 'topk': method 'full' has no settings", topk=3)


def test_grids_and_text() -> None:
    refused(r"q has 60 tokens, but grid and text make 80 \(4x4x5\)", grid=(4, 4, 5))
    refused(r"q has 60 tokens, but grid and text make 63 \(1 \+ 3x4x5 \+ 2\)", text=(1, 2))
    refused("grid '3x20' must be three positive whole numbers", grid="3x20")
    refused("text is None; it must be two whole numbers", text=None)
    refused("text is 5; it must be two whole numbers", text=5)
    refused(r"text \(1, -1\) must be two whole numbers", text=(1, -1))
    refused(r"text \(0, 0, 0\) must be two whole numbers", text=(0, 0, 0))


@pytest.mark.parametrize("layer", [-1, 1.0, "0", None, True])
def test_layers(layer: object) -> None:
    refused("layer is .* it must be a whole number of at least 0", layer=layer)


@pytest.mark.parametrize("scale", ["0.5", True, [1.0], float("nan"), float("inf"), torch.ones(1)])
def test_scales(scale: object) -> None:
    refused("scale is .*; it must be a finite number, or None for 1/√head_dim", scale=scale)


def test_tensors() -> None:
    q, k, v = make_qkv()
    refused(r"q is a list; it must be a tensor \[B, heads, N, head_dim\]", q.tolist())
    refused(r"k is a NoneType; it must be a tensor", q, None)
    refused(r"v is a NoneType; it must be a tensor", q, k, None)
    refused(r"v is a ndarray; it must be a tensor", q, k, v.numpy())
    refused(r"q is float32 \[4, 60, 8\] on cpu; it must be floating-point \[B, heads, N, head_dim\]", q[0], k[0], v[0])
    refused(r"q is int64 \[2, 4, 60, 8\] on cpu; it must be floating-point", q.long(), k.long(), v.long())
    refused(r"q is float32 \[0, 4, 60, 8\].*none of them 0", q[:0], k[:0], v[:0])
    refused(r"k is float32 \[2, 2, 60, 0\].*none of them 0", q, k[..., :0])


def test_tensors_that_do_not_fit_each_other() -> None:
    q, k, v = make_qkv()
    cross = "they must agree in all but the number of heads.*cross-attention and batches of different lengths"
    refused(r"k is float32 \[2, 2, 30, 8\] on cpu and q is float32 \[2, 4, 60, 8\] on cpu; " + cross, q, k[:, :, :30])
    refused(cross, q, k[:1])
    refused(cross, q, k[..., :4])
    refused(r"k is float64 .* and q is float32 .*" + cross, q, k.double())
    refused(r"k is float32 \[2, 2, 60, 8\] on meta and q is .* on cpu", q, k.to("meta"))
    refused(r"v is float64 .* and k is float32 .*; they must be alike", q, k, v.double())
    refused(r"v is float32 \[2, 2, 59, 8\].*they must be alike", q, k, v[:, :, :59])
    refused(r"v is float32 \[2, 1, 60, 8\].*they must be alike", q, k, v[:, :1])
    three = make_qkv(kv_heads=3)
    refused("q has 4 heads and k has 3; the number of k's heads must divide q's", *three)
    refused("q has 2 heads and k has 4; the number of k's heads must divide q's", *make_qkv(heads=2, kv_heads=4))


def test_strides() -> None:
    q, k, v = make_qkv()
    transposed = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, k, v)]
    message = r"{} has strides \(\d+, 480, 1, 60\); the last must be 1"
    refused(message.format("q"), transposed[0], k, v)
    refused(message.format("k"), q, transposed[1], v)
    refused(message.format("v"), q, k, transposed[2])
    wide = [torch.randn(2, h, N, 2)[..., :1] for h in (4, 2, 2)]  # of a single channel the stride means nothing
    attention(*wide, method="full", grid=GRID)


def test_engines_that_cannot_serve_are_no_silent_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    refused("engine 'sdpa' runs full attention only, and this plan is sparse",
            error=attnbench.Unsupported, method="vmoba", engine="sdpa")  # fmt: skip
    refused("engine 'sdpa' does not return the log-sum-exp",
            error=attnbench.Unsupported, engine="sdpa", return_lse=True)  # fmt: skip
    eighth = [x.to(torch.float8_e4m3fn) for x in make_qkv()]
    for engine in ("auto", "reference", "sdpa"):
        refused(r"not torch\.float8_e4m3fn", *eighth, error=attnbench.Unsupported, engine=engine)
    absent = replace(ENGINES["sdpa"], available=lambda: "not on this machine")
    monkeypatch.setattr("attnbench.kernels.engines.ENGINES", {"sdpa": absent, "reference": ENGINES["reference"]})
    refused("engine 'sdpa' is not available: not on this machine", error=attnbench.Unsupported, engine="sdpa")
    attention(*make_qkv(), method="full", grid=GRID)  # "auto" goes on to the next


def test_errors_are_also_the_builtin_ones() -> None:
    assert issubclass(attnbench.BadInput, ValueError)
    assert issubclass(attnbench.Unsupported, RuntimeError)
    assert issubclass(attnbench.BadInput, attnbench.AttnbenchError)
    assert issubclass(attnbench.Unsupported, attnbench.AttnbenchError)


def test_exported_names() -> None:
    assert set(attnbench.__all__) >= {
        "AttnbenchError", "BadInput", "Grid", "Plan", "Unsupported", "attention", "load_phases", "load_quality",
        "load_results", "patch", "select",
    }  # fmt: skip
    for name in attnbench.__all__:
        assert getattr(attnbench, name).__name__ == name
    assert set(dir(attnbench)) == {*attnbench.__all__, "__version__"}
    with pytest.raises(AttributeError, match="module 'attnbench' has no attribute 'atention'"):
        attnbench.atention  # noqa: B018  # looking it up is the test


@pytest.mark.parametrize("method", ["vmoba", "sta", "full"])
def test_autocast_changes_neither_the_selection_nor_the_result(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(1, 2, 192, 32, generator=generator, requires_grad=True) for _ in range(3)]
    arguments: dict[str, Any] = {"method": method, "grid": (4, 6, 8), "engine": "reference"}

    def run() -> list[torch.Tensor]:
        output = attnbench.attention(*leaves, **arguments)
        return [output, *torch.autograd.grad(output.square().sum(), leaves)]

    plain = run()
    with torch.autocast("cpu", torch.bfloat16):
        cast = run()
    for one, other in zip(plain, cast, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


def test_a_method_that_plans_no_plan_is_named() -> None:
    q = torch.randn(1, 1, 24, 8)
    broken = replace(get_method("full"), plan=lambda settings, q, k, call: None)
    with pytest.raises(attnbench.BadInput, match="method 'full' planned a NoneType"):
        attnbench.attention(q, q, q, method=broken, grid=(2, 3, 4))


def test_numpy_numbers_are_numbers() -> None:
    q = torch.randn(1, 1, 24, 8)
    grid = tuple(np.array([2, 3, 4]))
    plan = attnbench.select(q, q, method="vmoba", grid=grid, select="topk", topk=np.int64(2), threshold=np.float32(0.5))
    assert plan.layout.grid.shape == (2, 3, 4)
    assert attnbench.select(q, q, method="moba", grid=grid, block_size=np.int32(6), topk=np.int64(1)).density == 0.25


# Under torch.compile; the kernels are compiled in tests/kernels/gpu


@pytest.fixture
def compiler_left_fresh() -> Iterator[None]:
    yield
    torch.compiler.reset()


def compiled(*qkv: Any, fullgraph: bool = True, **arguments: Any) -> Any:
    torch.compiler.reset()

    def attend(*qkv: Any) -> Any:
        return attention(*qkv, **arguments)

    return torch.compile(attend, backend="aot_eager", fullgraph=fullgraph)(*qkv)


@pytest.mark.usefixtures("compiler_left_fresh")
def test_full_attention_is_compiled_whole_by_what_auto_takes() -> None:
    results = []
    for run in (attention, compiled):
        leaves = [x.requires_grad_() for x in make_qkv(n=N + 3)]
        out = run(*leaves, method="full", grid="3x4x5", text=[1, 2], scale=0.5)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for eager, whole in zip(*results, strict=True):
        torch.testing.assert_close(whole, eager)


@pytest.mark.usefixtures("compiler_left_fresh")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch asks what enters a graph
@pytest.mark.parametrize(
    "method",
    ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vmoba", "moba", "sliding-window", "sta"))],
)
def test_an_engine_that_cannot_be_compiled_runs_between_two_graphs(method: str) -> None:
    arguments: dict[str, Any] = {"method": method, "grid": GRID, "engine": "reference", "return_lse": True}
    results = []
    for run in (attention, compiled):
        leaves = [x.requires_grad_() for x in make_qkv()]
        further = {"fullgraph": False} if run is compiled else {}
        found = run(*leaves, **arguments, **further)
        results.append([*found, *torch.autograd.grad([x.sum() for x in found], leaves)])
    for eager, parted in zip(*results, strict=True):
        torch.testing.assert_close(parted, eager, atol=0, rtol=0)
    with pytest.raises(RuntimeError, match="a compiled graph cannot hold the engine 'reference', where"):
        compiled(*make_qkv(), **arguments)


REFUSED = [
    ("unknown method 'vmobaa': did you mean 'vmoba'", attnbench.BadInput, {"method": "vmobaa"}),
    ("threshold is 2; it must be a number above 0", attnbench.BadInput, {"method": "vmoba", "threshold": 2}),
    (r"q has 60 tokens, but grid and text make 63 \(1 \+ 3x4x5 \+ 2\)", attnbench.BadInput, {"text": (1, 2)}),
    ("engine 'sdpa' runs full attention only", attnbench.Unsupported, {"method": "sta", "engine": "sdpa"}),
]
REFUSED_TOO = [
    ("unknown engine 'refrence': did you mean 'reference'", attnbench.BadInput, {"engine": "refrence"}),
    ("unknown setting 'topk': method 'full' has no settings", attnbench.BadInput, {"topk": 3}),
    ("grid '3x20' must be three positive whole numbers", attnbench.BadInput, {"grid": "3x20"}),
    ("layer is -1; it must be a whole number of at least 0", attnbench.BadInput, {"layer": -1}),
    ("scale is nan; it must be a finite number", attnbench.BadInput, {"scale": float("nan")}),
]


@pytest.mark.usefixtures("compiler_left_fresh")
@pytest.mark.parametrize(
    ("message", "error", "changes"),
    [*REFUSED, *(pytest.param(*each, marks=pytest.mark.slow) for each in REFUSED_TOO)],
)
def test_what_is_refused_while_compiling_is_told(message: str, error: type[Exception], changes: dict[str, Any]) -> None:
    arguments = {"method": "full", "grid": GRID} | changes
    with pytest.raises(error, match=message):
        compiled(*make_qkv(), **arguments, fullgraph=False)
    with pytest.raises(RuntimeError) as caught:  # torch's own error, which quotes ours
        compiled(*make_qkv(), **arguments)
    assert re.search(message, str(caught.value).replace("\\'", "'"))
