"""Every family that can be patched: the same bits with full attention, and text and video where the model has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, Method, get_method
from attnbench.models.patch import patch

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi asks for float32, which a CPU refuses

GRID = (3, 4, 2)
TEXT = 6
HEADS, HEAD_DIM = 2, 16
IDENTITY: dict[str, Any] = {"method": "full", "engine": "sdpa"}
WINDOW: dict[str, Any] = {"method": "sliding-window", "window": (0, 1, 0)}


@dataclass(frozen=True)
class Case:
    """A tiny model, the arguments of its forward call, and what its self-attention joins."""

    make: Callable[[], Any]
    inputs: Callable[..., dict[str, Any]]
    layers: int
    text: tuple[int, int]


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hunyuan(**changes: Any) -> Any:
    config = {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM,
        "num_layers": 2, "num_single_layers": 1, "num_refiner_layers": 1, "text_embed_dim": 16,
        "pooled_projection_dim": 8, "rope_axes_dim": (4, 8, 4),
    }  # fmt: skip
    return diffusers.HunyuanVideoTransformer3DModel(**config | changes)


def hunyuan_inputs(batch: int = 2, lengths: tuple[int, ...] | None = None, timestep: float = 500.0) -> dict[str, Any]:
    t, h, w = GRID
    return {
        "hidden_states": normal(batch, 4, t, 2 * h, 2 * w),
        "timestep": torch.full((batch,), timestep),
        "encoder_hidden_states": normal(batch, TEXT, 16, seed=2),
        "encoder_attention_mask": mask(batch, lengths),
        "pooled_projections": normal(batch, 8, seed=3),
        "guidance": torch.full((batch,), 6.0),
    }


def cogvideox(**changes: Any) -> Any:
    config = {
        "num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM, "in_channels": 4, "out_channels": 4,
        "time_embed_dim": 8, "text_embed_dim": 16, "num_layers": 3, "sample_width": 4, "sample_height": 8,
        "sample_frames": 9, "max_text_seq_length": TEXT,
    }  # fmt: skip
    return diffusers.CogVideoXTransformer3DModel(**config | changes)


def cogvideox_inputs(batch: int = 2, timestep: float = 500.0) -> dict[str, Any]:
    t, h, w = GRID
    return {
        "hidden_states": normal(batch, t, 4, 2 * h, 2 * w),
        "encoder_hidden_states": normal(batch, TEXT, 16, seed=2),
        "timestep": torch.full((batch,), timestep),
    }


def rotated_cogvideox_inputs(batch: int = 2, timestep: float = 500.0) -> dict[str, Any]:
    t, h, w = GRID
    angles = normal(t * h * w, HEAD_DIM // 2, seed=4).repeat_interleave(2, dim=1)
    given = cogvideox_inputs(batch, timestep) | {"image_rotary_emb": (angles.cos(), angles.sin())}
    return given | {"hidden_states": normal(batch, 2 * t, 4, 2 * h, 2 * w)}


def ltx() -> Any:
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, cross_attention_dim=32,
        num_layers=3, caption_channels=16,
    )  # fmt: skip


def ltx_inputs(batch: int = 2, timestep: float = 500.0) -> dict[str, Any]:
    t, h, w = GRID
    return {
        "hidden_states": normal(batch, t * h * w, 8),
        "encoder_hidden_states": normal(batch, TEXT, 16, seed=2),
        "timestep": torch.full((batch,), timestep),
        "encoder_attention_mask": mask(batch, (4,) * batch),
        "num_frames": t,
        "height": h,
        "width": w,
        "rope_interpolation_scale": (1.0, 32.0, 32.0),
    }


def mochi() -> Any:
    return diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=3, pooled_projection_dim=16,
        in_channels=4, text_embed_dim=16, time_embed_dim=8, max_sequence_length=TEXT,
    )  # fmt: skip


def mochi_inputs(batch: int = 2, lengths: tuple[int, ...] | None = None, timestep: float = 500.0) -> dict[str, Any]:
    t, h, w = GRID
    return {
        "hidden_states": normal(batch, 4, t, 2 * h, 2 * w),
        "encoder_hidden_states": normal(batch, TEXT, 16, seed=2),
        "timestep": torch.full((batch,), timestep),
        "encoder_attention_mask": mask(batch, lengths),
    }


def minimax_h3() -> Any:
    return diffusers.MiniMaxH3Transformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, hidden_size=24, num_layers=3, num_refiner_layers=1,
        ffn_dim=32, in_channels=4, audio_in_channels=5, text_dim=16, freq_dim=8, time_embed_hidden_dim=16,
        time_embed_dim=8, rope_freq_dim=2,
    )  # fmt: skip


def minimax_h3_inputs(batch: int = 2, timestep: float = 0.5) -> dict[str, Any]:
    """Two text tokens, audio, and the video, packed as diffusers' pipeline packs them."""
    (t, h, w), text = GRID, 2
    places = torch.cartesian_prod(torch.arange(float(h)), torch.arange(float(w)))
    where = torch.zeros(TEXT + t * h * w, 3)
    where[:TEXT, 0] = torch.arange(TEXT)
    where[TEXT:, 1:] = places.repeat(t, 1)
    where[TEXT:, 0] = torch.tensor([2.0, 3.0, 7.0]).repeat_interleave(h * w)
    tags = torch.zeros(len(where), dtype=torch.long)
    tags[:text], tags[text:TEXT] = 1, 2
    return {
        "hidden_states": normal(batch, t * h * w, 16),
        "audio_hidden_states": normal(batch, TEXT - text, 5, seed=2),
        "encoder_hidden_states": normal(batch, text, 16, seed=3),
        "timestep": torch.tensor([timestep]),
        "timestep_indices": torch.zeros(len(where), dtype=torch.long),
        "token_tags": tags,
        "position_ids": where,
        "video_indices": torch.arange(TEXT, len(where)),
        "audio_indices": torch.arange(text, TEXT),
        "text_indices": torch.arange(text),
    }


def mask(batch: int, lengths: tuple[int, ...] | None) -> Tensor:
    kept = lengths or (TEXT,) * batch
    return (torch.arange(TEXT) < torch.tensor(kept)[:, None]).long()


CASES = {
    "hunyuan": Case(hunyuan, hunyuan_inputs, 3, (0, TEXT)),
    "hunyuan, first frame given": Case(
        lambda: hunyuan(image_condition_type="token_replace"), hunyuan_inputs, 3, (0, TEXT)
    ),
    "cogvideox": Case(cogvideox, cogvideox_inputs, 3, (TEXT, 0)),
    "cogvideox 1.5": Case(
        lambda: cogvideox(patch_size_t=2, use_rotary_positional_embeddings=True, patch_bias=False),
        rotated_cogvideox_inputs, 3, (TEXT, 0),
    ),
    "ltx": Case(ltx, ltx_inputs, 3, (0, 0)),
    "mochi": Case(mochi, mochi_inputs, 3, (0, TEXT)),
    "minimax-h3": Case(minimax_h3, minimax_h3_inputs, 3, (TEXT, 0)),
}  # fmt: skip


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """One model a case, with norms and angles of its own, so that forgetting one would show."""
    made = {}
    for name, case in CASES.items():
        torch.manual_seed(0)
        made[name] = case.make().eval()
        for key, weight in made[name].named_parameters():
            if ("norm" in key and weight.dim() == 1) or key == "pos_frequencies":
                torch.nn.init.uniform_(weight, 0.5, 2.0)
    return made


@torch.no_grad()
def run(model: Any, given: dict[str, Any]) -> Tensor:
    output: Tensor = model(**given, return_dict=False)[0]
    return output


def state_of(model: Any) -> tuple[Any, ...]:
    hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in model.modules()]
    return tuple(hooks), tuple(getattr(part, "processor", None) for part in model.modules())


def recording() -> tuple[Method, list[tuple[int, Layout, int | None, tuple[int, ...]]]]:
    """Full attention that writes down layer, layout, step and the shape of q."""
    calls: list[tuple[int, Layout, int | None, tuple[int, ...]]] = []
    full = get_method("full")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        calls.append((call.layer, call.layout, call.step, tuple(q.shape)))
        return full.plan(settings, q, k, call)

    return dataclasses.replace(full, name="recording", plan=plan), calls


def fail(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    raise ZeroDivisionError


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_identity_swap_gives_the_same_bits(models: dict[str, Any], name: str, dtype: torch.dtype) -> None:
    model = models[name].to(dtype)
    given = {
        key: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
        for key, x in CASES[name].inputs().items()
    }
    before, untouched = run(model, given), state_of(model)
    with patch(model, **IDENTITY) as stats:
        assert torch.equal(run(model, given), before)
    assert [layer.calls for layer in stats.layers] == [1] * CASES[name].layers
    assert state_of(model) == untouched
    model.float()


@pytest.mark.parametrize("name", CASES)
def test_layer_grid_text_and_step_reach_the_method(models: dict[str, Any], name: str) -> None:
    case, (method, calls) = CASES[name], recording()
    rises = name in ("mochi", "minimax-h3")
    times = (100.0, 100.0, 600.0) if rises else (900.0, 900.0, 400.0)
    with patch(models[name], method) as stats:
        for timestep in times:
            run(models[name], case.inputs(timestep=timestep))
    layout = Layout(Grid(*GRID), case.text)
    shape = (2, HEADS, layout.tokens, HEAD_DIM)
    assert calls == [(layer, layout, step, shape) for step in (0, 0, 1) for layer in range(case.layers)]
    assert (stats.steps, stats.step, str(stats.grid)) == (2, 1, "3x4x2")


@pytest.mark.parametrize("name", ["hunyuan", "cogvideox", "ltx", "mochi", "minimax-h3"])
def test_arguments_may_be_given_by_position(models: dict[str, Any], name: str) -> None:
    case, (method, calls) = CASES[name], recording()
    with patch(models[name], method), torch.no_grad():
        models[name](*case.inputs().values())
    assert [call[:3] for call in calls] == [(layer, Layout(Grid(*GRID), case.text), 0) for layer in range(case.layers)]


@pytest.mark.parametrize("name", CASES)
def test_the_exact_engine_of_our_own_agrees_and_a_sparse_method_does_not(models: dict[str, Any], name: str) -> None:
    model, given = models[name], CASES[name].inputs()
    before = run(model, given)
    with patch(model, "full", engine="reference"):
        torch.testing.assert_close(run(model, given), before, rtol=1e-4, atol=1e-5)
    with patch(model, **WINDOW, densities=True) as stats:
        sparse = run(model, given)
    assert sparse.isfinite().all()
    assert (sparse - before).abs().max() > 1e-4
    assert stats.density is not None
    assert 0 < stats.density < 1


@pytest.mark.parametrize("name", CASES)
def test_tokens_stand_where_the_method_is_told(models: dict[str, Any], name: str) -> None:
    """One changed patch of the video, and one changed text token, show in the first layer's q at their own places."""
    model, case = models[name], CASES[name]
    first: list[Tensor] = []
    full = get_method("full")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        if call.layer == 0:
            first.append(q.clone())
        return full.plan(settings, q, k, call)

    def changed(key: str, at: Any) -> list[int]:
        first.clear()
        given = case.inputs(batch=1)
        with patch(model, dataclasses.replace(full, name="recording", plan=plan)):
            run(model, given)
            other = given[key].clone()
            other[at] += 1
            run(model, given | {key: other})
        moved = (first[0] - first[1]).abs().amax(dim=(0, 1, 3)) > 1e-6
        return [int(place) for place in moved.nonzero()]

    t, h, w = 1, 2, 1
    place = case.text[0] + (t * GRID[1] + h) * GRID[2] + w
    at = {
        "ltx": (0, place),
        "minimax-h3": (0, place - TEXT),
        "cogvideox": (0, t, slice(None), slice(2 * h, 2 * h + 2), slice(2 * w, 2 * w + 2)),
        "cogvideox 1.5": (0, slice(2 * t, 2 * t + 2), slice(None), slice(2 * h, 2 * h + 2), slice(2 * w, 2 * w + 2)),
    }.get(name, (0, slice(None), t, slice(2 * h, 2 * h + 2), slice(2 * w, 2 * w + 2)))
    assert changed("hidden_states", at) == [place]
    if name.startswith("cogvideox"):  # the others mix text tokens, or pool them, before the first layer
        assert changed("encoder_hidden_states", (0, 2)) == [2]


@pytest.mark.parametrize("lengths", [(4, 4), (6, 1), (1, 5)])
@pytest.mark.parametrize("name", ["hunyuan", "mochi"])
def test_padding_of_text_is_cut_off_and_the_clip_stays(
    models: dict[str, Any], name: str, lengths: tuple[int, int]
) -> None:
    model, given, (method, calls) = models[name], CASES[name].inputs(lengths=lengths), recording()
    before = run(model, given)
    with patch(model, **IDENTITY):
        torch.testing.assert_close(run(model, given), before, rtol=1e-5, atol=1e-6)
    with patch(model, method) as stats:
        run(model, given)
    video = GRID[0] * GRID[1] * GRID[2]
    alike = len(set(lengths)) == 1
    seen = [(2 if alike else 1, HEADS, video + n, HEAD_DIM) for n in (lengths[:1] if alike else lengths)]
    assert [call[3] for call in calls] == seen * 3
    assert [layer.calls for layer in stats.layers] == [1, 1, 1]


def test_mochi_stays_the_same_to_the_bit_with_padding(models: dict[str, Any]) -> None:
    given = mochi_inputs(lengths=(6, 2))
    before = run(models["mochi"], given)
    with patch(models["mochi"], **IDENTITY):
        assert torch.equal(run(models["mochi"], given), before)


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_the_models_own(models: dict[str, Any], name: str) -> None:
    model, given = models[name], CASES[name].inputs()

    def gradients() -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        model(**given, return_dict=False)[0].square().mean().backward()
        return {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}

    own = gradients()
    with patch(model, **IDENTITY):
        swapped = gradients()
    assert own.keys() == swapped.keys()
    assert any("to_q" in key for key in own)
    for key, gradient in own.items():
        torch.testing.assert_close(swapped[key], gradient, msg=key)
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_restored_after_an_exception_and_dense_parts_are_its_own(
    models: dict[str, Any], name: str
) -> None:
    model, given = models[name], CASES[name].inputs()
    before, output = state_of(model), run(model, given)
    with patch(model, **WINDOW, dense_layers=range(3)) as stats:
        assert torch.equal(run(model, given), output)
        assert [(layer.calls, layer.own_calls) for layer in stats.layers] == [(0, 1)] * 3
    failing = dataclasses.replace(get_method("full"), name="failing", plan=fail)
    with pytest.raises(ZeroDivisionError), patch(model, failing):
        run(model, given)
    assert state_of(model) == before
    assert torch.equal(run(model, given), output)


def test_an_ltx_call_without_its_grid_is_refused(models: dict[str, Any]) -> None:
    given = ltx_inputs()
    coordinates = torch.zeros(2, 3, 24)
    cases = [
        ({"num_frames": None}, "does not say its token grid"),
        ({"video_coords": coordinates}, "does not say its token grid"),
        ({"height": 5}, "24 tokens and the grid 3x5x2, which has 30"),
    ]
    for change, words in cases:
        with patch(models["ltx"], "full"), pytest.raises(Unsupported, match=words):
            run(models["ltx"], given | change)


def test_text_after_padding_is_refused_where_it_would_be_moved(models: dict[str, Any]) -> None:
    given = mochi_inputs()
    given["encoder_attention_mask"][0, 1] = 0
    with patch(models["mochi"], "full"), pytest.raises(Unsupported, match="padding before text"):
        run(models["mochi"], given)


def test_fused_cogvideox_is_refused_and_kept() -> None:
    model = cogvideox()
    model.fuse_qkv_projections()
    before = state_of(model)
    with pytest.raises(Unsupported, match="layer 0 has a FusedCogVideoXAttnProcessor2_0"):
        patch(model, "full")
    assert state_of(model) == before


def test_the_images_of_a_condition_are_no_frames_of_the_video(models: dict[str, Any]) -> None:
    """With and without audio between them: the rows of both are video rows, and lie next to each other without it."""
    model, (method, calls) = models["minimax-h3"], recording()
    frame = GRID[1] * GRID[2]
    for audio in (0, 3):
        given = _with_condition(audio)
        before = run(model, given)
        with patch(model, method):
            torch.testing.assert_close(run(model, given), before, rtol=1e-5, atol=1e-6)
        layout = Layout(Grid(*GRID), (2 + frame + audio, 0))
        assert {call[1] for call in calls} == {layout}
        calls.clear()


def _with_condition(audio: int) -> dict[str, Any]:
    given = minimax_h3_inputs()
    t, h, w = GRID
    frame, where = h * w, given["position_ids"]
    image = where[TEXT : TEXT + frame]  # the first frame's places, at its time
    rows = 2 + frame + audio + t * frame
    first_video = 2 + frame + audio
    tags = torch.zeros(rows, dtype=torch.long)
    tags[:2], tags[2 + frame : first_video] = 1, 2
    return given | {
        "hidden_states": normal(2, frame + t * frame, 16),
        "audio_hidden_states": normal(2, audio, 5, seed=2),
        "timestep_indices": torch.zeros(rows, dtype=torch.long),
        "token_tags": tags,
        "position_ids": torch.cat([where[:2], image, where[2 : 2 + audio], where[TEXT:]]),
        "video_indices": torch.cat([torch.arange(2, 2 + frame), torch.arange(first_video, rows)]),
        "audio_indices": torch.arange(2 + frame, first_video),
    }
