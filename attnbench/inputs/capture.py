"""Captured inputs: q, k and v of a real model, saved with safetensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attnbench.inputs.files import open_file
from attnbench.inputs.shapes import Shape
from attnbench.kernels.errors import BadInput


def read_capture(path: Path, shape: Shape, part: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return q [B, heads, N, head_dim] and k, v [B, kv_heads, N, head_dim] from a safetensors file, in its own dtype.

    Args:
        path: a file with tensors q, k and v, or a file of ``attnbench capture`` with several layers and steps.
        shape: the shape that the tensors must have. Token grid and text tokens are compared if the file states them.
        part: the layer and step to read if there are several, such as "layer0.step25".

    Raises:
        BadInput: if the file cannot be read, lacks q, k, v or the part, does not fit ``shape``, or holds NaN or Inf.
    """
    tensors = read_tensors(path, shape, "qkv", part)
    return tensors["q"], tensors["k"], tensors["v"]


def read_tensors(path: Path, shape: Shape, wanted: str, part: str | None = None) -> dict[str, Tensor]:
    """Return some of q, k and v from a file by name; see ``read_capture``.

    Args:
        path, shape, part: of the capture.
        wanted: the tensors, as "qk".

    Raises:
        BadInput: as ``read_capture``, of the tensors that are wanted.
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_file(path).close()  # safetensors would wait for a named pipe
        with safe_open(str(path), framework="pt") as file:
            _check_layout(path, file.metadata() or {}, shape)
            names = _names(path, sorted(file.keys()), part, wanted)
            tensors = {name: file.get_tensor(full) for name, full in zip(wanted, names, strict=True)}
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"capture {str(path)!r} cannot be read: missing, truncated, or not a safetensors file"
        ) from error
    for (name, tensor), full in zip(tensors.items(), names, strict=True):
        heads = shape.heads if name == "q" else shape.kv_heads
        _check(path, full, tensor, (shape.batch, heads, shape.tokens, shape.head_dim))
    return tensors


def other_parts(path: Path, part: str | None) -> list[str]:
    """Return the other steps that a capture has of the same layer, in order; none if ``path`` cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            parts = [name.removesuffix(".q") for name in file.keys() if name.endswith(".q")]  # noqa: SIM118
    except (SafetensorError, OSError):
        return []
    if part is None:
        return []
    layer = part.partition(".")[0]
    steps = [other for other in parts if other != part and other.partition(".")[0] == layer]
    return sorted(steps, key=lambda name: [int(digits) for digits in re.findall(r"\d+", name)])


@dataclass(frozen=True, slots=True)
class CapturePart:
    """One layer and step of a capture.

    Attributes:
        layer: from 0.
        step: from 0; None where the file does not say.
        name: as "layer0.step25"; None for a file of one part.
        lacking: those of k and v that it lacks, as "kv".
    """

    layer: int
    step: int | None
    name: str | None
    lacking: str = ""


@dataclass(frozen=True, slots=True)
class CaptureParts:
    """What a capture says of itself.

    Attributes:
        parts: its layers and steps, in order of the steps.
        header: what the file states: grid, text, model, prompt and more.
        shape: of q, [B, heads, N, head_dim].
        kv_heads: heads of k and v; those of q where no part has either.
    """

    parts: tuple[CapturePart, ...]
    header: dict[str, str]
    shape: tuple[int, int, int, int]
    kv_heads: int


def capture_parts(path: Path) -> CaptureParts:
    """Return which layers and steps a capture holds, without reading its tensors.

    Raises:
        BadInput: if the file cannot be read, holds no q, or holds k or v of a layer and step whose q it lacks.
    """
    from safetensors import SafetensorError, safe_open

    try:
        open_file(path).close()  # safetensors would wait for a named pipe
        with safe_open(str(path), framework="pt") as file:
            names, header = sorted(file.keys()), dict(file.metadata() or {})
            found: list[str | None] = [name.removesuffix(".q") for name in names if name.endswith(".q")]
            parts = [None] if "q" in names or not found else found
            alone = [name for name in names if name.endswith((".k", ".v")) and f"{name[:-1]}q" not in names]
            if alone and parts == found:
                lost = f"{alone[0][:-1]}q"
                raise BadInput(f"capture {str(path)!r} has {alone[0]} and no {lost}: capture it again, or drop it")
            queries = [_names(path, names, part, "q")[0] for part in parts]
            others = [[f"{each.removesuffix('q')}{name}" for name in "kv"] for each in queries]
            lacking = ["".join(name[-1] for name in own if name not in names) for own in others]
            one = next((name for own in others for name in own if name in names), queries[0])
            q, k = (tuple(file.get_slice(name).get_shape()) for name in (queries[0], one))
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"capture {str(path)!r} cannot be read: missing, truncated, or not a safetensors file"
        ) from error
    if len(q) != 4 or len(k) != 4:
        raise BadInput(f"capture {str(path)!r}: q is {q} and k {k}; both must be (batch, heads, tokens, head_dim)")
    found_parts = [
        CapturePart(*_place(header.get("points") if part is None else part), part, lost)
        for part, lost in zip(parts, lacking, strict=True)
    ]
    return CaptureParts(tuple(sorted(found_parts, key=lambda each: (each.step or 0, each.layer))), header, q, k[1])


def _place(name: str | None) -> tuple[int, int | None]:
    """Return layer and step of a part such as "layer0.step25"; layer 0 without a step for any other name."""
    match = re.fullmatch(r"layer(\d{1,9})\.step(\d{1,9})", name or "")
    return (int(match[1]), int(match[2])) if match else (0, None)


def _names(path: Path, names: list[str], part: str | None, needed: str = "qkv") -> list[str]:
    """Return the names of q, k and v, or of those that are needed, in a file that holds ``names``."""
    parts = [name.removesuffix(".q") for name in names if name.endswith(".q")]
    if part is not None and part not in parts:
        what = ", ".join(parts) if parts else "q, k and v of one layer and step"
        raise BadInput(f"capture {str(path)!r} has no {part!r}: it holds {what}")
    if part is None and len(parts) > 1 and "q" not in names:
        raise BadInput(f"capture {str(path)!r} holds {', '.join(parts)}: write which, as capture:{path}@{parts[0]}")
    prefix = f"{part or parts[0]}." if part is not None or ("q" not in names and parts) else ""
    wanted = [f"{prefix}{name}" for name in needed]
    if missing := [name for name in wanted if name not in names]:
        raise BadInput(
            f"capture {str(path)!r} has no tensor {' and no tensor '.join(missing)}: it holds "
            f"{', '.join(names) or 'nothing'}, and {'q, k and v are' if needed == 'qkv' else 'q is'} needed"
        )
    return wanted


def _check_layout(path: Path, header: dict[str, str], shape: Shape) -> None:
    """Compare the token grid and text tokens with those that were asked for, if the file states them."""
    layout = shape.layout
    for name, wanted in (("grid", str(layout.grid)), ("text", f"{layout.text[0]},{layout.text[1]}")):
        found = header.get(name, wanted)
        if found != wanted:
            what = "token grid" if name == "grid" else "text tokens before and after the video"
            raise BadInput(f"capture {str(path)!r} has {what} {found}, and {wanted} was asked for")


def _check(path: Path, name: str, tensor: Tensor, wanted: tuple[int, int, int, int]) -> None:
    if tuple(tensor.shape) != wanted:
        raise BadInput(
            f"capture {str(path)!r}: {name} is {tuple(tensor.shape)}, and the shape asked for needs {wanted} "
            "(batch, heads, tokens, head_dim)"
        )
    if not tensor.is_floating_point():
        raise BadInput(f"capture {str(path)!r}: {name} is {tensor.dtype}, and a floating-point dtype is needed")
    refuse_non_finite(path, name, tensor)


def refuse_non_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raise if ``tensor`` holds NaN or Inf.

    Raises:
        BadInput: naming their number and the dtype.
    """
    bad = sum(int((~torch.isfinite(head.double())).sum()) for item in tensor for head in item)
    if bad:
        raise BadInput(
            f"capture {str(path)!r}: {name} holds {bad} NaN or Inf values as {tensor.dtype}: capture it again, or "
            "use a dtype of wider range"
        )
