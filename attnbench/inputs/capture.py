"""Captured inputs: q, k and v of a real model, saved with safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.shapes import Shape


def read_capture(path: Path, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Return q [B, heads, N, head_dim] and k, v [B, kv_heads, N, head_dim] from a safetensors file, in its own dtype.

    Raises:
        BadInput: if the file cannot be read, lacks q, k or v, does not fit ``shape``, or holds NaN or Inf.
        Unsupported: if safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise Unsupported("capture inputs need safetensors: pip install attnbench[models]") from error
    try:
        with safe_open(str(path), framework="pt") as file:
            names = sorted(file.keys())
            if missing := [name for name in "qkv" if name not in names]:
                raise BadInput(
                    f"capture {str(path)!r} has no tensor {' and no tensor '.join(missing)}: it holds "
                    f"{', '.join(names) or 'nothing'}, and q, k and v are needed"
                )
            q, k, v = (file.get_tensor(name) for name in "qkv")
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"capture {str(path)!r} cannot be read: missing, truncated, or not a safetensors file"
        ) from error
    for name, tensor, heads in (("q", q, shape.heads), ("k", k, shape.kv_heads), ("v", v, shape.kv_heads)):
        _check(path, name, tensor, (shape.batch, heads, shape.tokens, shape.head_dim))
    return q, k, v


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
        BadInput: saying how many, and in which dtype.
    """
    bad = sum(int((~torch.isfinite(head.double())).sum()) for item in tensor for head in item)
    if bad:
        raise BadInput(
            f"capture {str(path)!r}: {name} holds {bad} NaN or Inf values as {tensor.dtype}: capture it again, or "
            "use a dtype of wider range"
        )
