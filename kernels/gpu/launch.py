"""Launches that ask Triton only once for each kind of arguments. Later ones take little more than the driver does.

``kernel[grid](…)`` binds arguments by name, finds out what the compiler may assume about each, and looks the kernel up.
That takes 32 µs on the host of an H100, of which the launch itself takes 8. Most calls repeat earlier ones with other
addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnbench.kernels.gpu.widen import INTERPRETED
from attnbench.kernels.witness import is_watching, launched

_prepared: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = {}


class Box(NamedTuple):
    """What TMA reads or writes at once: a part of a matrix of rows, as a prepared launch describes it to the driver.

    Attributes:
        base: [rows, columns], unit last stride, aligned to 16 bytes, and so are its rows.
        shape, strides: those of ``base``.
        padding: "zero", what is read beyond the matrix.
        block: rows and columns of the part.
    """

    base: Tensor
    shape: Sequence[int]
    strides: Sequence[int]
    padding: str
    block: tuple[int, int]


def box(x: Tensor, *block: int) -> Box:
    """Describe parts of ``block`` = rows, columns of a matrix; see ``Box``."""
    rows, columns = block
    return Box(x, x.shape, x.stride(), "zero", (rows, columns))


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: Sequence[Tensor],
    numbers: tuple[int | float, ...],
    *,
    num_warps: int,
    num_stages: int | None = None,
    boxes: tuple[Box, ...] = (),
    **constants: Any,
) -> None:
    """Run ``kernel[grid](*boxes, *tensors, *numbers, **constants)`` on the current stream.

    Args:
        kernel: a jit function of ``widen`` or Gluon that takes boxes first, then tensors, numbers, and constants. Gluon
            kernels have ``num_warps`` among the constants.
        grid: number of programs on one to three axes.
        tensors: on the current device.
        numbers: numbers, each of which always has the same type.
        num_warps, num_stages: options of the compiler.
        boxes: parts of matrices that TMA reads or writes, for Gluon kernels only.
        constants: all constants, by name.
    """
    if is_watching():
        launched(f"{'gluon' if boxes else 'triton'}:{kernel.fn.__name__.lstrip('_')}")
    options = {"num_warps": num_warps} if num_stages is None else {"num_warps": num_warps, "num_stages": num_stages}
    if INTERPRETED or not tensors[0].is_cuda:
        kernel[grid](*tensors, *numbers, **constants, **options)
        return
    device = torch.cuda.current_device()
    addresses = [x.data_ptr() for x in tensors]
    # Everything that a compiled kernel depends on: Triton looks at 16-byte alignment and at the values of numbers.
    kind = (
        id(kernel), device, numbers, tuple(constants.items()), num_warps, num_stages, *[x.dtype for x in tensors],
        *[address & 15 == 0 for address in addresses], *[(each.base.dtype, each.block) for each in boxes],
    )  # fmt: skip
    found = _prepared.get(kind)
    if found is None:
        described = [_descriptor(each) for each in boxes]
        compiled = kernel[grid](*described, *tensors, *numbers, **constants, **options)
        names = kernel.arg_names[len(boxes) + len(tensors) + len(numbers) :]
        own = tuple(num_warps if name == "num_warps" else constants[name] for name in names)
        _prepared[kind] = (*_launcher(compiled), own)
        return
    run, between, own = found
    across, down, deep = (*grid, 1, 1)[:3]
    stream = torch._C._cuda_getCurrentRawStream(device)
    run(across, down, deep, stream, *between, *boxes, *addresses, *numbers, *own)


def _launcher(compiled: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what launches a compiled kernel, and its arguments between the stream and those of the kernel.

    Triton's launcher of NVIDIA GPUs allocates space that a kernel asks for, and calls another one. Where a kernel asks
    for none, that one is called here.
    """
    run, after = compiled.run, (compiled.packed_metadata, None, None, None)
    sizes = (getattr(run, "global_scratch_size", None), getattr(run, "profile_scratch_size", None))
    if sizes != (0, 0) or not all(hasattr(run, name) for name in ("launch", "launch_cooperative_grid", "launch_pdl")):
        return run, (compiled.function, *after)
    return run.launch, (compiled.function, run.launch_cooperative_grid, run.launch_pdl, None, None, *after)


def _descriptor(part: Box) -> Any:
    """Return a box as Triton describes it, which checks it too."""
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    dtype = gl.bfloat16 if part.base.dtype == torch.bfloat16 else gl.float16
    layout = gl.NVMMASharedLayout.get_default_for(list(part.block), dtype)
    return TensorDescriptor.from_tensor(part.base, list(part.block), layout)
