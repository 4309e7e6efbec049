"""Our own Triton kernels: every plan."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from attnbench.kernels.attend_ops import attend_by_kernels
from attnbench.kernels.engines.base import Engine, Task
from attnbench.kernels.engines.cudnn import HALF
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.tracing import constant

MOST_PARTIAL = 4 * 2**30
"""Bytes of partial results of one head, for the worst selection, above which a routed plan is refused."""

MOST_LISTS = 4 * 2**30
"""Bytes of lists of work, for the worst selection, above which a plan of whole blocks is refused."""

MOST_BLOCKS = 2**13
"""Largest number of blocks on either side of a plan of whole blocks: one program holds a row of them."""

MOST_HEAD_DIM = 128


def _available() -> str | None:
    if torch.cuda.is_available() or _interpreted():
        return None
    return "it needs an NVIDIA GPU; TRITON_INTERPRET=1 runs kernels slowly on a CPU, to try them"


@constant
def _interpreted() -> bool:
    # Triton's own switch, read without importing Triton, which may be missing if there is no GPU.
    return os.environ.get("TRITON_INTERPRET") == "1"


def _version() -> str:
    import triton

    return f"triton {triton.__version__}"


def _attend(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool
) -> tuple[Tensor, Tensor | None]:
    output, lse = attend_by_kernels(q, k, v, plan, scale)
    return output, lse


def _executed_pairs(plan: Plan) -> int:
    from attnbench.kernels.gpu import blocked, routed

    if isinstance(plan.pattern, BlockPattern):
        return blocked.executed_pairs(plan)
    return routed.executed_pairs(plan)


def _supports(plan: Plan, task: Task) -> str | None:
    if task.device.type != "cuda" and not _interpreted():
        return f"runs on NVIDIA GPUs, not on {task.device}"
    if task.dtype not in HALF and not (_interpreted() and task.dtype == torch.float32):
        return f"runs bfloat16 and float16, not {task.dtype}"
    if task.head_dim > MOST_HEAD_DIM:
        return f"runs head_dim up to {MOST_HEAD_DIM}, not {task.head_dim}"
    return _lacks_memory(task) or _lacks_room(plan, task)


def _lacks_memory(task: Task) -> str | None:
    if task.device.type != "cuda":
        return None
    from attnbench.kernels.gpu.shared_memory import SMALL_TILES, shared_memory

    there = shared_memory(task.device.index)
    return f"needs {SMALL_TILES} bytes of shared memory, and this GPU has {there}" if there < SMALL_TILES else None


def _lacks_room(plan: Plan, task: Task) -> str | None:
    pattern = plan.pattern
    if isinstance(pattern, RoutedPattern):
        from attnbench.kernels.gpu.routed import bytes_per_head

        needed = bytes_per_head(plan.layout.tokens, pattern.keep.shape[3], task.head_dim)
        if needed > MOST_PARTIAL:
            return f"would need {needed / 2**30:.1f} GiB of partial results a head for so many blocks"
        return None
    if max(pattern.keep.shape[2:]) > MOST_BLOCKS:
        return f"runs up to {MOST_BLOCKS} blocks of queries and of keys, not {max(pattern.keep.shape[2:])}"
    from attnbench.kernels.gpu.kept_lists import list_bytes

    needed = list_bytes(plan)
    if needed > MOST_LISTS:
        return f"would need {needed / 2**30:.1f} GiB of lists of work for so many blocks"
    return None


TRITON = Engine(
    name="triton",
    summary="our Triton and Gluon kernels: every plan, half precision",
    available=_available,
    version=_version,
    supports=_supports,
    attend=_attend,
    executed_pairs=_executed_pairs,
    dense=False,
    tested=True,
    traceable=True,
    bands=True,
    own_offsets=True,
)
