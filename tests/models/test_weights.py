"""Weights from a local folder: what is loaded, what is refused, and that the network is never asked."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.models import MODEL_NAMES, load
from attnbench.models.families.recipes import RECIPES
from attnbench.models.loaded import Loaded
from attnbench.models.random_pipeline import write_random

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi asks for float32, which a CPU refuses

SMALL: dict[str, dict[str, int]] = {
    "wan": {"frames": 9, "height": 32, "width": 32},
    "hunyuan": {"frames": 5, "height": 32, "width": 32},
    "cogvideox": {"frames": 9, "height": 32, "width": 32},
    "ltx": {"frames": 9, "height": 64, "width": 32},
    "mochi": {"frames": 7, "height": 32, "width": 32},
}
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random("wan", tmp_path_factory.mktemp("weights") / "wan")


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(folder, tmp_path / "wan")
    return tmp_path / "wan"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: Any) -> None:
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.usefixtures("offline")
def test_every_model_makes_a_clip_that_an_identity_swap_does_not_change(name: str, tmp_path: Path) -> None:
    loaded = load(name, write_random(name, tmp_path / name))
    size = SMALL[name]
    seen: list[int] = []
    frames = loaded.generate("a red cat", seed=1, steps=4, after_step=seen.append, **size)
    assert (frames.dtype, tuple(frames.shape)) == (torch.float32, (size["frames"], size["height"], size["width"], 3))
    assert 0 <= frames.min() < frames.max() <= 1
    assert seen == [0, 1, 2, 3]
    with attnbench.patch(loaded.pipeline, "full", engine="sdpa") as stats:
        again = loaded.generate("a red cat", seed=1, steps=4, **size)
    assert torch.equal(again, frames)
    halves = 2 if name == "wan" else 1  # calls a step; the others join both halves of guidance, or have none
    assert stats.steps == 4
    assert [(layer.calls, layer.own_calls) for layer in stats.layers] == [(3 * halves, halves)] * loaded.layers


@pytest.mark.parametrize(
    ("name", "part", "config", "fps"),
    [
        ("wan", "vae", {"scale_factor_spatial": 8}, 16),
        ("wan", "vae", {"scale_factor_spatial": 16}, 24),  # Wan 2.2 5B
        ("cogvideox", "transformer", {"patch_size_t": None}, 8),
        ("cogvideox", "transformer", {"patch_size_t": 2}, 16),  # CogVideoX 1.5
        ("hunyuan", "vae", {}, 24),
    ],
)
def test_clips_play_at_the_rate_of_the_version(name: str, part: str, config: dict[str, Any], fps: float) -> None:
    pipeline = SimpleNamespace(**{part: SimpleNamespace(config=SimpleNamespace(**config))})
    assert Loaded(name, Path(), pipeline).fps == fps
    kind = {"wan": "AutoencoderKLWan", "cogvideox": "CogVideoXTransformer3DModel"}.get(name)
    assert kind is None or set(config) <= set(inspect.signature(getattr(diffusers, kind)).parameters)


def test_a_pipeline_that_is_told_the_rate_gets_it(tmp_path: Path) -> None:
    loaded = load("ltx", write_random("ltx", tmp_path / "ltx"))
    usual, same, slow = (loaded.generate("a cat", steps=1, fps=fps, **SMALL["ltx"]) for fps in (None, loaded.fps, 5.0))
    assert torch.equal(usual, same)
    assert not torch.equal(usual, slow)


@pytest.fixture(scope="module")
def wan(folder: Path) -> Loaded:
    return load("wan", folder)


def test_a_loaded_model_says_what_it_is(wan: Loaded, folder: Path) -> None:
    assert (wan.name, wan.weights, wan.layers, wan.steps, wan.fps) == ("wan", folder, 3, 50, 16.0)
    weights = load_file(folder / TRANSFORMER)
    for name, weight in wan.pipeline.transformer.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert not any(part.training for part in (wan.pipeline.transformer, wan.pipeline.vae, wan.pipeline.text_encoder))


def test_prompt_and_seed_decide_the_clip(wan: Loaded) -> None:
    def make(prompt: str, seed: int) -> torch.Tensor:
        return wan.generate(prompt, seed=seed, steps=1, guidance=1.0, frames=5, height=32, width=32)

    first = make("a red cat", 0)
    assert torch.equal(make("a red cat", 0), first)
    assert not torch.equal(make("a red cat", 1), first)
    assert not torch.equal(make("zzz", 0), first)


def test_bfloat16_leaves_the_vae_of_wan_and_what_diffusers_keeps_wide(folder: Path) -> None:
    pipeline = load("wan", folder, dtype="bfloat16").pipeline
    block = pipeline.transformer.blocks[0]
    assert (block.attn1.to_q.weight.dtype, block.norm2.weight.dtype) == (torch.bfloat16, torch.float32)
    assert pipeline.vae.decoder.conv_in.weight.dtype == torch.float32
    assert pipeline.text_encoder.dtype == torch.bfloat16


def spoil(name: str) -> Callable[[Path], object]:
    def rename(folder: Path) -> None:
        weights = load_file(folder / TRANSFORMER)
        weights["blocks.0.other"] = weights.pop("blocks.0.attn1.to_q.weight")
        save_file(weights, folder / TRANSFORMER)

    def reshape(folder: Path) -> None:
        weights = load_file(folder / TRANSFORMER)
        weights["patch_embedding.weight"] = weights["patch_embedding.weight"][:, :2].contiguous()
        save_file(weights, folder / TRANSFORMER)

    def pickled(folder: Path) -> None:
        (folder / TRANSFORMER).unlink()
        (folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))

    def shard(folder: Path) -> None:
        named = {"weight_map": {"a": "part-1.safetensors", "b": "diffusion_pytorch_model.safetensors"}}
        index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps(named))

    def edit(file: str, **changes: Any) -> Callable[[Path], object]:
        return lambda folder: (folder / file).write_text(
            json.dumps(json.loads((folder / file).read_text(encoding="utf-8")) | changes)
        )

    spoilers: dict[str, Callable[[Path], object]] = {
        "truncated": lambda folder: (folder / TRANSFORMER).write_bytes((folder / TRANSFORMER).read_bytes()[:-1]),
        "empty file": lambda folder: (folder / TRANSFORMER).write_bytes(b""),
        "text encoder truncated": lambda folder: (folder / "text_encoder/model.safetensors").write_bytes(b"\x08\0\0"),
        "pickled": pickled,
        "disguised": lambda folder: (folder / TRANSFORMER).write_bytes(pickle.dumps({})),
        "no file": lambda folder: (folder / TRANSFORMER).unlink(),
        "a shard is missing": shard,
        "no vae": lambda folder: shutil.rmtree(folder / "vae"),
        "no config": lambda folder: (folder / "transformer/config.json").unlink(),
        "config cut": lambda folder: (folder / "transformer/config.json").write_text('{"patch_size": ['),
        "no index": lambda folder: (folder / "model_index.json").unlink(),
        "other pipeline": edit("model_index.json", _class_name="WanImageToVideoPipeline"),
        "own code": edit("model_index.json", transformer=["my_model", "MyTransformer"]),
        "other part": edit("transformer/config.json", _class_name="MochiTransformer3DModel"),
        "other names": rename,
        "other shapes": reshape,
        "no tokenizer": lambda folder: (folder / "tokenizer/tokenizer.json").unlink(),
    }
    return spoilers[name]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", r"diffusion_pytorch_model\.safetensors' are truncated"),
        ("empty file", r"diffusion_pytorch_model\.safetensors' are truncated"),
        ("text encoder truncated", r"text_encoder/model\.safetensors' are truncated"),
        ("pickled", r"diffusion_pytorch_model\.bin' are pickled.*only safetensors"),
        ("disguised", r"diffusion_pytorch_model\.safetensors' are pickled.*only safetensors"),
        ("no file", "have no .safetensors file"),
        ("a shard is missing", r"have no part-1\.safetensors, one of 2 files"),
        ("no vae", "have no vae, which model_index.json names"),
        ("no config", "have no config.json"),
        ("config cut", "config.json' is truncated"),
        ("no index", "have no model_index.json: the folder of a whole WanPipeline"),
        ("other pipeline", "are of a WanImageToVideoPipeline, and a WanPipeline is needed"),
        ("own code", "take their transformer from 'my_model', which may run code"),
        ("other part", "are of a MochiTransformer3DModel, and a WanTransformer3DModel is needed"),
        ("other names", r"lack tensor 'blocks\.0\.attn1\.to_q\.weight': they are of another model"),
        ("other shapes", "transformer' cannot be loaded as a WanTransformer3DModel"),
        ("no tokenizer", r"tokenizer' have no tokenizer\.json"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(damaged: Path, how: str, words: str) -> None:
    spoil(how)(damaged)
    with pytest.raises(BadInput, match=words) as caught:
        load("wan", damaged)
    assert "\n" not in str(caught.value)
    assert str(damaged) in str(caught.value)


def test_what_is_no_folder_or_no_model_is_refused(folder: Path, tmp_path: Path) -> None:
    for name, weights, words in (
        ("wann", folder, "did you mean 'wan'"),
        ("wan", tmp_path / "none", "do not exist"),
        ("wan", folder / TRANSFORMER, "are a file"),
        ("wan", folder / "transformer", "have no model_index.json"),
        ("ltx", folder, "are of a WanPipeline, and a LTXPipeline is needed"),
    ):
        with pytest.raises(BadInput, match=words):
            load(name, weights)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"frames": 8}, r"frames 8 must be of the form 4k\+1, such as 5 or 9"),
        ({"frames": 0}, "frames 0"),
        ({"height": 33}, "height 33 must be a multiple of 16, such as 32 or 48"),
        ({"width": 8}, "width 8 must be a multiple of 16, such as 16 or 32"),
        ({"steps": 0}, "steps 0"),
        ({"steps": 1.5}, "steps 1.5 must be a whole number"),
        ({"steps": 10**9}, "steps 1000000000 must be a whole number from 1 to"),
        ({"frames": 5.0}, "frames 5.0 must be a whole number"),
        ({"height": "32"}, "height '32' must be a whole number"),
        ({"height": 16 * 65}, "height 1040 must be at most 1024"),
        ({"frames": 4 * 64 + 1}, "frames 257 must be at most 253"),
        ({"seed": 2**70}, "seed 1180591620717411303424 must be a whole number from 0 to"),
        ({"seed": 1.5}, "seed 1.5"),
        ({"guidance": float("nan")}, "guidance nan must be a finite number"),
        ({"guidance": "much"}, "guidance 'much' must be a finite number"),
    ],
)
def test_sizes_that_cannot_be_made_are_refused_and_not_rounded(wan: Loaded, size: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        wan.generate("a cat", **size)


def test_mochi_is_not_asked_for_the_single_step_that_its_schedule_cannot_make(tmp_path: Path) -> None:
    loaded = load("mochi", write_random("mochi", tmp_path / "mochi"))
    with pytest.raises(BadInput, match="steps 1 must be a whole number from 2 to"):
        loaded.generate("a cat", steps=1, frames=7, height=32, width=32)
    assert loaded.generate("a cat", steps=2, frames=7, height=32, width=32).shape == (7, 32, 32, 3)


@pytest.mark.parametrize("prompt", [None, 3, ["a cat", "a dog"], "caf\udce9"])
def test_a_prompt_that_is_no_text_is_refused(wan: Loaded, prompt: Any) -> None:
    with pytest.raises(BadInput, match="prompt") as caught:
        wan.generate(prompt)
    assert repr(prompt) in str(caught.value)


def test_a_folder_with_a_pipeline_is_not_written_over(folder: Path) -> None:
    with pytest.raises(BadInput, match="holds a pipeline already"):
        write_random("wan", folder)
    with pytest.raises(BadInput, match="unknown model 'sora'"):
        write_random("sora", folder)


def test_every_family_has_a_recipe() -> None:
    from attnbench.models.families.find import FAMILIES

    assert tuple(RECIPES) == MODEL_NAMES
    # Of MiniMax-H3, diffusers has a modular pipeline only: the caller runs it, and attnbench patches it.
    assert [family.name for family in FAMILIES] == [*MODEL_NAMES, "minimax-h3"]


def test_what_macos_puts_beside_weights_does_not_matter(damaged: Path) -> None:
    for part in ("", "transformer", "vae", "text_encoder", "tokenizer"):
        for file in list((damaged / part).iterdir()):
            if file.is_file():
                (damaged / part / f"._{file.name}").write_bytes(b"\0\5\x16\7" + bytes(40))
    assert load("wan", damaged).layers == load("wan", damaged).layers > 0
