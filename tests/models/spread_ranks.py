"""Gloo ranks that run tiny models under diffusers' context parallelism, patched, and compare with one process.

Started as ``python spread_ranks.py FOLDER RANKS``, for models of as many heads. Each rank writes what it found as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks import context_parallel
from torch import Tensor

import attnbench
from attnbench.kernels.errors import AttnbenchError
from attnbench.methods import get_method
from attnbench.models.replacement import Replacement

STA = {"tile": (1, 2, 3), "window": (3, 1, 1)}
RANKS = int(sys.argv[2])
ULYSSES, RING = {"ulysses_degree": RANKS}, {"ring_degree": RANKS}
# family, grid, parallelism, method, settings, dense layers
CASES: dict[str, tuple[str, tuple[int, int, int], dict[str, Any], str, dict[str, Any], tuple[int, ...]]] = {
    "wan full": ("wan", (3, 4, 5), ULYSSES, "full", {}, ()),
    "wan vmoba": ("wan", (3, 4, 5), ULYSSES, "vmoba", {}, (0,)),
    "wan sta ragged": ("wan", (3, 5, 5), {**ULYSSES, "ulysses_anything": True}, "sta", STA, ()),
    "wan liteattention": ("wan", (3, 4, 5), ULYSSES, "liteattention", {}, ()),
    "wan ring vmoba": ("wan", (3, 4, 5), RING, "vmoba", {}, ()),
    "wan ring sta": ("wan", (3, 4, 5), RING, "sta", STA, ()),
    "ltx vmoba": ("ltx", (3, 4, 5), ULYSSES, "vmoba", {}, (0,)),
    "minimax-h3 vmoba": ("minimax-h3", (3, 4, 5), ULYSSES, "vmoba", {}, (0,)),
    "minimax-h3 sta ragged": ("minimax-h3", (3, 5, 5), {**ULYSSES, "ulysses_anything": True}, "sta", STA, ()),
}

OF_THREE = ("wan vmoba", "wan sta ragged", "wan ring vmoba", "minimax-h3 vmoba", "minimax-h3 sta ragged")
"""What three ranks run. The width of LTX with three heads does not suit its rotary embedding."""

NOT_TRAINED = ("ltx vmoba", "minimax-h3 sta ragged")
"""Backward, diffusers' own attention fails there, patched or not: in cross-attention, and with unequal shards."""


def make(family: str) -> Any:
    torch.manual_seed(3)
    if family == "wan":
        return diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=RANKS, attention_head_dim=24, in_channels=4, out_channels=4,
            text_dim=16, freq_dim=32, ffn_dim=64, num_layers=3, rope_max_seq_len=64,
        ).double().eval()  # fmt: skip
    if family == "minimax-h3":
        return diffusers.MiniMaxH3Transformer3DModel(
            num_attention_heads=RANKS, attention_head_dim=16, hidden_size=24, num_layers=2, num_refiner_layers=1,
            ffn_dim=32, in_channels=4, audio_in_channels=5, text_dim=16, freq_dim=8, time_embed_hidden_dim=16,
            time_embed_dim=8, rope_freq_dim=2,
        ).double().eval()  # fmt: skip
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=RANKS, attention_head_dim=16, cross_attention_dim=32,
        num_layers=2, caption_channels=16,
    ).double().eval()  # fmt: skip


def inputs(family: str, grid: tuple[int, int, int], step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    t, h, w = grid
    if family == "minimax-h3":
        return packed(grid, step, generator)
    text = torch.randn(1, 8, 16, generator=generator, dtype=torch.float64)
    given: dict[str, Any] = {"encoder_hidden_states": text, "timestep": torch.full((1,), 900.0 - 100 * step)}
    if family == "wan":
        video = torch.randn(1, 4, t, 2 * h, 2 * w, generator=generator, dtype=torch.float64)
        return given | {"hidden_states": video}
    video = torch.randn(1, t * h * w, 8, generator=generator, dtype=torch.float64)
    # No mask of the text: with one, diffusers' own cross-attention fails under its parallelism.
    return given | {
        "hidden_states": video, "encoder_attention_mask": None, "num_frames": t, "height": h, "width": w,
    }  # fmt: skip


def packed(grid: tuple[int, int, int], step: int, generator: torch.Generator) -> dict[str, Any]:
    """Three text rows, a condition's image of the video's size, an audio row, and the video."""
    t, h, w = grid
    frame, rows = h * w, 4 + h * w + t * h * w
    where = torch.zeros(rows, 3, dtype=torch.float64)
    where[-t * frame :, 0] = torch.arange(float(t)).repeat_interleave(frame)
    places = torch.cartesian_prod(torch.arange(float(h)), torch.arange(float(w))).double()
    where[3 : 3 + frame, 1:], where[-t * frame :, 1:] = places, places.repeat(t, 1)
    tags = torch.zeros(rows, dtype=torch.long)
    tags[:3], tags[3 + frame] = 1, 2
    normal = {
        name: torch.randn(1, *shape, generator=generator, dtype=torch.float64)
        for name, shape in (
            ("hidden_states", (frame + t * frame, 16)), ("audio_hidden_states", (1, 5)),
            ("encoder_hidden_states", (3, 16)),
        )
    }  # fmt: skip
    places_of = {
        f"{name}_indices": (tags == tag).nonzero().flatten() for tag, name in enumerate(("video", "text", "audio"))
    }
    noise = torch.tensor([0.1 + 0.1 * step, 1.0])
    clean = torch.zeros(rows, dtype=torch.long)
    clean[3 : 3 + frame] = 1
    return normal | places_of | {
        "timestep": noise, "timestep_indices": clean, "token_tags": tags, "position_ids": where,
    }  # fmt: skip


@torch.no_grad()
def steps(model: Any, family: str, grid: tuple[int, int, int]) -> list[Tensor]:
    return [model(**inputs(family, grid, step), return_dict=False)[0] for step in range(2)]


def gradients(model: Any, family: str, grid: tuple[int, int, int], ranks: int) -> Tensor:
    """Return the gradients of all weights of a training step, added up over the ranks, as one vector."""
    model.zero_grad(set_to_none=True)
    output = model(**inputs(family, grid, 0), return_dict=False)[0]
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum().backward()
    own = torch.cat([torch.zeros_like(x).view(-1) if x.grad is None else x.grad.view(-1) for x in model.parameters()])
    if ranks > 1:
        dist.all_reduce(own)
    return own


def compare(name: str) -> dict[str, Any]:
    family, grid, parallel, method, settings, dense = CASES[name]
    alone, spread = make(family), make(family)
    trains = name not in NOT_TRAINED and get_method(method).has_gradient and get_method(method).cycle is None
    whole = mine = torch.zeros(1)
    with attnbench.patch(alone, method, dense_layers=dense, **settings):
        expected = steps(alone, family, grid)
        if trains:
            whole = gradients(alone, family, grid, 1)
    own = steps(alone, family, grid)
    spread.enable_parallelism(config=ContextParallelConfig(**parallel))
    with attnbench.patch(spread, method, dense_layers=dense, **settings) as stats:
        found = steps(spread, family, grid)
        calls = [layer.calls for layer in stats.layers]
        if trains:
            mine = gradients(spread, family, grid, RANKS)
    return {
        "gradient": relative(mine, whole) if trains else None,
        "error": max(relative(mine, whole) for mine, whole in zip(found, expected, strict=True)),
        "moves": relative(own[0], expected[0]),
        "calls": calls,
    }


def relative(mine: Tensor, whole: Tensor) -> float:
    return float((mine - whole).norm() / whole.norm())


def said(call: Any) -> str:
    try:
        call()
    except AttnbenchError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refusals() -> dict[str, str]:
    late, spread, ring = make("wan"), make("wan"), make("wan")
    handle = attnbench.patch(late, "full")
    late.enable_parallelism(config=ContextParallelConfig(**ULYSSES))
    found = {"late": said(lambda: steps(late, "wan", (3, 4, 5)))}
    handle.restore()
    spread.enable_parallelism(config=ContextParallelConfig(**ULYSSES))
    ring.enable_parallelism(config=ContextParallelConfig(**RING))
    found |= {
        "densities": said(lambda: attnbench.patch(spread, "vmoba", densities=True)),
        "graphs": said(lambda: attnbench.patch(spread, "vmoba", graphs=True)),
        "ring": said(lambda: attnbench.patch(ring, "sparge")),
        "capture": said(lambda: Replacement(spread, lambda q, k, v, place: q)),
    }
    for family in ("ltx", "minimax-h3"):
        model = make(family)
        model.enable_parallelism(config=ContextParallelConfig(**RING))
        found[f"{family} ring"] = said(lambda model=model: attnbench.patch(model, "vmoba"))
    spread._parallel_config.context_parallel_config.ring_degree = 2
    return found | {"both": said(lambda: attnbench.patch(spread, "vmoba"))}


def gather_ragged(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """What diffusers does with NCCL, whose all_gather takes tensors of different sizes; that of gloo does not."""
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([tensor.shape[dim]]), group=group)
    most = max(int(size) for size in sizes)
    padded = torch.cat([tensor, tensor.narrow(dim, 0, most - tensor.shape[dim])], dim)
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded.contiguous(), group=group)
    return torch.cat([part.narrow(dim, 0, int(size)) for part, size in zip(parts, sizes, strict=True)], dim)


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    context_parallel._all_gather_anything = gather_ragged
    torch.accelerator.device_count = lambda: 1  # diffusers takes a rank modulo this, which is 0 on a CPU
    diffusers.utils.logging.set_verbosity_error()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    found: dict[str, Any] = {name: compare(name) for name in CASES if RANKS == 2 or name in OF_THREE}
    found["refusals"] = refusals()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    started = []
    for number in range(RANKS):  # forked, so that torch and diffusers are imported once
        child = os.fork()
        if child == 0:
            try:
                main(number, Path(sys.argv[1]))
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        started.append(child)
    sys.exit(max([os.waitpid(child, 0)[1] for child in started]) > 0)
