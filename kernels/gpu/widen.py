"""Functions that all kernels share: compilation, sizes of programs, checks of tensors, and exact arithmetic on scores.

Weights: the shares that a threshold adds up are (score - lowest) / sum of (score - lowest). The kernels use integers
instead: the float32 difference (score - lowest), times a power of two that brings the highest into [2^29, 2^30),
rounded down. So a weight has the rounding of one float32 subtraction and a resolution of at least 2^-29 of the spread,
and the sum over fewer than 2^31 pairs stays below 2^61. Sums of integers are exact in any order, so atomics and any
division of the work give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.triton_cache import keep_cache

keep_cache()

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, which has no bfloat16 arithmetic."""


def jit(function: Callable[..., Any], *, any_number: tuple[str, ...] = ()) -> Any:
    """Compile a kernel: ``triton.jit`` with types that a type checker understands.

    Args:
        function: the kernel.
        any_number: arguments about whose values the compiler assumes nothing, such as being multiples of 16.
    """
    return triton.jit(function, do_not_specialize=list(any_number))


def ceil_div(size: int, part: int) -> int:
    """Return how many parts of this size make up ``size``. Triton's own function takes a microsecond on the host."""
    return -(-size // part)


def power_of_2(size: int) -> int:
    """Return the smallest power of two of at least ``size``, which is at least 1."""
    return 1 << (size - 1).bit_length()


def width_for(size: int, most: int) -> int:
    """Return the power of two that a program works on: at least ``size``, but at most ``most``."""
    return min(most, power_of_2(size))


LEAST_TILE = 16


def tile_size(tokens: int, blocks: int, most: int) -> int:
    """Return the smallest power of two from 16 to ``most`` that holds a block of mean size, or ``most``."""
    return max(LEAST_TILE, width_for(ceil_div(tokens, blocks), most))


def check_dtype(name: str, x: Tensor, *allowed: torch.dtype) -> None:
    """Refuse tensors of other dtypes.

    Raises:
        Unsupported: naming the tensor, its dtype, and the dtypes that are allowed.
    """
    if x.dtype not in allowed:
        words = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise Unsupported(f"{name} is {str(x.dtype).removeprefix('torch.')}; these kernels take {words}")


def check_unit_stride(name: str, x: Tensor) -> None:
    """Refuse tensors whose last dimension is not contiguous.

    Raises:
        Unsupported: naming the tensor and its strides.
    """
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        raise Unsupported(f"{name} has strides {tuple(x.stride())}; the last must be 1")


def check_queries_and_keys(q: Tensor, k: Tensor) -> None:
    """Refuse queries [B, H, N, D] and keys [B, KV heads, N, D] that do not fit each other, or that kernels do not take.

    Raises:
        BadInput: for other shapes; KV heads must divide H.
        Unsupported: for other dtypes than float32, float16 and bfloat16, or a last stride that is not 1.
    """
    for name, x in (("q", q), ("k", k)):
        check_dtype(name, x, torch.float32, torch.float16, torch.bfloat16)
        check_unit_stride(name, x)
    (batch, heads, n, dim), kv_heads = q.shape, k.shape[1]
    if heads % kv_heads or k.shape != (batch, kv_heads, n, dim):
        raise BadInput(f"k is {list(k.shape)}; for q {list(q.shape)} it must be [{batch}, KV heads, {n}, {dim}]")


@jit
def order_image(x: tl.tensor) -> tl.tensor:
    """Map float32 to int32 in the same order. -0 and +0 have the same image."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@jit
def image_value(image: tl.tensor) -> tl.tensor:
    """Undo ``order_image``."""
    return (image ^ ((image >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@jit
def weight_scale(low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """Return two powers of two whose product brings ``high - low`` (float32) into [2^29, 2^30); zeros if equal.

    There are two factors because 2^155, for the smallest spreads, is not a float32.
    """
    spread = high - low
    exponent = tl.maximum(spread.to(tl.int32, bitcast=True) >> 23, 1)
    half = (156 - exponent) >> 1
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    second = ((156 - exponent - half + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(spread > 0, first, 0.0), tl.where(spread > 0, second, 0.0)


@jit
def weigh(x: tl.tensor, low: tl.tensor, first: tl.tensor, second: tl.tensor) -> tl.tensor:
    """Return the weight of a score, int32 from 0 to 2^30; 1 for every score if all are equal."""
    return (tl.minimum((x - low) * first * second, 1073741824.0) + tl.where(first > 0, 0.0, 1.0)).to(tl.int32)


@jit
def popcount(word: tl.tensor) -> tl.tensor:
    """Count the bits that are set in an int32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word = word + (word >> 8)
    return (word + (word >> 16)) & 0x3F
