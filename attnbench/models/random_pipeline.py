"""Tiny pipelines with random weights, in the layout of real ones, for trying everything without a download."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from attnbench.kernels.errors import BadInput, Unsupported, unknown_name

_TEXT = 16
"""Width of the tiny text encoders."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_random(name: str, folder: Path | str, seed: int = 0) -> Path:
    """Write a tiny pipeline with random weights, including text encoder and tokenizer, and return its folder.

    ``attnbench.models.load(name, folder)`` reads it. Its clips are noise. Global random generators are not changed.

    Args:
        name: a name of ``attnbench.models.MODEL_NAMES``.
        folder: is created if necessary; must not hold a pipeline.
        seed: seed of the weights.

    Raises:
        BadInput: for an unknown name, or a folder that holds a pipeline.
        Unsupported: without diffusers and transformers.
    """
    if name not in _MAKERS:
        raise unknown_name("model", name, _MAKERS)
    target = Path(folder)
    if (target / "model_index.json").exists():
        raise BadInput(f"{str(target)!r} holds a pipeline already: give another folder")
    try:
        diffusers, transformers = (importlib.import_module(part) for part in ("diffusers", "transformers"))
    except ImportError as error:
        raise Unsupported("pipelines need diffusers and transformers: pip install 'attnbench[models]'") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _MAKERS[name](diffusers, transformers)
    pipeline.save_pretrained(str(target), safe_serialization=True)
    return target


def _t5(transformers: Any, kind: str = "T5EncoderModel", config: str = "T5Config") -> dict[str, Any]:
    """Return a tiny T5 encoder and a tokenizer that knows letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in _LETTERS)]
    sizes = {"vocab_size": 32, "d_model": _TEXT, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return {
        "tokenizer": transformers.T5Tokenizer(vocab=pieces, extra_ids=0),
        "text_encoder": getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval(),
    }


def _wan(diffusers: Any, transformers: Any) -> Any:
    return diffusers.WanPipeline(
        **_t5(transformers, "UMT5EncoderModel", "UMT5Config"),
        transformer=diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4,
            text_dim=_TEXT, freq_dim=32, ffn_dim=64, num_layers=3, rope_max_seq_len=64,
        ),
        vae=diffusers.AutoencoderKLWan(
            base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def _hunyuan(diffusers: Any, transformers: Any) -> Any:
    pieces = {letter: number for number, letter in enumerate(["<unk>", "<s>", "</s>", "▁", *_LETTERS])}
    llama = transformers.LlamaConfig(
        vocab_size=32, hidden_size=_TEXT, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    words = {letter: number for number, letter in enumerate(["<|startoftext|>", "<|endoftext|>", *_LETTERS])}
    words |= {f"{letter}</w>": len(words) + number for number, letter in enumerate(_LETTERS)}
    clip = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=_TEXT, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=_TEXT, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return diffusers.HunyuanVideoPipeline(
        tokenizer=transformers.LlamaTokenizer(vocab=pieces, merges=[], pad_token="<unk>"),
        text_encoder=transformers.LlamaModel(llama).eval(),
        tokenizer_2=transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=77),
        text_encoder_2=transformers.CLIPTextModel(clip).eval(),
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
            num_single_layers=1, num_refiner_layers=1, text_embed_dim=_TEXT, pooled_projection_dim=_TEXT,
            rope_axes_dim=(4, 8, 4),
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip


def _cogvideox(diffusers: Any, transformers: Any) -> Any:
    return diffusers.CogVideoXPipeline(
        **_t5(transformers),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, time_embed_dim=8,
            text_embed_dim=_TEXT, num_layers=3, sample_width=4, sample_height=4, sample_frames=9,
            use_rotary_positional_embeddings=True,
        ),
        vae=diffusers.AutoencoderKLCogVideoX(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2,
        ),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )  # fmt: skip


def _ltx(diffusers: Any, transformers: Any) -> Any:
    return diffusers.LTXPipeline(
        **_t5(transformers),
        transformer=diffusers.LTXVideoTransformer3DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
            num_layers=3, caption_channels=_TEXT,
        ),
        vae=diffusers.AutoencoderKLLTXVideo(
            latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip


def _mochi(diffusers: Any, transformers: Any) -> Any:
    return diffusers.MochiPipeline(
        **_t5(transformers),
        transformer=diffusers.MochiTransformer3DModel(
            patch_size=2, num_attention_heads=2, attention_head_dim=16, num_layers=3, pooled_projection_dim=16,
            in_channels=12, text_embed_dim=_TEXT, time_embed_dim=8, max_sequence_length=256,
        ),
        vae=diffusers.AutoencoderKLMochi(
            encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )  # fmt: skip


_MAKERS: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {"wan": _wan, "hunyuan": _hunyuan, "cogvideox": _cogvideox, "ltx": _ltx, "mochi": _mochi}
)
