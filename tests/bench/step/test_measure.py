"""A whole step measured: on a clock that moves by known amounts, and for real."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench import attention
from attnbench.bench import baseline
from attnbench.bench.step import measure, model, variants
from attnbench.bench.step.case import StepCase
from attnbench.bench.step.measure import amdahl, measure_step, share_removed
from attnbench.bench.step.standins import capture_qkv, pass_through
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid
from attnbench.kernels.plan import Plan
from attnbench.machine import state
from attnbench.machine import stopwatch as timing
from attnbench.machine.clock import Clock
from attnbench.methods import Call, get_method
from attnbench.methods.entries import Entry
from attnbench.models.families.family import Place
from attnbench.models.patch import patch
from attnbench.models.random_wan import make_inputs, make_wan
from attnbench.models.replacement import Replacement

pytest.importorskip("diffusers")

CPU = torch.device("cpu")
REST, DENSE, SPARSE = 0.005, 0.010, 0.004  # seconds a layer on the clock below
SMALL: dict[str, Any] = {"text_tokens": 5, "grid": (2, 3, 4), "device": "cpu"}


@pytest.fixture
def known_times(monkeypatch: pytest.MonkeyPatch, hand_clock: Callable[[list[float]], Clock]) -> None:
    """A clock that only a feed-forward, torch's self-attention and a plan of sliding-window move."""
    now = [0.0]

    def moving(seconds: float, function: Callable[..., Any], counts: Callable[..., bool] = lambda *a: True) -> Any:
        def moved(*args: Any, **kwargs: Any) -> Any:
            now[0] += seconds if counts(*args, *kwargs.values()) else 0.0
            return function(*args, **kwargs)

        return moved

    def make(*args: Any) -> Any:
        made = make_wan(*args)
        for block in made.blocks:
            block.ffn.forward = moving(REST, block.ffn.forward)
        return made

    window = get_method("sliding-window")
    slow = dataclasses.replace(window, plan=moving(SPARSE, window.plan), depends_on_qk=True)  # to be called each time
    torch_attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(measure, "Stopwatch", partial(timing.Stopwatch, clock=hand_clock(now)))
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 1000)
    monkeypatch.setattr(model, "make_wan", make)
    for place in (measure, variants):
        monkeypatch.setattr(place, "get_method", lambda name: slow)
    monkeypatch.setattr(baseline, "dense_engines", lambda: ["sdpa"])
    functional, name = torch.nn.functional, "scaled_dot_product_attention"
    moved = moving(DENSE, torch_attention, lambda q, k, *rest: q.shape == k.shape)  # not cross-attention
    monkeypatch.setattr(functional, name, moved)
    monkeypatch.setitem(state._FUNCTIONS, f"{functional.__name__}.{name}", (functional, name, moved))


@pytest.mark.parametrize(
    ("options", "forwards"),
    [({}, 1), ({"direction": "fwdbwd"}, 1), ({"direction": "fwdbwd", "checkpointing": True}, 2)],
)
@pytest.mark.usefixtures("known_times")
def test_known_times_give_the_known_shares_and_speed_ups(options: dict[str, Any], forwards: int) -> None:
    records = measure_step([Entry("sliding-window", {"window": (0, 1, 1)})], StepCase(rounds=2, **SMALL, **options))
    own, dense, window = records
    assert [record.name for record in records] == ["own", "full/sdpa", "sliding-window/reference"]
    milliseconds = 1e3 * forwards * 3  # three layers
    for record in (own, dense):
        assert record.step_ms == record.step_eager_ms == pytest.approx((REST + DENSE) * milliseconds)
        assert record.attention_ms == pytest.approx(DENSE * milliseconds)
        assert (record.step_speedup, record.attention_speedup) == pytest.approx((1, 1))
        assert record.predicted_speedup == pytest.approx(1)
    assert window.step_ms == window.step_eager_ms == pytest.approx((REST + SPARSE) * milliseconds)
    assert window.attention_ms == pytest.approx(SPARSE * milliseconds)
    assert window.without_ms == pytest.approx(REST * milliseconds)
    assert window.share == pytest.approx(DENSE / (REST + DENSE))
    assert window.share_alone == pytest.approx(DENSE / (REST + DENSE))
    assert window.attention_speedup == pytest.approx(DENSE / SPARSE)
    assert window.step_speedup == pytest.approx((REST + DENSE) / (REST + SPARSE))
    assert window.predicted_speedup == pytest.approx(window.step_speedup)
    assert (window.layers, window.rounds, window.timer) == (3, 2, "wall")


def test_a_real_step_is_measured() -> None:
    case = StepCase(rounds=2, direction="fwdbwd", **SMALL)
    records = measure_step([Entry("vmoba"), Entry("sta", {"tile": (1, 2, 2)})], case, run_id="mine")
    own, dense, *sparse = (record.name for record in records)
    assert own == "own"
    assert dense in ("full/sdpa", "full/reference")
    assert sparse == ["vmoba/reference", "sta/reference"]
    assert {record.run_id for record in records} == {"mine"}
    (baseline_name,) = {record.baseline for record in records}
    assert baseline_name in (own, dense)
    assert {record.name: record for record in records}[baseline_name].step_speedup == 1
    for record in records:
        assert len(record.samples_ms) == 2
        assert 0 < record.attention_lo_ms <= record.attention_ms <= record.attention_hi_ms
        assert 0 < record.density <= 1
        assert math.isfinite(record.predicted_speedup)
    assert '"tile":[1,2,2]' in records[3].settings


def test_a_model_of_other_heads_is_as_much_wider() -> None:
    case = StepCase(heads=3, rounds=1, **SMALL)
    made = model.make_transformer(case)
    assert (made.config.num_attention_heads, made.config.attention_head_dim, made.config.ffn_dim) == (3, 24, 144)
    assert {record.heads for record in measure_step([Entry("svg1")], case)} == {3}  # which selects by v too


def test_a_method_is_measured_as_graphs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = []

    def replay(*tensors: Tensor, **given: Any) -> Any:
        replayed.append(given["layer"])
        return attention(*tensors, **given)

    monkeypatch.setattr(model, "graphed", replay)
    monkeypatch.setattr("attnbench.models.patch.graphed", replay)
    case = StepCase(rounds=2, **SMALL)
    object.__setattr__(case, "graphs", True)  # a CPU has none
    observed: list[str] = []
    entries = [Entry("moba", {"topk": 1}), Entry("moba", {"topk": 2})]
    records = measure_step(entries, case, observe=lambda name, *rest: observed.append(name))
    assert [(record.name, record.graphs) for record in records[2:]] == [
        ("moba/reference topk 1", False), ("moba/reference topk 1, graphs", True),
        ("moba/reference topk 2", False), ("moba/reference topk 2, graphs", True),
    ]  # fmt: skip
    assert set(replayed) == {0, 1, 2}
    assert records[3].density == records[2].density < 1
    assert observed == [record.name for record in records if not record.graphs]


def test_a_step_without_a_dense_engine_that_is_right_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any, **options: Any) -> Any:
        return dataclasses.replace(check_rows(*given, **options), error=1.0)

    check_rows = variants.check_rows
    monkeypatch.setattr(variants, "check_rows", wrong)
    with pytest.raises(Unsupported, match=r"no dense engine runs the step's self-attention: .*sampled rows differ"):
        measure_step([], StepCase(rounds=1, **SMALL))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"size": "14b"}, BadInput, "unknown size of Wan '14b'"),
        ({"rounds": 0}, BadInput, "rounds is 0"),
        ({"batch": 1.5}, BadInput, "batch is 1.5"),
        ({"direction": "bwd"}, BadInput, "direction is 'bwd'"),
        ({"checkpointing": True}, BadInput, "direction fwdbwd"),
        ({"heads": 0}, BadInput, "heads is 0"),
        ({"heads": 10**20}, BadInput, "from 1 to 128"),
        ({"graphs": True}, BadInput, "CUDA graphs of forward calls"),
        ({"methods": [Entry("vmoba", {"tile": 1})]}, BadInput, "unknown setting"),
        ({"engine": "sdpa"}, Unsupported, "runs full attention only"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        measure_step(given.pop("methods", [Entry("vmoba")]), StepCase(**{**SMALL, **given}))


def test_what_is_captured_is_what_methods_see() -> None:
    model, grid = make_wan("tiny", CPU, torch.float32), Grid(2, 3, 4)
    inputs = make_inputs("tiny", grid, 2, 5, CPU, torch.float32)
    seen: list[Tensor] = []
    full = get_method("full")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        seen.extend((q, k))
        return full.plan(settings, q, k, call)

    captured = capture_qkv(model, inputs)
    with patch(model, dataclasses.replace(full, plan=plan)), torch.no_grad():
        model(**inputs)
    assert [tuple(x.shape) for x in captured[0]] == [(2, 2, 24, 24)] * 3
    for x, y in zip(seen, (x for q, k, _ in captured for x in (q, k)), strict=True):
        torch.testing.assert_close(x, y)


def test_passing_through_gives_v_and_reaches_every_weight() -> None:
    q, k, v = (torch.randn(1, 2, 24, 8, requires_grad=True) for _ in range(3))
    place = Place(0, Grid(2, 3, 4), 0)
    weights = torch.randn_like(v)
    output = pass_through(q, k, v, place)
    assert torch.equal(output, v)
    (output * weights).sum().backward()
    assert all(x.grad is not None and torch.equal(x.grad, weights) for x in (q, k, v))
    model = make_wan("tiny", CPU, torch.float32)
    with Replacement(model, pass_through):
        model(**make_inputs("tiny", place.grid, 1, 5, CPU, torch.float32))[0].square().sum().backward()
    assert all(weight.grad is not None for weight in model.blocks[1].attn1.parameters())


def test_random_weights_repeat_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.randn(2)
    torch.manual_seed(7)
    first, second, other = (make_wan("tiny", CPU, torch.bfloat16, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.randn(2), expected)
    weights = [model.blocks[0].attn1.to_q.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert (weights[0].dtype, first.blocks[0].norm2.weight.dtype) == (torch.bfloat16, torch.float32)


def test_amdahls_law() -> None:
    assert amdahl(0.75, 3.0) == 2.0
    assert amdahl(0.0, 100.0) == 1.0
    assert amdahl(0.5, 1.0) == 1.0
    with pytest.raises(BadInput, match=r"speedup is 0\.0"):
        amdahl(0.5, 0.0)


def test_the_share_of_what_was_left_out_has_its_ends_in_order() -> None:
    share = share_removed([10.0, 11.0, 12.0], [5.0, 5.5, 6.0])
    assert (share.value, share.lo, share.hi) == pytest.approx((0.5, 1 - 6 / 10, 1 - 5 / 12))


def test_one_method_twice_is_told_apart_by_its_settings() -> None:
    pytest.importorskip("diffusers")
    entries = [Entry("sta", {"tile": (1, 2, 2)}), Entry("sta", {"tile": (1, 1, 2)})]
    names = [record.name for record in measure_step(entries, StepCase(rounds=1, **SMALL))]
    assert len(set(names)) == len(names) == 4
    assert sum(name.startswith("sta/") and "tile" in name for name in names) == 2
