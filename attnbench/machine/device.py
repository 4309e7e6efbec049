"""The device that measures: its name, and the number types it is measured with."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

import torch

from attnbench.kernels.errors import BadInput, Unsupported, unknown_name

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

DeviceKind = Literal["cpu", "cuda"]


def resolve_device(name: str | None) -> torch.device:
    """Return the device asked for; by default the GPU where there is one.

    Raises:
        BadInput: for a device that is not here.
    """
    usable = torch.cuda.is_available()
    if name is None:
        name = "cuda" if usable else "cpu"
    if name not in ("cpu", "cuda"):
        raise BadInput(f"device {name!r} must be cpu or cuda")
    if name == "cuda" and not usable:
        why = "this torch is a CPU build" if torch.version.cuda is None else "torch finds no usable NVIDIA GPU"
        raise BadInput(f"device 'cuda' cannot be used: {why}; leave --device out to run on the CPU")
    return torch.device(name)


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the dtype asked for; by default bfloat16 on a GPU and float32 on a CPU.

    Raises:
        BadInput: for any other name.
    """
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    short = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}
    full = short.get(name, name)
    if full not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return DTYPES[full]


def dtype_name(dtype: torch.dtype) -> str:
    """Return the dtype's name as in results: bfloat16."""
    return str(dtype).removeprefix("torch.")


def own_gpu() -> torch.device:
    """Return the GPU of this process among those that torchrun started on this machine.

    Raises:
        BadInput: if there are more processes than GPUs.
    """
    told, gpus = os.environ.get("LOCAL_RANK", os.environ["RANK"]), torch.cuda.device_count()
    if not told.isdecimal():
        raise BadInput(f"LOCAL_RANK is {told!r} in the environment; torchrun sets it to a whole number")
    place = int(told)
    if place >= gpus:
        raise BadInput(f"process {place + 1} has no GPU of its own: start at most {gpus} here, --nproc-per-node {gpus}")
    return torch.device("cuda", place)


def device_name(kind: DeviceKind) -> str:
    """Return the name that rows carry: of the current GPU, or of the CPU with its number of cores.

    Raises:
        Unsupported: if ``kind`` is "cuda" and there is no CUDA device.
    """
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise Unsupported("device 'cuda' was asked for, but torch finds no CUDA device; use --device cpu")
        return torch.cuda.get_device_name()
    cores = os.cpu_count() or 1
    return f"{cpu_info().get('model name') or _processor()} ({cores} core{'s' if cores != 1 else ''})"


def cpu_info(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return the fields of the first processor in Linux' /proc/cpuinfo; empty where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.strip().split("\n\n", 1)[0]
    fields = (line.partition(":") for line in first.splitlines())
    return {key.strip(): " ".join(value.split()) for key, _, value in fields if key.strip()}


def _processor() -> str:
    return platform.processor() or platform.machine() or "unknown CPU"
