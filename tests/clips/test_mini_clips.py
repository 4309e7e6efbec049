"""Clips of the mini model: what is kept of the dense steps changes nothing, and floors begin where methods do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.clips.fidelity import class_right, motion_right
from attnbench.clips.metrics.frames import Clip, as_clip
from attnbench.clips.mini import MiniMaker
from attnbench.clips.recording import Recording
from attnbench.clips.request import ClipsRequest, Shot
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.methods import get_method
from attnbench.methods.entries import Entry
from attnbench.mini.data import make_clips
from attnbench.mini.flow import Sampler, generate
from attnbench.mini.model import attend_by
from attnbench.mini.stored import load_mini

Ask = Callable[..., ClipsRequest]

PROMPT, LABEL, DIRECTION = "3 moving north-east", 3, 1
STA: dict[str, Any] = {"tile": [1, 4, 4], "window": [1, 1, 1]}
MOD_DIT: dict[str, Any] = {"block": 16, "warmup_steps": 2, "interval": 9, "top_k": 3}


def shot(role: Any, engine: str = "auto", method: str = "full", seed: int = 0, **settings: Any) -> Shot:
    return Shot(PROMPT, seed, role, method, engine, settings)


def unseen(step: int) -> None:
    """Progress that nobody looks at."""


def by_hand(
    weights: Path, sampler: Sampler, dense_steps: int, dense_layers: set[int], method: str, engine: str, **settings: Any
) -> Clip:
    """The same clip by the sampler alone, every step computed."""
    exact, other = attend_by("full", "sdpa"), attend_by(method, engine, **settings)

    def attend(q: Tensor, k: Tensor, v: Tensor, **where: Any) -> Tensor:
        chosen = exact if where["step"] < dense_steps or where["layer"] in dense_layers else other
        return chosen(q, k, v, **where)

    video = generate(load_mini(weights), [LABEL], [DIRECTION], [0], sampler=sampler, attend=attend)
    return as_clip(video[0].permute(1, 2, 3, 0), fps=8, low=-1, high=1)


PLAIN = Sampler(steps=4)
GUIDED = Sampler(steps=4, guidance=2.0, guided=3)
HEUN = Sampler(steps=4, solver="heun")


@pytest.mark.parametrize(
    ("dense", "layers", "sampler"), [(None, [], PLAIN), (0, [], PLAIN), (2, [1], GUIDED), (2, [], HEUN)]
)
def test_clips_are_those_of_the_sampler_with_full_attention_in_the_dense_steps_and_layers(
    dense: int | None, layers: list[int], sampler: Sampler, ask: Ask, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbench.clips.mini.usual_sampler", lambda steps: sampler)
    maker = MiniMaker(ask(dense_steps=dense, dense_layers=layers, dtype="float32"))
    assert maker.dense_steps == (1 if dense is None else dense)  # a quarter of four
    for role, method, engine, settings in (
        ("exact", "full", "sdpa", {}), ("kernel-floor", "full", "reference", {}), ("method", "sta", "auto", STA),
        ("method", "mod-dit", "auto", MOD_DIT),
    ):  # fmt: skip
        made = maker.make(shot(role, engine, method, **settings), unseen)
        wanted = by_hand(weights, sampler, maker.dense_steps, set(layers), method, engine, **settings)
        assert made.clip.digest == wanted.digest, role
    assert [density is None for density in made.densities] == [layer in layers for layer in range(3)]


def test_a_method_with_a_state_gets_it_from_the_step_before(ask: Ask) -> None:
    made = MiniMaker(ask(dense_steps=1)).make(shot("method", method="mod-dit", **MOD_DIT), unseen)
    (first, *_) = (density for density in made.densities if density is not None)
    assert 1 / 3 < first < 1  # one of three steps makes the map by full attention, and two keep what it says


def test_a_method_comes_out_the_same_whether_or_not_another_clip_was_made_before(ask: Ask) -> None:
    first, second = MiniMaker(ask()), MiniMaker(ask())
    second.make(shot("exact", "sdpa", seed=1), unseen)
    second.make(shot("exact", "sdpa"), unseen)
    one, two = (maker.make(shot("method", method="sta", **STA), unseen).clip.digest for maker in (first, second))
    assert one == two


def test_full_attention_as_a_method_changes_no_pixel(ask: Ask) -> None:
    maker = MiniMaker(ask())
    exact, same = (maker.make(shot(role, "sdpa"), unseen).clip for role in ("exact", "method"))
    assert torch.equal(exact.frames, same.frames)


def test_the_kernels_of_this_machine_are_told_apart(ask: Ask) -> None:
    maker = MiniMaker(ask())
    assert (maker.exact_engine, maker.floor_engine) == ("sdpa", "reference")
    assert MiniMaker(ask(floor_engine="none")).floor_engine is None
    assert MiniMaker(ask(floor_engine="auto")).floor_engine == "reference"
    with pytest.raises(BadInput, match="also makes the exact clips"):
        MiniMaker(ask(floor_engine="sdpa"))
    with pytest.raises(
        Unsupported, match="floor engine 'two-call' cannot make the kernel floor: it runs plans in which"
    ):
        MiniMaker(ask(floor_engine="two-call"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dense_steps": 4}, "leave none of 4 steps"),
        ({"dense_steps": 1.5}, "share below 1"),
        ({"dense_steps": -1}, "at least 0"),
        ({"dense_layers": [3]}, "0 to 2"),
        ({"dense_layers": [0, 1, 2]}, "would never run"),
        ({"steps": 0}, "steps 0"),
        ({"dtype": "float16"}, "bfloat16 or float32"),
        ({"device": "tpu"}, "cpu or cuda"),
        ({"weights": "none.safetensors"}, "none.safetensors"),
        ({"engine": "flsh"}, "unknown engine"),
        ({"methods": [Entry("sparge", {"topk": (0.5,) * 9})]}, "topk has 9 values"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_at_once(changes: dict[str, Any], said: str, ask: Ask) -> None:
    with pytest.raises((BadInput, Unsupported), match=said):
        MiniMaker(ask(**changes))


def test_clips_play_at_the_rate_that_was_asked_for(ask: Ask) -> None:
    usual, asked = (MiniMaker(ask(fps=fps)).make(shot("exact", "sdpa"), unseen).clip for fps in (None, 12.5))
    assert (usual.fps, asked.fps) == (8, 12.5)
    assert usual.digest == asked.digest


def test_a_witness_notes_settings_density_and_engine_of_every_plan() -> None:
    recording = Recording(get_method("sta"), "auto")
    assert (recording.settings, recording.engines, recording.densities(2)) == (None, "", [None, None])
    q = torch.randn(1, 2, 64, 16, generator=torch.Generator().manual_seed(0))
    arguments: dict[str, Any] = {"grid": (4, 4, 4), "layer": 1, "tile": (2, 2, 2), "window": (1, 1, 1)}
    output = attnbench.attention(q, q, q, method=recording.method, **arguments)
    assert torch.equal(output, attnbench.attention(q, q, q, method="sta", **arguments))
    assert recording.densities(2) == [None, attnbench.select(q, q, method="sta", **arguments).density]
    assert recording.settings == '{"tile":[2,2,2],"window":[1,1,1]}'
    assert recording.engines == "reference"


def test_real_clips_show_what_their_prompt_says_and_not_another_motion() -> None:
    clips = make_clips(7, 1, seed=3, split="held-out")
    clip = as_clip(clips.video[0].permute(1, 2, 3, 0), low=-1, high=1)
    label, direction = int(clips.label), int(clips.direction)
    names = attnbench.mini.data.CLASSES, attnbench.mini.data.DIRECTIONS
    right = f"{names[0][label]} moving {names[1][direction]}"
    wrong = f"{names[0][(label + 1) % 15]} moving {names[1][(direction + 4) % 8]}"
    assert [motion_right(clip, prompt).value for prompt in (right, wrong)] == [1.0, 0.0]
    assert [class_right(clip, prompt).value for prompt in (right, wrong)] == [1.0, 0.0]
    with pytest.raises(Unsupported, match="2 frames"):
        motion_right(Clip(clip.frames[:1]), right)
