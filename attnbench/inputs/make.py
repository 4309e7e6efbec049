"""q, k and v for a shape: from a video, from Gaussian noise, or from a capture of a real model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from attnbench.inputs.capture import other_parts, read_capture, refuse_non_finite
from attnbench.inputs.gaussian import GaussianSource
from attnbench.inputs.seeds import SEEDS, normal
from attnbench.inputs.shapes import Shape
from attnbench.inputs.spec import InputsSpec, check_inputs_spec
from attnbench.inputs.video import video_source
from attnbench.kernels.errors import BadInput


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """q [B, h, N, D], k and v [B, h or a divisor of it, N, D], and 16 hex digits that identify their bytes."""

    q: Tensor
    k: Tensor
    v: Tensor
    hash: str


class InputSource(Protocol):
    """Makes the tensors of one head at a time: float32 [N, head_dim] on the CPU."""

    def q(self, batch: int, head: int) -> Tensor:
        """Return the queries of one head."""

    def k(self, batch: int, kv_head: int) -> Tensor:
        """Return the keys of one kv head."""

    def v(self, batch: int, kv_head: int) -> Tensor:
        """Return the values of one kv head."""


Place = tuple[str, int, int]
"""Which of q, k and v, the batch item and the head."""

MOST_AT_ONCE = 16
"""Heads that are made at once at most: each holds a dozen float32 tensors of its size."""


def make_inputs(
    spec: str, shape: Shape, *, heads: int, dtype: torch.dtype, device: torch.device, seed: int, number: int = 0
) -> Inputs:
    """Make q, k and v for the first ``heads`` heads of ``shape``.

    A head is the same whatever the number of heads, the dtype and the device: each has its own random numbers, is made
    on the CPU in float32, and is cast and moved last. The ``seed`` has no effect on captured inputs.

    Args:
        spec: ``video``, ``video:PATH``, ``gaussian`` or ``capture:FILE.safetensors``, followed by ``@layer0.step25`` if
            the capture has several layers or steps.
        shape: the whole shape, of which ``heads`` may be a part.
        heads: query heads to make, 1 to ``shape.heads``. With fewer kv heads than heads, they must be whole groups of
            query heads, or a part of the first group. The number of kv heads is max(1, heads · kv_heads //
            shape.heads).
        dtype: dtype of the result.
        device: device of the result.
        seed: whole number from which all random numbers are derived.
        number: of the input set, below SETS. The others are of the same kind: other random numbers, another window of
            the video, another step of the capture. A capture without other steps is rotated: q and k by a common
            random rotation of their channels, which leaves their scores as they are.

    Raises:
        BadInput: if ``heads`` or ``spec`` is not valid, or the file that ``spec`` names cannot be used for ``shape``.
        Unsupported: if the capture's reader is not installed.
    """
    wanted = check_inputs_spec(spec)
    if not 1 <= heads <= shape.heads:
        raise BadInput(f"heads {heads} must be from 1 to {shape.heads}, the heads of the shape")
    group = shape.heads // shape.kv_heads
    if heads > group and heads % group:
        raise BadInput(f"heads {heads} must be a multiple of {group}, the query heads that share a kv head, or fewer")
    counts = {"q": heads, "k": max(1, heads // group), "v": max(1, heads // group)}
    if wanted.kind == "capture" and wanted.path is not None:
        captured = dict(zip(counts, _captured(wanted.path, shape, wanted.part, seed, number), strict=True))
        made = {name: tensor[:, : counts[name]].to(dtype).contiguous() for name, tensor in captured.items()}
        for name, tensor in made.items():
            refuse_non_finite(wanted.path, name, tensor)
    else:
        source = _source(wanted, shape, group=group, seed=seed, number=number)
        makers = {"q": source.q, "k": source.k, "v": source.v}
        made = {
            name: torch.empty(shape.batch, count, shape.tokens, shape.head_dim, dtype=dtype)
            for name, count in counts.items()
        }

        def make_head(place: Place) -> None:
            name, batch, head = place
            made[name][batch, head] = makers[name](batch, head)

        places = [(name, *at) for name, count in counts.items() for at in product(range(shape.batch), range(count))]
        _side_by_side(make_head, places)
    digest = content_hash(made)
    return Inputs(**{name: tensor.to(device) for name, tensor in made.items()}, hash=digest)


def _side_by_side(make: Callable[[Place], None], places: Sequence[Place]) -> None:
    """Call ``make`` for each place, for as many at once as torch has threads, each with one of them.

    The steps that make a head are short and wait for memory, so that threads gain little within one.
    """
    threads = torch.get_num_threads()
    workers = min(MOST_AT_ONCE, threads, len(places))
    if workers < 2:
        for place in places:
            make(place)
        return
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        list(pool.map(make, places))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def content_hash(tensors: dict[str, Tensor]) -> str:
    """Return the first 16 hex digits of the SHA-256 of names, dtypes, shapes and bytes of contiguous CPU tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _source(spec: InputsSpec, shape: Shape, *, group: int, seed: int, number: int) -> InputSource:
    if spec.kind == "gaussian":
        return GaussianSource(tokens=shape.tokens, head_dim=shape.head_dim, seed=seed + number * SEEDS)
    return video_source(spec.path, shape.layout, head_dim=shape.head_dim, group=group, seed=seed, number=number)


def _captured(path: Path, shape: Shape, part: str | None, seed: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    others = other_parts(path, part)
    if 0 < number <= len(others):
        return read_capture(path, shape, others[number - 1])
    q, k, v = read_capture(path, shape, part)
    if number == 0:
        return q, k, v
    rotation = torch.linalg.qr(normal((shape.head_dim, shape.head_dim), seed, number, "rotation").double())[0]
    q, k = ((x.double() @ rotation).to(x.dtype) for x in (q, k))
    return q, k, v
