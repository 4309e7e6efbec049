"""attnbench.patch: what it replaces, what reaches the method, and that nothing is left behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench import graphs
from attnbench.api import select
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, Cycle, Method, get_method
from attnbench.models.families.projections import in_autocast_dtype
from attnbench.models.patch import patch

diffusers = pytest.importorskip("diffusers")

Inputs = Callable[..., dict[str, Any]]
IDENTITY: dict[str, Any] = {"method": "full", "engine": "sdpa"}
WINDOW: dict[str, Any] = {"method": "sliding-window", "window": (1, 1, 1)}


@torch.no_grad()
def run(model: Any, given: dict[str, Any]) -> Tensor:
    output: Tensor = model(**given, return_dict=False)[0]
    return output


def state_of(model: Any) -> tuple[Any, ...]:
    hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in model.modules()]
    return tuple(hooks), tuple(model.attn_processors.values())


def recording() -> tuple[Method, list[tuple[int, str, int | None, tuple[int, ...]]]]:
    """Full attention that writes down layer, grid, step and the shape of q."""
    calls: list[tuple[int, str, int | None, tuple[int, ...]]] = []
    full = get_method("full")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        calls.append((call.layer, str(call.layout.grid), call.step, tuple(q.shape)))
        assert call.layout.text == (0, 0)
        return full.plan(settings, q, k, call)

    return dataclasses.replace(full, name="recording", plan=plan), calls


@pytest.mark.parametrize("head_dim", [24, 20, 128])
def test_an_identity_swap_gives_the_same_bits(fresh_wan: Callable[..., Any], inputs: Inputs, head_dim: int) -> None:
    model, given = fresh_wan(attention_head_dim=head_dim), inputs()
    before = run(model, given)
    with patch(model, **IDENTITY) as stats:
        assert torch.equal(run(model, given), before)
    assert [layer.calls for layer in stats.layers] == [1, 1, 1]


@pytest.mark.parametrize(
    "change",
    [lambda model: model.to(torch.bfloat16), lambda model: model.double(), lambda model: model.fuse_qkv_projections()],
    ids=["bfloat16", "float64", "fused projections"],
)
def test_the_bits_stay_in_other_dtypes_and_with_fused_projections(
    fresh_wan: Callable[..., Any], inputs: Inputs, change: Callable[[Any], Any]
) -> None:
    model, given = fresh_wan(), inputs()
    change(model)
    given = {name: x.to(model.dtype) for name, x in given.items()}
    before = run(model, given)
    with patch(model, **IDENTITY):
        assert torch.equal(run(model, given), before)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's norm, in the model as it is
def test_the_bits_stay_under_autocast(wan: Any, inputs: Inputs) -> None:
    given = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        before = run(wan, given)
        with patch(wan, **IDENTITY):
            assert torch.equal(run(wan, given), before)
        with patch(wan, **WINDOW):
            assert run(wan, given).isfinite().all()


def test_the_bits_stay_with_image_tokens_in_cross_attention(fresh_wan: Callable[..., Any], inputs: Inputs) -> None:
    model = fresh_wan(image_dim=8, added_kv_proj_dim=48)
    given = inputs() | {
        "encoder_hidden_states": torch.randn(2, 512, 16),
        "encoder_hidden_states_image": torch.randn(2, 3, 8),
    }
    before = run(model, given)
    with patch(model, **IDENTITY):
        assert torch.equal(run(model, given), before)
    with patch(model, **WINDOW):
        assert not torch.equal(run(model, given), before)


def test_under_autocast_q_k_and_v_are_cast_alike_as_torchs_own_attention_casts_them() -> None:
    q, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 8, dtype=torch.bfloat16)
    assert [x.dtype for x in in_autocast_dtype(q, q, v)] == [torch.float32, torch.float32, torch.bfloat16]
    with torch.autocast("cpu", torch.bfloat16):
        assert {x.dtype for x in in_autocast_dtype(q, q, v)} == {torch.bfloat16}
        assert torch.nn.functional.scaled_dot_product_attention(q, q, v).dtype == torch.bfloat16
        assert in_autocast_dtype(q.double())[0].dtype == torch.float64


@pytest.mark.parametrize("grid", [(3, 4, 5), (1, 2, 3), (5, 3, 2)])
def test_the_exact_engine_of_our_own_agrees_with_the_model(
    wan: Any, inputs: Inputs, grid: tuple[int, int, int]
) -> None:
    given = inputs(grid)
    before = run(wan, given)
    with patch(wan, "full", engine="reference"):
        torch.testing.assert_close(run(wan, given), before, rtol=1e-4, atol=1e-5)


def test_a_wide_window_is_full_attention_and_a_narrow_one_is_not(wan: Any, inputs: Inputs) -> None:
    given = inputs()
    before = run(wan, given)
    with patch(wan, "sliding-window", window=(9, 9, 9)):
        torch.testing.assert_close(run(wan, given), before, rtol=1e-4, atol=1e-5)
    with patch(wan, **WINDOW):
        narrow = run(wan, given)
    assert narrow.isfinite().all()
    assert (narrow - before).abs().max() > 1e-3


def test_layer_grid_and_step_reach_the_method(wan: Any, inputs: Inputs) -> None:
    method, calls = recording()
    with patch(wan, method) as stats:
        for timestep, grid in ((900.0, (3, 4, 5)), (900.0, (3, 4, 5)), (400.0, (2, 3, 4))):
            run(wan, inputs(grid, timestep=timestep))
    shapes = {"3x4x5": (2, 2, 60, 24), "2x3x4": (2, 2, 24, 24)}
    expected = [("3x4x5", 0), ("3x4x5", 0), ("2x3x4", 1)]
    assert calls == [(layer, grid, step, shapes[grid]) for grid, step in expected for layer in range(3)]
    assert (stats.steps, stats.step, str(stats.grid)) == (2, 1, "2x3x4")
    assert [(layer.layer, layer.calls, layer.steps) for layer in stats.layers] == [(0, 3, 2), (1, 3, 2), (2, 3, 2)]


def test_arguments_may_be_given_by_position(wan: Any, inputs: Inputs) -> None:
    method, calls = recording()
    with patch(wan, method), torch.no_grad():
        wan(*inputs().values())
    assert [call[:3] for call in calls] == [(layer, "3x4x5", 0) for layer in range(3)]


def test_dense_layers_and_dense_steps_run_the_models_own_attention(wan: Any, inputs: Inputs) -> None:
    method, calls = recording()
    with patch(wan, method, dense_steps=1, dense_layers=[2]) as stats:
        for timestep in (900.0, 500.0, 900.0, 500.0):  # two clips of two steps
            run(wan, inputs(timestep=timestep))
    assert [call[:3] for call in calls] == [(0, "3x4x5", 1), (1, "3x4x5", 1)] * 2
    assert [(layer.calls, layer.own_calls) for layer in stats.layers] == [(2, 2), (2, 2), (0, 4)]
    assert stats.steps == 4


def test_where_all_is_dense_the_bits_stay(wan: Any, inputs: Inputs) -> None:
    given = inputs()
    before = run(wan, given)
    for all_dense in ({"dense_layers": range(3)}, {"dense_steps": 1}):
        with patch(wan, **WINDOW, **all_dense):
            assert torch.equal(run(wan, given), before)


def test_densities_are_those_of_the_plans(wan: Any, inputs: Inputs) -> None:
    given = inputs((7, 4, 5))
    seen: list[float] = []
    vmoba = get_method("vmoba")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        seen.append(select(q, k, method="vmoba", grid=call.layout.grid, layer=call.layer).density)
        return vmoba.plan(settings, q, k, call)

    spy = dataclasses.replace(vmoba, plan=plan)
    with patch(wan, spy, densities=True) as stats:
        run(wan, given)
        run(wan, given | {"hidden_states": given["hidden_states"] * 3})
    for layer in stats.layers:
        mine = seen[layer.layer :: 3]
        assert layer.density == mine[-1]
        assert layer.mean_density == pytest.approx(sum(mine) / 2)
    assert 0 < min(seen) < max(seen) < 1


def test_without_asking_no_density_is_counted(wan: Any, inputs: Inputs) -> None:
    with patch(wan, **WINDOW) as stats:
        run(wan, inputs())
    assert {(layer.density, layer.mean_density) for layer in stats.layers} == {(None, None)}


def test_gradients_flow_and_equal_the_models_own(fresh_wan: Callable[..., Any], inputs: Inputs) -> None:
    model, given = fresh_wan(), inputs()

    def gradients() -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        model(**given, return_dict=False)[0].square().mean().backward()
        return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}

    own = gradients()
    with patch(model, "full", engine="sdpa"):
        swapped = gradients()
    with patch(model, **WINDOW):
        sparse = gradients()
    assert own.keys() == swapped.keys() == sparse.keys()
    assert "blocks.0.attn1.to_q.weight" in own
    for name, gradient in own.items():
        torch.testing.assert_close(swapped[name], gradient)
        assert sparse[name].isfinite().all()
    assert not torch.allclose(sparse["blocks.0.attn1.to_q.weight"], own["blocks.0.attn1.to_q.weight"])


def test_gradient_checkpointing_gives_the_same_gradients(fresh_wan: Callable[..., Any], inputs: Inputs) -> None:
    model, given, found = fresh_wan(), inputs(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad(set_to_none=True)
        with patch(model, "vmoba"):
            model(**given, return_dict=False)[0].square().mean().backward()
        found.append(model.blocks[0].attn1.to_k.weight.grad.clone())
    torch.testing.assert_close(found[0], found[1])


@dataclass(frozen=True)
class NoSettings:
    pass


def failing(settings: NoSettings, q: Tensor, k: Tensor, call: Call) -> Plan:
    raise ZeroDivisionError("planned to fail")


def test_the_model_is_restored_after_an_exception(wan: Any, inputs: Inputs) -> None:
    given = inputs()
    before, output = state_of(wan), run(wan, given)
    method = dataclasses.replace(get_method("full"), name="failing", settings=NoSettings, plan=failing)
    with pytest.raises(ZeroDivisionError), patch(wan, method):
        run(wan, given)
    assert state_of(wan) == before
    assert torch.equal(run(wan, given), output)


def test_a_handle_restores_once(wan: Any, inputs: Inputs) -> None:
    before = state_of(wan)
    handle = patch(wan, **WINDOW)
    run(wan, inputs())
    assert handle.stats.steps == 1
    handle.restore()
    handle.restore()
    assert state_of(wan) == before
    with pytest.raises(BadInput, match="restored already"), handle:
        pass


def test_patches_nest_and_the_inner_one_is_in_effect(wan: Any, inputs: Inputs) -> None:
    given = inputs()
    before, own = state_of(wan), run(wan, given)
    with patch(wan, **WINDOW) as outer:
        sparse = run(wan, given)
        with patch(wan, **IDENTITY, dense_layers=(0,)) as inner:
            assert torch.equal(run(wan, given), own)
        assert torch.equal(run(wan, given), sparse)
    assert state_of(wan) == before
    assert [layer.calls for layer in outer.layers] == [2, 2, 2]
    assert [(layer.calls, layer.own_calls) for layer in inner.layers] == [(0, 1), (1, 0), (1, 0)]


def test_restoring_in_the_wrong_order_is_refused_and_changes_nothing(wan: Any) -> None:
    before = state_of(wan)
    outer = patch(wan, **WINDOW)
    inner = patch(wan, **IDENTITY)
    within = state_of(wan)
    with pytest.raises(BadInput, match="newest first"):
        outer.restore()
    assert state_of(wan) == within
    inner.restore()
    outer.restore()
    assert state_of(wan) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "vmobe"}, "did you mean 'vmoba'"),
        ({"method": "vmoba", "treshold": 0.1}, "did you mean 'threshold'"),
        ({"method": "full", "grid": "3x4x5"}, "unknown setting 'grid'"),
        ({"method": "full", "engine": "tritn"}, "did you mean 'triton'"),
        ({"method": "full", "dense_steps": -1}, "dense_steps is -1"),
        ({"method": "full", "dense_steps": 0.25}, "dense_steps is 0.25"),
        ({"method": "full", "dense_layers": [0, 3]}, "names 3; the model's layers are 0 to 2"),
        ({"method": "full", "dense_layers": 1}, "dense_layers is 1"),
        ({"method": "sta", "densities": True, "graphs": True}, "densities cannot be counted in CUDA graphs"),
    ],
)
def test_wrong_arguments_are_refused_before_the_model_is_touched(wan: Any, given: dict[str, Any], words: str) -> None:
    before = state_of(wan)
    with pytest.raises(BadInput, match=words):
        patch(wan, **given)
    assert state_of(wan) == before


def test_other_models_are_refused_by_name(wan: Any) -> None:
    for model in (torch.nn.Linear(2, 2), torch.nn.Sequential(wan), object(), None):
        with pytest.raises(Unsupported, match=rf"a {type(model).__name__} cannot be patched.*WanTransformer3DModel"):
            patch(model, "full")


def test_another_processor_is_refused_and_kept(fresh_wan: Callable[..., Any]) -> None:
    class Custom(diffusers.models.transformers.transformer_wan.WanAttnProcessor):  # type: ignore[misc]  # diffusers is Any here
        pass

    model = fresh_wan()
    model.blocks[1].attn1.set_processor(Custom())
    before = state_of(model)
    with pytest.raises(Unsupported, match="layer 1 has a Custom"):
        patch(model, "full")
    assert state_of(model) == before


def test_a_compiled_model_is_refused(fresh_wan: Callable[..., Any]) -> None:
    model = fresh_wan()
    model.blocks[2].compile(backend="eager")
    with pytest.raises(Unsupported, match="compiled"):
        patch(model, "full")


def test_a_model_of_which_a_part_is_spread_over_ranks_is_refused(fresh_wan: Callable[..., Any]) -> None:
    model = fresh_wan()
    model.blocks[0].attn1.processor._parallel_config = object()
    with pytest.raises(Unsupported, match="some of the model's attention is spread over ranks, and some is not"):
        patch(model, "full")


def test_a_block_called_by_itself_is_told_that_the_grid_is_unknown(wan: Any) -> None:
    with patch(wan, "full"), pytest.raises(Unsupported, match="call the patched transformer itself"):
        wan.blocks[0].attn1(torch.zeros(1, 60, 48))


def test_graphs_run_the_method_as_captured_calls(wan: Any, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[object] = []

    def record(run_call: Callable[[], None], shape: object) -> Callable[[], object]:
        captured.append(shape)
        return run_call

    graphs.forget_graphs()
    monkeypatch.setattr(graphs, "_record", record)
    with patch(wan, **WINDOW, graphs=True), torch.no_grad(), pytest.raises(Unsupported, match="q is on cpu"):
        wan(**inputs())
    monkeypatch.setattr(graphs, "_wrong_place", lambda q: None)
    for number in range(2):
        given = inputs(timestep=500.0 + number)
        with patch(wan, **WINDOW):
            expected = run(wan, given)
        with patch(wan, **WINDOW, graphs=True):
            torch.testing.assert_close(run(wan, given), expected, rtol=0, atol=0)
    assert len(captured) == 1, "three layers and two steps share a graph: the plan reads neither"
    with patch(wan, **WINDOW, graphs=True), pytest.raises(Unsupported, match="no backward pass"):
        wan(**inputs())
    graphs.forget_graphs()


def test_a_method_with_a_state_keeps_one_for_each_layer_and_branch_of_guidance(wan: Any, inputs: Inputs) -> None:
    seen: list[tuple[int, int | None, Any]] = []
    full = get_method("full")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        seen.append((call.layer, call.step, call.state))
        made = full.plan(settings, q, k, call)
        return dataclasses.replace(made, state=(call.layer, call.step, len(seen)))

    method = dataclasses.replace(
        full, name="keeping", plan=plan, cycle=lambda settings, layer: Cycle((0,), 1, 0, 50, anew=True)
    )
    with patch(wan, method):
        for timestep in (900.0, 900.0, 500.0, 500.0, 800.0):
            run(wan, inputs() | {"timestep": torch.tensor([timestep])})
    layers = len({layer for layer, _, _ in seen})
    calls = [seen[place : place + layers] for place in range(0, len(seen), layers)]
    assert [step for step, _ in [(call[0][1], None) for call in calls]] == [0, 0, 1, 1, 0]
    assert all(state is None for call in (calls[0], calls[1], calls[4]) for _, _, state in call)
    for branch in (0, 1):
        for layer, _, state in calls[2 + branch]:
            assert state == (layer, 0, branch * layers + layer + 1)
    with pytest.raises(BadInput, match="method 'keeping' keeps a state from step to step, which CUDA graphs cannot"):
        patch(wan, method, graphs=True)
