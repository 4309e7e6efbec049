"""Launches that ask Triton only once for each kind of arguments. Later ones take little more than the driver does.

``kernel[grid](…)`` binds arguments by name, finds out what the compiler may assume about each, and looks the kernel up.
That takes 32 µs on the host of an H100, of which the launch itself takes 8. Most calls repeat earlier ones with other
addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.gpu.widen import INTERPRETED
from attnbench.kernels.witness import launched

_prepared: dict[tuple[Any, ...], tuple[Any, Any, Any, tuple[Any, ...]]] = {}


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: Sequence[Tensor],
    numbers: tuple[int | float, ...],
    *,
    num_warps: int,
    num_stages: int | None = None,
    **constants: Any,
) -> None:
    """Run ``kernel[grid](*tensors, *numbers, **constants)`` on the current stream.

    Args:
        kernel: a jit function of ``widen`` that takes tensors first, then numbers, then constants.
        grid: number of programs on one to three axes.
        tensors: on the current device.
        numbers: numbers, each of which always has the same type.
        num_warps, num_stages: options of the compiler.
        constants: all constants, by name.
    """
    launched(f"triton:{kernel.fn.__name__.lstrip('_')}")
    options = {"num_warps": num_warps} if num_stages is None else {"num_warps": num_warps, "num_stages": num_stages}
    if INTERPRETED or not tensors[0].is_cuda:
        kernel[grid](*tensors, *numbers, **constants, **options)
        return
    device = torch.cuda.current_device()
    addresses = [x.data_ptr() for x in tensors]
    # Everything that a compiled kernel depends on: Triton looks at 16-byte alignment and at the values of numbers.
    kind = (
        id(kernel), device, numbers, tuple(constants.items()), num_warps, num_stages, tuple(x.dtype for x in tensors),
        tuple(address % 16 == 0 for address in addresses),
    )  # fmt: skip
    found = _prepared.get(kind)
    if found is None:
        compiled = kernel[grid](*tensors, *numbers, **constants, **options)
        names = kernel.arg_names[len(tensors) + len(numbers) :]
        own = tuple(constants[name] for name in names)
        _prepared[kind] = (compiled.run, compiled.function, compiled.packed_metadata, own)
        return
    run, function, metadata, own = found
    stream = torch._C._cuda_getCurrentRawStream(device)
    across = (*grid, 1, 1)
    run(across[0], across[1], across[2], stream, function, metadata, None, None, None, *addresses, *numbers, *own)
